"""Manifests, parts and changes of labels: the work of `label` that needs no Ray."""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn.audio.encode import encode
from audiocnn.audio.recording import Recording
from audiocnn.audio.sandbox import Died
from audiocnn.config import UNKNOWN, AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError, FormatError, InstallationError, StorageError
from audiocnn.features.extractor import Extractor, RecordingEnd, WindowFeatures
from audiocnn.labels import label_set, part as label_part, shard_list
from audiocnn.labels.diff import compare_listing
from audiocnn.labels.label_set import LabelPart
from audiocnn.labels.labeller import Labeller, Scorer, Scores
from audiocnn.labels.shard_list import Entry, ListingCounts, row_of
from audiocnn.model.calibration import Calibration
from audiocnn.model.predictor import Predictor
from audiocnn.storage import listing
from audiocnn.storage.listing import StoredFile
from helpers import deadly
from helpers.common import SMALL, make_bundle

LIMITS = AudioLimits()


def files(count: int, size: int = 10) -> Iterator[StoredFile]:
    for n in range(count):
        name = f"{n:07d}.wav"
        yield StoredFile(uri=f"s3://b/{name}", path=name, size=size, version=f"v{n}")


# Manifests.


def test_a_manifest_holds_every_recording_once_in_shards_that_grow(tmp_path: Path) -> None:
    uri = str(tmp_path / "manifest.parquet")
    shards = shard_list.write_manifest(uri, map(row_of, files(10_000)))
    sizes = shard_list.shard_sizes(uri)
    assert len(sizes) == shards
    assert sum(sizes) == 10_000
    assert sizes[0] == 32
    assert max(sizes) <= 10_000 // 64
    assert len(sizes) < 300
    found = [entry for index in range(shards) for entry in shard_list.read_shard(uri, index)]
    assert [entry.recording for entry in found] == [
        Recording(uri=file.uri, size=10, version=file.version) for file in files(10_000)
    ]
    ((count,),) = duckdb.sql(f"SELECT count(DISTINCT uri) FROM '{uri}'").fetchall()
    assert count == 10_000


def test_large_recordings_make_small_shards(tmp_path: Path) -> None:
    uri = str(tmp_path / "manifest.parquet")
    assert shard_list.write_manifest(uri, map(row_of, files(5, 700 << 20))) == 5
    shard_list.write_manifest(uri, map(row_of, files(100_000, 10 << 20)))
    sizes = shard_list.shard_sizes(uri)
    assert sizes[0] == 3  # 32 MiB: a few long recordings are shared out too
    assert sizes[-2] == max(sizes) == 102  # 1 GiB
    assert len(sizes) < 2_000
    assert shard_list.write_manifest(str(tmp_path / "none.parquet"), []) == 0
    assert shard_list.shard_sizes(str(tmp_path / "none.parquet")) == []


def test_a_census_counts_every_file_once() -> None:
    names = ["a.WAV", "b/c.flac", "cover.jpg", "notes", "d.jpg", "e.mp3.part", ".wav"]
    found = ListingCounts()
    seen = [
        StoredFile(uri=f"/x/{name}", path=name, size=2) for name in names
    ]  # fmt: skip
    assert [file.path for file in found.of_recordings(seen)] == ["a.WAV", "b/c.flac", ".wav"]
    assert (found.recordings, found.bytes, found.listed) == (3, 6, 7)
    assert found.skipped == {".jpg": 2, "": 1, ".part": 1}
    many = [StoredFile(uri=f"/x/a.k{n}", path=f"a.k{n}", size=1) for n in range(500)]
    assert list(found.of_recordings(many)) == []
    assert len(found.skipped) <= 101
    assert found.listed == 507


def test_a_name_that_is_not_utf8_is_in_the_manifest_as_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"x")
    uri = str(tmp_path / "m.parquet")
    shard_list.write_manifest(uri, map(row_of, listing.iter_files(str(tmp_path / "in"))))
    (entry,) = shard_list.read_shard(uri, 0)
    assert entry.wrong == "path: its name is not UTF-8"


