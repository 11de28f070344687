"""The windows that are nearest to a clip, compared with brute force."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from audiocnn import storage
from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError, FormatError, MismatchError, StorageError
from audiocnn.labels import label_set
from audiocnn.labels.reader import Labelled, open_labels
from audiocnn.model.predictor import Predictor
from audiocnn.review.search import embed, nearest
from helpers.common import make_bundle
from helpers.small_labels import change_note, label_bucket, write_notes, write_parts
from pipelines.options import Similar
from pipelines.similar import similar


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bundle`, `bucket` (24 sounds of one to three windows) and `labels`."""
    folder = tmp_path_factory.mktemp("similar")
    make_bundle(folder / "bundle")
    (folder / "bucket").mkdir()
    for index in range(24):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 8], index, 1.0 + index % 3, 16_000)
        (folder / "bucket" / f"{index:02d}.wav").write_bytes(encode(samples, 16_000))
    predictor = Predictor.load(folder / "bundle")
    label_bucket(str(folder / "labels"), str(folder / "bucket"), predictor, str(folder / "bundle"))
    return folder


@pytest.fixture
def labels(place: Path, tmp_path: Path) -> Path:
    """A copy of the labels."""
    return Path(shutil.copytree(place / "labels", tmp_path / "labels"))


def made_up(place: Path, folder: Path, rows: list[dict[str, Any]], parts: int = 3) -> Labelled:
    predictor = Predictor.load(place / "bundle")
    write_notes(str(folder), "/b", predictor, str(place / "bundle"))
    write_parts(folder, rows, parts)
    return open_labels(str(folder))


def random_rows(count: int, size: int = 16) -> list[dict[str, Any]]:
    numbers = np.random.default_rng(3)
    vectors = numbers.normal(size=(count, size)).astype(np.float16)
    return [
        {"uri": f"/b/{n // 4:04d}.wav", "start_s": float(n % 4), "embedding": vectors[n]}
        for n in range(count)
    ]


def test_the_nearest_are_those_that_brute_force_finds(place: Path) -> None:
    labels = open_labels(str(place / "labels"))
    assert labels.finished
    assert len(labels.parts) == 3
    predictor = Predictor.load(labels.bundle)
    file = str(place / "bucket" / "05.wav")
    clip = embed(predictor, file, labels)
    assert len(clip) == 3
    found = nearest(labels, clip, 12)
    rows = label_set.read_labels(labels.uri).to_pylist()
    vectors = np.array([row["embedding"] for row in rows], np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ (clip / np.linalg.norm(clip, axis=1, keepdims=True)).T).max(axis=1)
    best = np.sort(cosines)[::-1][:12]
    assert [m.similarity for m in found.matches] == pytest.approx(best, abs=1e-5)
    assert {m.uri for m in found.matches[:3]} == {file}
    assert found.matches[0].similarity == pytest.approx(1, abs=1e-4)
    by_window = {(row["uri"], row["start_s"]): row for row in rows}
    for match in found.matches:
        row = by_window[match.uri, match.start_s]
        assert (match.end_s, match.label, match.score) == (row["end_s"], row["label"], row["score"])
    assert (found.windows, found.unusable) == (len(rows), 0)


@pytest.mark.parametrize("count", [1, 7, 999, 5_000])
def test_parts_stream_by_and_nothing_is_lost(
    place: Path, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_set, "_ROWS", 64)
    monkeypatch.setattr("audiocnn.review.search._AT_ONCE", 2)
    rows = random_rows(1_000)
    labels = made_up(place, tmp_path, rows)
    clip = np.random.default_rng(8).normal(size=(5, 16)).astype(np.float32)
    vectors = np.stack([row["embedding"] for row in rows]).astype(np.float64)
    cosines = vectors @ clip.T.astype(np.float64)
    cosines /= np.linalg.norm(vectors, axis=1, keepdims=True) * np.linalg.norm(clip, axis=1)
    best = cosines.max(axis=1)
    order = np.argsort(-best)[:count]
    found = nearest(labels, clip, count)
    assert [(m.uri, m.start_s) for m in found.matches] == [
        (rows[at]["uri"], rows[at]["start_s"]) for at in order
    ]
    assert [m.similarity for m in found.matches] == pytest.approx(best[order], abs=1e-5)


def test_embeddings_without_a_direction_neither_crash_nor_win(place: Path, tmp_path: Path) -> None:
    rows = random_rows(20)
    rows[3]["embedding"] = np.full(16, np.nan, np.float16)
    rows[4]["embedding"] = np.zeros(16, np.float16)
    rows[5]["embedding"] = np.array([np.inf] + [0] * 15, np.float16)
    rows[6]["embedding"] = None
    labels = made_up(place, tmp_path, rows)
    clip = np.stack([np.ones(16), np.full(16, np.nan), np.zeros(16)]).astype(np.float32)
    found = nearest(labels, clip, 50)
    assert (found.windows, found.unusable, len(found.matches)) == (20, 4, 16)
    assert all(np.isfinite(match.similarity) for match in found.matches)
    with pytest.raises(ConfigError, match="zero or not finite"):
        nearest(labels, clip[1:], 5)


