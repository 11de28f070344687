"""One rank's share of the training windows: held in memory, or streamed from the parts.

Both shuffle by the seed and the epoch's number only, and can start at any batch. So a run that is
resumed within an epoch gets the same windows as an uninterrupted run. Every rank takes its share
of each global batch. The size of a global batch does not depend on the number of ranks.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from audiocnn.config import TrainConfig
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.rows import FeatureRows

Batch = tuple[torch.Tensor, torch.Tensor]
"""[batch, n_mels, n_frames] float32 decibels, and [batch] int64 class indices."""


class Batches(Protocol):
    """One rank's share of the training windows."""

    steps: int
    """Number of batches in an epoch; the same on every rank."""

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from index `first` on, shuffled by the epoch's number."""


class MemoryBatches:
    """Windows held as one tensor, on any device, and shuffled all together.

    `logmel` is [windows, n_mels, n_frames], `labels` [windows] int64. Every rank draws the same
    permutation and takes every `world`-th window of each batch, so the global batches do not
    depend on the number of ranks. A last, partial batch is left out of the epoch.
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

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from index `first` on, shuffled by the epoch's number."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.labels), generator=generator).to(self.labels.device)
        for step in range(first, self.steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            chosen = chosen[self.rank :: self.world]
            yield self.logmel[chosen].float(), self.labels[chosen]


class StreamedBatches:
    """Windows read part by part, with the next part read ahead.

    Memory holds three parts, or more if a batch has more windows than a part. Each rank reads its
    own parts, in another order in each epoch, and shuffles over two parts at a time. Every rank
    stops after the same number of batches, which the rank with the fewest windows can fill.
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
        shares = deal_parts(features.part_rows(folds), world)
        self.parts = shares[rank]
        self.batch_size = _share(config.batch_size, rank, world)
        self.steps = _fewest(shares, config.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from index `first` on, shuffled by the epoch's number."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(list(self.parts)).tolist()
        plan = self._plan(order, rng)[first:]
        places = [np.unique(batch[:, 0]).tolist() for batch in plan]
        last = {place: index for index, here in enumerate(places) for place in here}
        with _ReadAhead(self.features, self.folds, [(p, order[p]) for p in sorted(last)]) as parts:
            for index, batch in enumerate(plan):
                yield self._batch(batch, parts)
                parts.forget([place for place in places[index] if last[place] == index])

    def _plan(self, order: list[str], rng: np.random.Generator) -> list[np.ndarray]:
        """Return the windows of each batch, [batch, 2]: index of a part in `order`, and row.

        It needs only the numbers of rows, so a resumed run does not read parts that are done.
        """
        batches: list[np.ndarray] = []
        held = np.empty((0, 2), np.int64)
        for place, name in enumerate(order):
            rows = rng.permutation(self.parts[name])
            windows = np.stack([np.full_like(rows, place), rows], axis=1)
            # Keep half of each part, except the last, to mix it with the next part.
            stays = len(windows) // 2 if place < len(order) - 1 else 0
            pool = rng.permutation(np.concatenate([held, windows[stays:]]))
            whole = len(pool) // self.batch_size
            batches += [pool[i * self.batch_size :][: self.batch_size] for i in range(whole)]
            held = np.concatenate([pool[whole * self.batch_size :], windows[:stays]])
        return batches[: self.steps]

    def _batch(self, batch: np.ndarray, parts: "_ReadAhead") -> Batch:
        shape = (len(batch), self.features.config.n_mels, self.features.config.n_frames)
        logmel, labels = np.empty(shape, np.float32), np.empty(len(batch), np.int64)
        for place in np.unique(batch[:, 0]):
            here = batch[:, 0] == place
            rows, classes = parts[int(place)]
            logmel[here], labels[here] = rows.logmel[batch[here, 1]], classes[batch[here, 1]]
        return torch.from_numpy(logmel), torch.from_numpy(labels)


class _ReadAhead:
    """Parts by their index in the epoch's order; the next part is read while others are used."""

    def __init__(
        self, features: FeatureSet, folds: list[int], wanted: list[tuple[int, str]]
    ) -> None:
        self.features, self.folds, self.wanted = features, folds, iter(wanted)
        self.held: dict[int, tuple[FeatureRows, np.ndarray]] = {}
        self.reader = ThreadPoolExecutor(1)
        self.pending: list[tuple[int, Future[FeatureRows]]] = []

    def __enter__(self) -> "_ReadAhead":
        self._submit()
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.shutdown(cancel_futures=True)

    def __getitem__(self, place: int) -> tuple[FeatureRows, np.ndarray]:
        while place not in self.held:
            read, future = self.pending.pop()
            rows = future.result()
            self._submit()
            self.held[read] = rows, self.features.label_indices(rows.labels)
        return self.held[place]

    def forget(self, places: list[int]) -> None:
        """Release the memory of parts that are not needed any more."""
        for place in places:
            del self.held[place]

    def _submit(self) -> None:
        following = next(self.wanted, None)
        if following is not None:
            place, name = following
            future = self.reader.submit(self.features.load_part, name, self.folds)
            self.pending.append((place, future))


def fewest_batches(features: FeatureSet, folds: list[int], config: TrainConfig, world: int) -> int:
    """Return the number of streamed batches per epoch; 0 means too few windows to train.

    An epoch ends when the first rank has too few windows left for its share of a batch.
    """
    return _fewest(deal_parts(features.part_rows(folds), world), config.batch_size)


def _share(batch_size: int, rank: int, world: int) -> int:
    """Return the number of windows of a rank in a global batch."""
    return len(range(rank, batch_size, world))


def _fewest(shares: list[dict[str, int]], batch_size: int) -> int:
    world = len(shares)
    return min(
        sum(share.values()) // max(1, _share(batch_size, rank, world))
        for rank, share in enumerate(shares)
    )


def deal_parts(parts: dict[str, int], world: int) -> list[dict[str, int]]:
    """Distribute parts, with their row counts, over ranks so that the ranks' sums are close."""
    shares: list[dict[str, int]] = [{} for _ in range(world)]
    for name, rows in sorted(parts.items(), key=lambda item: (-item[1], item[0])):
        if rows:
            min(shares, key=lambda share: sum(share.values()))[name] = rows
    return shares
