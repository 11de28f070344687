"""Each way to read a file gives the version that was listed, in every kind of store."""

import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.audio.recording import Recording, begin_to_read, closing_source, open_recording
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import ChangedError, GoneError
from audiocnn.storage import listing
from helpers.tars import tar

pytestmark = pytest.mark.usefixtures("connections")

LONG = (32 << 20) + 1
"""Size in bytes of a recording that is read while it is decoded."""


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder in each kind of store."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def versioned(uri: str, data: bytes) -> str:
    """Write a file; return its version from a listing of its folder."""
    storage.write_bytes(uri, data)
    found = {file.uri: file.version for file in listing.list_files(uri.rpartition("/")[0])}
    assert found[uri] == listing.stored_file(uri).version
    return found[uri]


@pytest.mark.parametrize("name", ["a", "odd\x01"])
def test_no_way_of_reading_gives_another_version(folder: str, name: str) -> None:
    uri = f"{folder}/in/{name}"
    version = versioned(uri, b"one")
    calls: list[Callable[[], object]] = [
        lambda: storage.read_bytes(uri, version=version),
        lambda: storage.read_bytes(uri, 2, version=version),
        lambda: storage.read_range(uri, 1, 2, version=version),
        lambda: storage.open_binary(uri, version=version).read(),
        lambda: storage.open_binary(uri, version=version, size=3).read(),
        lambda: storage.open_binary(uri, version=version, size=3, block_bytes=2).read(),
    ]
    assert [call() for call in calls] == [b"one", b"one", b"ne", b"one", b"one", b"one"]
    assert versioned(uri, b"two") != version
    for call in calls:
        with pytest.raises(ChangedError, match="it changed meanwhile"):
            call()
    storage.remove(uri)
    for call in calls:
        with pytest.raises(GoneError, match="not found"):
            call()


@pytest.mark.parametrize("given", [True, False])
def test_what_is_rewritten_while_it_is_streamed_is_not_read_on(folder: str, given: bool) -> None:
    uri = f"{folder}/in/long"
    version = versioned(uri, bytes(LONG)) if given else None
    if not given:
        storage.write_bytes(uri, bytes(LONG))
    recording = Recording(uri=uri, size=LONG, version=version)
    with closing_source(open_recording(recording, 1 << 40)) as file:
        assert not isinstance(file, bytes)
        assert file.read(1_000) == bytes(1_000)
        with Path(uri).open("r+b") if storage.is_local(uri) else io.BytesIO() as same:
            same.write(b"\1" * LONG)  # overwrites a local file in place, like a recorder
        if not storage.is_local(uri):
            storage.write_bytes(uri, b"\1" * LONG)
        file.seek(LONG // 2)
        with pytest.raises(ChangedError, match="it changed meanwhile"):
            file.read()


def test_a_local_file_that_is_rewritten_while_it_is_read_whole_is_not_read(tmp_path: Path) -> None:
    """Reading fails even if every byte of the old version is already in the buffer."""
    path = tmp_path / "a"
    version = versioned(str(path), b"old" * 1_000)
    with storage.open_binary(str(path), version=version) as file:
        assert file.read(3) == b"old"
        status = path.stat()
        path.write_bytes(b"new" * 1_000)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(ChangedError):
            file.read()
    (tmp_path / "b").write_bytes(b"x")
    with storage.open_binary(str(tmp_path / "b")) as file:
        os.replace(path, tmp_path / "b")  # another file gets this name; the open one stays
        assert file.read() == b"x"


def shard(label: bytes) -> bytes:
    return tar([("1.wav", label * 9), ("1.cls", label), ("2.wav", b"x"), ("2.cls", b"x")])


def test_members_are_of_the_shard_that_was_listed(folder: str) -> None:
    uri = f"{folder}/in/s.tar"
    storage.write_bytes(uri, shard(b"dog"))
    clips = read_corpus(f"{folder}/in").clips
    assert all(clip.recording.version == clip.version for clip in clips)
    assert open_recording(clips[0].recording, 1 << 40) == b"dogdogdogdogdogdogdogdogdog"
    storage.write_bytes(uri, shard(b"cat"))
    with ThreadPoolExecutor(1) as readers:
        for clip in clips:
            with pytest.raises(ChangedError):
                begin_to_read(clip.recording, 1 << 40, readers)()


def test_a_shard_that_is_rewritten_before_it_is_indexed_is_one_row(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels and the clips would come from different versions."""
    storage.write_bytes(f"{folder}/in/r.tar", shard(b"cow"))
    uri = f"{folder}/in/s.tar"
    storage.write_bytes(uri, shard(b"dog"))
    real, once = listing.list_files, threading.Lock()

    def then_rewritten(where: str) -> list[listing.StoredFile]:
        files = real(where)
        if once.acquire(blocking=False):
            storage.write_bytes(uri, shard(b"cat"))
        return files

    monkeypatch.setattr(listing, "list_files", then_rewritten)
    corpus = read_corpus(f"{folder}/in")
    assert [(item.uri, item.reason) for item in corpus.rejected] == [(uri, "changed")]
    assert [clip.label for clip in corpus.clips] == ["cow", "x"]
