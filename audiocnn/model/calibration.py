"""Scores that mean something: a temperature, and for each class the least score it is answered at.

Both are fitted on scores of windows that the model which gave them had never seen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

PRECISION = 0.95
"""Part of a class's answers that should be right: what thresholds are fitted to."""

_LEAST = 1e-12


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a model's logits become scores, and scores an answer."""

    temperature: float = 1.0
    """Logits are divided by it before the softmax (Guo et al. 2017)."""
    thresholds: tuple[float, ...] = ()
    """The least score with which each class is answered; none: every answer is given."""

    def known(self, scores: np.ndarray) -> np.ndarray:
        """[rows, n_classes] scores -> [rows] whether the best class reaches its threshold.

        Scores of 0 alone, as of silence, reach none.
        """
        best = scores.max(axis=1)
        known: np.ndarray = best > 0
        if self.thresholds:
            known &= best >= np.array(self.thresholds)[scores.argmax(axis=1)]
        return known

    def to_json(self) -> dict[str, Any]:
        """As `bundle.json` has it."""
        return {"temperature": self.temperature, "thresholds": list(self.thresholds)}

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "Calibration":
        """What `to_json` gave, or a bundle that had no thresholds yet."""
        thresholds = tuple(float(value) for value in plain.get("thresholds", ()))
        return Calibration(temperature=float(plain["temperature"]), thresholds=thresholds)


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax scores [rows, n_classes] as they are with the logits divided by a temperature.

    Rows of 0 alone stay so.
    """
    powers = np.log(np.maximum(scores, _LEAST)) / temperature
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result * scores.any(axis=1, keepdims=True)


def fit_temperature(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """The temperature with the least negative log-likelihood; [rows, n_classes], [rows], [rows].

    At least 1 where no answer is wrong: the likelihood would rise for ever as it falls.
    """

    def loss(temperature: float) -> float:
        of_truth = apply_temperature(scores, temperature)[np.arange(len(truth)), truth]
        return float(np.average(-np.log(np.maximum(of_truth, _LEAST)), weights=weights))

    # Convex in 1 / temperature: the least of a coarse grid is next to the least of all.
    low, high = (1.0 if (scores.argmax(axis=1) == truth).all() else 0.05), 20.0
    for _ in range(3):
        grid = np.geomspace(low, high, 25)
        best = int(np.argmin([loss(float(value)) for value in grid]))
        low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    return round(float(grid[best]), 3)


def fit_thresholds(scores: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """For each class the least score above which `PRECISION` of its answers were right.

    Where no score keeps so many right, the one with the highest precision. A class whose answers
    were all wrong is answered above their scores only; one that was never answered always, for
    nothing is known of it.
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
    """The threshold of one class's answers, the most certain first."""
    if not len(scores):
        return 0.0
    if not right.any():
        return float(np.nextafter(np.float32(scores[0]), np.float32(2)))  # as scores are kept
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    enough = np.flatnonzero(precision >= PRECISION)
    last = int(enough[-1]) if len(enough) else int(precision.argmax())
    if last == len(scores) - 1:
        return 0.0
    return float(scores[last] + scores[last + 1]) / 2


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often answers of about the same score were right; arrays are [bins]."""

    counts: np.ndarray
    scores: np.ndarray
    """Mean score of each bin."""
    accuracies: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap of score and accuracy, by count."""
        gaps = np.abs(self.scores - self.accuracies)
        return float((self.counts * gaps).sum() / max(1, self.counts.sum()))


def reliability(scores: np.ndarray, truth: np.ndarray, bins: int = 10) -> Reliability:
    """Answers by their score, in bins of equal width: [rows, n_classes] and [rows]."""
    best, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    place = np.minimum((best * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    some = np.maximum(counts, 1)
    return Reliability(
        counts=counts,
        scores=np.bincount(place, weights=best, minlength=bins) / some,
        accuracies=np.bincount(place, weights=right, minlength=bins) / some,
    )
