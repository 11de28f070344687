"""Labelling on a real S3 server while its driver, workers, nodes, store or disk fail.

After each failure, the rows that readers see are compared with those of an undisturbed run.
"""

import http.client
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from audiocnn import storage
from audiocnn.labels import label_set, part as label_part
from audiocnn.storage import listing
from benchmarks.seaweed import SeaweedFS
from helpers.asking import PATIENCE_S
from helpers.common import AUDIOCNN, SHARED, make_bundle
from helpers.disk import Disk
from helpers.gate import FRONT_END, NODES, WORKER, Job, Start
from helpers.hostile import HOSTILE, sound

pytestmark = pytest.mark.slow

Rows = dict[tuple[str, float], tuple[Any, ...]]


class Bucket(NamedTuple):
    """A bucket of recordings, the bundle that labels it, and the results of an undisturbed run."""

    uri: str
    bundle: str
    rows: Rows
    failures: dict[str, str]


def rows_of(to: str) -> tuple[Rows, dict[str, str]]:
    """The rows of all parts by recording and time, and the failures. Each must be there once."""
    rows: Rows = {}
    failures: dict[str, str] = {}
    for part in label_set.find_parts(to):
        for row in storage.read_parquet(part.uri).to_pylist():
            key = row["uri"], row["start_s"]
            assert key not in rows, f"twice: {key}"
            top = tuple((one["label"], round(one["score"], 3)) for one in row["top_k"])
            rows[key] = row["version"], row["end_s"], row["label"], top, row["bundle"]
        for failure in label_part.read_ledger(part.uri).failures:
            assert failure["uri"] not in failures, f"twice: {failure['uri']}"
            failures[failure["uri"]] = failure["reason"].split(":")[0]
    assert not {uri for uri, _ in rows} & failures.keys()
    return rows, failures


def check_part_of(to: str, whole: Bucket) -> None:
    """Check that the rows and failures so far are among those of the undisturbed run."""
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


def command(whole: Bucket, to: str) -> list[str]:
    return ["label", whole.uri, "--bundle", whole.bundle, "--to", to, "--workers", "2"]


def finish(job: Job) -> None:
    job.gate.open()
    assert (job.end(), job.err) == (0, ""), job.told


def parts(to: str) -> dict[str, str]:
    """The versions of the parts that are there, by path."""
    if not storage.exists(f"{to}/parts"):
        return {}
    return {f.path: f.version for f in listing.iter_files(f"{to}/parts") if f.path[0] != "."}


