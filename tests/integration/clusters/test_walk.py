"""The walk of cluster/README.md, line by line, and more commands on its cluster."""

import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import psutil
import pytest

from helpers.asking import PATIENCE_S, wait_until
from helpers.cluster import PATIENT, Reach
from helpers.common import BIN, ROOT, SMALL_FLAGS
from helpers.gate import Gate

pytestmark = pytest.mark.slow

LOCAL = ROOT / "cluster" / "local"
STATE = ROOT / "cluster" / ".local"
DOWN = "cluster/local down"
CHATTER = re.compile(r"ray|pid=|warning|INFO|WARN|Traceback|raylet|autoscaler", re.IGNORECASE)
SHARED = {"AUDIOCNN_SHARED_DISK": "1"}


def walk() -> str:
    """The shell commands of the walk in cluster/README.md."""
    text = (ROOT / "cluster" / "README.md").read_text()
    part = text[text.index("<!-- walk:") : text.index("<!-- walk ends -->")]
    return "\n".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL)).rstrip()


def ports_in_a_row(count: int) -> int:
    """The first of so many consecutive free ports. The ports 10,000 above them are free too.

    Ray's workers use ports below 20,000. From 32,768 on, Linux gives ports to connections.
    """
    for first in random.sample(range(20_000, 22_000), 2_000):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
                socket.create_server(("127.0.0.1", port + 10_000)).close()
        except OSError:
            continue
        return first
    raise RuntimeError(f"no {count} free ports in a row")


class Walk(Reach):
    """The cluster that the walk started, and the output of the walk."""

    said: str
    session: Path
    """Folder with the files of the head."""
    ports: tuple[int, ...]


