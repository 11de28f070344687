"""One rank's share of a fold that is kept out of training, and predictions for it."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from audiocnn.evaluation.predictions import Predictions
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.rows import FeatureRows
from audiocnn.model.predictor import Predictor
from audiocnn.training.batches import Batch, deal_parts

_AT_ONCE = 64
"""Most windows in a forward pass."""


class HeldOut:
    """The windows of a fold in this rank's parts; each part belongs to exactly one rank.

    With `hold` they are read once and stay in memory, sorted by clip and time. Otherwise they are
    read again for each iteration, and memory holds a few parts.
    """

    def __init__(
        self, features: FeatureSet, fold: int, *, rank: int = 0, world: int = 1, hold: bool
    ) -> None:
        self.features, self.fold, self.hold = features, fold, hold
        self.parts = deal_parts(features.part_rows([fold]), world)[rank]

    def batches(self) -> Iterator[Batch]:
        """Yield batches of log-mels and class indices in order. Raises AudioCNNError."""
        for rows in self._groups():
            labels = self.features.label_indices(rows.labels)
            yield torch.from_numpy(rows.logmel).float(), torch.from_numpy(labels)

    def predictions(self, predictor: Predictor, seed: int) -> list[Predictions]:
        """Return a model's predictions, in groups of windows; `seed` is the seed of its training.

        Raises AudioCNNError.
        """
        return [
            Predictions(
                fold=self.fold,
                seed=seed,
                bundle="",
                clip_ids=rows.clip_ids,
                uris=[self.features.name_of(uri) for uri in rows.uris],
                labels=rows.labels,
                duration_s=rows.duration_s,
                scores=predictor.scores(rows.logmel),
            )
            for rows in self._groups()
        ]

    @cached_property
    def _held(self) -> FeatureRows:
        return self.features.load([self.fold], self.parts)

    def _groups(self) -> Iterator[FeatureRows]:
        if self.hold:
            yield from _split(self._held)
            return
        left: list[FeatureRows] = []
        for part in self.features.stream([self.fold], self.parts):
            rows = FeatureRows.concatenate([*left, part], self.features.config)
            whole = len(rows) // _AT_ONCE * _AT_ONCE
            yield from _split(rows.take(np.arange(whole)))
            left = [rows.take(np.arange(whole, len(rows)))]
        for rows in left:
            yield from _split(rows)


def _split(rows: FeatureRows) -> Iterator[FeatureRows]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows.take(np.arange(start, min(start + _AT_ONCE, len(rows))))
