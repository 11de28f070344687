"""Labels of a bucket on a real Ray: each recording once, also if the bucket changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest
import ray

from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError, LedgerError, MismatchError, StorageError
from audiocnn.labels.label_set import read_labels
from audiocnn.model.predictor import Predictor
from helpers.common import make_bundle
from helpers.label_runs import check_sums, fill_bucket, options, parts, rows, sound
from pipelines.label import job
from pipelines.label.dry_run import prospect
from pipelines.label.job import label
from pipelines.options import Label

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder)
    return folder


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return fill_bucket(tmp_path / "bucket")


def test_what_is_new_changed_or_gone_is_all_that_is_done_again(
    bucket: Path, bundle: Path, tmp_path: Path
) -> None:
    to = tmp_path / "labels"
    asked = options(bucket, bundle, to, workers=2, formats=("csv",))
    first = label(asked)
    check_sums(to, first)
    assert (first["listed"], first["labelled"], first["skipped"]) == (62, 57, 2)
    assert first["skipped_by"] == {".jpg": 1, "": 1}
    before, old = rows(to), parts(to)

    again = label(asked)
    check_sums(to, again)
    assert again["done_now"] == 0
    assert parts(to) == old

    (bucket / "0" / "003.flac").write_bytes(sound(99, 2.0))
    (bucket / "1" / "004.flac").unlink()
    (bucket / "new.wav").write_bytes(sound(7, container="wav"))
    (bucket / "1" / "001.flac").write_bytes(sound(1))  # it failed before
    third = label(options(bucket, bundle, to))
    check_sums(to, third)
    assert third["done_now"] == 3
    assert (third["listed"], third["failed"]) == (62, first["failed"] - 1)
    after = rows(to)
    changed = {str(bucket / name) for name in ("0/003.flac", "1/001.flac", "new.wav")}
    gone = {str(bucket / "1" / "004.flac")}
    assert {uri: after[uri] for uri in before.keys() - changed - gone} == {
        uri: before[uri] for uri in before.keys() - changed - gone
    }
    assert after.keys() == before.keys() - gone | changed
    predictor = Predictor.load(str(bundle))
    for uri in changed:
        expected = predictor.predict(uri)
        assert [row[2] for row in after[uri]] == [w.label for w in expected.windows]
        found = [row[3] for row in after[uri]]
        assert found == pytest.approx([w.score for w in expected.windows], abs=1e-5)
    # A format that an earlier run wrote is updated.
    csv = duckdb.sql(f"SELECT DISTINCT uri FROM '{to}/events.csv'").fetchall()
    assert {uri for (uri,) in csv} == after.keys()

    (bucket / "0" / "000.flac").unlink()  # it failed, and is deleted now
    fourth = label(options(bucket, bundle, to, retry_failed=True))
    check_sums(to, fourth)
    assert fourth["failed"] == fourth["done_now"] == third["failed"] - 1
    assert rows(to) == after


def test_what_left_or_changed_between_listing_and_reading_is_a_failure_that_says_so(
    bucket: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "labels"
    real = job._do

    def interfere(*arguments: Any) -> tuple[int, float]:
        (bucket / "2" / "005.flac").unlink()
        (bucket / "0" / "006.flac").write_bytes(sound(50))
        return real(*arguments)

    monkeypatch.setattr(job, "_do", interfere)
    summary = label(options(bucket, bundle, to))
    monkeypatch.undo()
    check_sums(to, summary)
    assert (summary["reasons"]["gone"], summary["reasons"]["changed"]) == (1, 1)
    after = label(options(bucket, bundle, to))  # it lists again
    check_sums(to, after)
    assert "gone" not in after["reasons"]
    assert "changed" not in after["reasons"]
    assert after["done_now"] == 1


def test_a_bundle_that_is_replaced_as_the_job_starts_labels_nothing(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise `labels.json` would name another bundle than the one that made the rows."""
    to, folder = tmp_path / "labels", tmp_path / "bundle"
    meant, real = make_bundle(folder), job._do

    def replaced(*arguments: Any) -> tuple[int, float]:
        make_bundle(folder, seed=1)
        return real(*arguments)

    monkeypatch.setattr(job, "_do", replaced)
    with pytest.raises(MismatchError, match=f"started with {meant.fingerprint}"):
        label(options(bucket, folder, to))
    assert not parts(to)


def test_labels_by_another_bundle_are_refused_or_another_version(
    bucket: Path, bundle: Path, tmp_path: Path
) -> None:
    to, other = tmp_path / "labels", tmp_path / "other"
    first = label(options(bucket, bundle, to))
    before = rows(to)
    second = make_bundle(other, seed=5)
    for changed, said in (
        ({"bundle": other}, rf"bundle {first['bundle']} and not {second.fingerprint}"),
        ({"hop_s": 0.5}, r"features \w+ and not \w+, hop_s 1.0 and not 0.5"),
        ({"embeddings": True}, "embeddings False and not True"),
    ):
        with pytest.raises(ConfigError, match=rf"labels with {said} are there; pass --new-version"):
            label(options(**{"bucket": bucket, "bundle": bundle, "to": to, **changed}))  # type: ignore[arg-type]
    made = label(options(bucket, other, to, new_version=True))
    assert made["bundle"] == second.fingerprint
    check_sums(to / "version-2", made)
    assert rows(to) == before
    again = label(options(bucket, other, to))  # it goes on in version-2
    assert again["done_now"] == 0
    assert json.loads((to / "version-2" / "summary.json").read_text()) == again
    (to / "mine.txt").write_text("kept")
    kept = {path: path.read_bytes() for path in (to / "version-2").rglob("*") if path.is_file()}
    anew = label(options(bucket, other, to, overwrite=True))
    check_sums(to, anew)
    assert anew["bundle"] == second.fingerprint
    assert (to / "mine.txt").exists()
    # --overwrite replaces the labels in `to`, and keeps version-2.
    assert {path: path.read_bytes() for path in kept} == kept


