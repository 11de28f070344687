import numpy as np
import pytest
from sklearn import metrics as reference

from audiocnn.evaluation import metrics
from audiocnn.model.clip_scores import clip_scores

CLASSES = ("a", "b", "c")
RNG = np.random.default_rng(0)
TRUTH, PREDICTED = RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)


def test_figures_are_scikit_learns() -> None:
    confusion = metrics.confusion_matrix(TRUTH, PREDICTED, 3)
    assert np.array_equal(confusion, reference.confusion_matrix(TRUTH, PREDICTED))
    assert metrics.accuracy(confusion) == reference.accuracy_score(TRUTH, PREDICTED)
    f1 = reference.f1_score(TRUTH, PREDICTED, average="macro")
    assert metrics.macro_f1(confusion, CLASSES) == pytest.approx(f1)
    rows = metrics.per_class(confusion, CLASSES)
    precision = reference.precision_score(TRUTH, PREDICTED, average=None)
    recall = reference.recall_score(TRUTH, PREDICTED, average=None)
    assert [r.precision for r in rows] == pytest.approx(list(precision))
    assert [r.recall for r in rows] == pytest.approx(list(recall))


def test_a_class_without_clips_counts_for_nothing() -> None:
    perfect = metrics.confusion_matrix(np.array([0, 1]), np.array([0, 1]), 3)
    assert metrics.macro_f1(perfect, CLASSES) == 1
    truth, predicted = np.array([0, 0, 1]), np.array([0, 2, 1])
    confusion = metrics.confusion_matrix(truth, predicted, 3)
    rows = metrics.per_class(confusion, CLASSES)
    assert [r.f1 for r in rows] == [pytest.approx(2 / 3), 1, None]
    assert [r.recall for r in rows] == [0.5, 1, None]
    assert [r.precision for r in rows] == [1, 1, 0]
    f1 = reference.f1_score(truth, predicted, labels=[0, 1], average="macro")
    assert metrics.macro_f1(confusion, CLASSES) == pytest.approx(f1)
    assert metrics.macro_f1(np.zeros((3, 3), int), CLASSES) is None


def test_a_class_that_is_never_answered_has_no_precision() -> None:
    rows = metrics.per_class(
        metrics.confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2), ("a", "b")
    )
    assert [(r.precision, r.recall, r.f1) for r in rows] == [
        (0.5, 1, pytest.approx(2 / 3)),
        (None, 0, 0),
    ]


def test_a_clips_score_is_its_windows_by_duration() -> None:
    scores = np.array([[0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    names, by_clip = clip_scores(["x", "y", "x"], np.array([4.0, 1.0, 1.0]), scores)
    assert names == ["x", "y"]
    assert by_clip == pytest.approx(np.array([[0.72, 0.28], [0.5, 0.5]]))
