"""Object storage fails: the job ends, or one row is lost, or a retry succeeds."""

import contextlib
import os
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.errors import StorageError, UnreadableError
from audiocnn.storage import listing
from audiocnn.storage.stores import s3 as client
from benchmarks.seaweed import KEY, SeaweedFS
from helpers.asking import PATIENCE_S

pytestmark = pytest.mark.usefixtures("connections")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "wrong", "secret": "wrong"}, "the access key is not known to http"),
        ({"key": KEY, "secret": "wrong"}, "the secret key is not the one that http"),
    ],
)
def test_wrong_keys_end_the_job(
    s3: SeaweedFS, bucket: str, options: dict[str, str], message: str
) -> None:
    storage.write_bytes(f"{bucket}/x", b"1")
    storage.configure({"s3": options})
    for call in calls(bucket):
        ends_the_job(call, message)


def test_a_missing_bucket_ends_the_job(s3: SeaweedFS) -> None:
    for call in calls("s3://no-such-bucket"):
        ends_the_job(call, f"no such bucket at {s3.endpoint}")


def test_one_object_costs_one_row(bucket: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "closed").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)
    cases = {
        f"{bucket}/no": "not found",
        f"{bucket}/{'k' * 1100}": "name is too long|not found|answered",
        f"{bucket}/\udce9": "not UTF-8",
        str(tmp_path / "no"): "not found",
        str(tmp_path): "a folder",
        str(tmp_path / "fifo"): "not a regular file",
        "/dev/zero": "not a regular file",
        "a\0b": "contain a NUL",
        str(tmp_path / ("k" * 300)): "too long",
        str(tmp_path / "closed" / "x"): "Not a directory",
    }
    if os.getuid():
        cases[str(tmp_path / "closed")] = "access denied"
    for uri, message in cases.items():
        for read in (
            storage.read_bytes,
            storage.open_binary,
            lambda uri: storage.read_range(uri, 0, 1),
        ):
            with pytest.raises(UnreadableError, match=message) as caught:
                read(uri)
            assert "\n" not in str(caught.value)
            again = pickle.loads(pickle.dumps(caught.value))
            assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def calls(bucket: str) -> list[Callable[[], object]]:
    return [
        lambda: storage.read_bytes(f"{bucket}/x"),
        lambda: storage.read_range(f"{bucket}/x", 0, 1),
        lambda: storage.open_binary(f"{bucket}/x"),
        lambda: listing.list_files(f"{bucket}/in"),
        lambda: storage.exists(f"{bucket}/x"),
        lambda: storage.write_bytes(f"{bucket}/y", b"x"),
    ]


def ends_the_job(call: Callable[[], object], message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        call()
    assert not isinstance(caught.value, UnreadableError)
    assert "s3://" in str(caught.value)
    assert "\n" not in str(caught.value)


# Endpoints that fail.

META = b'ETag: "e"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
BUSY = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"


@contextmanager
def answering(answer: Callable[[socket.socket, bytes, int], None], port: int = 0) -> Iterator[str]:
    """Serve an endpoint; `answer` gets each connection's first request and number, from 0."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def one(connection: socket.socket, count: int) -> None:
            with connection, contextlib.suppress(OSError):
                answer(connection, connection.recv(65_536), count)

        def serve() -> None:
            count = 0
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection, count), daemon=True).start()
                count += 1

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def found(request: bytes, size: int) -> bytes:
    """Return the head of an answer with an object of `size` bytes, or with the requested range."""
    asked = re.search(rb"range: bytes=(\d+)-(\d*)", request, re.IGNORECASE)
    if asked is None:
        return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (META, size)
    first, last = int(asked[1]), int(asked[2] or size - 1)
    head = b"HTTP/1.1 206 Partial Content\r\n%sContent-Range: bytes %d-%d/%d\r\n" % (
        META, first, last, size,
    )  # fmt: skip
    return head + b"Content-Length: %d\r\n\r\n" % (last - first + 1)


def silent(connection: socket.socket, request: bytes, count: int) -> None:
    connection.recv(1)


def closing(connection: socket.socket, request: bytes, count: int) -> None:
    """Send nothing; the caller closes the connection."""


def breaking_off(connection: socket.socket, request: bytes, count: int) -> None:
    connection.sendall(found(request, 1_000) + b"0123456789")


def busy(connection: socket.socket, request: bytes, count: int) -> None:
    head = b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(BUSY) + BUSY)


def elsewhere(connection: socket.socket, request: bytes, count: int) -> None:
    head = b"HTTP/1.1 301 Moved\r\nConnection: close\r\nx-amz-bucket-region: eu-west-1\r\n"
    connection.sendall(head + b"Content-Length: 0\r\n\r\n")


def reach(endpoint: str, **options: object) -> None:
    storage.configure({"s3": {"endpoint_url": endpoint, **options}})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (silent, "no whole answer from"),
        (closing, "no whole answer from"),
        (breaking_off, "no whole answer from"),
        (busy, "answered (SlowDown|503)"),
        (elsewhere, "the bucket is in another region"),
    ],
)
def test_an_endpoint_that_fails_for_good_ends_the_job(
    answer: Callable[[socket.socket, bytes, int], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the same code as in production with shorter time limits, so that the test is fast.

    The limits of one attempt are short only if the endpoint is silent.
    """
    monkeypatch.setattr(client, "PATIENCE_S", 0.5)
    with answering(answer) as endpoint:
        seconds = 0.5 if answer is silent else PATIENCE_S
        reach(endpoint, config_kwargs={"connect_timeout": seconds, "read_timeout": seconds})
        asked = calls("s3://bucket")
        for call in (asked[0], asked[3]) if answer is breaking_off else asked:
            ends_the_job(call, message)


def test_a_closed_port_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 0.5)
    reach("http://127.0.0.1:1")
    for call in calls("s3://bucket"):
        ends_the_job(call, "no whole answer from http://127.0.0.1:1 in")


