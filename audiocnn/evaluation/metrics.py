"""Accuracy, macro F1 and confusion, of whole clips."""

from dataclasses import dataclass

import numpy as np


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts [n_classes, n_classes]: rows are the truth, columns the prediction."""
    cells = np.asarray(truth) * n_classes + np.asarray(predicted)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(confusion: np.ndarray) -> float:
    """Part of the clips whose class was predicted; 0 where there are none."""
    return float(np.trace(confusion) / max(1, confusion.sum()))


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """How one class fared.

    `precision` is None for a class that was never answered, `recall` and `f1` for one of which no
    clip was tested: nothing is known of them then.
    """

    name: str
    clips: int
    precision: float | None
    recall: float | None
    f1: float | None


def per_class(confusion: np.ndarray, classes: tuple[str, ...]) -> list[ClassMetrics]:
    """Precision, recall and F1 of each class."""
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
    """The mean F1 of the classes of which clips were tested; None where none was."""
    found = [row.f1 for row in per_class(confusion, classes)]
    known = [f1 for f1 in found if f1 is not None]
    return float(np.mean(known)) if known else None
