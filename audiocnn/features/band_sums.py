"""Sums over windows, by mel band and by fold, from which means and deviations are taken."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BandSums:
    """Sums over frames, by which mean and deviation of any folds together follow exactly."""

    count: int
    total: list[float]
    """[n_mels] sums of decibels."""
    squares: list[float]
    """[n_mels] sums of their squares."""

    @staticmethod
    def of(logmel: np.ndarray) -> "BandSums":
        """Sums of [windows, n_mels, n_frames]."""
        x = logmel.astype(np.float64)
        return BandSums(
            count=x.shape[0] * x.shape[2],
            total=x.sum(axis=(0, 2)).tolist(),
            squares=(x**2).sum(axis=(0, 2)).tolist(),
        )

    @staticmethod
    def merge(parts: list["BandSums"]) -> "BandSums":
        """The sums of several together."""
        return BandSums(
            count=sum(p.count for p in parts),
            total=np.sum([p.total for p in parts], axis=0).tolist(),
            squares=np.sum([p.squares for p in parts], axis=0).tolist(),
        )

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Each band's mean and standard deviation, [n_mels] float32 decibels; std at least 1."""
        mean = np.array(self.total) / self.count
        variance = np.array(self.squares) / self.count - mean**2
        return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1.0)).astype(np.float32)
