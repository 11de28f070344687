"""A report's pictures and sounds, and its remarks about silence and calibration."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiocnn.evaluation import report
from audiocnn.evaluation.figures import class_figure, confusion_figure, logmel_figure, picture
from audiocnn.evaluation.predictions import Predictions, calibrate
from audiocnn.evaluation.summary import summarise
from audiocnn.features.feature_set import FeatureSet
from helpers.common import SMALL
from helpers.small_features import write_features
from pipelines.evaluate import print_report


@pytest.mark.parametrize("count", [3, 600])
def test_a_picture_has_bounds_and_takes_any_name(count: int) -> None:
    names = tuple(f"a$b_${index}" for index in range(count))
    rows = [{"name": name, "f1": 0.5} for name in names] + [{"name": "untested", "f1": None}]
    for figure in (confusion_figure(np.eye(count, dtype=int), names), class_figure(rows)):
        assert max(figure.get_size_inches()) < 30
        assert picture(figure, "x").startswith("<img")
    logmel = np.zeros((SMALL.n_mels, SMALL.n_frames), np.float32)
    assert picture(logmel_figure(logmel, SMALL, "a$b_$"), "x").startswith("<img")


def said_of(fold: int, scores: list[list[float]], seed: int = 0) -> Predictions:
    """Return predictions for a clip of class a and one of class b; `scores` are [2, 2]."""
    return Predictions(
        fold=fold, seed=seed, bundle="f", clip_ids=[f"{fold}-a", f"{fold}-b"], uris=["a", "b"],
        labels=["a", "b"], duration_s=np.ones(2), scores=np.array(scores),
    )  # fmt: skip


def results(scores: list[list[float]], folds: tuple[int, ...]) -> list[Predictions]:
    """Return the same predictions for each fold."""
    return [said_of(fold, scores) for fold in folds]


RIGHT, HALF_HEARD, SILENT = (
    [[0.9, 0.1], [0.2, 0.8]],
    [[0.9, 0.1], [0.0, 0.0]],
    [[0.0, 0.0], [0.0, 0.0]],
)


def reported(found: list[Predictions], to: Path) -> tuple[dict[str, Any], str]:
    """Write a report; return the content of `report.json`, which has no NaN, and the page."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    features = write_features(str(to / "features"))
    others = [[r for r in found if r.fold != one.fold] for one in found]
    calibrations = [calibrate(several, features.classes) for several in others]
    summary = report.write_report(str(to), found, calibrations, features, title="t", made_with="m")
    text = (to / "report.json").read_text()
    assert json.loads(text, parse_constant=refuse) == summary
    return summary, (to / "report.html").read_text()


def test_clips_of_silence_are_counted_and_a_fold_of_them_is_in_no_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = [(1, HALF_HEARD), (2, SILENT), (3, RIGHT)]
    found = [said_of(fold, scores, seed) for seed in (0, 1) for fold, scores in folds]
    summary, page = reported(found, tmp_path)
    rows = [(row["clips"], row["silent"], row["accuracy"]) for row in summary["folds"]]
    assert rows == 2 * [(1, 1, 1.0), (0, 2, None), (2, 0, 1.0)]
    assert (summary["clips"], summary["silent"], summary["accuracy_mean"]) == (3, 3, 1.0)
    assert [row["accuracy_mean"] for row in summary["seeds"]] == [1.0, 1.0]
    print_report(summary, "r")
    said = (
        "3 of 6 clips contain only silence: they have no answer and are not counted; the means "
        "leave out fold 2, with no other clip"
    )
    assert said in page
    assert f"! {said}" in capsys.readouterr().out
    assert "over\n2 tested fold(s), 3 clips" in page


def test_of_silence_alone_nothing_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, page = reported([said_of(1, SILENT), said_of(2, SILENT)], tmp_path)
    names = ("accuracy_mean", "accuracy_std", "accuracy_std_seeds", "macro_f1")
    assert [summary[name] for name in names] == [None] * 4
    found = summary["calibration"]
    assert (found["answered"], found["accuracy_of_answers"]) == (None, None)
    assert found["before"]["expected_calibration_error"] is None
    print_report(summary, "r")
    assert "4 of 4 clips contain only silence" in capsys.readouterr().out
    assert "All clips are silent" in page
    assert "nan" not in re.sub(r'src="data:[^"]*"', "", page)


