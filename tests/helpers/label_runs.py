"""Helpers of the tests of `label`: a small bucket, options of a run, checks of the results."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from helpers.hostile import HOSTILE
from pipelines.options import Label


def sound(seed: int, seconds: float = 1.0, container: str = "flac") -> bytes:
    name = list(synthetic.SOUNDS)[seed % 8]
    return encode(synthetic.sound(name, seed, seconds, 16_000), 16_000, container)


def fill_bucket(folder: Path) -> Path:
    """Write 60 recordings, 3 of which cannot be read, and two other files; return the folder."""
    for index in range(60):
        path = folder / f"{index % 3}" / f"{index:03d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(HOSTILE[list(HOSTILE)[index]][0] if index < 3 else sound(index))
    (folder / "cover.jpg").write_bytes(b"x")
    (folder / "notes").write_bytes(b"x")
    return folder


def options(bucket: Path, bundle: Path, to: Path, **others: Any) -> Label:
    """Options of a run with one worker, which starts fast."""
    return Label(bucket=str(bucket), bundle=str(bundle), to=str(to), **{"workers": 1, **others})


def rows(to: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of all parts by recording. Fails if a window is there twice."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    query = f"SELECT uri, start_s, end_s, label, score, version FROM '{to}/parts/*.parquet'"
    for uri, *row in duckdb.sql(query).fetchall():
        found.setdefault(uri, []).append(tuple(row))
    for windows in found.values():
        assert len({row[0] for row in windows}) == len(windows)
        windows.sort()
    return found


def parts(to: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in to.glob("parts/*.parquet")}


def check_sums(to: Path, summary: dict[str, Any]) -> None:
    assert summary == json.loads((to / "summary.json").read_text())
    assert summary["listed"] == summary["labelled"] + summary["skipped"] + summary["failed"]
    assert summary["windows"] == sum(map(len, rows(to).values())) == sum(summary["score_histogram"])
    assert len(rows(to)) == summary["labelled"]
    failures = pq.read_table(to / "failures.parquet").to_pylist()
    assert len(failures) == summary["failed"] == sum(summary["reasons"].values())
    assert not rows(to).keys() & {row["uri"] for row in failures}