@pytest.fixture(scope="module")
def walked() -> Iterator[Walk]:
    """Run all lines of the walk but the last, on other ports: the usual ones may be in use."""
    assert not STATE.exists(), f"somebody's cluster is up: {DOWN}"
    lines = walk()
    assert lines.endswith(f"\n{DOWN}")
    (endpoint,) = set(re.findall(r"(?:--port |127\.0\.0\.1:)(\d+)", lines))
    first = ports_in_a_row(11)
    ports = {"RAY_PORT": first, "DASHBOARD_PORT": first + 1, "S3_PORT": first + 5}
    here = Path(os.environ["RAY_TMPDIR"])
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "RAY_", "AUDIOCNN_"))
    } | {
        "RAY_TMPDIR": str(here), "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "0", **PATIENT,
    }  # fmt: skip
    clean["PYTHONDONTWRITEBYTECODE"] = "1"  # else jobs add .pyc files to the sent code
    before = set(here.glob("ray/session_[!l]*"))
    lines = lines.removesuffix(DOWN).replace(endpoint, str(first + 10))
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=3 * PATIENCE_S,
            env={**clean, **{name: str(number) for name, number in ports.items()}},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said = subprocess.run(
            ["bash", "-c", ". cluster/.local/env; env --null"],
            cwd=ROOT, env={**clean, "PATH": f"{BIN}:{clean['PATH']}"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        environment = dict(one.split("=", 1) for one in said.stdout.rstrip("\0").split("\0"))
        address = f"127.0.0.1:{ports['RAY_PORT']}"
        found = Walk(address, environment["RAY_API_SERVER_ADDRESS"], environment)
        found.said = done.stdout + done.stderr
        found.session = min(set(here.glob("ray/session_[!l]*")) - before)  # the name has a date
        found.ports = tuple(ports.values())
        yield found
    finally:
        subprocess.run([LOCAL, "down"], check=False)


@pytest.fixture
def bucket(walked: Walk) -> fsspec.AbstractFileSystem:
    """A client of the walk's S3 server."""
    there = walked.environment
    return fsspec.filesystem(
        "s3", key=there["AWS_ACCESS_KEY_ID"], secret=there["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=there["AWS_ENDPOINT_URL"], skip_instance_cache=True,
    )  # fmt: skip


def test_from_nothing_to_trained_served_and_labelled(
    walked: Walk, bucket: fsspec.AbstractFileSystem
) -> None:
    """Two nodes with a token, and S3: each verb is a job there, and its log is printed here."""
    assert walk().count("audiocnn submit") == 3
    assert "two nodes and an S3 server are up" in walked.said
    for verb in ("ingest", "train", "label"):
        assert re.search(rf"{verb} is job audiocnn-{verb}-\w+ of http", walked.said)
    assert "100 listed = 100 ingested + 0 failed" in walked.said
    assert re.search(r"bundle \w{16} -> s3://sounds/model", walked.said)
    assert "100 listed = 100 labelled + 0 skipped + 0 failed" in walked.said
    for name in ("features/features.json", "model/bundle.json", "labels/summary.json"):
        assert bucket.isfile(f"sounds/{name}")
    assert '"status":"ok"' in walked.said
    assert re.search(r'"total":\d{2,},"histogram"', walked.said)
    jobs = walked.said[walked.said.index("ingest is job") :]
    assert not re.search("INFO sdk|packaging|WARNING|Ignoring", jobs)


def test_what_is_sent_is_the_code_alone(walked: Walk) -> None:
    there = walked.session / "runtime_resources" / "working_dir_files"
    (folder,) = there.glob("_ray_pkg_*/")
    sent = [path for path in folder.rglob("*") if path.is_file()]
    # No other files of the checkout are sent, such as keys or results.
    kinds = {path.relative_to(folder).parts[0] for path in sent}
    assert kinds == {"audiocnn", "pipelines", "serve", "pyproject.toml"}
    assert not (folder / "serve" / "dashboard").exists()
    assert not [path for path in sent if "__pycache__" in path.parts]
    assert (folder / "serve" / "page" / "index.html").is_file()
    assert sum(path.stat().st_size for path in sent) < 2_000_000


def test_a_jobs_exit_code_is_ours(walked: Walk, tmp_path: Path) -> None:
    train = ["train", tmp_path / "none", "--to", tmp_path / "bundle"]
    failed = walked.run("audiocnn", "submit", *train, **SHARED)
    assert failed.returncode == 2
    assert f"audiocnn: {tmp_path}/none" in failed.stdout
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["train", "s3://a/f", "--to", "s3://a/b", "--workers", "0"], {}, "workers must be"),
        (["train", "s3://a/f", "--to", "/somewhere/b"], {}, "a path of one machine"),
        (["train", "s3://a/f", "--to", "b"], SHARED, "give an absolute path"),
        (["--env", "NOT_SET_AT_ALL", "doctor"], {}, "--env NOT_SET_AT_ALL: not set here"),
        (["doctor"], {"RAY_AUTH_TOKEN": "f" * 32}, "the cluster requires its token"),
        (["doctor"], {"RAY_AUTH_TOKEN": ""}, "the cluster requires its token"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(
    walked: Walk, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    refused = walked.run("audiocnn", "submit", *arguments, **environment)
    assert refused.returncode == 2, refused.stdout
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


def test_a_relative_path_of_a_job_is_refused(walked: Walk) -> None:
    """Also if Ray's own command submits it: Ray deletes the working directory after the job."""
    done = walked.run(
        "ray", "job", "submit", "--runtime-env-json", '{"env_vars": {"AUDIOCNN_SHARED_DISK": "1"}}',
        "--", "audiocnn", "ingest", "s3://sounds/corpus", "--to", "features", *SMALL_FLAGS,
    )  # fmt: skip
    assert done.returncode != 0
    assert "--to features: a job has its own working directory" in done.stdout


def test_a_verb_is_a_job_by_rays_own_command(
    walked: Walk, bucket: fsspec.AbstractFileSystem
) -> None:
    done = walked.run(
        "ray", "job", "submit", "--",
        "audiocnn", "ingest", "s3://sounds/corpus", "--to", "s3://sounds/again", *SMALL_FLAGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 listed = 100 ingested + 0 failed" in done.stdout
    assert bucket.isfile("sounds/again/features.json")


def test_a_verb_joins_from_outside(walked: Walk, bucket: fsspec.AbstractFileSystem) -> None:
    train = ["audiocnn", "train", "s3://sounds/features", "--recipe", "demo", "--epochs", "2"]
    there = {"RAY_ADDRESS": walked.address}
    outside = walked.run(*train, "--to", "s3://sounds/outside", **there)
    assert outside.returncode == 0, outside.stderr
    assert not CHATTER.search(outside.stdout)
    assert bucket.isfile("sounds/outside/bundle.json")

    wrong = {**there, "RAY_AUTH_TOKEN": "f" * 32}
    refused = walked.run(*train, "--to", "s3://sounds/other", **wrong)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"audiocnn: RAY_ADDRESS {walked.address}: ")
    assert refused.stderr.count("\n") == 1


def test_an_interrupt_stops_the_job_and_the_same_command_goes_on(
    walked: Walk, corpus: Path, tmp_path: Path
) -> None:
    """The job is stopped when two parts are done. The others wait at a gate."""
    gate = Gate(tmp_path / "gate")
    gate.let(2)
    command = [
        "audiocnn", "submit", "--env", *gate.environment,
        "ingest", corpus, "--to", tmp_path / "features", *SMALL_FLAGS,
    ]  # fmt: skip

    def parts() -> dict[str, int]:
        there = (tmp_path / "features" / "parts").glob("part-*")
        return {path.name: path.stat().st_mtime_ns for path in there}

    with walked.running(*command, **gate.environment, **SHARED) as running:
        wait_until(lambda: len(parts()) == 2 or running.poll() is not None)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130, out + err
    assert re.search(r"audiocnn: stopped; job audiocnn-ingest-\w+ is stopped", err)
    assert not (tmp_path / "features" / "features.json").exists()
    before = parts()
    assert len(before) == 2
    job = re.search(r"job (audiocnn-ingest-\w+)", out)
    assert job is not None
    status = walked.run("ray", "job", "status", job[1])
    assert "STOPPED" in (status.stdout + status.stderr).upper()
    gate.open()
    done = walked.run(*command, **gate.environment, **SHARED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 listed = 100 ingested + 0 failed" in done.stdout
    assert before.items() <= parts().items()


def test_taken_down_nothing_of_it_is_left(walked: Walk) -> None:
    its = [
        child
        for file in STATE.glob("*.pid")
        for parent in [psutil.Process(int(file.read_text()))]
        for child in (parent, *parent.children(recursive=True))
    ]
    assert len(its) > 6  # S3, and Ray's own processes on each node
    done = subprocess.run(["bash", "-c", DOWN], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not STATE.exists()
    wait_until(lambda: not any(is_alive(one) for one in its))
    numbers = re.compile(rf"(?<!\d)({'|'.join(map(str, walked.ports))})(?!\d)")

    def running() -> list[str]:
        lines = (" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
        return [line for line in lines if numbers.search(line)]

    wait_until(lambda: not running(), running)  # what killed parents left ends a moment later


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
