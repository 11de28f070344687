import numpy as np
import pytest
import torch

from audiocnn.config import TrainConfig
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.rows import FeatureRows
from audiocnn.training.batches import Batches, MemoryBatches, StreamedBatches
from helpers.common import SMALL
from helpers.small_features import write_features

CONFIG = TrainConfig(batch_size=8)
FOLDS = [1, 2]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return write_features(str(tmp_path_factory.mktemp("features")))


def memory(features: FeatureSet, rank: int, world: int) -> Batches:
    rows = features.load(FOLDS)
    labels = torch.from_numpy(features.label_indices(rows.labels))
    return MemoryBatches(torch.from_numpy(rows.logmel), labels, CONFIG, rank=rank, world=world)


def streamed(features: FeatureSet, rank: int, world: int) -> Batches:
    return StreamedBatches(features, FOLDS, CONFIG, rank=rank, world=world)


def numbers(batches: Batches, epoch: int, first: int = 0) -> list[list[int]]:
    found = []
    for logmel, labels in batches.epoch(epoch, first):
        assert logmel.dtype == torch.float32
        assert logmel.shape[1:] == (SMALL.n_mels, SMALL.n_frames)
        assert len(labels) == len(logmel)
        found.append(logmel[:, 0, 0].int().tolist())
    return found


@pytest.mark.parametrize("make", [memory, streamed])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_an_epoch_gives_windows_once_and_as_many_batches_on_every_rank(
    features: FeatureSet, make: object, world: int
) -> None:
    wanted = {int(name) for name in features.load(FOLDS).clip_ids}
    ranks = [make(features, rank, world) for rank in range(world)]  # type: ignore[operator]
    assert len({r.steps for r in ranks}) == 1
    by_rank = [numbers(r, 0) for r in ranks]
    assert all(len(found) == ranks[0].steps for found in by_rank)
    for batches in zip(*by_rank, strict=True):
        assert sum(len(batch) for batch in batches) == CONFIG.batch_size
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
    seen = [n for found in by_rank for batch in found for n in batch]
    assert len(seen) == len(set(seen))
    assert set(seen) <= wanted
    assert len(seen) > 0.75 * len(wanted)


@pytest.mark.parametrize("make", [memory, streamed])
def test_epochs_differ_and_repeat_by_their_number_alone(features: FeatureSet, make: object) -> None:
    first = make(features, 0, 2)  # type: ignore[operator]
    again = make(features, 0, 2)  # type: ignore[operator]
    assert numbers(first, 0) != numbers(first, 1)
    assert numbers(first, 1) == numbers(again, 1)


@pytest.mark.parametrize("make", [memory, streamed])
def test_an_epoch_begun_in_the_middle_gives_what_is_left_of_it(
    features: FeatureSet, make: object
) -> None:
    made = make(features, 1, 2)  # type: ignore[operator]
    whole = numbers(made, 2)
    for first in (1, made.steps // 2, made.steps):
        assert numbers(made, 2, first) == whole[first:]


def test_a_stream_begun_in_the_middle_reads_no_part_that_it_is_past(
    features: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = FeatureSet.load_part

    def counted(self: FeatureSet, part: str, folds: list[int]) -> FeatureRows:
        read.append(part)
        return load(self, part, folds)

    monkeypatch.setattr(FeatureSet, "load_part", counted)
    made = streamed(features, 0, 1)
    numbers(made, 0)
    assert sorted(read) == sorted(features.parts)
    read.clear()
    numbers(made, 0, made.steps - 1)
    assert len(read) <= 3


def test_a_global_batch_does_not_depend_on_the_number_of_ranks(features: FeatureSet) -> None:
    alone = numbers(memory(features, 0, 1), 3)
    shared = [numbers(memory(features, rank, 2), 3) for rank in range(2)]
    for batch, *parts in zip(alone, *shared, strict=True):
        assert sorted(batch) == sorted(parts[0] + parts[1])


def test_streaming_mixes_parts(features: FeatureSet) -> None:
    batches = numbers(streamed(features, 0, 1), 0)
    bounds = np.cumsum([0] + [6 + part for part in range(9)])
    parts = [{int(np.searchsorted(bounds, n, "right")) for n in batch} for batch in batches]
    assert np.mean([len(p) for p in parts]) > 1.5


def test_labels_stay_with_their_windows(features: FeatureSet) -> None:
    rows = features.load(FOLDS)
    label_of = dict(zip(rows.clip_ids, features.label_indices(rows.labels), strict=True))
    for make in (memory, streamed):
        for logmel, labels in make(features, 0, 1).epoch(0):
            for number, label in zip(logmel[:, 0, 0].int().tolist(), labels.tolist(), strict=True):
                assert label_of[str(number)] == label
