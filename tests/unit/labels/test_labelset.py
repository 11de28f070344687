"""Folders of labels: their versions, their parts, and their place beside the recordings."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audiocnn import storage
from audiocnn.errors import ConfigError
from audiocnn.labels import label_set, part as label_part
from audiocnn.labels.diff import compare_listing
from audiocnn.storage import listing
from helpers.small_labels import filled

FIRST, SECOND, THIRD, FOURTH = ({"bundle": name * 4} for name in "abcd")


@pytest.fixture(params=["local", "s3", "memory"])
def to(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder with three versions of labels, in each kind of store."""
    folder = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}/labels"
    if request.param == "s3":
        request.getfixturevalue("connections")
        folder = f"{request.getfixturevalue('bucket')}/labels"
    for name, made_with in (("", FIRST), ("/version-2", SECOND), ("/version-3", THIRD)):
        note = {"format": label_part.FORMAT, "made_with": made_with}
        storage.write_json(f"{folder}{name}/labels.json", note)
    for stranger in ("version-1", "version-03", "version-x", "versions", "my version-9"):
        storage.write_json(f"{folder}/{stranger}/labels.json", {"format": "no"})
    return folder


def found(to: str, made_with: dict[str, Any], *, new_version: bool = False) -> tuple[str, bool]:
    folder, note = label_set.find_version(to, made_with, new_version=new_version)
    return folder.removeprefix(to), note is not None


def test_a_version_that_was_deleted_hides_no_other(to: str) -> None:
    assert found(to, THIRD) == ("/version-3", True)
    storage.remove(f"{to}/version-2/labels.json")
    assert found(to, THIRD) == ("/version-3", True)
    assert found(to, THIRD, new_version=True) == ("/version-3", True)
    with pytest.raises(ConfigError, match=r"bundle cccc and not dddd are there.*--new-version"):
        found(to, FOURTH)
    # A new version gets the number after the highest one; a gap is not filled.
    assert found(to, FOURTH, new_version=True) == ("/version-4", False)
    assert found(to, SECOND, new_version=True) == ("/version-4", False)
    storage.remove(f"{to}/labels.json")
    assert found(to, THIRD) == ("/version-3", True)
    with pytest.raises(ConfigError, match="bundle cccc and not aaaa"):
        found(to, FIRST)


def test_what_is_in_two_parts_is_taken_out_of_the_later_one(tmp_path: Path) -> None:
    """Otherwise every later run would count more recordings than are listed."""
    for shard, names in enumerate(("ab", "bc")):
        path = tmp_path / label_set.part_name("aa", shard)
        path.parent.mkdir(exist_ok=True)
        rows = [filled({"uri": f"/b/{name}.wav", "start_s": 0.0}) for name in names]
        with pq.ParquetWriter(path, label_part.schema()) as file:
            file.write_table(pa.Table.from_pylist(rows, label_part.schema()))
            file.add_key_value_metadata(
                {"audiocnn.ledger": json.dumps(vars(label_part.LabelLedger()))}
            )
    now = [{"uri": f"/b/{n}.wav", "size": 1, "version": "v", "wrong": None} for n in "abcd"]
    parts = label_set.find_parts(str(tmp_path))
    with compare_listing(iter(now)) as comparison:
        comparison.against(parts, retry_failed=False)
        assert list(comparison.stale()) == [(parts[1], {"/b/b.wav"})]
        assert [row["uri"] for row in comparison.to_do()] == ["/b/d.wav"]


def test_links_do_not_make_recordings_labels_nor_labels_recordings(tmp_path: Path) -> None:
    bucket, link, beside = tmp_path / "bucket", tmp_path / "link", tmp_path / "beside"
    for path in (bucket / "a.wav", bucket / "labels" / "b.wav", beside / "labels" / "c.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    link.symlink_to(bucket)
    (tmp_path / "above").symlink_to(tmp_path)
    for one, to in ((bucket, link), (link, bucket), (bucket, tmp_path / "above"), (link, tmp_path)):
        with pytest.raises(ConfigError, match=f"^--to {to}: it is the bucket, or a folder above"):
            label_set.require_apart(str(one), str(to))
    (bucket / "more").symlink_to(beside)
    for one, to, left in (
        (bucket, link / "labels", {"a.wav", "more/labels/c.wav"}),
        (link, bucket / "labels", {"a.wav", "more/labels/c.wav"}),
        (bucket, beside / "labels", {"a.wav", "labels/b.wav"}),
        (bucket, tmp_path / "labels", {"a.wav", "labels/b.wav", "more/labels/c.wav"}),
    ):
        label_set.require_apart(str(one), str(to))
        assert {file.path for file in label_set.iter_bucket(str(one), str(to))} == left


def test_folders_of_a_folder_are_named(to: str) -> None:
    assert listing.folders(to) == [
        "my version-9", "version-03", "version-1", "version-2", "version-3", "version-x", "versions"
    ]  # fmt: skip
    assert listing.folders(f"{to}/version-2") == []
    assert listing.folders(f"{to}/labels.json") == []
    assert listing.folders(f"{to}/nowhere") == []
