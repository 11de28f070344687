"""The best of overlapping windows, compared with all pairs, for batches of any size."""

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from audiocnn.review.shortlist import Apart, Shortlist

Rows = list[dict[str, Any]]


def windows(chance: random.Random, recordings: int, hop_s: float) -> Rows:
    """Return windows of 1 s, up to thirty per recording; some keys are equal, some are NaN."""
    return [
        {"uri": f"{n:03d}", "start_s": k * hop_s, "end_s": k * hop_s + 1.0, "key": key}
        for n in range(recordings)
        for k in range(chance.randrange(1, 31))
        for key in [chance.choice([chance.random(), 0.5, float("nan")])]
    ]


def expected(rows: Rows, size: int, most: int) -> Rows:
    taken: Rows = []
    wanted = [row for row in rows if row["key"] == row["key"]]
    for row in sorted(wanted, key=lambda row: (row["key"], row["uri"], row["start_s"])):
        mine = [one for one in taken if one["uri"] == row["uri"]]
        apart = all(
            row["start_s"] >= one["end_s"] - 1e-6 or row["end_s"] <= one["start_s"] + 1e-6
            for one in mine
        )
        if apart and len(mine) < most:
            taken.append(row)
    return taken[:size]


def found(rows: Rows, size: int, most: int, batch: int) -> Rows:
    best = Shortlist(size, ["uri", "start_s", "end_s", "id"], most)
    for start in range(0, len(rows), batch):
        group = [{**row, "id": start + at} for at, row in enumerate(rows[start : start + batch])]
        keys = np.array([row["key"] for row in group])
        best.offer(pa.RecordBatch.from_pylist(group), keys)
    return [rows[row["id"]] for row in best.rows()]


@pytest.mark.parametrize("hop_s", [0.1, 0.5, 0.75, 1.0, 2.0])
@pytest.mark.parametrize("most", [1, 3, 1_000])
def test_the_best_of_what_overlaps_is_kept(hop_s: float, most: int) -> None:
    chance = random.Random(int(10 * hop_s) + most)
    rows = windows(chance, 40, hop_s)
    for size in (1, 7, 60, 2_000):
        for batch in (1, 5, 64, len(rows)):
            assert found(rows, size, most, batch) == expected(rows, size, most)


def test_windows_that_touch_do_not_overlap() -> None:
    """Rounding lets the end of a window differ slightly from the start of the next one."""
    for rate, size in ((22_050, 22_049), (44_100, 12_345), (16_000, 4_321)):
        apart = Apart()
        starts = [n * size / rate for n in range(200)]
        assert any(a + size / rate != b for a, b in pairwise(starts))
        for start in starts[::2] + starts[1::2]:
            assert apart.fits(start, start + size / rate)
            apart.add(start, start + size / rate)
        for start in starts:
            assert not apart.fits(start + 0.01, start + 0.02)


def test_nothing_offered_is_nothing_found() -> None:
    assert Shortlist(3, ["uri"], 3).rows() == []
    none = pa.RecordBatch.from_pylist(
        [], pa.schema([("uri", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())])
    )
    best = Shortlist(3, ["uri", "start_s", "end_s"], 3)
    best.offer(none, np.zeros(0))
    assert best.rows() == []
