"""Calibrate scores: a temperature, and for each class the lowest score at which it is predicted.

Both are fitted to scores of windows that the model was not trained on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

PRECISION = 0.95
"""Precision to which the threshold of each class is fitted."""

_LEAST = 1e-12
"""Floor of a score before its logarithm is taken."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits become scores, and from which score on the best class is predicted."""

    temperature: float = 1.0
    """Divisor of the logits before the softmax (Guo et al. 2017)."""
    thresholds: tuple[float, ...] = ()
    """Lowest score at which each class is predicted; if empty, there is no limit."""

    def known(self, scores: np.ndarray) -> np.ndarray:
        """Return whether the best class reaches its threshold, by row of [rows, n_classes] scores.

        If all scores are 0, as for silence, no class reaches it.
        """
        best = scores.max(axis=1)
        known: np.ndarray = best > 0
        if self.thresholds:
            known &= best >= np.array(self.thresholds)[scores.argmax(axis=1)]
        return known

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values, for `bundle.json`."""
        return {"temperature": self.temperature, "thresholds": list(self.thresholds)}

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "Calibration":
        """Return the calibration that `to_json` wrote; older bundles have no thresholds."""
        thresholds = tuple(float(value) for value in plain.get("thresholds", ()))
        return Calibration(temperature=float(plain["temperature"]), thresholds=thresholds)


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax scores [rows, n_classes] as if the logits were divided by a temperature.

    Rows with only zeros stay zeros.
    """
    powers = np.log(np.maximum(scores, _LEAST)) / temperature
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result * scores.any(axis=1, keepdims=True)


def fit_temperature(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Return the temperature with the lowest negative log-likelihood.

    `scores` are [rows, n_classes], `truth` [rows] class indices, `weights` [rows]. If every
    prediction is right, the result is at least 1: the likelihood rises without end as the
    temperature falls.
    """

    def loss(temperature: float) -> float:
        of_truth = apply_temperature(scores, temperature)[np.arange(len(truth)), truth]
        return float(np.average(-np.log(np.maximum(of_truth, _LEAST)), weights=weights))

    # The loss is convex in 1 / temperature, so its minimum is next to the best grid point.
    low, high = (1.0 if (scores.argmax(axis=1) == truth).all() else 0.05), 20.0
    for _ in range(3):
        grid = np.geomspace(low, high, 25)
        best = int(np.argmin([loss(float(value)) for value in grid]))
        low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    return round(float(grid[best]), 3)


def fit_thresholds(scores: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """Return for each class the lowest threshold with a precision of at least `PRECISION`.

    `scores` are [rows, n_classes], `truth` [rows] class indices. If no threshold reaches
    `PRECISION`, the one with the highest precision is used. If all predictions of a class are
    wrong, the threshold is just above their scores. If a class was never predicted, nothing is
    known about it, and the threshold is 0.
    """
    answers, best = scores.argmax(axis=1), scores.max(axis=1)
    thresholds = []
    for index in range(scores.shape[1]):
        mine = answers == index
        order = np.argsort(-best[mine], kind="stable")
        found, right = best[mine][order], (truth[mine] == index)[order]
        thresholds.append(_threshold(found, right))
    return tuple(thresholds)


def _threshold(scores: np.ndarray, right: np.ndarray) -> float:
    """Return one class's threshold from its scores, highest first, and whether each is right."""
    if not len(scores):
        return 0.0
    if not right.any():
        return float(np.nextafter(np.float32(scores[0]), np.float32(2)))  # stored as float32
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    enough = np.flatnonzero(precision >= PRECISION)
    last = int(enough[-1]) if len(enough) else int(precision.argmax())
    if last == len(scores) - 1:
        return 0.0
    return float(scores[last] + scores[last + 1]) / 2


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often predictions with about the same score were right; arrays are [bins]."""

    counts: np.ndarray
    """Number of predictions in each bin."""
    scores: np.ndarray
    """Mean score of each bin."""
    accuracies: np.ndarray
    """Fraction of right predictions of each bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap of score and accuracy, weighted by count, 0 to 1."""
        gaps = np.abs(self.scores - self.accuracies)
        return float((self.counts * gaps).sum() / max(1, self.counts.sum()))


def reliability(scores: np.ndarray, truth: np.ndarray, bins: int = 10) -> Reliability:
    """Group predictions by their score in bins of equal width.

    `scores` are [rows, n_classes], `truth` [rows] class indices.
    """
    best, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    place = np.minimum((best * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    some = np.maximum(counts, 1)
    return Reliability(
        counts=counts,
        scores=np.bincount(place, weights=best, minlength=bins) / some,
        accuracies=np.bincount(place, weights=right, minlength=bins) / some,
    )
