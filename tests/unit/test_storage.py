import os
from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.errors import ConfigError, FormatError, StorageError

ODD = ["a#b.wav", "100%.wav", "x::y.wav", "new\nline.wav", 'quote".wav', "ü 音.wav", " lead.wav"]


def test_odd_names_are_listed_and_read(tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    found = storage.list_files(str(tmp_path))
    assert {f.path for f in found} == {f"in/{name}" for name in ODD}
    for file in found:
        assert storage.read_bytes(file.uri) == file.path[3:].encode()
        assert file.size == len(file.path[3:].encode())


def test_memory_urls_work_like_paths() -> None:
    storage.write_json("memory://bucket/a/b.json", {"x": 1})
    assert storage.exists("memory://bucket/a/b.json")
    assert storage.read_json("memory://bucket/a/b.json") == {"x": 1}
    (file,) = storage.list_files("memory://bucket/")
    assert file.path == "a/b.json"
    assert storage.read_bytes(file.uri) == storage.read_bytes("memory://bucket/a/b.json")
    storage.remove("memory://bucket/a")
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
        (lambda: storage.list_files(str(tmp_path / "no")), "no: not found"),
        (lambda: storage.list_files(str(tmp_path / "file")), "not a folder"),
        (lambda: storage.read_bytes(str(tmp_path / "no")), "not found"),
        (lambda: storage.read_bytes("nosuch://x/y"), "nosuch"),
        (lambda: storage.write_bytes(str(tmp_path / "file" / "x"), b""), "file"),
    ]:
        with pytest.raises(StorageError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(FormatError, match="not a Parquet file"):
        storage.read_parquet(str(tmp_path / "file"))


def test_an_output_is_claimed_once_and_never_costs_what_is_not_ours(tmp_path: Path) -> None:
    to = str(tmp_path / "out")
    assert storage.claim(to, "done.json", ("parts",), overwrite=False) == to
    storage.write_bytes(f"{to}/parts/1", b"x")
    storage.write_bytes(f"{to}/mine.txt", b"x")
    storage.claim(to, "done.json", ("parts",), overwrite=True)
    assert storage.exists(f"{to}/parts/1")  # unfinished: nothing to replace yet
    storage.write_json(f"{to}/done.json", {})
    with pytest.raises(ConfigError, match=r"done\.json is there already.*--overwrite"):
        storage.claim(to, "done.json", ("parts",), overwrite=False)
    storage.claim(to, "done.json", ("parts",), overwrite=True)
    assert [f.path for f in storage.list_files(to)] == ["mine.txt"]
