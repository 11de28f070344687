"""Labelling on a real S3 server, killed for real: its driver, workers, nodes, the store, the disk.

After each kill what readers see is compared row by row with a run that nobody disturbed.
"""

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from audiocnn import labels, labelset, listing, storage
from benchmarks.seaweed import SeaweedFS
from helpers.common import SHARED, descendants, make_bundle
from helpers.hostile import HOSTILE, sound

pytestmark = pytest.mark.slow

AUDIOCNN = str(Path(sys.executable).with_name("audiocnn"))
COPIES = 4

Rows = dict[tuple[str, float], tuple[Any, ...]]


class Bucket(NamedTuple):
    """A bucket of recordings, the bundle to label it with, and what an undisturbed run gives."""

    uri: str
    bundle: str
    rows: Rows
    failures: dict[str, str]


def rows_of(to: str) -> tuple[Rows, dict[str, str]]:
    """What readers of the parts see, by recording and time, and what failed; each once."""
    rows: Rows = {}
    failures: dict[str, str] = {}
    for part in labelset.find_parts(to):
        for row in storage.read_parquet(part.uri).to_pylist():
            key = row["uri"], row["start_s"]
            assert key not in rows, f"twice: {key}"
            top = tuple((one["label"], round(one["score"], 3)) for one in row["top_k"])
            rows[key] = row["version"], row["end_s"], row["label"], top, row["bundle"]
        for failure in labels.read_ledger(part.uri).failures:
            assert failure["uri"] not in failures, f"twice: {failure['uri']}"
            failures[failure["uri"]] = failure["reason"].split(":")[0]
    assert not {uri for uri, _ in rows} & failures.keys()
    return rows, failures


def check_part_of(to: str, whole: Bucket) -> None:
    """What is there so far is what the undisturbed run gave."""
    rows, failures = rows_of(to)
    assert rows.items() <= whole.rows.items()
    assert failures.items() <= whole.failures.items()


def check_whole(to: str, whole: Bucket) -> None:
    rows, failures = rows_of(to)
    assert rows == whole.rows
    assert failures == whole.failures
    summary = storage.read_json(f"{to}/summary.json")
    assert summary["listed"] == summary["labelled"] + summary["skipped"] + summary["failed"]
    assert summary["labelled"] == len({uri for uri, _ in rows})
    assert summary["failed"] == len(failures)
    named = storage.read_parquet(f"{to}/failures.parquet")["uri"].to_pylist()
    assert sorted(named) == sorted(failures)


