"""Sums over windows, by mel band, from which means and standard deviations are computed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BandSums:
    """Sums over frames; merged sums give the exact mean and deviation of several folds together."""

    count: int
    """Number of frames."""
    total: list[float]
    """[n_mels] sums of the decibels."""
    squares: list[float]
    """[n_mels] sums of the squared decibels."""

    @staticmethod
    def of(logmel: np.ndarray) -> "BandSums":
        """Return the sums of log-mels [windows, n_mels, n_frames] in decibels."""
        x = logmel.astype(np.float64)
        return BandSums(
            count=x.shape[0] * x.shape[2],
            total=x.sum(axis=(0, 2)).tolist(),
            squares=(x**2).sum(axis=(0, 2)).tolist(),
        )

    @staticmethod
    def merge(parts: list["BandSums"]) -> "BandSums":
        """Return the sums of several together."""
        return BandSums(
            count=sum(p.count for p in parts),
            total=np.sum([p.total for p in parts], axis=0).tolist(),
            squares=np.sum([p.squares for p in parts], axis=0).tolist(),
        )

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each band's mean and deviation (at least 1), both [n_mels] float32 decibels."""
        mean = np.array(self.total) / self.count
        variance = np.array(self.squares) / self.count - mean**2
        return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1.0)).astype(np.float32)
