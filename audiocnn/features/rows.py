"""Windows of features in memory."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from audiocnn.config import FeatureConfig
from audiocnn.features.part import schema


@dataclass(frozen=True, kw_only=True)
class FeatureRows:
    """Windows in memory, one entry per window in every field; times are in seconds.

    `logmel` is [windows, n_mels, n_frames] float16 decibels.
    """

    clip_ids: list[str]
    uris: list[str]
    start_s: np.ndarray
    duration_s: np.ndarray
    labels: list[str]
    sources: list[str | None]
    folds: np.ndarray
    logmel: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, order: np.ndarray) -> "FeatureRows":
        """Return the rows at the indices `order`, [rows], in that order."""
        taken: dict[str, Any] = {
            name: [value[i] for i in order] if isinstance(value, list) else value[order]
            for name, value in vars(self).items()
        }
        return FeatureRows(**taken)

    @staticmethod
    def of_table(table: pa.Table) -> "FeatureRows":
        """Return the rows of one part."""
        return FeatureRows(
            clip_ids=table["clip_id"].to_pylist(),
            uris=table["uri"].to_pylist(),
            start_s=table["start_s"].to_numpy(),
            duration_s=table["duration_s"].to_numpy(),
            labels=table["label"].to_pylist(),
            sources=table["source"].to_pylist(),
            folds=table["fold"].to_numpy(),
            logmel=_ndarray(table["logmel"]),
        )

    @staticmethod
    def concatenate(parts: list["FeatureRows"], config: FeatureConfig) -> "FeatureRows":
        """Return the rows of several parts together, in order."""
        if not parts:
            empty = schema(config).empty_table()
            return FeatureRows.of_table(empty)
        merged: dict[str, Any] = {}
        for one in dataclasses.fields(FeatureRows):
            values = [getattr(part, one.name) for part in parts]
            merged[one.name] = (
                [item for value in values for item in value]
                if isinstance(values[0], list)
                else np.concatenate(values)
            )
        return FeatureRows(**merged)


def _ndarray(column: pa.ChunkedArray) -> np.ndarray:
    """Return a tensor column as [rows, n_mels, n_frames]."""
    tensors: np.ndarray = column.combine_chunks().to_numpy_ndarray()
    return tensors