def start(bucket: str, bundle: str, to: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [AUDIOCNN, "label", bucket, "--bundle", bundle, "--to", to],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(bucket: str, bundle: str, to: str) -> str:
    run = start(bucket, bundle, to)
    out, err = run.communicate()
    assert (run.returncode, err) == (0, ""), out + err
    return out


def parts(to: str) -> dict[str, str]:
    """The parts that are there, and their versions."""
    if not storage.exists(f"{to}/parts"):
        return {}
    return {f.path: f.version for f in listing.iter_files(f"{to}/parts") if f.path[0] != "."}


def wait_for_parts(to: str, count: int, run: subprocess.Popen[str]) -> None:
    while len(parts(to)) < count:
        if run.poll() is not None:
            pytest.fail(f"it ended with {run.returncode} at {len(parts(to))}: {run.communicate()}")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """Four copies of each recording of ESC-10, everything hostile, and files that are neither."""
    folder = tmp_path_factory.mktemp("bucket")
    clips = sorted(SHARED.glob("esc10/*/*.ogg"))
    if not clips and os.environ.get("AUDIOCNN_REQUIRE_RECORDINGS"):
        pytest.fail("the recordings are missing")
    for copy in range(COPIES):
        (folder / f"day {copy}").mkdir()
        for index in range(400):
            path = folder / f"day {copy}" / f"{index:03d}.{'ogg' if clips else 'wav'}"
            path.write_bytes(clips[index].read_bytes() if clips else sound("wav"))
    for index, (data, _) in enumerate(HOSTILE.values()):
        (folder / "day 2" / f"bad {index:02d}.wav").write_bytes(data)
    (folder / "notes.txt").write_text("x")
    uri, lake = s3.upload(folder), s3.bucket()
    storage.configure({})
    made = tmp_path_factory.mktemp("bundle")
    make_bundle(made)
    for file in listing.iter_files(str(made)):
        storage.write_bytes(f"{lake}/bundle/{file.path}", storage.read_bytes(file.uri))
    finish(uri, f"{lake}/bundle", f"{lake}/labels")
    rows, failures = rows_of(f"{lake}/labels")
    assert len({uri for uri, _ in rows}) + len(failures) == COPIES * 400 + len(HOSTILE)
    assert len(failures) >= 40
    return Bucket(uri=uri, bundle=f"{lake}/bundle", rows=rows, failures=failures)


@pytest.fixture
def to(whole: Bucket, s3: SeaweedFS) -> str:
    return s3.bucket() + "/labels"


def test_a_driver_killed_eight_times(whole: Bucket, to: str) -> None:
    moments = random.Random(1)
    for kill in range(8):
        run = start(whole.uri, whole.bundle, to)
        # Now and then before there is a manifest, or before the first part of this run.
        more = moments.choice([0, 1, 2, 4, 8])
        if more:
            wait_for_parts(to, len(parts(to)) + more, run)
        else:
            time.sleep(moments.uniform(0.5, 10.0))
        time.sleep(moments.uniform(0.0, 0.3))
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        assert not storage.exists(f"{to}/summary.json"), f"done before kill {kill}"
        check_part_of(to, whole)
    before = parts(to)
    finish(whole.uri, whole.bundle, to)
    check_whole(to, whole)
    assert before.items() <= parts(to).items()  # what was there was not written again


def test_eight_workers_and_front_ends_killed(whole: Bucket, to: str) -> None:
    moments = random.Random(2)
    run = start(whole.uri, whole.bundle, to)
    killed = 0
    wait_for_parts(to, 1, run)
    while killed < 8:
        kind = "MapWorker" if killed % 2 else "audiocnn.extracting"
        time.sleep(moments.uniform(0.2, 1.0))
        assert run.poll() is None, f"it ended after {killed} kills: {run.communicate()}"
        victims = descendants(run.pid, kind)
        if victims:
            moments.choice(victims).kill()
            killed += 1
            check_part_of(to, whole)
    out, err = run.communicate()
    assert (run.returncode, err) == (0, ""), out + err
    check_whole(to, whole)


NODES = """
import os, random, sys, threading, time
import ray
from ray.cluster_utils import Cluster
from audiocnn.labelset import find_parts
from pipelines.cli import parse
from pipelines.label import label

bucket, bundle, to = sys.argv[1:]
moments = random.Random(3)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
node = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
ended = []

def run() -> None:
    ended.append(label(parse(["label", bucket, "--bundle", bundle, "--to", to])))

thread = threading.Thread(target=run)
thread.start()
for kill in range(4):
    goal = len(find_parts(to)) + moments.randint(2, 8)
    while thread.is_alive() and len(find_parts(to)) < goal:
        time.sleep(0.05)
    if not thread.is_alive():
        break
    cluster.remove_node(node, allow_graceful=False)
    print("killed at", len(find_parts(to)), flush=True)
    node = cluster.add_node(num_cpus=1)  # by the main thread alone
thread.join()
print("ended" if ended else "failed", flush=True)
os._exit(0)  # Ray's own exit handlers ask for nodes that are gone
"""


def test_four_nodes_killed(whole: Bucket, to: str) -> None:
    command = [sys.executable, "-c", NODES, whole.uri, whole.bundle, to]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1_800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed at") == 4, done.stdout + done.stderr
    assert "ended" in done.stdout, done.stdout + done.stderr
    check_whole(to, whole)


def test_a_store_that_is_down_for_a_while(s3: SeaweedFS, whole: Bucket, to: str) -> None:
    run = start(whole.uri, whole.bundle, to)
    wait_for_parts(to, 2, run)
    s3.kill()
    time.sleep(5)
    s3.start()
    out, err = run.communicate()
    assert (run.returncode, err) == (0, ""), out + err
    check_whole(to, whole)


def test_a_store_that_stays_down_ends_the_job_and_costs_nothing(
    s3: SeaweedFS, whole: Bucket, to: str
) -> None:
    run = start(whole.uri, whole.bundle, to)
    wait_for_parts(to, 2, run)
    s3.kill()
    out, err = run.communicate(timeout=180)
    s3.start()
    assert run.returncode == 2, out + err
    assert err.startswith("audiocnn: s3://")
    assert err.count("\n") == 1
    check_part_of(to, whole)
    before = parts(to)
    finish(whole.uri, whole.bundle, to)
    check_whole(to, whole)
    assert before.items() <= parts(to).items()


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired</Message></Error>"


@contextmanager
def front_of(endpoint: str) -> Iterator[tuple[str, threading.Event]]:
    """A front of the store, and what makes it say that the keys have expired."""
    expired, port = threading.Event(), urlsplit(endpoint).port

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, answer = 400, {}, EXPIRED
            if not expired.is_set():
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                found = connection.getresponse()
                status, headers, answer = found.status, dict(found.headers), found.read()
                connection.close()
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            size = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", size or str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", expired
    finally:
        server.shutdown()


def test_keys_that_expire_end_the_job_and_blame_no_recording(
    s3: SeaweedFS, whole: Bucket, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with front_of(s3.endpoint) as (endpoint, expired):
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", endpoint)
            run = start(whole.uri, whole.bundle, to)
        wait_for_parts(to, 3, run)
        expired.set()
        out, err = run.communicate(timeout=180)
    assert run.returncode == 2, out + err
    assert "keys have expired; renew them, and the same command goes on" in err
    assert err.count("\n") == 1
    check_part_of(to, whole)
    finish(whole.uri, whole.bundle, to)
    check_whole(to, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.getuid():
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=True)
    yield disk
    with suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_fills_ends_the_job_and_costs_nothing(whole: Bucket, small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(300_000))
    to = str(small_disk / "labels")
    run = start(whole.uri, whole.bundle, to)
    out, err = run.communicate()
    assert run.returncode == 2, out + err
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert parts(to)
    check_part_of(to, whole)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    finish(whole.uri, whole.bundle, to)
    check_whole(to, whole)


def test_what_is_deleted_or_overwritten_meanwhile(s3: SeaweedFS, whole: Bucket, to: str) -> None:
    copy = s3.bucket()
    keys = sorted({uri for uri, _ in whole.rows})[:240]
    for uri in keys:
        storage.write_bytes(copy + uri.removeprefix(whole.uri), storage.read_bytes(uri))
    mine = [copy + uri.removeprefix(whole.uri) for uri in keys]
    run = start(copy, whole.bundle, to)
    while not storage.exists(f"{to}/labels.json") or not parts(to):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    for uri in mine[-20:]:
        storage.remove(uri)
    for uri in mine[-40:-20]:
        storage.write_bytes(uri, sound("flac"))
    out, err = run.communicate()
    assert (run.returncode, err) == (0, ""), out + err
    rows, failures = rows_of(to)
    assert {uri for uri, _ in rows} | failures.keys() == set(mine)
    assert set(failures) <= set(mine[-40:])
    assert set(failures.values()) <= {"gone", "changed"}
    finish(copy, whole.bundle, to)
    rows, failures = rows_of(to)
    assert {uri for uri, _ in rows} == set(mine[:-20])
    assert failures == {}
    now = {file.uri: file.version for file in listing.iter_files(copy)}
    assert {uri: version for (uri, _), (version, *_) in rows.items()} == now