# Windows from a separate process.


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Forty recordings of 1 to 3 s, except one of a minute; two of them cannot be decoded."""
    folder = tmp_path_factory.mktemp("sounds")
    for index in range(40):
        seconds = 60.0 if index == 20 else 1.0 + index % 3
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 8], index, seconds, 16_000)
        (folder / f"{index:02d}.wav").write_bytes(encode(samples, 16_000))
    (folder / "10.wav").write_bytes(b"not a sound")
    (folder / "33.wav").write_bytes((folder / "32.wav").read_bytes()[:20_000])
    return [
        Recording(uri=file.uri, size=file.size, version=file.version)
        for file in listing.list_files(str(folder))
    ]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(make_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    """An extractor for the tests that do not kill it."""
    with Extractor(SMALL, LIMITS) as extractor:
        yield extractor


def test_windows_are_those_of_the_one_decoder_and_front_end(
    sounds: list[Recording], predictor: Predictor, extractor: Extractor
) -> None:
    found: dict[int, list[np.ndarray]] = {}
    ended: dict[int, Any] = {}
    before = extractor.cpu_s
    for message in extractor.windows(sounds):
        if isinstance(message, WindowFeatures):
            assert message.at not in ended
            found.setdefault(message.at, []).append(message.logmel)
        else:
            assert len(ended) == message.at
            ended[message.at] = message.error
    assert extractor.cpu_s > before
    assert {at for at, error in ended.items() if error} == {10, 33}
    for at in (0, 20, 39):
        data = Path(sounds[at].uri).read_bytes()
        expected = predictor.features([w.samples for w in predictor.decode(data)])
        assert (np.concatenate(found[at]) == expected).all()


def label(
    folder: Path,
    sounds: list[Recording],
    predictor: Predictor,
    extractor: Extractor,
    top_k: int = 2,
) -> tuple[Path, label_part.LabelLedger]:
    score = Scorer(predictor, embeddings=True).score
    labeller = Labeller(predictor.bundle, extractor, score, top_k, embeddings=True)
    path = folder / "part.parquet"
    ledger = labeller.part([Entry(recording=r, wrong=None) for r in sounds], str(path))
    assert label_part.read_ledger(str(path)) == ledger
    return path, ledger


@pytest.fixture(scope="module")
def quiet(
    sounds: list[Recording],
    predictor: Predictor,
    extractor: Extractor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A part with all sounds, written without a crash."""
    return label(tmp_path_factory.mktemp("quiet"), sounds, predictor, extractor)[0]


def test_a_part_has_each_recording_as_the_predictor_has_it(
    sounds: list[Recording], predictor: Predictor, quiet: Path
) -> None:
    path, ledger = quiet, label_part.read_ledger(str(quiet))
    rows = pq.read_table(path).to_pylist()
    assert ledger.labelled == 38
    assert [Path(row["uri"]).name for row in ledger.failures] == ["10.wav", "33.wav"]
    assert [row["reason"].split(":")[0] for row in ledger.failures] == ["unrecognised", "truncated"]
    assert ledger.windows == len(rows) == sum(ledger.scores) == sum(ledger.classes.values())
    assert ledger.sound_s == pytest.approx(sum(row["end_s"] - row["start_s"] for row in rows))
    for recording in sounds:
        mine = [row for row in rows if row["uri"] == recording.uri]
        if not mine:
            continue
        expected = predictor.predict(recording.uri, top_k=2)
        assert len(mine) == len(expected.windows)
        for row, answer in zip(mine, expected.windows, strict=True):
            assert (row["start_s"], row["end_s"]) == (answer.start_s, answer.end_s)
            assert row["label"] == answer.label
            assert row["score"] == pytest.approx(answer.score, abs=1e-5)
            assert [pair["label"] for pair in row["top_k"]] == [name for name, _ in answer.top_k]
            assert row["version"] == recording.version
            assert row["bundle"] == predictor.bundle.fingerprint
            assert len(row["embedding"]) == 64


def test_others_read_a_part(quiet: Path) -> None:
    found = duckdb.sql(
        f"SELECT count(DISTINCT uri), count(*), max(len(top_k)), min(len(embedding)) FROM '{quiet}'"
    ).fetchall()
    assert found == [(38, label_part.read_ledger(str(quiet)).windows, 2, 64)]


