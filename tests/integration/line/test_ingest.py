"""Ingest of new, stopped and changed features: each clip is there once, and is read once."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.util.state import get_actor
from ray.util.state.exception import ServerUnavailable

from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError, CorpusError, FormatError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.part import FeatureLedger
from helpers import deadly
from helpers.common import SMALL
from helpers.small_parts import features_part, left_behind
from pipelines.ingest import job
from pipelines.ingest.job import ingest
from pipelines.options import Ingest
from pipelines.runtime import session

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 50 clips in ten classes without folds, and a file that is no sound."""
    folder = tmp_path_factory.mktemp("ingest") / "sounds"
    for name in synthetic.SOUNDS:
        for take in range(5):
            write_clip(folder, name, take)
    (folder / "bell" / "broken.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture(scope="module")
def first(ray_cluster: None, sounds: Path) -> FeatureSet:
    return ingest(options(sounds, workers=2))


def write_clip(folder: Path, name: str, take: int) -> None:
    samples = synthetic.sound(name, take, 1.0 + 0.4 * take, 16_000)
    path = folder / name / f"take {take}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(samples, 16_000))


def options(sounds: Path, **others: object) -> Ingest:
    return Ingest(
        **{  # type: ignore[arg-type]
            "corpus": str(sounds),
            "to": str(sounds.parent / "features"),
            "folds": 3,
            "feature": SMALL,
            "workers": 1,
            **others,
        }
    )


def rows(features: FeatureSet) -> list[tuple[str, float]]:
    """(clip_id, start_s) of each row. The files in parts/ must be exactly the listed parts."""
    folder = Path(features.uri) / "parts"
    assert {f"parts/{path.name}" for path in folder.iterdir()} == set(features.parts)
    table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))
    return sorted(zip(table["clip_id"].to_pylist(), table["start_s"].to_pylist(), strict=True))


def written(features: FeatureSet) -> dict[str, int]:
    """The time when each part was written, in ns, by name."""
    return {p.name: p.stat().st_mtime_ns for p in (Path(features.uri) / "parts").iterdir()}


def folds_of(features: FeatureSet) -> dict[str, int]:
    loaded = features.load(list(features.folds))
    return dict(zip(loaded.clip_ids, loaded.folds.tolist(), strict=True))


