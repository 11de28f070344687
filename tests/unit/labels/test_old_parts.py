"""Parts of earlier versions, without the level and channel of windows, are read like all others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn import storage
from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.corpus.clips import Clip
from audiocnn.features.extractor import Extractor
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from audiocnn.features.part import item_of
from audiocnn.labels import label_set, part as label_part
from audiocnn.labels.events import merged
from audiocnn.labels.export.run import FORMATS, export
from audiocnn.labels.reader import open_labels
from audiocnn.model.predictor import Predictor
from audiocnn.review import selection
from audiocnn.review.folder import claim, write_review
from audiocnn.review.label_copy import Query
from audiocnn.review.label_index import Browser
from audiocnn.review.search import embed, nearest
from helpers.common import SMALL, make_bundle
from helpers.small_labels import label_bucket

NEW = ["level_dbfs", "channel"]


def make_old(part: Path) -> None:
    """Rewrite a part as an earlier version would have written it."""
    with pq.ParquetFile(part) as file:
        table, footer = file.read().drop_columns(NEW), file.metadata.metadata
    table = table.replace_schema_metadata(None)
    with pq.ParquetWriter(part, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({b"audiocnn.ledger": footer[b"audiocnn.ledger"]})


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucket")
    for index in range(14):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 8], index, 2.5, 16_000)
        (folder / f"{index:02d}.wav").write_bytes(encode(samples, 16_000))
    return folder


def first(folder: Path) -> list[Path]:
    return sorted((folder / "parts").iterdir())[:1]


def every(folder: Path) -> list[Path]:
    return sorted((folder / "parts").iterdir())


@pytest.mark.parametrize("old", [first, every])
def test_old_labels_are_read_wherever_labels_are(
    bucket: Path, tmp_path: Path, old: Callable[[Path], list[Path]]
) -> None:
    predictor = Predictor(make_bundle(tmp_path / "bundle"))
    folder = tmp_path / "labels"
    label_bucket(str(folder), str(bucket), predictor, str(tmp_path / "bundle"))
    before = label_set.read_labels(str(folder))
    assert before["level_dbfs"].null_count == before["channel"].null_count == 0
    for part in old(folder):
        make_old(part)
    after = label_set.read_labels(str(folder))
    shared = [name for name in before.column_names if name not in NEW]
    assert after.select(shared).equals(before.select(shared))
    if old is first:
        assert 0 < after["level_dbfs"].null_count < len(after)
    browser = Browser(str(folder))
    browser.refresh(wait=True)
    assert browser.state.trouble is None
    assert browser.find(Query()).total == len(before)
    browser.close()
    opened = open_labels(str(folder))
    clip = embed(predictor, str(bucket / "03.wav"), opened)
    assert nearest(opened, clip, 3).matches[0].uri == str(bucket / "03.wav")
    picks = selection.select_windows(opened, 6)
    to = claim(str(tmp_path / "review"), opened, overwrite=False)
    assert len(write_review(to, opened, picks).clips) == 6
    rows = [row for batch in opened.batches(before.column_names) for row in batch.to_pylist()]
    export(FORMATS, merged(rows), str(tmp_path / "out"), str(bucket), high_hz=2_000.0)
    assert len(storage.read_parquet(str(tmp_path / "out" / "events.parquet"))) > 0
    gone = str(bucket / "00.wav")
    assert label_part.without(opened.parts[0].uri, {gone})
    now = label_set.find_parts(str(folder))[:1]
    found = {
        row[0] for part, file in label_set.files(now) for row in label_part.outcomes(part, file)
    }
    assert gone not in found
    assert len(found) == 9


def test_old_features_are_read_beside_new_ones(bucket: Path, tmp_path: Path) -> None:
    clips = [
        Clip(clip_id=path.name, uri=str(path), label="a", fold=1)
        for path in sorted(bucket.iterdir())
    ]
    ledgers = []
    (tmp_path / "parts").mkdir()
    with Extractor(SMALL, AudioLimits()) as extractor:
        for some in (clips[:7], clips[7:]):
            path = tmp_path / "made.parquet"
            ledger = extractor.part([item_of(clip) for clip in some], str(path))
            path.rename(tmp_path / ledger.part)
            ledgers.append(ledger)
    features = FeatureSet(
        uri=str(tmp_path),
        config=SMALL,
        classes=("a", "b"),
        corpus="c",
        counts={},
        parts={one.part: FeaturePart(windows=one.windows, rows=one.rows) for one in ledgers},
        folds={1: {"a": 14}},
        bands=ledgers[0].bands,
    )
    before = features.load([1])
    schema = pq.read_schema(tmp_path / ledgers[0].part)
    assert schema.names[-3:] == ["logmel", *NEW]
    assert all(schema.field(name).nullable for name in NEW)
    make_old(tmp_path / ledgers[0].part)
    after = features.load([1])
    assert after.clip_ids == before.clip_ids
    assert np.array_equal(after.logmel, before.logmel)
