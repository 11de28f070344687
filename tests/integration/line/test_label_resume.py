"""On a real Ray, a stopped run goes on where it was, and two runs at once give one result."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from audiocnn import storage
from audiocnn.errors import ConfigError
from benchmarks.seaweed import SeaweedFS
from helpers.asking import PATIENCE_S, wait_until
from helpers.common import AUDIOCNN, make_bundle
from helpers.gate import Gate
from helpers.kept import BUCKET, KEPT, put_sounds
from helpers.label_runs import check_sums, fill_bucket, options, parts, rows, sound
from helpers.small_parts import labels_part, left_behind
from pipelines.label import job
from pipelines.label.job import label
from pipelines.options import Label

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder)
    return folder


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return fill_bucket(tmp_path / "bucket")


def test_a_stopped_run_does_what_has_no_part_yet(
    bucket: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "labels"
    whole = label(options(bucket, bundle, to))
    expected = rows(to)
    lost = sorted(to.glob("parts/*.parquet"))[1]
    lost_rows = len({row["uri"] for row in pq.read_table(lost).to_pylist()})
    lost.unlink()
    (to / "summary.json").unlink()
    # This run does not label recordings that came after its listing.
    (bucket / "later.flac").write_bytes(sound(1))
    strays = [labels_part(to, bundle), left_behind(to / "parts" / f".audiocnn-{'0f' * 16}.tmp")]
    strays.append(left_behind(to / f".{'0f' * 16}.tmp"))  # half of a killed driver's manifest
    (to / "parts" / "mine.txt").write_text("kept")
    kept = {name: at for name, at in parts(to).items() if "0000aaaa" not in name}
    capsys.readouterr()
    again = label(options(bucket, bundle, to))
    check_sums(to, again)
    assert "are done" in capsys.readouterr().out
    assert lost_rows <= again["done_now"] <= lost_rows + 3
    assert kept.items() <= parts(to).items()
    assert rows(to) == expected
    assert again["classes"] == whole["classes"]
    assert not any(stray.exists() for stray in strays)
    assert (to / "parts" / "mine.txt").exists()


def test_a_stopped_run_whose_manifest_was_deleted_lists_again(
    bucket: Path, bundle: Path, tmp_path: Path
) -> None:
    to = tmp_path / "labels"
    label(options(bucket, bundle, to))
    expected = rows(to)
    kept, lost = sorted(to.glob("parts/*.parquet"))
    for path in (lost, to / "summary.json", *to.glob("manifest-*.parquet")):
        path.unlink()
    again = label(options(bucket, bundle, to))
    check_sums(to, again)
    assert rows(to) == expected
    assert again["done_now"] < len(expected)
    assert kept.exists()


def test_a_run_stopped_after_its_summary_leaves_no_manifest_for_ever(
    bucket: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, asked = tmp_path / "labels", options(bucket, bundle, tmp_path / "labels")
    label(asked)
    label(asked)
    with monkeypatch.context() as patched:
        patched.setattr(job, "_remove_strays", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label(asked)
    assert len(list(to.glob("manifest-*.parquet"))) == 2
    label(asked)
    assert len(list(to.glob("manifest-*.parquet"))) == 1


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_that_list_at_once_give_one_result(
    bucket: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is stopped while it lists. It goes on and ends while the second one lists."""
    to, asked = tmp_path / "labels", options(bucket, bundle, tmp_path / "labels")
    names = iter(["aaaaaaaa", "bbbbbbbb", "aaaaaaaa"])
    mine = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=next(names)))
    monkeypatch.setattr(job, "uuid", mine)
    real = job._require_recordings

    def stop(*_: Any) -> int:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(job, "write_manifest", stop)
        with pytest.raises(InterruptedError):
            label(asked)
    assert json.loads((to / "labels.json").read_text())["listing"] is None

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(job, "_require_recordings", real)
        label(asked)
        (to / "summary.json").unlink()
        real(*arguments)

    monkeypatch.setattr(job, "_require_recordings", meanwhile)
    summary = label(asked)
    check_sums(to, summary)
    assert summary["labelled"] == 57


def test_what_a_later_run_asks_for_of_a_stopped_one(
    bucket: Path, bundle: Path, tmp_path: Path
) -> None:
    to = tmp_path / "labels"
    first = label(options(bucket, bundle, to))
    (to / "summary.json").unlink()
    label(options(bucket, bundle, to, formats=("csv",)))
    (to / "events.csv").unlink()
    label(options(bucket, bundle, to))
    assert (to / "events.csv").exists()
    (to / "summary.json").unlink()
    (bucket / "1" / "001.flac").write_bytes(sound(1))  # it failed before
    again = label(options(bucket, bundle, to, retry_failed=True))
    check_sums(to, again)
    assert (again["failed"], again["done_now"]) == (first["failed"] - 1, first["failed"])


def test_two_runs_at_once_give_one_result(
    bucket: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "labels"
    real = job._do

    def meanwhile(run: Any, *arguments: Any) -> tuple[int, float]:
        monkeypatch.undo()
        shutil.copy(to / "labels.json", tmp_path / "mine.json")
        storage.remove(str(to / "labels.json"))
        label(options(bucket, bundle, to))  # another driver that began at the same time
        return real(run, *arguments)

    monkeypatch.setattr(job, "_do", meanwhile)
    with pytest.raises(ConfigError, match="another run into this folder has started"):
        label(options(bucket, bundle, to))
    summary = label(options(bucket, bundle, to))
    check_sums(to, summary)


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bucket"
    folder.mkdir()
    (folder / "0.flac").write_bytes(sound(1))
    for index in range(1, 200):
        os.link(folder / "0.flac", folder / f"{index}.flac")
    gate = Gate(tmp_path / "gate")
    gate.let(1)
    run = subprocess.Popen(
        [AUDIOCNN, "label", folder, "--bundle", bundle, "--to", tmp_path / "labels"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **gate.environment, "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    wait_until(lambda: parts(tmp_path / "labels") or run.poll() is not None)
    os.killpg(run.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        run.wait(PATIENCE_S)
    if run.poll() is None:
        run.send_signal(signal.SIGABRT)  # it prints the stacks of its threads
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert err.startswith("audiocnn: stopped; ")
    assert "of 200 recordings are done; run the same command again to continue" in err


def test_labels_of_an_earlier_version_go_on(s3: SeaweedFS, tmp_path: Path) -> None:
    kept = KEPT / "2026-11-26"
    put_sounds(s3.client())
    to = shutil.copytree(kept / "labels", tmp_path / "labels")
    before, version_2 = rows(to), rows(to / "version-2")
    bundle = str(kept / "bundle")
    asked = Label(bucket=BUCKET, bundle=bundle, to=str(to), top_k=2, embeddings=True, workers=1)
    summary = label(asked)
    check_sums(to, summary)
    assert (summary["labelled"], summary["failed"], summary["done_now"]) == (3, 1, 0)
    assert rows(to) == before
    storage.write_bytes(f"{BUCKET}/later.flac", sound(1))
    try:
        summary = label(asked)
    finally:
        storage.remove(f"{BUCKET}/later.flac")
    check_sums(to, summary)
    assert (summary["labelled"], summary["done_now"]) == (4, 1)
    assert before.items() <= rows(to).items()
    assert rows(to / "version-2") == version_2
