"""Accuracy, macro F1 and confusion matrix of whole clips."""

from dataclasses import dataclass

import numpy as np


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Return counts [n_classes, n_classes], rows true, columns predicted, from indices [clips]."""
    cells = np.asarray(truth) * n_classes + np.asarray(predicted)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(confusion: np.ndarray) -> float:
    """Return the fraction of clips with the right prediction; 0 if there are no clips."""
    return float(np.trace(confusion) / max(1, confusion.sum()))


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """The metrics of one class, 0 to 1, and its number of tested clips.

    `precision` is None if the class was never predicted. `recall` and `f1` are None if no clip of
    the class was tested.
    """

    name: str
    clips: int
    precision: float | None
    recall: float | None
    f1: float | None


def per_class(confusion: np.ndarray, classes: tuple[str, ...]) -> list[ClassMetrics]:
    """Return the metrics of each class from counts [n_classes, n_classes], rows true."""
    rows = []
    for index, name in enumerate(classes):
        hits = float(confusion[index, index])
        true, called = float(confusion[index].sum()), float(confusion[:, index].sum())
        rows.append(
            ClassMetrics(
                name=name,
                clips=int(true),
                precision=hits / called if called else None,
                recall=hits / true if true else None,
                f1=2 * hits / (true + called) if true else None,
            )
        )
    return rows


def macro_f1(confusion: np.ndarray, classes: tuple[str, ...]) -> float | None:
    """Return the mean F1 of the classes with tested clips; None if there are no such classes."""
    found = [row.f1 for row in per_class(confusion, classes)]
    known = [f1 for f1 in found if f1 is not None]
    return float(np.mean(known)) if known else None
