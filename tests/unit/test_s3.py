"""Object storage against a real server, and against endpoints that fail."""

import contextlib
import json
import os
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import soundfile

from audiocnn import outputs, storage, synthetic
from audiocnn import s3 as client
from audiocnn.errors import ConfigError, FormatError, StorageError, UnreadableError
from benchmarks.seaweed import KEY, READ_ONLY_KEY, READ_ONLY_SECRET, SECRET, SeaweedFS

ODD = [
    "a#b", "100%", "100%25", "q?x=1", "sp ace", " lead", "end ", "new\nline", "tab\t", "ctl\x01",
    "ü 音", "u\u0308", "🎵", "a/..b", "r[12]*{}", "x::y", "quote\"'", "+plus", "&amp;<x>",
    "a=b;c,d@$()",
]  # fmt: skip
NOT_ON_SEAWEED = {"a//b": "a/b", "back\\slash": "back/slash"}
"""Keys that this server keeps under another name, which is the one that is listed."""


@pytest.fixture(autouse=True)
def connections(s3: SeaweedFS) -> Iterator[None]:
    """Each test resolves its own, and leaves none to the next."""
    storage.configure({})
    yield
    storage.configure({})


def test_bytes_json_and_tables_are_written_listed_read_and_removed(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/deep/a.bin", b"abc")
    storage.write_json(f"{bucket}/deep/b.json", {"x": "ü"})
    table = pa.table({"x": [1, 2, 3]})
    assert storage.write_parquet(f"{bucket}/c.parquet", table) > 0
    assert storage.read_bytes(f"{bucket}/deep/a.bin") == b"abc"
    assert storage.read_json(f"{bucket}/deep/b.json") == {"x": "ü"}
    assert storage.read_parquet(f"{bucket}/c.parquet").equals(table)
    assert [f.path for f in storage.list_files(bucket)] == [
        "c.parquet",
        "deep/a.bin",
        "deep/b.json",
    ]
    assert storage.exists(f"{bucket}/deep")
    assert storage.exists(f"{bucket}/deep/a.bin")
    assert not storage.exists(f"{bucket}/dee")
    storage.remove(f"{bucket}/deep")
    assert [f.path for f in storage.list_files(f"{bucket}/")] == ["c.parquet"]
    storage.remove(f"{bucket}/deep")  # nothing is there
    storage.write_bytes(f"{bucket}/d.parquet", b"no")
    with pytest.raises(FormatError, match="not a Parquet file"):
        storage.read_parquet(f"{bucket}/d.parquet")


def test_odd_keys_are_listed_and_read(s3: SeaweedFS, bucket: str) -> None:
    for key in ODD:
        s3.client().put_object(Bucket=bucket[5:], Key=f"in/{key}", Body=key.encode())
    found = storage.list_files(f"{bucket}/in")
    assert {f.path for f in found} == set(ODD)
    for file in found:
        assert storage.read_bytes(file.uri) == file.path.encode()
        assert storage.read_bytes(file.uri, 1) == file.path.encode()[:2]
        assert storage.read_range(file.uri, 1, 1) == file.path.encode()[1:2]
        with storage.open_binary(file.uri) as stream:
            assert stream.read() == file.path.encode()
        assert storage.exists(file.uri)
    # A key that s3fs reads as one with a version: read, but not to be written.
    s3.client().put_object(Bucket=bucket[5:], Key="q?versionId=3", Body=b"q")
    assert storage.read_bytes(f"{bucket}/q?versionId=3") == b"q"


def test_keys_that_the_server_renames_are_read_by_the_name_they_are_listed_by(
    s3: SeaweedFS, bucket: str
) -> None:
    for key in NOT_ON_SEAWEED:
        s3.client().put_object(Bucket=bucket[5:], Key=key, Body=key.encode())
    found = {f.path: storage.read_bytes(f.uri).decode() for f in storage.list_files(bucket)}
    assert found == {listed: key for key, listed in NOT_ON_SEAWEED.items()}
    for key in ("../up", "a/../b", "a/./b", ".."):
        with pytest.raises(UnreadableError):
            storage.read_bytes(f"{bucket}/{key}")


def test_no_more_than_asked_for_is_read(bucket: str) -> None:
    data = os.urandom(3_000_000)
    storage.write_bytes(f"{bucket}/x", data)
    for most in (0, 1, 100, 70_000, len(data) - 1, len(data), len(data) + 1):
        assert storage.read_bytes(f"{bucket}/x", most) == data[: most + 1]
    storage.write_bytes(f"{bucket}/empty", b"")
    assert storage.read_bytes(f"{bucket}/empty", 10) == b""
    assert storage.read_range(f"{bucket}/x", 10, 20) == data[10:30]
    assert storage.read_range(f"{bucket}/x", len(data) - 1, 1) == data[-1:]
    for offset, size in ((len(data) - 1, 2), (len(data), 1)):
        with pytest.raises(UnreadableError, match="shorter than expected"):
            storage.read_range(f"{bucket}/x", offset, size)


def test_a_long_recording_is_read_by_blocks(s3: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    data = synthetic.encode(synthetic.sound("bell", 1, 20.0, 22_050), 22_050, "flac")
    (tmp_path / "x.flac").write_bytes(data)
    storage.write_bytes(f"{bucket}/x.flac", data)
    storage.write_bytes("memory://open/x.flac", data)
    whole, _ = soundfile.read(tmp_path / "x.flac")
    for uri in (f"{bucket}/x.flac", str(tmp_path / "x.flac"), "memory://open/x.flac"):
        with storage.open_binary(uri, block_bytes=50_000) as file:
            assert file.seek(0, 2) == len(data)
            assert file.read(1) == b""
            file.seek(-10, 2)
            assert file.read() == data[-10:]
            file.seek(0)
            found, _ = soundfile.read(file)
        assert (found == whole).all()
    with storage.open_binary(f"{bucket}/x.flac", block_bytes=1_000) as file:
        file.read(10)
        storage.write_bytes(f"{bucket}/x.flac", data[::-1])
        with pytest.raises(UnreadableError, match="changed while"):
            file.read()


def test_folder_keys_are_no_files_and_an_emptied_folder_is_gone(s3: SeaweedFS, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket[5:], Key="in/sub/", Body=b"")
    storage.write_bytes(f"{bucket}/in/sub/x", b"1")
    assert [f.path for f in storage.list_files(f"{bucket}/in")] == ["sub/x"]
    with pytest.raises(StorageError, match="not a folder"):
        storage.list_files(f"{bucket}/in/sub/x")
    storage.remove(f"{bucket}/in/sub/x")
    for gone in ("in", "in/sub", "in/sub/x"):
        assert not storage.exists(f"{bucket}/{gone}")
        with pytest.raises(StorageError, match="not found"):
            storage.list_files(f"{bucket}/{gone}")
    assert storage.list_files(bucket) == []


def test_a_version_is_another_once_the_content_is(bucket: str, tmp_path: Path) -> None:
    for folder in (bucket, str(tmp_path)):
        versions = []
        for data in (b"one", b"two", b"three"):
            storage.write_bytes(f"{folder}/x", data)
            (file,) = storage.list_files(folder)  # just written, and seen
            assert file == storage.list_files(folder)[0]
            versions.append(file.version)
        assert len(set(versions)) == 3
        assert all(versions)


def test_a_file_is_moved_there_whole(bucket: str, tmp_path: Path) -> None:
    data = os.urandom(120 << 20)  # in parts
    for to in (f"{bucket}/deep/x", str(tmp_path / "deep" / "x")):
        (tmp_path / "local").write_bytes(data)
        storage.write_file(to, str(tmp_path / "local"))
        assert not (tmp_path / "local").exists()
        assert storage.read_bytes(to) == data
    assert os.listdir(tmp_path / "deep") == ["x"]


def test_an_output_is_claimed_once_and_never_costs_what_is_not_ours(bucket: str) -> None:
    to = outputs.claim(f"{bucket}/out", "done.json", overwrite=False)
    outputs.clear(to, "done.json", ("parts/part-*",))  # nothing is there yet
    storage.write_json(f"{to}/done.json", {})
    outputs.clear(to, "done.json", ("parts/part-*",))  # the marker alone
    assert not storage.exists(to)
    storage.write_bytes(f"{to}/parts/part-1", b"left by a killed run")
    storage.write_bytes(f"{to}/parts/mine", b"x")
    storage.write_json(f"{to}/done.json", {})
    with pytest.raises(ConfigError, match=r"done\.json is there already.*--overwrite"):
        outputs.claim(to, "done.json", overwrite=False)
    outputs.clear(to, "done.json", ("parts/part-*",))
    assert [f.path for f in storage.list_files(to)] == ["parts/mine"]


# Who asks, and where.


def test_storage_options_reach_both_clients_and_win_over_the_environment(
    s3: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{bucket}/x", b"1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    options = {"endpoint_url": s3.endpoint, "key": KEY, "secret": SECRET}
    kwargs = {"endpoint_url": s3.endpoint, "region_name": "us-east-1"}
    for given in (options, {"key": KEY, "secret": SECRET, "client_kwargs": kwargs}):
        storage.configure({"s3": given})
        assert storage.endpoint(bucket) == s3.endpoint
        assert [f.path for f in storage.list_files(bucket)] == ["x"]
        assert storage.read_bytes(f"{bucket}/x") == b"1"
    storage.configure({"s3": {"endpoint_url": s3.endpoint, "anon": True}})
    for call in (storage.list_files, lambda uri: storage.read_bytes(f"{uri}/x")):
        with pytest.raises(StorageError, match="access denied by"):
            call(bucket)


def test_a_profile_reaches_both_clients(
    s3: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage.write_bytes(f"{bucket}/x", b"1")
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = us-east-1\nendpoint_url = {s3.endpoint}\n"
        f"aws_access_key_id = {READ_ONLY_KEY}\naws_secret_access_key = {READ_ONLY_SECRET}\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    storage.configure({"s3": {"endpoint_url": s3.endpoint}})
    with pytest.raises(StorageError, match="no usable keys"):
        storage.read_bytes(f"{bucket}/x")
    with pytest.raises(StorageError, match="no usable keys"):
        storage.list_files(bucket)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    for options in ({}, {"s3": {"profile": "lab"}}):
        storage.configure(options)
        assert [f.path for f in storage.list_files(bucket)] == ["x"]
        assert storage.read_bytes(f"{bucket}/x") == b"1"
        with pytest.raises(StorageError, match="access denied"):
            storage.write_bytes(f"{bucket}/y", b"")


def test_keys_are_asked_for_again_before_they_end(
    s3: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`credential_process`, the profile's way to temporary keys: the second ones are used too."""
    storage.write_bytes(f"{bucket}/x", b"1")
    answer = {"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET}
    script = tmp_path / "keys"
    script.write_text(
        f"#!/bin/sh\necho >>{tmp_path}/asked\n"
        f"echo '{json.dumps(answer)[:-1]}'"
        """', "Expiration": "'$(date -u -d '+5 min' +%FT%TZ)'"}'\n"""
    )
    script.chmod(0o700)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setattr(client, "_RENEW_S", 1)  # obstore asks anew at once
    storage.configure({})
    assert storage.read_bytes(f"{bucket}/x") == b"1"
    before = len((tmp_path / "asked").read_text())
    threading.Event().wait(0.3)
    assert storage.read_bytes(f"{bucket}/x") == b"1"
    assert len((tmp_path / "asked").read_text()) > before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "not of the form"),
        ({"s3": "http://127.0.0.1"}, "not of the form"),
        ({"s4": {}}, "no protocol 's4'"),
        ({"s3": {"endpont_url": "x"}}, "unexpected keyword argument 'endpont_url'"),
        ({"s3": {"endpoint_url": "127.0.0.1:1"}}, "Invalid endpoint"),
    ],
)
def test_options_that_cannot_be_are_one_line(options: object, message: str) -> None:
    def use() -> None:
        storage.configure(options)  # type: ignore[arg-type]
        storage.read_bytes("s3://bucket/x")

    with pytest.raises(ConfigError, match=message) as caught:
        use()
    assert str(caught.value).startswith("--storage-options: ")
    assert "\n" not in str(caught.value)


# What ends a job, and what costs a row.


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
        str(tmp_path / "fifo"): "no regular file",
        "/dev/zero": "no regular file",
        "a\0b": "its name",
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
            assert (type(again), str(again)) == (UnreadableError, str(caught.value))


def calls(bucket: str) -> list[Callable[[], object]]:
    return [
        lambda: storage.read_bytes(f"{bucket}/x"),
        lambda: storage.read_range(f"{bucket}/x", 0, 1),
        lambda: storage.open_binary(f"{bucket}/x"),
        lambda: storage.list_files(f"{bucket}/in"),
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
    """An endpoint that leaves the n-th connection's first request to a function."""
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
    """The head of an answer with an object of so many bytes, or with the range asked for."""
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
    """Nothing: the connection is closed."""


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
    """By the code that runs with the limits of every day, with others, to be quick."""
    monkeypatch.setattr(client, "PATIENCE_S", 1.0)
    with answering(answer) as endpoint:
        reach(endpoint, config_kwargs={"connect_timeout": 1, "read_timeout": 1})
        asked = calls("s3://bucket")
        for call in (asked[0], asked[3]) if answer is breaking_off else asked:
            ends_the_job(call, message)


def test_a_closed_port_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 1.0)
    reach("http://127.0.0.1:1")
    for call in calls("s3://bucket"):
        ends_the_job(call, "no whole answer from http://127.0.0.1:1 in")


def test_what_passes_is_ridden_out() -> None:
    """Silence, closed connections, an answer broken off, and SlowDown; then what was asked for."""
    listing = (
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
            connection.sendall(head % len(listing) + listing)
        else:
            head = found(request, 1_000)
            connection.sendall(head + bytes(1_000 if b"200 OK" in head else 990))

    for call, expected in (
        (lambda: storage.read_bytes("s3://bucket/in/x"), b"0123456789" + bytes(990)),
        (lambda: [f.version for f in storage.list_files("s3://bucket/in")], ["e"]),
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
                lambda: storage.list_files("s3://bucket/x"),
            ):
                asked.clear()
                reach(endpoint, **options)
                with pytest.raises(StorageError):
                    read()
                assert len(asked) == expected


def test_a_server_that_is_killed_and_started_again_is_ridden_out() -> None:
    server = SeaweedFS()
    try:
        bucket = server.bucket()
        storage.configure({"s3": {"endpoint_url": server.endpoint}})
        storage.write_bytes(f"{bucket}/x", b"1")
        for call in (
            lambda: storage.read_bytes(f"{bucket}/x"),
            lambda: [f.path for f in storage.list_files(bucket)],
            lambda: storage.write_bytes(f"{bucket}/x", b"1"),
        ):
            server.kill()
            again = threading.Timer(2.0, server.start)
            again.start()
            assert call() in (b"1", ["x"], None)
            again.join()
    finally:
        server.close()
