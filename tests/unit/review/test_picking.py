"""The windows that are selected for a review, compared with brute force."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiocnn.config import UNKNOWN
from audiocnn.labels import label_set
from audiocnn.labels.reader import Labelled, open_labels
from audiocnn.model.predictor import Predictor
from audiocnn.review.selection import MOST_OF_A_RECORDING, Pick, select_windows
from helpers.common import make_bundle
from helpers.small_labels import write_notes, write_parts

Make = Callable[..., Labelled]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(make_bundle(tmp_path_factory.mktemp("review") / "bundle"))


@pytest.fixture
def make(tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes rows as labels and opens them; they are read fifty rows at a time."""
    predictor.bundle.write(str(tmp_path / "bundle"))
    monkeypatch.setattr(label_set, "_ROWS", 50)

    def call(rows: list[dict[str, Any]], parts: int = 3) -> Labelled:
        to = tmp_path / "made-up"
        shutil.rmtree(to, ignore_errors=True)
        embeddings = any("embedding" in row for row in rows)
        bundle = str(tmp_path / "bundle")
        write_notes(str(to), "/b", predictor, bundle, embeddings=embeddings)
        write_parts(to, rows, parts)
        return open_labels(str(to))

    return call


def rows_of(recordings: int, windows: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """Return windows of one class with random scores."""
    numbers = random.Random(seed)
    rows = []
    for recording in range(recordings):
        for window in range(windows):
            score = round(numbers.uniform(0.4, 0.9), 6)
            second = round(numbers.uniform(0.0, 1 - score) * score, 6)
            top = [{"label": "dog", "score": score}, {"label": "rain", "score": second}]
            row = {"uri": f"/b/{recording:04d}.wav", "start_s": float(window), "label": "dog"}
            rows.append({**row, "score": score, "top_k": top})
    return rows


def windows_of(picks: list[Pick], why: str) -> list[tuple[str, float]]:
    return [(pick.uri, pick.start_s) for pick in picks if pick.why == why]


def window(row: dict[str, Any]) -> tuple[str, float]:
    return row["uri"], row["start_s"]


def test_uncertain_are_the_smallest_margins_and_few_of_a_recording(make: Make) -> None:
    rows = rows_of(100)
    for row in rows[80:84]:  # one recording; all its windows are uncertain
        row["top_k"][1]["score"] = row["score"]
    rows[7]["score"] = float("nan")
    picks = select_windows(make(rows), 60)
    assert {pick.why for pick in picks} == {"uncertain"}
    margins = {window(r): r["top_k"][0]["score"] - r["top_k"][1]["score"] for r in rows}
    del margins[window(rows[7])]
    expected: list[tuple[str, float]] = []
    for key in sorted(margins, key=lambda key: (round(margins[key], 6), key)):
        if sum(uri == key[0] for uri, _ in expected) < MOST_OF_A_RECORDING:
            expected.append(key)
    assert windows_of(picks, "uncertain") == expected[:60]
    assert windows_of(picks, "uncertain")[:3] == [window(row) for row in rows[80:83]]


def test_silence_is_not_uncertain(make: Make) -> None:
    rows = rows_of(10, 1)
    scores = [{"label": name, "score": 0.0} for name in ("dog", "rain")]
    rows[3] |= {"label": UNKNOWN, "score": 0.0, "top_k": scores}
    picked = {(pick.uri, pick.start_s) for pick in select_windows(make(rows), 10)}
    assert picked == {window(row) for row in rows} - {window(rows[3])}


def test_where_one_class_was_kept_the_lowest_scores_are_uncertain(make: Make) -> None:
    rows = [{**row, "top_k": row["top_k"][:1]} for row in rows_of(30, 1)]
    picks = select_windows(make(rows), 5)
    assert [p.score for p in picks] == pytest.approx(sorted(r["score"] for r in rows)[:5])


def test_surprising_are_far_from_their_own_label_for_its_spread(make: Make) -> None:
    numbers = np.random.default_rng(1)
    rows = rows_of(200, 2)
    centres, spreads = {"dog": np.eye(8)[0], "rain": np.eye(8)[1]}, {"dog": 0.02, "rain": 0.2}
    for row in rows:
        label = row["label"] = numbers.choice(["dog", "rain"])
        vector = centres[label] + spreads[label] * numbers.normal(size=8)
        row["embedding"] = (vector * numbers.uniform(0.5, 9)).astype(np.float16)
    rows[6] |= {"label": "dog", "score": 0.95, "embedding": np.float16([1, 0.2, 0, 0, 0, 0, 0, 0])}
    rows[9] |= {"label": "dog", "score": 0.1, "embedding": np.float16([0, 0, 0, 0, 0, 0, 0, 1])}
    rows[12]["embedding"] = np.full(8, np.nan, np.float16)
    rows[13]["embedding"] = np.zeros(8, np.float16)
    rows[14] |= {"label": UNKNOWN, "embedding": np.float16([0, 0, 0, 0, 0, 0, 1, 1])}
    rows[15] |= {"label": "bell", "embedding": np.float16([0, 0, 0, 0, 0, 0, 1, 1])}
    picks = select_windows(make(rows), 10)
    usable = [row for row in rows if np.linalg.norm(np.float64(row["embedding"])) > 0]
    outlying: dict[tuple[str, float], float] = {}
    for label in ("dog", "rain"):
        mine = [row for row in usable if row["label"] == label]
        vectors = np.array([np.float64(row["embedding"]) for row in mine])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        distances = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
        distances /= np.sqrt((distances**2).mean())
        mean = np.mean([row["score"] for row in rows if row["label"] == label])
        outlying |= {
            window(row): d for row, d in zip(mine, distances, strict=True) if row["score"] >= mean
        }
    best = sorted(outlying, key=lambda key: -outlying[key])
    found = windows_of(picks, "surprising")
    assert found[0] == window(rows[6]) == best[0]
    taken_before = set(windows_of(picks, "uncertain")) | set(windows_of(picks, "rare"))
    assert found == [key for key in best if key not in taken_before][: len(found)]
    assert window(rows[15]) == windows_of(picks, "rare")[0]


def test_without_embeddings_what_its_neighbours_deny_is_surprising(make: Make) -> None:
    rows = rows_of(60, 5)
    names = ["dog"] * 5
    for row in rows:
        row["label"] = names[int(row["start_s"])]
    labels = {
        10: "rain", 52: "rain",  # the first of a recording; one inside
        101: "bell", 102: "bell",  # two adjacent ones
        201: UNKNOWN,
        250: UNKNOWN, 252: UNKNOWN,  # on both sides of a known one
        299: "rain",  # the last row
        149: "rain", 48: "rain",  # at the end of batches of fifty
    }  # fmt: skip
    for at, name in labels.items():
        rows[at]["label"] = name
    rows[48]["score"], rows[52]["score"] = 0.97, 0.99
    picks = select_windows(make(rows, parts=1), 300)
    assert windows_of(picks, "surprising") == [window(rows[52]), window(rows[48])]


def test_rare_are_the_best_of_each_class_with_the_fewest_windows(make: Make) -> None:
    rows = rows_of(120, 2)
    for at in (20, 40, 60):
        rows[at] |= {"label": "rain", "score": 0.9 + at / 1_000}
    for at in (30, 31, 50, 70, 90):
        rows[at] |= {"label": "bell", "score": 0.5 + at / 1_000}
    rows[100]["label"] = UNKNOWN
    for row in rows:
        row["top_k"] = [{"label": row["label"], "score": row["score"]}]
    picks = select_windows(make(rows), 12)
    rare = [window(rows[at]) for at in (60, 90, 40, 70, 20, 50)]
    assert windows_of(picks, "rare") == rare
    assert Counter(pick.why for pick in picks) == {"uncertain": 6, "rare": 6}
    assert [pick.why for pick in picks] == ["uncertain", "rare"] * 6
    # If all classes have the same number of windows, none is rare.
    for row in rows:
        row["label"] = "dog" if row["start_s"] else "rain"
    assert windows_of(select_windows(make(rows), 12), "rare") == []


def test_no_window_is_there_twice_and_the_count_is_reached_where_it_can_be(make: Make) -> None:
    rows = rows_of(40, 6, seed=5)
    for at, row in enumerate(rows):
        row["label"] = "rain" if at % 9 == 4 else "dog"
        row["embedding"] = np.random.default_rng(at).normal(size=8).astype(np.float16)
    for count in (1, 2, 7, 50, 119, 120, 500):
        picks = select_windows(make(rows), count)
        assert len(picks) == min(count, 40 * MOST_OF_A_RECORDING)
        assert len({(pick.uri, pick.start_s) for pick in picks}) == len(picks)
        assert max(Counter(pick.uri for pick in picks).values()) <= MOST_OF_A_RECORDING
    picks = select_windows(make(rows), 30)
    assert Counter(pick.why for pick in picks) == dict.fromkeys(
        ("uncertain", "surprising", "rare"), 10
    )
    assert select_windows(make(rows, parts=7), 30) == picks
    assert select_windows(make([]), 30) == []


@pytest.mark.parametrize("embeddings", [False, True])
def test_windows_that_overlap_are_picked_once_for_whatever_reason(
    make: Make, embeddings: bool
) -> None:
    """Overlapping windows contain the same sound, so a person hears it only once."""
    rows = rows_of(12, 30, seed=3)
    for at, row in enumerate(rows):
        row["start_s"] /= 10
        row["end_s"] = row["start_s"] + 1.0
        row["label"] = "rain" if at % 7 == 3 else "dog"
        if embeddings:
            row["embedding"] = np.random.default_rng(at).normal(size=8).astype(np.float16)
    picks = select_windows(make(rows), 100)
    assert len(picks) > 20
    assert len({pick.why for pick in picks}) == 3
    for pick in picks:
        mine = [one for one in picks if one.uri == pick.uri]
        assert len(mine) <= MOST_OF_A_RECORDING
        assert all(abs(one.start_s - pick.start_s) > 0.99 for one in mine if one is not pick)
    margins = {window(row): row["score"] - row["top_k"][1]["score"] for row in rows}
    first = picks[0]
    assert margins[first.uri, first.start_s] == min(margins.values())


def test_what_is_unknown_is_suggested_by_its_best_class(make: Make) -> None:
    top = [{"label": "bell", "score": 0.3}, {"label": "dog", "score": 0.2}]
    row = {"uri": "/b/a.wav", "start_s": 2.0, "label": UNKNOWN, "score": 0.3, "top_k": top}
    (pick,) = select_windows(make([row]), 5)
    assert pick == Pick(
        uri="/b/a.wav", version="v", start_s=2.0, end_s=3.0, suggested="bell",
        score=pytest.approx(0.3), why="uncertain",
    )  # fmt: skip
