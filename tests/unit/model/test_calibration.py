import numpy as np
import pytest

from audiocnn.evaluation.predictions import Predictions, calibrate
from audiocnn.model.calibration import (
    PRECISION,
    Calibration,
    apply_temperature,
    fit_temperature,
    fit_thresholds,
    reliability,
)

CLASSES = ("a", "b", "c")


def answers(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores that `temperature` calibrates, and classes drawn from the calibrated scores."""
    rng = np.random.default_rng(seed)
    honest = apply_temperature(rng.dirichlet((0.4, 0.4, 0.4), count), 1.0)
    truth = np.array([rng.choice(3, p=row) for row in honest])
    return apply_temperature(honest, 1 / temperature), truth


def predictions(fold: int, temperature: float = 2.0, count: int = 400) -> Predictions:
    scores, truth = answers(count, temperature, fold)
    names = [f"{fold}-{index}" for index in range(count)]
    return Predictions(
        fold=fold, seed=0, bundle="", clip_ids=names, uris=names,
        labels=[CLASSES[index] for index in truth], duration_s=np.ones(count), scores=scores,
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_by_which_scores_are_too_certain_is_found(temperature: float) -> None:
    scores, truth = answers(4_000, temperature)
    assert fit_temperature(scores, truth) == pytest.approx(temperature, rel=0.1)


def test_a_temperature_undoes_what_it_did_and_keeps_the_answer() -> None:
    scores, _ = answers(100, 1.0)
    assert np.allclose(apply_temperature(apply_temperature(scores, 3.0), 1 / 3), scores)
    assert np.array_equal(apply_temperature(scores, 3.0).argmax(1), scores.argmax(1))
    assert np.allclose(apply_temperature(scores, 3.0).sum(1), 1)


def test_where_no_answer_is_wrong_scores_are_not_made_surer() -> None:
    scores = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    truth = np.array([0, 1, 0])
    assert fit_temperature(scores, truth) == pytest.approx(1.0, abs=1e-3)
    assert fit_temperature(scores, np.array([0, 1, 1])) > 1


def test_windows_are_what_is_calibrated() -> None:
    """The mean score of a clip with many windows is less confident than its windows' scores."""
    scores, truth = answers(4_000, 2.5)
    order = np.argsort(truth, kind="stable")
    names = [f"{truth[row]}-{place // 8}" for place, row in enumerate(order)]
    made = Predictions(
        fold=1, seed=0, bundle="", clip_ids=names, uris=names,
        labels=[CLASSES[truth[row]] for row in order], duration_s=np.ones(4_000),
        scores=scores[order],
    )  # fmt: skip
    found = calibrate([made], CLASSES)
    assert found.temperature == pytest.approx(2.5, rel=0.1)
    after = apply_temperature(made.scores, found.temperature)
    known = found.known(after)
    assert (after.argmax(1) == made.truth(CLASSES))[known].mean() >= 0.9


def test_a_threshold_lies_between_scores_that_are_almost_one() -> None:
    best = np.array([0.99999, 0.99997, 0.6])
    thresholds = fit_thresholds(np.stack([best, 1 - best], axis=1), np.array([0, 1, 1]))
    assert 0.99997 < thresholds[0] < 0.99999


def test_calibration_by_other_folds_brings_the_error_down() -> None:
    tested, others = predictions(1), [predictions(2), predictions(3)]
    truth = tested.truth(CLASSES)
    found = calibrate(others, CLASSES)
    before = reliability(tested.clips().scores, truth).error
    after = reliability(tested.clips(found.temperature).scores, truth).error
    assert after < 0.6 * before


def test_the_error_is_guo_and_others_definition() -> None:
    scores = np.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.35, 0.65]])
    truth = np.array([0, 1, 0, 1])
    # Two predictions score 0.95, and one is right. Two score 0.65, and both are right.
    assert reliability(scores, truth).error == pytest.approx((2 * 0.45 + 2 * 0.35) / 4)
    assert reliability(np.array([[1.0, 0.0]]), np.array([0])).error == 0


def test_a_threshold_keeps_the_answers_that_are_right_often_enough() -> None:
    best = np.linspace(0.4, 0.99, 60)
    scores = np.stack([best, 1 - best, np.zeros(60)], axis=1)
    scores[:, 1:] *= 0.5  # class 0 is always predicted
    truth = np.where(best > 0.6, 0, 1)
    thresholds = fit_thresholds(scores, truth)
    assert 0.5 < thresholds[0] < 0.6
    assert thresholds[1:] == (0.0, 0.0)  # never predicted: nothing is known about them
    known = Calibration(thresholds=thresholds).known(scores)
    assert (truth[known] == 0).mean() >= PRECISION
    assert known.sum() > (best > 0.6).sum()  # this precision allows some wrong ones


@pytest.mark.parametrize("best", [[0.9, 0.8, 0.7], [0.6], [1.0, 1.0], [1 - 1e-12]])
def test_answers_that_were_all_wrong_are_not_given_again(best: list[float]) -> None:
    scores = np.array([[score, 1 - score] for score in best])
    found = Calibration(thresholds=fit_thresholds(scores, np.ones(len(best), int)))
    assert not found.known(scores).any()
    assert not found.known(scores.astype(np.float32)).any()
    assert found.thresholds[0] == pytest.approx(best[0], abs=1e-6)
    assert found.thresholds[1] == 0  # never predicted: nothing is known about it


def test_answers_that_were_all_right_are_all_given() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    assert fit_thresholds(scores, np.array([0, 0, 0])) == (0.0, 0.0)


def test_without_thresholds_every_answer_is_known() -> None:
    assert Calibration().known(np.array([[0.4, 0.6]])).tolist() == [True]
    assert Calibration(thresholds=(0.0, 0.7)).known(np.array([[0.4, 0.6]])).tolist() == [False]
    assert Calibration.from_json({"temperature": 1.0}) == Calibration()
    made = Calibration(temperature=1.5, thresholds=(0.1, 0.2))
    assert Calibration.from_json(made.to_json()) == made


def test_windows_become_clips_and_come_back_from_their_table() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    made = Predictions(
        fold=3, seed=7, bundle="f", clip_ids=["x", "y", "x"], uris=["u", "v", "u"],
        labels=["a", "b", "a"], duration_s=np.array([3.0, 1.0, 1.0]), scores=scores,
    )  # fmt: skip
    clips = made.clips()
    assert clips.clip_ids == ["x", "y"]
    assert clips.labels == ["a", "b"]
    assert clips.duration_s.tolist() == [4, 1]
    assert np.allclose(clips.scores, [[(3 * 0.9 + 0.6) / 4, (3 * 0.1 + 0.4) / 4], [0.2, 0.8]])
    assert made.confusion(("a", "b")).tolist() == [[1, 0], [0, 1]]
    back = Predictions.of_table(made.table(), fold=3, seed=7, bundle="f")
    assert np.allclose(back.scores, scores)
    assert (back.clip_ids, back.labels) == (made.clip_ids, made.labels)
