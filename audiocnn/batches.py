"""One rank's share of the training windows: held in memory, or streamed from the parts.

Both shuffle by the epoch's number alone, so an epoch is the same whether or not the ones
before it ran in this process.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from audiocnn.config import TrainConfig
from audiocnn.featureset import FeatureSet, Rows

Batch = tuple[torch.Tensor, torch.Tensor]
"""[batch, n_mels, n_frames] float32 decibels, and [batch] int64 class indices."""


class Batches(Protocol):
    """One rank's share of the training windows."""

    steps: int
    """Batches in an epoch; the same on every rank."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, shuffled by its number."""


class MemoryBatches:
    """Windows held once as a tensor, shuffled over the whole set.

    Every rank draws the same permutation and takes every `world`-th of each batch, so the
    global batches do not depend on the number of ranks. A last, partial batch is left out of
    that epoch.
    """

    def __init__(
        self,
        logmel: torch.Tensor,
        labels: torch.Tensor,
        config: TrainConfig,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.logmel, self.labels = logmel, labels
        self.batch_size = config.batch_size
        self.steps = len(labels) // self.batch_size
        self.seed, self.rank, self.world = config.seed, rank, world

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, shuffled by its number."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.labels), generator=generator)
        for step in range(self.steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            chosen = chosen[self.rank :: self.world]
            yield self.logmel[chosen].float(), self.labels[chosen]


class StreamedBatches:
    """Windows read part by part, with the next part read ahead; memory is a few parts.

    Each rank reads its own parts, in another order each epoch, and shuffles over two parts at a
    time. Every rank stops after as many batches as the rank with the fewest windows has.
    """

    def __init__(
        self,
        features: FeatureSet,
        folds: list[int],
        config: TrainConfig,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.features, self.folds, self.seed = features, folds, config.seed
        shares = _shares(features.part_rows(folds), world)
        self.parts = shares[rank]
        self.batch_size = config.batch_size // world
        self.steps = _fewest(shares, self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, shuffled by its number."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(list(self.parts)).tolist()
        left: Rows | None = None
        given = 0
        for rows in self._read_ahead(order):
            pool = rows if left is None else Rows.concatenate([left, rows], self.features.config)
            pool = pool.take(rng.permutation(len(pool)))
            # Half of the pool stays, to be mixed with the next part.
            ready = len(pool) // 2 // self.batch_size
            for index in range(ready):
                if given == self.steps:
                    return
                given += 1
                yield self._batch(pool, index)
            left = pool.take(np.arange(ready * self.batch_size, len(pool)))
        while left is not None and given < self.steps:
            yield self._batch(left, 0)
            left = left.take(np.arange(self.batch_size, len(left)))
            given += 1

    def _batch(self, pool: Rows, index: int) -> Batch:
        chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
        labels = self.features.label_indices(pool.labels[chosen])
        return torch.from_numpy(pool.logmel[chosen]).float(), torch.from_numpy(labels)

    def _read_ahead(self, order: list[str]) -> Iterator[Rows]:
        with ThreadPoolExecutor(1) as reader:
            pending = [reader.submit(self.features.load_part, order[0], self.folds)]
            for name in [*order[1:], None]:
                rows = pending.pop().result()
                if name is not None:
                    pending.append(reader.submit(self.features.load_part, name, self.folds))
                yield rows


def fewest_batches(features: FeatureSet, folds: list[int], config: TrainConfig, world: int) -> int:
    """Streamed batches of the rank that has the fewest windows: 0 is too few to train."""
    return _fewest(_shares(features.part_rows(folds), world), config.batch_size // world)


def _fewest(shares: list[dict[str, int]], batch_size: int) -> int:
    return min(sum(share.values()) for share in shares) // batch_size


def _shares(parts: dict[str, int], world: int) -> list[dict[str, int]]:
    """Parts with their row counts, dealt to the ranks so that their sums are close."""
    shares: list[dict[str, int]] = [{} for _ in range(world)]
    for name, rows in sorted(parts.items(), key=lambda item: (-item[1], item[0])):
        if rows:
            min(shares, key=lambda share: sum(share.values()))[name] = rows
    return shares