@pytest.fixture(scope="module")
def whole(
    s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Bucket:
    """Two or four copies of each recording of ESC-10, all hostile recordings, and a text file."""
    copies = 4 if request.config.getoption("thorough") else 2
    folder = tmp_path_factory.mktemp("bucket")
    fill_bucket(folder, copies)
    storage.configure({})
    lake = s3.bucket()
    made = tmp_path_factory.mktemp("bundle")
    make_bundle(made)
    for file in listing.iter_files(str(made)):
        storage.write_bytes(f"{lake}/bundle/{file.path}", storage.read_bytes(file.uri))
    bucket = Bucket(uri=s3.upload(folder), bundle=f"{lake}/bundle", rows={}, failures={})
    finish(Job(made / "job", AUDIOCNN, *command(bucket, f"{lake}/labels")))
    rows, failures = rows_of(f"{lake}/labels")
    assert len({uri for uri, _ in rows}) + len(failures) == copies * 400 + len(HOSTILE)
    assert len(failures) >= 40
    return bucket._replace(rows=rows, failures=failures)


def fill_bucket(folder: Path, copies: int) -> None:
    clips = sorted(SHARED.glob("esc10/*/*.ogg"))
    if not clips and os.environ.get("AUDIOCNN_REQUIRE_RECORDINGS"):
        pytest.fail("the recordings are missing")
    for copy in range(copies):
        (folder / f"day {copy}").mkdir()
        for index in range(400):
            path = folder / f"day {copy}" / f"{index:03d}.{'ogg' if clips else 'wav'}"
            path.write_bytes(clips[index].read_bytes() if clips else sound("wav"))
    for index, (data, _) in enumerate(HOSTILE.values()):
        (folder / "day 1" / f"bad {index:02d}.wav").write_bytes(data)
    (folder / "notes.txt").write_text("x")


@pytest.fixture
def to(whole: Bucket, s3: SeaweedFS) -> str:
    return s3.bucket() + "/labels"


@pytest.fixture
def label(start: Start, whole: Bucket, to: str) -> Callable[..., Job]:
    """A function that starts `label`."""
    return partial(start, AUDIOCNN, *command(whole, to))


def kill_somewhere(job: Job, to: str, chance: random.Random) -> None:
    """Kill a driver after some new parts, or after 0.5 to 10 s, perhaps before its manifest."""
    more = chance.choice([0, 1, 2, 4])
    goal = len(parts(to)) + more
    if more:
        job.gate.let(more + chance.randint(0, 2))
        job.wait_until(lambda: len(parts(to)) >= goal)
    else:
        time.sleep(chance.uniform(0.5, 10.0))
    time.sleep(chance.uniform(0.0, 0.3))
    job.kill()


def test_a_driver_killed_again_and_again(
    label: Callable[..., Job], whole: Bucket, to: str, chance: random.Random, thorough: bool
) -> None:
    killed: list[Job] = []
    for _ in range(8 if thorough else 3):
        killed.append(label())  # the last one's processes may still write
        kill_somewhere(killed[-1], to, chance)
        assert not storage.exists(f"{to}/summary.json")
        check_part_of(to, whole)
    for job in killed:
        job.wait_until_gone()
    before = parts(to)
    finish(label())
    check_whole(to, whole)
    assert before.items() <= parts(to).items()  # these parts were not written again


def test_workers_and_front_ends_killed(
    label: Callable[..., Job], whole: Bucket, to: str, chance: random.Random, thorough: bool
) -> None:
    job = label()
    kinds = chance.sample([FRONT_END, WORKER], 2)
    for kill in range(8 if thorough else 3):
        moment = 3 * kill + chance.randint(1, 3)
        job.gate.let(3 * kill + 4)
        job.wait_until(lambda moment=moment: job.gate.passed >= moment)
        time.sleep(chance.uniform(0.0, 1.0))
        job.kill_one(kinds[kill % 2], chance)
        check_part_of(to, whole)
    finish(job)
    check_whole(to, whole)


@pytest.mark.thorough
def test_nodes_killed(
    start: Start, whole: Bucket, to: str, chance: random.Random, thorough: bool
) -> None:
    job = start(sys.executable, "-c", NODES, *command(whole, to))
    for _ in range(4 if thorough else 2):
        moment = job.gate.passed + chance.randint(2, 4)
        job.gate.let(moment + chance.randint(0, 2))
        job.wait_until(lambda moment=moment: job.gate.passed >= moment)
        job.tell("remove")
        job.tell("add")
    job.gate.open()
    assert job.end() == 0, job.told
    check_whole(to, whole)


def turn_away(port: int, job: Job) -> None:
    """Close connections to a port until the job has tried three times."""
    turned = list[socket.socket]()
    with socket.create_server(("127.0.0.1", port)) as door:
        door.setblocking(False)

        def knocked() -> bool:
            with suppress(BlockingIOError):
                turned.append(door.accept()[0])
                turned[-1].close()
            return len(turned) >= 3

        job.wait_until(knocked)


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired</Message></Error>"


@contextmanager
def front_of(endpoint: str) -> Iterator[tuple[str, threading.Event]]:
    """Yield the URL of a proxy of the store, and an event: once set, the keys have expired."""
    expired, port = threading.Event(), urlsplit(endpoint).port

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, answer = 400, {}, EXPIRED
            if not expired.is_set():
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
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


Way = Callable[[SeaweedFS, Callable[..., Job], str], None]


@pytest.fixture
def ways(chance: random.Random, thorough: bool) -> list[Way]:
    """The ways in which the store fails in this run: one, drawn by chance, or all."""
    every: list[Way] = [let_keys_expire, take_down, take_down_for_a_while]
    return every if thorough else [chance.choice(every)]


def test_a_store_that_goes_away_costs_nothing(
    s3: SeaweedFS, label: Callable[..., Job], whole: Bucket, to: str, ways: list[Way]
) -> None:
    """The keys expire or the store stays down, and the same command goes on; or it comes back.

    A run tries one of the three, drawn by chance; `make test-all` tries all.
    """
    for way in ways:
        print(way.__name__)
        way(s3, label, to)
        check_part_of(to, whole)
    before = parts(to)
    if not storage.exists(f"{to}/summary.json"):
        finish(label())
    check_whole(to, whole)
    assert before.items() <= parts(to).items()


def let_keys_expire(s3: SeaweedFS, label: Callable[..., Job], to: str) -> None:
    with front_of(s3.endpoint) as (endpoint, expired):
        job = label(AWS_ENDPOINT_URL=endpoint)
        begun(job, to)
        expired.set()
        job.gate.open()
        assert job.end() == 2, job.told
    assert "keys have expired; renew them and run the same command again" in job.err
    assert job.err.count("\n") == 1


def take_down(s3: SeaweedFS, label: Callable[..., Job], to: str) -> None:
    job = label()
    begun(job, to)
    s3.kill()
    job.gate.open()
    code = job.end()
    s3.start()
    assert code == 2, job.told
    assert job.err.startswith("audiocnn: s3://")
    assert job.err.count("\n") == 1


def take_down_for_a_while(s3: SeaweedFS, label: Callable[..., Job], to: str) -> None:
    job = label(AUDIOCNN_PATIENCE_S=str(PATIENCE_S))
    begun(job, to)
    s3.kill()
    job.gate.open()
    turn_away(s3.ports["s3"], job)
    s3.start()
    finish(job)


def begun(job: Job, to: str) -> None:
    """Let the job add a part. More parts are in progress then."""
    there = len(parts(to))
    job.gate.let(2)
    job.wait_until(lambda: len(parts(to)) > there)


@pytest.mark.thorough
def test_a_disk_that_fills_ends_the_job_and_costs_nothing(
    start: Start, whole: Bucket, disk: Disk
) -> None:
    if not disk.small:
        pytest.skip("mounting a file system takes root's rights")
    to = str(disk.path / "labels")
    job = start(AUDIOCNN, *command(whole, to))
    job.gate.let(4)
    job.wait_until(lambda: len(parts(to)) >= 2)
    disk.fill()
    job.gate.open()
    assert job.end(meanwhile=disk.fill) == 2, job.told
    assert "No space left on device" in job.err
    assert job.err.count("\n") == 1
    assert parts(to)
    check_part_of(to, whole)
    disk.clear()
    finish(start(AUDIOCNN, *command(whole, to)))
    check_whole(to, whole)


def test_what_is_deleted_or_overwritten_meanwhile(
    s3: SeaweedFS, start: Start, whole: Bucket, to: str
) -> None:
    copy = whole._replace(uri=s3.bucket())
    keys = sorted({uri for uri, _ in whole.rows})[:240]
    for uri in keys:
        storage.write_bytes(copy.uri + uri.removeprefix(whole.uri), storage.read_bytes(uri))
    mine = [copy.uri + uri.removeprefix(whole.uri) for uri in keys]
    job = start(AUDIOCNN, *command(copy, to))
    job.wait_until(lambda: is_listed(to))
    for uri in mine[-20:]:
        storage.remove(uri)
    for uri in mine[-40:-20]:
        storage.write_bytes(uri, sound("flac"))
    finish(job)
    rows, failures = rows_of(to)
    assert {uri for uri, _ in rows} | failures.keys() == set(mine)
    assert set(failures) <= set(mine[-40:])
    assert set(failures.values()) == {"gone", "changed"}
    finish(start(AUDIOCNN, *command(copy, to)))
    rows, failures = rows_of(to)
    assert {uri for uri, _ in rows} == set(mine[:-20])
    assert failures == {}
    now = {file.uri: file.version for file in listing.iter_files(copy.uri)}
    assert {uri: version for (uri, _), (version, *_) in rows.items()} == now


def is_listed(to: str) -> bool:
    note = f"{to}/{label_set.NOTE}"
    return storage.exists(note) and bool(storage.read_json(note)["listing"])
