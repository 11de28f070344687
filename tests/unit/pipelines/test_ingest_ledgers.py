"""A temporary part that a killed ingest left is ignored, even if it is complete."""

from pathlib import Path

from audiocnn.config import AudioLimits
from audiocnn.corpus.folds import with_folds
from audiocnn.corpus.read import read_corpus
from audiocnn.features.extractor import Extractor
from audiocnn.features.part import item_of, part_name
from helpers.common import SMALL
from pipelines.ingest.job import _ledgers


def test_a_part_that_was_not_put_in_its_place_is_none(corpus: Path, tmp_path: Path) -> None:
    clips = with_folds(read_corpus(str(corpus)), 5).clips
    items = [item_of(clip) for clip in clips[:4]]
    (tmp_path / "parts").mkdir()
    names = [part_name(SMALL, items[:2]), "parts/.left.tmp"]
    with Extractor(SMALL, AudioLimits()) as extractor:
        for name, some in zip(names, (items[:2], items[2:]), strict=True):
            extractor.part(some, str(tmp_path / name))
    assert [ledger.part for ledger in _ledgers(str(tmp_path))] == names[:1]