def test_a_report_without_silence_does_not_speak_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, page = reported([said_of(1, RIGHT), said_of(2, RIGHT)], tmp_path)
    assert (summary["silent"], summary["accuracy_mean"]) == (0, 1.0)
    print_report(summary, "r")
    assert "silence" not in page + capsys.readouterr().out


@pytest.mark.parametrize("scores", [[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.7, 0.3]]])
def test_a_report_says_whether_it_is_calibrated(
    scores: list[list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This also holds if every prediction is right, so that no temperature is needed."""
    features = write_features(str(tmp_path))
    for folds in ((1, 2), (1,)):
        found = results(scores, folds)
        others = [[r for r in found if r.fold != one.fold] for one in found]
        calibrations = [calibrate(several, features.classes) for several in others]
        summary = summarise(found, calibrations, features)
        calibrated = len(folds) == 2
        assert summary["calibration"]["calibrated"] == calibrated
        assert ("Not calibrated" in report._scores(summary)) == (not calibrated)
        print_report(summary, "r")
        assert ("; not calibrated" in capsys.readouterr().out) == (not calibrated)


def heard(page: str) -> np.ndarray:
    found = re.search(r"base64,([^\"]+)", page)
    assert found is not None
    return soundfile.read(io.BytesIO(base64.b64decode(found[1])))[0]


def loudest_hz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * SMALL.sample_rate / len(samples))


def test_what_is_heard_is_the_clip_and_not_its_recording(tmp_path: Path) -> None:
    time = np.arange(16_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * hz * time) for hz in (300, 2_500)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(tones), 16_000)
    uri = str(tmp_path / "a.wav")
    of_clip = report._sound(uri, report.segment_of("a.wav#t=1.0,2.0"), SMALL)
    assert loudest_hz(heard(of_clip)) == pytest.approx(2_500, abs=5)
    whole = report._sound(uri, report.segment_of("a.wav"), SMALL)
    assert loudest_hz(heard(whole)) == pytest.approx(300, abs=5)
    assert report._sound(str(tmp_path / "gone.wav"), None, SMALL) == ""


def test_a_window_of_minutes_is_written_too(tmp_path: Path) -> None:
    config = replace(SMALL, window_s=150.0, hop_s=150.0)
    soundfile.write(tmp_path / "a.wav", np.zeros(151 * 16_000), 16_000)
    assert len(heard(report._sound(str(tmp_path / "a.wav"), None, config))) == 150 * 16_000


@pytest.mark.parametrize("others", [True, False])
def test_a_perfect_evaluation_is_calibrated_where_there_are_other_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, others: bool
) -> None:
    """The temperature is 1, but a bundle that was never calibrated has this temperature too."""
    classes = ("bell", "dog")
    features = FeatureSet(
        uri="f", config=SMALL, classes=classes, corpus="c", counts={}, parts={}, folds={}, bands={}
    )
    results = [
        Predictions(
            fold=fold, seed=0, bundle="f00d", clip_ids=["a", "b"], uris=["a", "b"],
            labels=list(classes), duration_s=np.ones(2), scores=np.eye(2) * 0.98 + 0.01,
        )
        for fold in (1, 2)
    ]  # fmt: skip
    calibrations = [calibrate([r for r in results if r is not one and others], classes)
                    for one in results]  # fmt: skip
    assert {one.temperature for one in calibrations} == {1.0}
    to = str(tmp_path)
    summary = report.write_report(to, results, calibrations, features, title="t", made_with="m")
    print_report(summary, to)
    page, said = (tmp_path / "report.html").read_text(), capsys.readouterr().out
    assert summary["accuracy_mean"] == 1.0
    assert summary["calibration"]["calibrated"] is others
    assert ("Not calibrated" in page) is ("not calibrated" in said) is not others
    assert ("with the temperatures 1.00, 1.00" in page) is others