def test_what_passes_is_ridden_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """SlowDown, a closed connection, an incomplete answer and silence come before the answer."""
    listed = (
        b"<ListBucketResult><Name>bucket</Name><KeyCount>1</KeyCount><IsTruncated>false"
        b"</IsTruncated><Contents><Key>in/x</Key><Size>100</Size><ETag>&quot;e&quot;</ETag>"
        b"<LastModified>2015-10-21T07:28:00Z</LastModified></Contents></ListBucketResult>"
    )

    def recovering(connection: socket.socket, request: bytes, count: int) -> None:
        failing = [busy, closing, breaking_off, silent]
        if count < len(failing):
            failing[count](connection, request, count)
        elif b"list-type" in request:
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % len(listed) + listed)
        else:
            head = found(request, 1_000)
            connection.sendall(head + bytes(1_000 if b"200 OK" in head else 990))

    monkeypatch.setattr(client, "PATIENCE_S", PATIENCE_S)
    for call, expected in (
        (lambda: storage.read_bytes("s3://bucket/in/x"), b"0123456789" + bytes(990)),
        (lambda: [f.version for f in listing.list_files("s3://bucket/in")], ["e"]),
    ):
        with answering(recovering) as endpoint:
            reach(endpoint, config_kwargs={"connect_timeout": 1, "read_timeout": 1})
            assert call() == expected


def test_a_users_count_of_attempts_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, expected in (
        ({"config_kwargs": {"retries": {"total_max_attempts": 2}}}, 2),
        ({}, 1),
    ):
        asked: list[int] = []

        def counted(
            connection: socket.socket, request: bytes, count: int, asked: list[int] = asked
        ) -> None:
            asked.append(count)
            busy(connection, request, count)

        if not options:
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with answering(counted) as endpoint:
            for read in (
                lambda: storage.read_bytes("s3://bucket/x"),
                lambda: listing.list_files("s3://bucket/x"),
            ):
                asked.clear()
                reach(endpoint, **options)
                with pytest.raises(StorageError):
                    read()
                assert len(asked) == expected


def test_a_server_that_is_killed_and_started_again_is_ridden_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", PATIENCE_S)
    server = SeaweedFS()
    try:
        bucket = server.bucket()
        storage.configure({"s3": {"endpoint_url": server.endpoint}})
        storage.write_bytes(f"{bucket}/x", b"1")
        asked: list[Callable[[], object]] = [
            lambda: storage.read_bytes(f"{bucket}/x"),
            lambda: [f.path for f in listing.list_files(bucket)],
            lambda: storage.write_bytes(f"{bucket}/x", b"1"),
        ]
        assert [call() for call in asked] == [b"1", ["x"], None]
        server.kill()
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = [threads.submit(call) for call in asked]
            # The server takes a second to start. By then each call has failed, and retries.
            server.start()
            assert [answer.result() for answer in answers] == [b"1", ["x"], None]
    finally:
        server.close()
