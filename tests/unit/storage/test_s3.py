"""Object storage, tested with a real server (SeaweedFS)."""

import json
import os
import threading
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
import soundfile

from audiocnn import storage
from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.corpus.file_list import FileList
from audiocnn.errors import (
    ConfigError,
    FormatError,
    StorageError,
    UnreadableError,
)
from audiocnn.storage import listing, output_folder
from audiocnn.storage.stores import s3 as client
from benchmarks.seaweed import KEY, READ_ONLY_KEY, READ_ONLY_SECRET, SECRET, SeaweedFS

ODD = [
    "a#b", "100%", "100%25", "q?x=1", "sp ace", " lead", "end ", "new\nline", "tab\t", "ctl\x01",
    "ü 音", "u\u0308", "🎵", "a/..b", "r[12]*{}", "x::y", "quote\"'", "+plus", "&amp;<x>",
    "a=b;c,d@$()",
]  # fmt: skip
NOT_ON_SEAWEED = {"a//b": "a/b", "back\\slash": "back/slash"}
"""Keys that SeaweedFS stores and lists under another name, and these names."""


pytestmark = pytest.mark.usefixtures("connections")


def test_bytes_json_and_tables_are_written_listed_read_and_removed(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/deep/a.bin", b"abc")
    storage.write_json(f"{bucket}/deep/b.json", {"x": "ü"})
    table = pa.table({"x": [1, 2, 3]})
    assert storage.write_parquet(f"{bucket}/c.parquet", table) > 0
    assert storage.read_bytes(f"{bucket}/deep/a.bin") == b"abc"
    assert storage.read_json(f"{bucket}/deep/b.json") == {"x": "ü"}
    assert storage.read_parquet(f"{bucket}/c.parquet").equals(table)
    assert [f.path for f in listing.list_files(bucket)] == [
        "c.parquet",
        "deep/a.bin",
        "deep/b.json",
    ]
    assert storage.exists(f"{bucket}/deep")
    assert storage.exists(f"{bucket}/deep/a.bin")
    assert not storage.exists(f"{bucket}/dee")
    storage.remove(f"{bucket}/deep")  # does not remove the objects below the folder
    for name in ("a.bin", "b.json"):
        storage.remove(f"{bucket}/deep/{name}")
    assert [f.path for f in listing.list_files(f"{bucket}/")] == ["c.parquet"]
    storage.remove(f"{bucket}/deep/a.bin")  # no error: nothing is there
    storage.write_bytes(f"{bucket}/d.parquet", b"no")
    with pytest.raises(FormatError, match="not a Parquet file"):
        storage.read_parquet(f"{bucket}/d.parquet")


def test_odd_keys_are_listed_and_read(s3: SeaweedFS, bucket: str) -> None:
    for key in ODD:
        s3.client().put_object(Bucket=bucket[5:], Key=f"in/{key}", Body=key.encode())
    found = listing.list_files(f"{bucket}/in")
    assert {f.path for f in found} == set(ODD)
    for file in found:
        assert storage.read_bytes(file.uri) == file.path.encode()
        assert storage.read_bytes(file.uri, 1) == file.path.encode()[:2]
        assert storage.read_range(file.uri, 1, 1) == file.path.encode()[1:2]
        with storage.open_binary(file.uri) as stream:
            assert stream.read() == file.path.encode()
        assert storage.exists(file.uri)
    # s3fs cuts this key when it writes or removes the object; reading works.
    s3.client().put_object(Bucket=bucket[5:], Key="q?versionId=3", Body=b"q")
    assert storage.read_bytes(f"{bucket}/q?versionId=3") == b"q"


def test_keys_that_the_server_renames_are_read_by_the_name_they_are_listed_by(
    s3: SeaweedFS, bucket: str
) -> None:
    for key in NOT_ON_SEAWEED:
        s3.client().put_object(Bucket=bucket[5:], Key=key, Body=key.encode())
    found = {f.path: storage.read_bytes(f.uri).decode() for f in listing.list_files(bucket)}
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
    data = encode(synthetic.sound("bell", 1, 20.0, 22_050), 22_050, "flac")
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
        with pytest.raises(UnreadableError, match="changed meanwhile"):
            file.read()


def test_a_bucket_is_listed_page_by_page(bucket: str) -> None:
    fs, root = storage.filesystem(f"{bucket}/many")
    fs.pipe({f"{root}/{n:04d}": b"x" for n in range(1_100)}, batch_size=32)
    pages = list(client.pages(root))
    assert [len(page) for page in pages] == [1_000, 100]
    assert [f.path for f in listing.iter_files(f"{bucket}/many")] == [
        f"{n:04d}" for n in range(1_100)
    ]


def test_folder_keys_are_no_files_and_an_emptied_folder_is_gone(s3: SeaweedFS, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket[5:], Key="in/sub/", Body=b"")
    storage.write_bytes(f"{bucket}/in/sub/x", b"1")
    assert [f.path for f in listing.list_files(f"{bucket}/in")] == ["sub/x"]
    with pytest.raises(StorageError, match="not a folder"):
        listing.list_files(f"{bucket}/in/sub/x")
    storage.remove(f"{bucket}/in/sub/x")
    for gone in ("in", "in/sub", "in/sub/x"):
        assert not storage.exists(f"{bucket}/{gone}")
        with pytest.raises(StorageError, match="not found"):
            listing.list_files(f"{bucket}/{gone}")
    assert listing.list_files(bucket) == []


def test_a_version_is_another_once_the_content_is(bucket: str, tmp_path: Path) -> None:
    for folder in (bucket, str(tmp_path)):
        versions = []
        for data in (b"one", b"two", b"three"):
            storage.write_bytes(f"{folder}/x", data)
            (file,) = listing.list_files(folder)  # a listing shows the new object at once
            assert file == listing.list_files(folder)[0]
            versions.append(file.version)
        assert len(set(versions)) == 3
        assert all(versions)


def test_a_file_is_placed_whole_or_not_at_all(bucket: str, tmp_path: Path) -> None:
    data = os.urandom(120 << 20)  # large enough for a multipart upload
    for to in (f"{bucket}/deep/x", str(tmp_path / "deep" / "x")):
        with suppress(KeyError), storage.atomic_path(to) as path:
            Path(path).write_bytes(data)
            raise KeyError
        assert not storage.exists(to)
        assert not Path(path).exists()
        with storage.atomic_path(to) as path:
            Path(path).write_bytes(data)
            assert not storage.exists(to)
        assert not Path(path).exists()
        assert storage.read_bytes(to) == data
    assert os.listdir(tmp_path / "deep") == ["x"]


def test_an_output_is_claimed_cleared_and_swept_of_what_is_ours(bucket: str) -> None:
    to = f"{bucket}/out"
    assert output_folder.claim(to, output_folder.FEATURES).notes == {}
    storage.write_json(f"{to}/features.json", {"format": "audiocnn.features/2"})
    for path in ("failures.parquet", "parts/part-1.parquet", "parts/part-2.parquet", "parts/mine"):
        storage.write_bytes(f"{to}/{path}", b"x")
    output = output_folder.claim(to, output_folder.FEATURES)
    with pytest.raises(ConfigError, match=r"features\.json is there already.*--overwrite"):
        output.require_unfinished()
    with pytest.raises(ConfigError, match=r"it holds features \(features\.json of ingest\)"):
        output_folder.claim(to, output_folder.LABELS)
    output.clear()
    swept = output_folder.sweep(
        to, "parts/part-*.parquet", lambda path: path.endswith("part-1.parquet")
    )
    assert swept.others == ["parts/part-2.parquet"]
    left = [file.path for file in listing.list_files(to)]
    assert left == ["parts/mine", "parts/part-2.parquet"]


def test_what_somebody_changed_is_kept_beside(bucket: str) -> None:
    files = FileList(bucket, "list.json")
    for path in ("a.csv", "in/b.txt", "in/deep/c.txt", "d.csv"):
        files.write_bytes(path, path.encode())
    files.finish((), format="f")
    storage.write_bytes(f"{bucket}/in/b.txt", b"changed")
    storage.write_bytes(f"{bucket}/in/mine.txt", b"mine")
    told: dict[str, str] = {}
    again = FileList(bucket, "list.json", told.__setitem__)
    for path in ("a.csv", "in/b.txt"):
        again.write_bytes(path, b"new")
    again.finish(["a.csv", "in"], format="f")
    assert told == {"in/b.txt": "in/b.txt.kept-1"}
    found = {file.path: storage.read_bytes(file.uri) for file in listing.list_files(bucket)}
    assert storage.read_json(f"{bucket}/list.json")["files"].keys() == {
        "a.csv",
        "d.csv",
        "in/b.txt",
    }
    del found["list.json"]
    assert found == {
        "a.csv": b"new", "d.csv": b"d.csv", "in/b.txt": b"new", "in/b.txt.kept-1": b"changed",
        "in/mine.txt": b"mine",
    }  # fmt: skip


# Keys and endpoints.


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
        assert [f.path for f in listing.list_files(bucket)] == ["x"]
        assert storage.read_bytes(f"{bucket}/x") == b"1"
    storage.configure({"s3": {"endpoint_url": s3.endpoint, "anon": True}})
    for call in (listing.list_files, lambda uri: storage.read_bytes(f"{uri}/x")):
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
        listing.list_files(bucket)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    for options in ({}, {"s3": {"profile": "lab"}}):
        storage.configure(options)
        assert [f.path for f in listing.list_files(bucket)] == ["x"]
        assert storage.read_bytes(f"{bucket}/x") == b"1"
        with pytest.raises(StorageError, match="access denied"):
            storage.write_bytes(f"{bucket}/y", b"")


def test_keys_are_asked_for_again_before_they_end(
    s3: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A profile runs `credential_process` for temporary keys, and again before they expire."""
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
    monkeypatch.setattr(client, "_RENEW_S", 1)  # obstore requests keys again at once
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