def test_of_equals_the_first_wins_and_all_parts_may_be_empty(place: Path, tmp_path: Path) -> None:
    rows = [{**row, "embedding": np.ones(16, np.float16)} for row in random_rows(400)]
    labels = made_up(place, tmp_path, rows, parts=1)
    found = nearest(labels, np.ones((1, 16), np.float32), 3)
    assert [(m.uri, m.start_s) for m in found.matches] == [("/b/0000.wav", n) for n in (0, 1, 2)]
    assert nearest(replace(labels, parts=[]), np.ones((1, 16), np.float32), 3).matches == []


def test_shifts_of_one_recording_do_not_fill_what_is_found(place: Path, tmp_path: Path) -> None:
    """Overlapping windows are very similar, so only the best of them is found."""
    vectors = np.random.default_rng(1).normal(size=(6, 16))
    rows: list[dict[str, Any]] = []
    for recording, vector in enumerate(vectors):
        for shift in range(10):
            near = vector + 0.01 * abs(shift - 7) + (shift == 7) * 0.001
            rows.append({
                "uri": f"/b/{recording}.wav", "start_s": 0.1 * shift, "end_s": 0.1 * shift + 1.0,
                "embedding": near.astype(np.float16),
            })  # fmt: skip
    rows.append({**rows[0], "uri": "/b/0.wav", "start_s": 1.9, "end_s": 2.9})  # no overlap
    labels = made_up(place, tmp_path, rows, parts=1)
    found = nearest(labels, vectors[:1].astype(np.float32), 5)
    assert [(m.uri, m.start_s) for m in found.matches[:2]] == [
        ("/b/0.wav", pytest.approx(0.7)), ("/b/0.wav", 1.9),
    ]  # fmt: skip
    assert len({m.uri for m in found.matches}) == 4
    assert found.windows == 61


def test_labels_and_their_bundle_must_fit(place: Path, labels: Path, tmp_path: Path) -> None:
    uri = str(labels)
    moved = shutil.copytree(place / "bundle", tmp_path / "moved")
    assert open_labels(uri, str(moved)).bundle == str(moved)
    other = make_bundle(tmp_path / "other", seed=1)
    mine = open_labels(uri).fingerprint
    with pytest.raises(MismatchError, match=rf"{other.fingerprint}.*{mine}.*--bundle"):
        open_labels(uri, str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"is not at .*nowhere; pass its URI with --bundle"):
        open_labels(uri, str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match="no labels there"):
        open_labels(str(tmp_path / "nowhere"))
    change_note(labels, embeddings=False)
    with pytest.raises(ConfigError, match="label again with --embeddings"):
        nearest(open_labels(uri), np.ones((1, 64), np.float32), 1)
    (labels / "parts" / "part-aa-000001.parquet").write_bytes(b"PAR1 no")
    change_note(labels, embeddings=True)
    with pytest.raises(FormatError, match="a part of labels, or a damaged one"):
        nearest(open_labels(uri), np.ones((1, 64), np.float32), 1)
    storage.write_json(f"{uri}/labels.json", {"format": "audiocnn.labels/2"})
    with pytest.raises(FormatError, match=r"labels\.json is damaged \(no 'made_with'\)"):
        open_labels(uri)


def test_the_verb_prints_and_writes_what_it_found(
    place: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (labels / "summary.json").unlink()
    clip = str(place / "bucket" / "05.wav")
    to = tmp_path / "out" / "found.csv"
    options = Similar(labels=str(labels), to_clip=clip, count=5, to=str(to))
    found = similar(options)
    out = capsys.readouterr().out
    assert "is not complete" in out
    assert out.count("05.wav\n") == 4  # the headline, and the clip's three windows
    assert len([line for line in out.splitlines() if ".wav" in line]) == 6
    table = pd.read_csv(to)
    assert list(table.columns) == [
        "similarity", "label", "score", "start_s", "end_s", "uri", "bundle",
    ]  # fmt: skip
    assert table["uri"].tolist() == [match.uri for match in found.matches]
    assert set(table["bundle"]) == {open_labels(str(labels)).fingerprint}
    with pytest.raises(ConfigError, match="it exists already"):
        similar(options)
    similar(replace(options, overwrite=True))
    (tmp_path / "no.wav").write_bytes(b"no sound")
    with pytest.raises(ConfigError, match=r"--to-clip .*no\.wav: unrecognised"):
        similar(Similar(labels=str(labels), to_clip=str(tmp_path / "no.wav")))


def test_hostile_names_do_nothing_to_a_terminal_or_a_spreadsheet(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = np.ones(64, np.float16)
    names = ["[red]x[/].wav", "a\nb\x1b[31m.wav", "\u202egnp.wav", "x" * 300 + ".wav"]
    rows: list[dict[str, Any]] = [
        {"uri": f"/b/{name}", "start_s": 0.0, "embedding": vector, "label": "=1+1"}
        for name in names
    ]
    made_up(place, tmp_path / "labels", rows)
    clip = str(place / "bucket" / "05.wav")
    to = tmp_path / "found.csv"
    similar(Similar(labels=str(tmp_path / "labels"), to_clip=clip, to=str(to)))
    out = capsys.readouterr().out
    for shown in ("  [red]x[/].wav\n", "a\ufffdb\ufffd[31m.wav\n", "\ufffdgnp.wav\n", "x" * 300):
        assert shown in out
    table = pd.read_csv(to)
    assert set(table["label"]) == {"'=1+1"}
    assert set(table["uri"]) == {row["uri"] for row in rows}
