"""All readers refuse damaged labels and manifests, and parts that changed after their listing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audiocnn import storage
from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.errors import ChangedError, FormatError
from audiocnn.labels import label_set, part as label_part, shard_list
from audiocnn.labels.diff import compare_listing
from audiocnn.labels.label_set import LabelPart
from audiocnn.labels.reader import open_labels
from audiocnn.labels.shard_list import row_of
from audiocnn.model.predictor import Predictor
from audiocnn.review import label_index
from audiocnn.review.label_copy import Query
from audiocnn.review.label_index import Browser
from audiocnn.storage import listing
from helpers.common import make_bundle
from helpers.small_labels import label_bucket


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bundle`, `bucket` (four sounds) and `labels` in one part."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "bucket").mkdir()
    for index in range(4):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index], index, 9.0, 16_000)
        (folder / "bucket" / f"{index}.wav").write_bytes(encode(samples, 16_000))
    make_bundle(folder / "bundle")
    predictor = Predictor.load(folder / "bundle")
    label_bucket(str(folder / "labels"), str(folder / "bucket"), predictor, str(folder / "bundle"))
    return folder


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + 16] = bytes(byte ^ 0x55 for byte in data[at : at + 16])
    path.write_bytes(data)


def readers(to: Path, part: LabelPart) -> list[Callable[[], object]]:
    """Return functions that read a part of labels, each in another way."""
    return [
        lambda: label_set.read_labels(str(to)),
        lambda: list(label_set.batches([part], ["uri", "start_s", "score", "embedding"])),
        lambda: label_part.without(part.uri, {"nobody"}),
    ]


def test_a_part_in_the_place_of_another_is_refused(place: Path, tmp_path: Path) -> None:
    """Sums do not show the error if both parts have the same number of recordings."""
    to = Path(shutil.copytree(place / "labels", tmp_path / "labels"))
    (listed,) = label_set.find_parts(str(to), ["aa"])
    label_part.without(listed.uri, {str(place / "bucket" / "0.wav")})
    (part,) = label_set.find_parts(str(to), ["aa"])
    for read in readers(to, part):  # a rewritten part keeps its name
        read()
    other = to / label_set.part_name("aa", 1)
    shutil.copy(part.uri, other)
    _, copied = label_set.find_parts(str(to), ["aa"])
    for read in (*readers(to, copied), lambda: label_part.read_ledger(copied.uri)):
        with pytest.raises(FormatError, match=rf"{other.name}: it is parts/part-aa-000000\.parq"):
            read()


def test_damaged_labels_are_refused_wherever_they_are_read(place: Path, tmp_path: Path) -> None:
    to = Path(shutil.copytree(place / "labels", tmp_path / "labels"))
    (whole,) = label_set.find_parts(str(to), ["aa"])
    damage(Path(whole.uri), place_of_embeddings(Path(whole.uri)))
    (part,) = label_set.find_parts(str(to), ["aa"])
    for read in readers(to, part):
        with pytest.raises(FormatError, match=rf"{Path(part.uri).name}.*CRC checksum.*delete it"):
            read()


def place_of_embeddings(part: Path) -> int:
    """Return a position within the embeddings of a part: only a checksum shows damage there."""
    group = pq.read_metadata(part).row_group(0)
    columns = (group.column(at) for at in range(group.num_columns))
    (column,) = (one for one in columns if one.path_in_schema.startswith("embedding"))
    return int(column.data_page_offset) + int(column.total_compressed_size) // 2


def test_damaged_labels_are_no_part_of_what_is_looked_through(place: Path, tmp_path: Path) -> None:
    to = Path(shutil.copytree(place / "labels", tmp_path / "labels"))
    (part,) = label_set.find_parts(str(to), ["aa"])
    damage(Path(part.uri), 60)
    browser = Browser(str(to))
    browser.refresh(wait=True)
    assert browser.state.parts_read == 0
    assert Path(part.uri).name in str(browser.state.trouble)
    assert "delete it" in str(browser.state.trouble)
    assert browser.find(Query()).total == 0
    browser.close()


@pytest.fixture(params=["local", "s3"])
def copy(request: pytest.FixtureRequest, place: Path, tmp_path: Path) -> str:
    """A copy of the labels, on a local disk and in an S3 store."""
    to = str(tmp_path / "labels")
    if request.param == "s3":
        request.getfixturevalue("connections")
        to = f"{request.getfixturevalue('bucket')}/labels"
    for file in listing.list_files(str(place / "labels")):
        storage.write_bytes(f"{to}/{file.path}", storage.read_bytes(file.uri))
    return to


def test_a_part_that_was_written_anew_since_it_was_listed_is_not_read(
    copy: str, place: Path
) -> None:
    """Otherwise old and new rows would be mixed, and the new part would be overwritten."""
    opened = open_labels(copy)
    (part,) = parts = label_set.find_parts(copy, ["aa"])
    sums, _, _ = label_set.collect(copy, parts)
    assert label_part.without(part.uri, {str(place / "bucket" / "0.wav")})
    now = label_set.find_parts(copy, ["aa"])

    def compare() -> None:
        with compare_listing(iter([])) as comparison:
            comparison.against(parts, retry_failed=False)

    def take_out() -> None:
        with compare_listing(iter([])) as comparison:
            comparison.against(now, retry_failed=False)
            ((stale, uris),) = comparison.stale()
            assert label_part.without(stale.uri, {min(uris)}, version=stale.version)
            label_part.without(stale.uri, uris, version=stale.version)

    for read in (
        lambda: list(label_set.batches(parts, ["uri", "score"])),
        lambda: list(opened.batches(["uri", "score"])),
        lambda: label_set.collect(copy, parts),
        lambda: label_part.without(part.uri, {"nobody"}, version=part.version),
        compare,
    ):
        with pytest.raises(ChangedError, match=rf"{Path(part.uri).name}: it changed meanwhile"):
            read()
    assert label_set.find_parts(copy, ["aa"]) == now  # no part was rewritten
    assert label_set.collect(copy, now)[0].labelled == sums.labelled - 1
    with pytest.raises(ChangedError):
        take_out()
    assert label_set.collect(copy, label_set.find_parts(copy))[0].labelled == sums.labelled - 2


def test_what_is_written_anew_before_it_is_copied_is_looked_through_the_next_time(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_index, "_FRESH_S", 0.0)
    to = str(shutil.copytree(place / "labels", tmp_path / "labels"))
    real = label_index.find_parts

    def then_rewritten(uri: str, listings: list[str]) -> list[LabelPart]:
        (part,) = parts = real(uri, listings)
        label_part.without(part.uri, {str(place / "bucket" / "0.wav")})
        return parts

    browser = Browser(to)
    with monkeypatch.context() as patched:
        patched.setattr(label_index, "find_parts", then_rewritten)
        browser.refresh(wait=True)
    assert "it changed meanwhile" in str(browser.state.trouble)
    assert browser.state.parts_read == 0
    browser.refresh(wait=True)
    assert (browser.state.trouble, browser.state.sums.labelled) == (None, 3)
    browser.close()


def test_a_damaged_manifest_is_refused(place: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "manifest.parquet")
    shard_list.write_manifest(uri, map(row_of, listing.list_files(str(place / "bucket"))))
    damage(Path(uri), 30)
    with pytest.raises(FormatError, match=r"manifest\.parquet: not a manifest, or a damaged one.*"):
        shard_list.read_shard(uri, 0)
