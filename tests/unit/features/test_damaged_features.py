"""Features that changed in any way after ingest wrote them are refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.corpus.clips import Clip
from audiocnn.errors import FormatError
from audiocnn.features import feature_set, rows
from audiocnn.features.band_sums import BandSums
from audiocnn.features.extractor import Extractor
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from audiocnn.features.part import item_of, part_name
from audiocnn.storage import parquet
from helpers.common import SMALL
from pipelines.ingest.job import _ledgers


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """Write features in two parts of six clips each."""
    folder = tmp_path_factory.mktemp("damage")
    items = []
    for index in range(12):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 6], index, 3.2, 16_000)
        (folder / f"{index}.wav").write_bytes(encode(samples, 16_000))
        uri, label = str(folder / f"{index}.wav"), "ab"[index % 2]
        items.append(item_of(Clip(clip_id=f"{index:02d}", uri=uri, label=label, fold=1)))
    with Extractor(SMALL, AudioLimits()) as extractor:
        ledgers = []
        for shard in (items[:6], items[6:]):
            (folder / "parts").mkdir(exist_ok=True)
            ledgers.append(extractor.part(shard, str(folder / part_name(SMALL, shard))))
    features = FeatureSet(
        uri=str(folder), config=SMALL, classes=("a", "b"), corpus="", counts={},
        parts={one.part: FeaturePart(windows=one.windows, rows=one.rows) for one in ledgers},
        folds={1: {"a": 6, "b": 6}}, bands={1: BandSums.merge([one.bands[1] for one in ledgers])},
    )  # fmt: skip
    features.write()
    return features


@pytest.fixture
def folder(written: FeatureSet, tmp_path: Path) -> Path:
    """A copy of the features that this process has not read yet."""
    return Path(shutil.copytree(written.uri, tmp_path / "features"))


def load(folder: Path) -> rows.FeatureRows:
    return FeatureSet.read(str(folder)).load([1])


def without_checksums(path: Path) -> None:
    """Write a part again without page checksums, as earlier versions did."""
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as file:
        file.write_table(table, row_group_size=64)


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + 16] = bytes(byte ^ 0x55 for byte in data[at : at + 16])
    path.write_bytes(data)


def test_sixteen_damaged_bytes_anywhere_in_a_part_are_noticed(folder: Path) -> None:
    whole = load(folder)
    assert len(whole) == 12 * 4 - 12  # the last 0.2 s of each clip give no window
    path = min(folder.glob("parts/*.parquet"))
    data = path.read_bytes()
    for place in range(1, 20):
        damage(path, place * len(data) // 20)
        with pytest.raises(FormatError, match=path.name) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        path.write_bytes(data)
    assert np.array_equal(load(folder).logmel, whole.logmel)


@pytest.mark.parametrize("known", [False, True])
def test_a_part_in_the_place_of_another_is_noticed(folder: Path, known: bool) -> None:
    """This also holds if the part's earlier content was already checked (`known`)."""
    first, second = sorted(folder.glob("parts/*.parquet"))
    features = FeatureSet.read(str(folder))
    if known:
        features.load([1])
    shutil.copy(first, second)
    for _ in range(2):
        with pytest.raises(FormatError, match=rf"{second.name}: its rows do not match .*delete"):
            features.load([1])


def test_a_part_in_the_place_of_another_is_not_gone_on_with(folder: Path) -> None:
    first, second = sorted(folder.glob("parts/*.parquet"))
    names = {f"parts/{path.name}" for path in (first, second)}
    assert {ledger.part for ledger in _ledgers(str(folder))} == names
    first.replace(second)  # its ledger names the first part, which is gone
    assert _ledgers(str(folder)) == []


def test_features_that_were_written_without_checksums_load_and_are_compared(
    folder: Path, tmp_path: Path
) -> None:
    whole = load(folder)
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    for path in old.glob("parts/*.parquet"):
        without_checksums(path)
    assert np.array_equal(load(old).logmel, whole.logmel)
    older = Path(shutil.copytree(old, tmp_path / "older"))
    path = min(older.glob("parts/*.parquet"))
    table = pq.read_table(path)
    logmel = table["logmel"].combine_chunks().to_numpy_ndarray().copy()
    logmel[1, 2, 3] += 1  # without checksums, only the digest of the rows differs
    column = type(table["logmel"].combine_chunks()).from_numpy_ndarray(
        logmel, dim_names=["mel", "frame"]
    )
    place = table.schema.get_field_index("logmel")
    pq.write_table(table.set_column(place, table.schema.field(place), column), path)
    with pytest.raises(FormatError, match="its rows do not match"):
        load(older)


def test_rows_are_hashed_once_for_each_file_and_pages_checked_each_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Any] = []
    real = feature_set.rows_digest
    monkeypatch.setattr(
        feature_set, "rows_digest", lambda table: (hashed.append(table), real(table))[1]
    )
    features = FeatureSet.read(str(folder))
    for _ in range(3):
        features.load([1])
    assert len(hashed) == 2
    path = min(folder.glob("parts/*.parquet"))
    whole = path.read_bytes()
    without_checksums(path)  # another file, with the same rows
    for _ in range(2):
        features.load([1])
    assert len(hashed) == 3
    path.write_bytes(whole)
    damage(path, path.stat().st_size // 2)
    with pytest.raises(FormatError, match="CRC checksum"):
        features.load([1])


def test_a_disk_that_fails_is_no_damage(folder: Path) -> None:
    path = min(folder.glob("parts/*.parquet"))
    broken = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output"), parquet.opened("a", path.open("rb")):
        raise broken