def test_a_stopped_run_is_finished_and_nothing_is_read_twice(
    first: FeatureSet, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, parts = rows(first), written(first)
    assert len(parts) > 8
    lost = sorted(parts)[::2]
    for name in lost:
        (Path(first.uri) / "parts" / name).unlink()
    (Path(first.uri) / "features.json").unlink()
    for prefix in ("", "audiocnn-"):  # the first name is an earlier version's
        left_behind(Path(first.uri) / "parts" / f".{prefix}{'0f' * 16}.tmp")
    finished = ingest(options(sounds))
    read = int(capsys.readouterr().out.split(" clips read in")[0].split()[-1])
    assert 0 < read <= 4 * len(lost) < 51
    assert rows(finished) == before
    assert (finished.fingerprint, finished.counts) == (first.fingerprint, first.counts)
    now = written(finished)
    assert all(now[name] == when for name, when in parts.items() if name not in lost)


def test_nothing_waits_for_an_api_server_that_is_not_there(first: FeatureSet) -> None:
    """If Ray Train waited for one, the end of each training would take 12 s longer."""

    @ray.remote
    def ask() -> None:
        get_actor("0" * 32)

    with pytest.raises(ServerUnavailable):
        ray.get(ask.remote())
    assert os.environ.get("RAY_API_SERVER_ADDRESS") is None


def test_a_second_run_reads_nothing(
    first: FeatureSet, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(first)
    again = ingest(options(sounds))
    assert "nothing new" in capsys.readouterr().out
    assert (again.fingerprint, again.counts) == (first.fingerprint, first.counts)
    assert written(again) == before


def test_other_options_are_refused_by_name(first: FeatureSet, sounds: Path) -> None:
    before = written(first)
    other = sounds.parent / "other"
    shutil.copytree(sounds, other)
    for changed, message in [
        ({"folds": 4}, "folds 3 and not 4"),
        ({"limits": AudioLimits(max_channels=1)}, "max_channels 8 and not 1"),
        ({"feature": replace(SMALL, n_mels=16)}, "n_mels 32 and not 16"),
        ({"corpus": str(other)}, r"corpus .*sounds and not .*other"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ingest(options(sounds, **changed))
    assert written(first) == before
    FeatureSet.read(first.uri)


def test_features_of_an_older_version_are_refused(sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text(json.dumps({"format": "audiocnn.features/0"}))
    with pytest.raises(ConfigError, match="another version"):
        ingest(options(sounds, to=str(tmp_path)))
    with pytest.raises(FormatError, match="features/0"):
        FeatureSet.read(str(tmp_path))


def test_what_is_new_or_changed_is_read_and_what_is_gone_is_taken_out(
    first: FeatureSet, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "sounds"
    shutil.copytree(sounds, corpus)
    to = str(tmp_path / "features")
    whole = ingest(options(corpus, to=to, workers=2))  # parts are smaller for more workers
    parts, folds, before = written(whole), folds_of(whole), dict(rows(whole))
    for name in synthetic.SOUNDS:
        write_clip(corpus, name, 8)
    write_clip(corpus, "bell", 9)
    shutil.move(corpus / "bell" / "take 9.wav", corpus / "bell" / "take 0.wav")
    (corpus / "buzz" / "take 1.wav").unlink()
    shutil.move(corpus / "siren" / "take 2.wav", corpus / "thuds" / "moved.wav")
    capsys.readouterr()
    now = ingest(options(corpus, to=to, workers=2))
    read = int(capsys.readouterr().out.split(" clips read in")[0].split()[-1])
    assert 12 <= read <= 12 + 3 * 5  # parts have six clips
    after = dict(rows(now))
    assert len(after) == 50 + 10 - 1
    assert {"thuds/moved.wav", "siren/take 8.wav"} <= after.keys()
    assert not {"buzz/take 1.wav", "siren/take 2.wav"} & after.keys()
    assert after["bell/take 0.wav"] > before["bell/take 0.wav"]
    assert len(parts.items() & written(now).items()) >= len(parts) - 3
    kept = folds.keys() & after.keys()
    assert {clip: folds_of(now)[clip] for clip in kept} == {clip: folds[clip] for clip in kept}


def test_of_two_at_once_the_one_that_began_later_finishes_and_the_other_leaves_nothing(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, made, real = str(tmp_path / "features"), list[FeatureSet](), job._run

    def meanwhile(*arguments: Any) -> list[FeatureLedger]:
        monkeypatch.undo()
        # With two workers, the parts are different ones.
        made.append(ingest(options(sounds, to=to, workers=2)))
        return real(*arguments)

    monkeypatch.setattr(job, "_run", meanwhile)
    with pytest.raises(ConfigError, match=f"^--to {to}: another ingest into this folder has"):
        ingest(options(sounds, to=to))
    assert len(rows(made[0])) == made[0].counts["windows"]  # of all parts that are there
    FeatureSet.read(to)


def test_a_corpus_that_is_read_otherwise_is_refused_until_it_is_overwritten(
    tmp_path: Path,
) -> None:
    corpus, to = tmp_path / "sounds", str(tmp_path / "features")
    for fold in ("train", "test"):
        for name in ("bell", "buzz"):
            write_clip(corpus / fold, name, 0)
    features = ingest(options(corpus, to=to))
    assert (features.classes, list(features.folds)) == (("bell", "buzz"), [1, 3])
    write_clip(corpus / "extra", "siren", 0)
    write_clip(corpus / "extra", "siren", 1)
    before = written(features)
    with pytest.raises(ConfigError, match=r"its names gave the folds, but give none now; test, tr"):
        ingest(options(corpus, to=to))
    assert written(FeatureSet.read(to)) == before
    anew = ingest(options(corpus, to=to, folds=2, overwrite=True))
    assert anew.classes == ("extra", "test", "train")


def test_a_class_without_any_clip_that_can_be_read_is_no_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, to = tmp_path / "sounds", str(tmp_path / "features")
    for name in ("bell", "buzz", "siren"):
        for take in range(2):
            write_clip(corpus, name, take)
    for path in (corpus / "siren").iterdir():
        path.write_bytes(b"no sound")
    features = ingest(options(corpus, to=to, folds=2))
    assert features.classes == ("bell", "buzz")
    assert FeatureSet.read(to) == features
    assert (features.counts["ingested"], features.counts["failed"]) == (4, 2)
    assert "! no clip of siren could be read" in " ".join(capsys.readouterr().out.split())

    for path in (corpus / "buzz").iterdir():
        path.write_bytes(b"no sound either")
    with pytest.raises(CorpusError, match=r"no clip of buzz, siren could be read, and 2 classes"):
        ingest(options(corpus, to=to, folds=2))
    for name in ("buzz", "siren"):
        for take in range(2):
            write_clip(corpus, name, take)
    assert ingest(options(corpus, to=to, folds=2)).classes == ("bell", "buzz", "siren")


def test_overwrite_begins_anew_and_keeps_what_is_not_ours(sounds: Path, tmp_path: Path) -> None:
    features_part(tmp_path)  # of another run
    (tmp_path / "features.json").write_text('{"format": "audiocnn.features/1"}')
    (tmp_path / "notes.txt").write_text("mine")
    anew = ingest(options(sounds, to=str(tmp_path), overwrite=True))
    assert len(rows(anew)) == len(set(rows(anew))) == anew.counts["windows"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_manifest_of_wrong_paths_says_so_and_another_one_is_taken(
    sounds: Path, tmp_path: Path
) -> None:
    rows = [f"{name}/take {take}.wav,{name},{take}" for name in ("bell", "buzz") for take in (0, 1)]
    wrong, right, to = tmp_path / "wrong.csv", sounds / "right.csv", str(tmp_path / "features")
    for manifest in (wrong, right):
        manifest.write_text("\n".join(["uri,label,fold", *rows]))
    for _ in range(2):
        with pytest.raises(CorpusError) as caught:
            ingest(options(wrong, to=to))
        said = rf"{wrong}: none of its 4 clips could be read \(4 gone\); the first: {tmp_path}/"
        assert re.fullmatch(said + r"\w+/take \d.wav \(gone: [^{]+", str(caught.value))
    made = ingest(options(right, to=to))
    right.unlink()
    assert made.counts["ingested"] == 4
    assert {path.name for path in Path(to, "parts").iterdir()} == {Path(p).name for p in made.parts}


def test_a_deadly_clip_costs_a_row_and_is_not_tried_again_unless_asked(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()
    monkeypatch.setenv("PYTHONPATH", deadly.hole(tmp_path / "hole"))
    session.connect()
    corpus = tmp_path / "sounds"
    shutil.copytree(sounds, corpus)
    (corpus / "bell" / "deadly.wav").write_bytes(deadly.wav("segfault"))
    to = str(tmp_path / "features")
    features = ingest(options(corpus, to=to))
    failures = pq.read_table(f"{to}/failures.parquet").to_pylist()
    reasons = {Path(row["uri"]).name: row["reason"] for row in failures}
    assert set(reasons) == {"broken.wav", "deadly.wav"}
    assert reasons["deadly.wav"].startswith("crashed: the process that decoded it died of signal")
    assert features.counts["ingested"] == 50
    parts = written(features)
    assert written(ingest(options(corpus, to=to))) == parts
    (tmp_path / "hole" / "sitecustomize.py").unlink()
    mended = ingest(options(corpus, to=to, retry_failed=True))
    assert (mended.counts["ingested"], mended.counts["failed"]) == (51, 1)
    assert len(rows(mended)) == len(set(rows(mended)))
