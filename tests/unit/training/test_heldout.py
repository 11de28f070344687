"""Which parts of a held-out fold a rank reads, how often, and how many at once."""

from collections import Counter

import numpy as np
import pytest
import torch

from audiocnn.config import ModelConfig
from audiocnn.evaluation.held_out import HeldOut
from audiocnn.evaluation.predictions import Predictions
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.rows import FeatureRows
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.model.resnet import AudioCNN
from helpers.common import SMALL
from helpers.small_features import write_features

FOLD = 2


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return write_features(str(tmp_path_factory.mktemp("features")))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of times that each part was read."""
    counts: Counter[str] = Counter()
    load = FeatureSet.load_part

    def counted(self: FeatureSet, part: str, folds: list[int]) -> FeatureRows:
        counts[part] += 1
        return load(self, part, folds)

    monkeypatch.setattr(FeatureSet, "load_part", counted)
    return counts


def numbers(fold: HeldOut) -> list[int]:
    """Return the numbers of a fold's windows; a log-mel's first value is its number."""
    found = []
    for logmel, labels in fold.batches():
        assert logmel.dtype == torch.float32
        assert 0 < len(logmel) == len(labels) <= 64
        found += logmel[:, 0, 0].int().tolist()
    return found


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("world", [1, 2, 4, 12])
def test_each_window_is_one_ranks(features: FeatureSet, hold: bool, world: int) -> None:
    ranks = [HeldOut(features, FOLD, rank=r, world=world, hold=hold) for r in range(world)]
    seen = [number for rank in ranks for number in numbers(rank)]
    assert sorted(seen) == sorted(int(name) for name in features.load([FOLD]).clip_ids)


@pytest.mark.parametrize("hold", [True, False])
def test_a_rank_reads_its_own_parts_and_held_ones_once(
    features: FeatureSet, read: Counter[str], hold: bool
) -> None:
    first, second = (HeldOut(features, FOLD, rank=r, world=2, hold=hold) for r in range(2))
    assert not read  # nothing is read before it is needed
    for _ in range(3):
        numbers(first)
    assert set(read) == set(first.parts)
    assert set(read.values()) == {1 if hold else 3}
    numbers(second)
    assert set(read) == set(features.parts)
    assert not set(first.parts) & set(second.parts)


def test_a_streamed_fold_is_never_in_memory_whole(
    features: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiocnn.evaluation.held_out._AT_ONCE", 4)
    sizes: list[int] = []
    concatenate = FeatureRows.concatenate

    def measured(parts: list[FeatureRows], config: object) -> FeatureRows:
        rows = concatenate(parts, config)  # type: ignore[arg-type]
        sizes.append(len(rows))
        return rows

    monkeypatch.setattr(FeatureRows, "concatenate", staticmethod(measured))
    fold = HeldOut(features, FOLD, hold=False)
    assert len(numbers(fold)) == 30
    assert len(sizes) > 1
    assert max(sizes) < 4 + 6  # at most 3 rows are left over, and a part has at most 5


def test_ranks_together_predict_what_one_does(features: FeatureSet) -> None:
    torch.manual_seed(0)
    model = AudioCNN(ModelConfig(stages=(1, 1, 1, 1), channels=4), SMALL.n_mels, 2)
    predictor = Predictor(Bundle(model=model, feature=SMALL, classes=features.classes))

    def predicted(world: int, hold: bool) -> Predictions:
        ranks = [HeldOut(features, FOLD, rank=r, world=world, hold=hold) for r in range(world)]
        return Predictions.merge([one for rank in ranks for one in rank.predictions(predictor, 7)])

    alone, rows = predicted(1, True), features.load([FOLD])
    assert (alone.fold, alone.seed) == (FOLD, 7)
    assert (alone.clip_ids, alone.labels) == (rows.clip_ids, rows.labels)
    assert np.array_equal(alone.scores, predictor.scores(rows.logmel))
    for other in (predicted(1, False), predicted(3, True), predicted(12, False)):
        assert (other.clip_ids, other.labels) == (alone.clip_ids, alone.labels)
        assert np.array_equal(other.duration_s, alone.duration_s)
        assert np.allclose(other.scores, alone.scores, atol=1e-6)
