"""`audiocnn submit` to a cluster that was started with a token, as somebody types it."""

import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiocnn import synthetic
from helpers.cluster import Head
from helpers.common import BIN, SMALL_FLAGS

pytestmark = pytest.mark.slow

SHARED = {"AUDIOCNN_SHARED_DISK": "1"}


@pytest.fixture(scope="module")
def files() -> Iterator[Path]:
    """Where the cluster has its files: a short path, for it makes sockets there."""
    with tempfile.TemporaryDirectory(prefix="ac", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def head(files: Path) -> Iterator[Head]:
    with Head("--num-cpus=2", f"--temp-dir={files}") as running:
        yield running


def submit(head: Head, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    address = f"--address={head.dashboard}"
    return head.run("audiocnn", "submit", address, *arguments, **environment)


def test_a_job_runs_there_and_its_log_is_here(head: Head, corpus: Path, tmp_path: Path) -> None:
    done = submit(head, "ingest", corpus, "--to", tmp_path / "features", *SMALL_FLAGS, **SHARED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ingest is job audiocnn-ingest-\w+ of http", done.stdout)
    assert "100 listed = 100 ingested + 0 failed" in done.stdout
    assert (tmp_path / "features" / "features.json").is_file()
    assert not re.search("INFO sdk|packaging|WARNING|Ignoring", done.stdout + done.stderr)


def test_what_is_sent_is_the_code_alone(head: Head, files: Path) -> None:
    done = submit(head, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    there = files / "session_latest" / "runtime_resources" / "working_dir_files"
    (folder,) = there.glob("_ray_pkg_*/")
    sent = [path for path in folder.rglob("*") if path.is_file()]
    # Whatever else lies in the checkout, keys and results among it.
    kinds = {path.relative_to(folder).parts[0] for path in sent}
    assert kinds == {"audiocnn", "pipelines", "serve", "pyproject.toml"}
    assert not (folder / "serve" / "dashboard").exists()
    assert not list(folder.rglob("__pycache__"))
    assert (folder / "serve" / "page" / "index.html").is_file()
    assert sum(path.stat().st_size for path in sent) < 1_500_000


def test_a_jobs_exit_code_is_ours(head: Head, tmp_path: Path) -> None:
    failed = submit(head, "train", tmp_path / "none", "--to", tmp_path / "bundle", **SHARED)
    assert failed.returncode == 2
    assert f"audiocnn: {tmp_path}/none" in failed.stdout
    assert not (tmp_path / "bundle").exists()


def test_mistakes_are_told_before_anything_is_sent(head: Head, tmp_path: Path) -> None:
    for arguments, environment, said in (
        (["train", "s3://a/f", "--to", "s3://a/b", "--workers", "0"], {}, "workers must be"),
        (["train", "s3://a/f", "--to", tmp_path / "b"], {}, "a path of one machine"),
        (["train", "s3://a/f", "--to", "b"], SHARED, "give a whole path"),
        (["--env", "NOT_SET_AT_ALL", "doctor"], {}, "--env NOT_SET_AT_ALL: not set here"),
        (["doctor"], {"RAY_AUTH_TOKEN": "f" * 32}, "the cluster wants its token"),
        (["doctor"], {"RAY_AUTH_TOKEN": ""}, "the cluster wants its token"),
    ):
        refused = submit(head, *arguments, **environment)
        assert refused.returncode == 2, refused.stdout
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr


def test_a_relative_path_of_a_job_is_refused(head: Head, corpus: Path) -> None:
    """With Ray's own command too: what it wrote would be gone with its working directory."""
    done = head.run(
        "ray", "job", "submit", f"--address={head.dashboard}", "--",
        "audiocnn", "ingest", corpus, "--to", "features", *SMALL_FLAGS,
    )  # fmt: skip
    assert done.returncode != 0
    assert "--to features: a job has its own working directory" in done.stdout


def test_an_interrupt_stops_the_job_and_the_same_command_goes_on(
    head: Head, tmp_path: Path
) -> None:
    synthetic.write_corpus(str(tmp_path / "corpus"), clips_per_class=60)
    command = [
        BIN / "audiocnn", "submit", f"--address={head.dashboard}",
        "ingest", tmp_path / "corpus", "--to", tmp_path / "features", *SMALL_FLAGS,
    ]  # fmt: skip
    running = subprocess.Popen(
        [str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**head.environment, **SHARED}, start_new_session=True,
    )  # fmt: skip
    parts = tmp_path / "features" / "parts"
    deadline = time.monotonic() + 120
    while not (parts.is_dir() and any(parts.glob("part-*"))) and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, out + err
    assert re.search(r"audiocnn: stopped; job audiocnn-ingest-\w+ is stopped", err)
    assert not (tmp_path / "features" / "features.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert before
    job = re.search(r"job (audiocnn-ingest-\w+)", out)
    assert job is not None
    status = head.run("ray", "job", "status", f"--address={head.dashboard}", job[1])
    assert "STOPPED" in (status.stdout + status.stderr).upper()
    done = submit(head, *command[3:], **SHARED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 listed = 600 ingested + 0 failed" in done.stdout
    after = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert before.items() <= after.items()