def test_windows_that_overlap_are_events_and_unknown_ones_are_none(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    long = np.concatenate([synthetic.sound("siren", 3, 20.0, 16_000) for _ in range(9)])
    (tmp_path / "bucket" / "long.wav").write_bytes(encode(long, 16_000))
    summary = label(
        options(tmp_path / "bucket", bundle, tmp_path / "l", hop_s=0.25, embeddings=True)
    )
    assert summary["windows"] == 1 + (180 - 1) * 4
    events = pq.read_table(tmp_path / "l" / "events.parquet").to_pylist()
    assert sum(event["windows"] for event in events) == summary["windows"]
    assert events[0]["onset_s"] == 0.0
    assert events[-1]["offset_s"] == 180.0
    table = read_labels(str(tmp_path / "l"))
    assert table.schema.field("embedding").type.list_size == 64


def test_a_dry_run_says_what_is_there_and_writes_nothing(
    bucket: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    census, headers = prospect(options(bucket, bundle, tmp_path / "labels"))
    assert (census.listed, census.recordings, headers.looked_at) == (62, 60, 60)
    assert len(headers.failures) == 3
    told = capsys.readouterr().out
    assert "62 files: 60 recordings" in told
    assert "formats: 57 flac" in told
    assert "57 windows and 3 failures" in told
    assert not (tmp_path / "labels").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="none of its 0 files is a recording"):
        prospect(options(tmp_path / "empty", bundle, tmp_path / "labels"))


def test_labels_within_their_bucket_are_not_of_it(bucket: Path, bundle: Path) -> None:
    to = bucket / "labels"
    for _ in range(2):
        summary = label(options(bucket, bundle, to, formats=("raven",)))
        check_sums(to, summary)
        assert summary["listed"] == 62


def test_ravens_boxes_lie_below_half_the_rate_of_any_recording(
    bundle: Path, tmp_path: Path
) -> None:
    slow = encode(synthetic.sound("siren", 1, 2.0, 1_200), 1_200)
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "slow.wav").write_bytes(slow)
    asked = options(
        tmp_path / "bucket", bundle, tmp_path / "labels",
        formats=("raven",), limits=AudioLimits(min_rate_hz=1_000),
    )  # fmt: skip
    assert label(asked)["labelled"] == 1
    (table,) = (tmp_path / "labels" / "raven").iterdir()
    boxes = pd.read_csv(table, sep="\t")
    assert len(boxes) > 0
    assert set(boxes["High Freq (Hz)"]) == {500.0}


def test_a_bucket_that_is_suddenly_empty_drops_no_labels(
    bucket: Path, bundle: Path, tmp_path: Path
) -> None:
    to = tmp_path / "labels"
    label(options(bucket, bundle, to))
    before = sorted(p for p in to.rglob("*") if p.is_file())
    shutil.rmtree(bucket)
    for make in (lambda: None, bucket.mkdir):
        make()
        with pytest.raises(StorageError):
            label(options(bucket, bundle, to))
        assert sorted(p for p in to.rglob("*") if p.is_file()) == before


def test_sums_that_do_not_add_up_are_an_error(
    bucket: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "labels"
    real = job._do

    def lose(*arguments: Any) -> tuple[int, float]:
        done = real(*arguments)
        min(to.glob("parts/*.parquet"), key=lambda path: path.stat().st_mtime_ns).unlink()
        return done

    first = label(options(bucket, bundle, to))
    (bucket / "new.flac").write_bytes(sound(7))
    with monkeypatch.context() as patched:
        patched.setattr(job, "_do", lose)  # it deletes a part of the first listing
        with pytest.raises(LedgerError, match=r"61 recordings listed, but .* the same command"):
            label(options(bucket, bundle, to))
    assert not (to / "summary.json").exists()
    mended = label(options(bucket, bundle, to))
    check_sums(to, mended)
    assert mended["labelled"] == first["labelled"] + 1
    assert 1 < mended["done_now"] < 61


def test_a_job_may_wait_for_as_long_as_it_takes() -> None:
    """By default Ray Data ends a job in which no shard ends for half an hour."""
    assert ray.data.DataContext.get_current().execution_no_progress_timeout_s == -1


def test_a_bundle_that_workers_do_not_see_is_told_in_a_line(
    bucket: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "bundle"
    shutil.copytree(bundle, mine)
    real = job._do

    def lose(*arguments: Any) -> tuple[int, float]:
        shutil.rmtree(mine)
        return real(*arguments)

    monkeypatch.setattr(job, "_do", lose)
    with pytest.raises(StorageError, match="no bundle there"):
        label(options(bucket, mine, tmp_path / "labels"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"models": 2}, "for models on GPUs: give gpu too"),
        ({"gpus_per_model": 0.5}, "for models on GPUs: give gpu too"),
        ({"gpu": True, "gpus_per_model": 1.5}, "above 1 must be a whole number"),
        ({"gpu": True, "gpus_per_model": 0.00001}, "must be at least 0.01"),
    ],
)
def test_gpu_options_that_cannot_be(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Label(bucket="b", bundle="b", to="t", **asked)