def test_below_its_threshold_a_class_is_unknown(
    sounds: list[Recording], predictor: Predictor, extractor: Extractor, tmp_path: Path
) -> None:
    strict = replace(predictor.bundle, calibration=Calibration(thresholds=(1.1, 1.1, 1.1)))
    path, _ = label(tmp_path, sounds[:3], Predictor(strict), extractor, top_k=9)
    rows = pq.read_table(path).to_pylist()
    assert {row["label"] for row in rows} == {UNKNOWN}
    assert {len(row["top_k"]) for row in rows} == {3}


def test_a_deadly_recording_costs_itself_alone(
    sounds: list[Recording], quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pq.read_table(quiet).to_pylist()
    predictor = Predictor(make_bundle(tmp_path / "bundle"))
    monkeypatch.setenv("PYTHONPATH", deadly.hole(tmp_path / "hole"))
    monkeypatch.syspath_prepend(str(tmp_path / "hole"))
    deadly_ones = []
    for kind in ("segfault", "memory"):
        (tmp_path / f"{kind}.wav").write_bytes(deadly.wav(kind))
        deadly_ones.append(Recording(uri=str(tmp_path / f"{kind}.wav")))
    order = [*sounds[:7], deadly_ones[0], *sounds[7:], deadly_ones[1]]
    with Extractor(SMALL, LIMITS) as vulnerable:
        path, ledger = label(tmp_path, order, predictor, vulnerable)
    assert [row["reason"].split(":")[0] for row in ledger.failures].count("crashed") == 2
    assert ledger.labelled == 38
    rows = pq.read_table(path).to_pylist()
    assert [(r["uri"], r["start_s"], r["label"]) for r in rows] == [
        (r["uri"], r["start_s"], r["label"]) for r in expected
    ]
    assert [r["score"] for r in rows] == pytest.approx([r["score"] for r in expected], abs=1e-5)


def test_a_front_end_killed_at_any_moment_loses_nothing(
    sounds: list[Recording], predictor: Predictor, quiet: Path, tmp_path: Path
) -> None:
    expected = pq.read_table(quiet).to_pylist()
    moments, model = random.Random(4), Scorer(predictor, embeddings=True)
    with Extractor(SMALL, LIMITS) as extractor:

        def interrupted(logmel: np.ndarray) -> Scores:
            if moments.random() < 0.5:
                os.kill(extractor._child.pid, signal.SIGKILL)
            return model.score(logmel)

        labeller = Labeller(predictor.bundle, extractor, interrupted, 2, embeddings=True)
        path = tmp_path / "again.parquet"
        ledger = labeller.part([Entry(recording=r, wrong=None) for r in sounds], str(path))
    assert ledger.labelled == 38
    rows = pq.read_table(path).to_pylist()
    assert [(r["uri"], r["start_s"]) for r in rows] == [(r["uri"], r["start_s"]) for r in expected]


def test_a_front_end_that_cannot_go_on_ends_the_job(
    sounds: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Extractor(SMALL, LIMITS) as extractor:

        def dies(seconds: float) -> object:
            raise Died("died", signal=signal.SIGKILL)

        extractor._child.wait_until_ready()
        monkeypatch.setattr(extractor._child, "receive", dies)
        monkeypatch.setattr(extractor._child, "wait_until_ready", lambda: None)
        with pytest.raises(InstallationError, match="the process that decodes died"):
            list(extractor.windows(sounds[:2]))


def test_windows_that_nobody_takes_are_not_the_next_ones(
    sounds: list[Recording], extractor: Extractor
) -> None:
    stream = extractor.windows(sounds)
    assert isinstance(next(stream), WindowFeatures)
    stream.close()
    found = list(extractor.windows(sounds[:2]))
    assert [m.at for m in found if isinstance(m, RecordingEnd)] == [0, 1]


def test_what_was_written_anew_is_not_taken_for_what_was_listed(
    sounds: list[Recording], predictor: Predictor, extractor: Extractor, tmp_path: Path
) -> None:
    other, gone = replace(sounds[0], version="other"), replace(sounds[1], uri=str(tmp_path / "no"))
    _, ledger = label(tmp_path, [other, gone, sounds[2]], predictor, extractor)
    assert [row["reason"].split(":")[0] for row in ledger.failures] == ["changed", "gone"]
    assert ledger.labelled == 1


# Parts, their ledgers, and changes.


def test_a_part_without_some_is_the_rest(
    sounds: list[Recording], quiet: Path, tmp_path: Path
) -> None:
    path = tmp_path / "part.parquet"
    shutil.copy(quiet, path)
    before = label_part.read_ledger(str(path))
    rows = pq.read_table(path).to_pylist()
    drop = {sounds[at].uri for at in (0, 10, 20)}
    assert label_part.without(str(path), drop)
    after = label_part.read_ledger(str(path))
    assert (after.labelled, after.failed) == (36, 1)
    kept = [row for row in rows if row["uri"] not in drop]
    assert pq.read_table(path).to_pylist() == kept
    assert after.windows == len(kept)
    assert after.cpu_s == before.cpu_s
    told = {(uri, failed) for uri, _, failed in label_part.outcomes(str(path), path.open("rb"))}
    assert told == {(r.uri, at == 33) for at, r in enumerate(sounds) if r.uri not in drop}
    assert not label_part.without(str(path), {r.uri for r in sounds})
    assert not path.exists()


def test_a_damaged_part_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(FormatError, match=r"p\.parquet: not a part of labels"):
        label_part.read_ledger(str(tmp_path / "p.parquet"))


def test_what_changed_is_what_is_new_or_other_or_gone(sounds: list[Recording], quiet: Path) -> None:
    now = [
        {"uri": r.uri, "size": 1, "version": r.version, "wrong": None}
        for at, r in enumerate(sounds)
        if at != 5
    ]
    now[0]["version"] = "new"
    now.append({"uri": "/z.wav", "size": 1, "version": "v", "wrong": None})
    file = listing.stored_file(str(quiet))
    part = LabelPart(listing_id="a", shard=0, uri=file.uri, size=file.size, version=file.version)
    with compare_listing(iter(now)) as comparison:
        comparison.against([part], retry_failed=False)
        assert [row["uri"] for row in comparison.to_do()] == sorted([sounds[0].uri, "/z.wav"])
        assert list(comparison.stale()) == [(part, {sounds[0].uri, sounds[5].uri})]
    with compare_listing(iter(now)) as comparison:
        comparison.against([part], retry_failed=True)
        assert {row["uri"] for row in comparison.to_do()} == {
            sounds[0].uri, sounds[10].uri, sounds[33].uri, "/z.wav",
        }  # fmt: skip
    with pytest.raises(StorageError, match="gone away"), compare_listing(failing(now)):
        pass


def failing(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield rows[0]
    raise StorageError("s3://b: gone away")


# The folder of labels.


def test_labels_by_another_bundle_are_another_version(tmp_path: Path) -> None:
    to = str(tmp_path / "labels")
    first, second = {"bundle": "aaaa", "hop_s": 1.0}, {"bundle": "bbbb", "hop_s": 1.0}
    assert label_set.find_version(to, first, new_version=False) == (to, None)
    write_note(tmp_path / "labels", first)
    assert label_set.find_version(to, first, new_version=False)[0] == to
    with pytest.raises(ConfigError, match=r"bundle aaaa and not bbbb are there; .*--new-version"):
        label_set.find_version(to, second, new_version=False)
    assert label_set.find_version(to, second, new_version=True) == (f"{to}/version-2", None)
    write_note(tmp_path / "labels" / "version-2", second)
    for new_version in (False, True):  # the version exists already
        folder, note = label_set.find_version(to, second, new_version=new_version)
        assert (folder, (note or {})["made_with"]) == (f"{to}/version-2", second)


def write_note(folder: Path, made_with: dict[str, Any]) -> None:
    note = {"format": label_part.FORMAT, "made_with": made_with}
    label_set.storage.write_json(str(folder / label_set.NOTE), note)


def test_labels_of_an_earlier_format_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="an earlier format"):
        label_set.find_version(str(tmp_path), {}, new_version=False)
