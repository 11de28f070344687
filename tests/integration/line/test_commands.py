"""Whole commands in processes of their own: their output, files and exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.common import SMALL_FLAGS

CHATTER = re.compile(r"ray|pid=|warning|INFO|WARN|Traceback|raylet|autoscaler", re.IGNORECASE)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("audiocnn")), *map(str, arguments)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.mark.slow
def test_the_demo_fits_on_two_screens_and_says_what_it_wrote(tmp_path: Path) -> None:
    code, out, err = run("demo", cwd=tmp_path)
    assert code == 0
    assert err == ""
    assert not CHATTER.search(out), CHATTER.search(out)
    assert len(out.splitlines()) <= 60
    assert max(len(line) for line in out.splitlines()) <= 120
    for name in ("features", "bundle", "report/report.html", "labels"):
        assert f"demo/{name}" in out
        assert (tmp_path / "demo" / name).exists()
    summary = json.loads((tmp_path / "demo" / "labels" / "summary.json").read_text())
    assert (summary["listed"], summary["labelled"], summary["failed"]) == (63, 60, 3)
    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    assert report["accuracy_mean"] >= 0.85
    right = re.search(r"(\d+) of the bucket's 60 sound recordings", out)
    assert right is not None
    assert int(right[1]) >= 50


def test_failures_warn_and_do_not_fail(tmp_path: Path, corpus: Path) -> None:
    """Bad files give a warning and exit code 0. A bundle that cannot be read gives exit code 2."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text('{"format": "audiocnn.bundle/99"}')
    code, out, err = run("label", corpus, "--bundle", "bundle", "--to", "labels", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("audiocnn: ")
    assert err.count("\n") == 1
    assert "audiocnn.bundle/99" in err

    (tmp_path / "sounds" / "a").mkdir(parents=True)
    (tmp_path / "sounds" / "b").mkdir()
    for index, clip in enumerate(sorted(corpus.glob("*/1-*"))):
        target = tmp_path / "sounds" / "ab"[index % 2] / f"{index} \n=[red]cmd.wav"
        target.write_bytes(clip.read_bytes())
    (tmp_path / "sounds" / "a" / "bad [bold].wav").write_bytes(b"no")
    code, out, err = run(
        "ingest",
        "sounds",
        "--to",
        "features",
        "--folds",
        "2",
        "--workers",
        "1",
        *SMALL_FLAGS,
        cwd=tmp_path,
    )
    assert (code, err) == (0, "")
    assert "! 1 clips failed: see features/failures.parquet" in out
    assert not CHATTER.search(out)
