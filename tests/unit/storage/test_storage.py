import os
from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.errors import ConfigError, FormatError, StorageError
from audiocnn.storage import listing, output_folder
from audiocnn.storage.stores import local

ODD = ["a#b.wav", "100%.wav", "x::y.wav", "new\nline.wav", 'quote".wav', "ü 音.wav", " lead.wav"]


def test_odd_names_are_listed_and_read(tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    found = listing.list_files(str(tmp_path))
    assert {f.path for f in found} == {f"in/{name}" for name in ODD}
    for file in found:
        assert storage.read_bytes(file.uri) == file.path[3:].encode()
        assert file.size == len(file.path[3:].encode())


def test_memory_urls_work_like_paths() -> None:
    storage.write_json("memory://bucket/a/b.json", {"x": 1})
    assert storage.exists("memory://bucket/a/b.json")
    assert storage.read_json("memory://bucket/a/b.json") == {"x": 1}
    (file,) = listing.list_files("memory://bucket/")
    assert file.path == "a/b.json"
    assert storage.read_bytes(file.uri) == storage.read_bytes("memory://bucket/a/b.json")
    storage.remove("memory://bucket/a/b.json")
    assert not storage.exists("memory://bucket/a/b.json")


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "deep" / "file"
    storage.write_bytes(str(target), b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        storage.write_bytes(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["file"]


def test_errors_name_the_uri_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for call, message in [
        (lambda: listing.list_files(str(tmp_path / "no")), "no: not found"),
        (lambda: listing.list_files(str(tmp_path / "file")), "not a folder"),
        (lambda: storage.read_bytes(str(tmp_path / "no")), "not found"),
        (lambda: storage.read_bytes("nosuch://x/y"), "nosuch"),
        (lambda: storage.write_bytes(str(tmp_path / "file" / "x"), b""), "file"),
    ]:
        with pytest.raises(StorageError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(FormatError, match="not a Parquet file"):
        storage.read_parquet(str(tmp_path / "file"))


def test_brackets_in_a_name_are_no_pattern() -> None:
    for name in ("r1", "r2", "r[12]"):
        storage.write_bytes(f"memory://b/{name}", b"x")
    storage.remove("memory://b/r[12]")
    assert [f.path for f in listing.list_files("memory://b")] == ["r1", "r2"]


def test_a_folder_is_never_removed_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="folder"):
        storage.remove(str(tmp_path / "folder"))
    storage.write_bytes("memory://kept/folder/mine.txt", b"mine")
    storage.remove("memory://kept/folder")
    storage.remove(str(tmp_path / "nothing"))
    assert (tmp_path / "folder" / "mine.txt").read_text() == "mine"
    assert storage.read_bytes("memory://kept/folder/mine.txt") == b"mine"


def test_links_are_followed_and_rings_end(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "root" / "ring").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "dangling.wav").symlink_to(tmp_path / "nowhere")
    assert [f.path for f in listing.list_files(str(tmp_path / "root"))] == [
        "dangling.wav",
        "link/a.wav",
    ]


def test_a_name_that_is_not_utf8_is_an_error_of_that_file(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"x")
    (file,) = listing.list_files(str(tmp_path))
    with pytest.raises(StorageError, match=r"caf\\udce9\.wav: its name is not UTF-8"):
        storage.read_bytes(file.uri)


def test_no_more_than_asked_for_is_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(10_000))
    assert len(storage.read_bytes(str(tmp_path / "large"), 100)) == 101
    assert len(storage.read_bytes(str(tmp_path / "large"), 20_000)) == 10_000


def test_what_workers_cannot_see_is_no_output() -> None:
    with pytest.raises(ConfigError, match="other processes"):
        output_folder.claim("memory://b/out", output_folder.FEATURES)


def test_an_object_stores_own_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage.configure({})
    with pytest.raises(StorageError, match="s3://bucket"):
        listing.list_files("s3://bucket/recordings")
    storage.configure({})  # the next test resolves endpoint and keys again


def test_a_version_tells_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = listing.stored_file(str(path))
    assert listing.list_files(str(tmp_path)) == [before]
    assert (before.path, before.size) == ("a", 3)
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert listing.stored_file(str(path)).version != before.version
    for wrong, message in [("no", "not found"), (".", "a folder")]:
        with pytest.raises(StorageError, match=message):
            listing.stored_file(str(tmp_path / wrong))


def test_a_file_can_be_sought_in() -> None:
    storage.write_bytes("memory://sought/a", b"0123456789")
    with storage.open_binary("memory://sought/a", block_bytes=4) as file:
        assert file.seek(7)
        assert file.read() == b"789"
    with pytest.raises(StorageError, match="not found"):
        storage.open_binary("memory://sought/b")


def test_a_file_that_goes_while_its_folder_is_listed_is_not_in_the_list(tmp_path: Path) -> None:
    """Temporary files of other jobs disappear like this: they are renamed during the listing."""
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    found = local.walk(str(tmp_path))
    assert next(found)[0] == f"{tmp_path}/a"
    (tmp_path / "b").unlink()
    assert [path for path, *_ in found] == [f"{tmp_path}/c"]
