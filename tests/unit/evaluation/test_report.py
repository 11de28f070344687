"""Pictures and sounds of a report where there is much of something."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiocnn import report
from audiocnn.featureset import FeatureSet
from audiocnn.figures import class_figure, confusion_figure, logmel_figure, picture
from audiocnn.predictions import Predictions, calibrate
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


def results(scores: list[list[float]], folds: tuple[int, ...]) -> list[Predictions]:
    """For each fold a clip of class a and one of class b, with these scores."""
    return [
        Predictions(
            fold=fold, seed=0, bundle="f", clip_ids=[f"{fold}-a", f"{fold}-b"], uris=["a", "b"],
            labels=["a", "b"], duration_s=np.ones(2), scores=np.array(scores),
        )
        for fold in folds
    ]  # fmt: skip


@pytest.mark.parametrize("scores", [[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.7, 0.3]]])
def test_a_report_says_whether_it_is_calibrated(
    scores: list[list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where every answer was right, and so no temperature was needed."""
    features = write_features(str(tmp_path))
    for folds in ((1, 2), (1,)):
        found = results(scores, folds)
        others = [[r for r in found if r.fold != one.fold] for one in found]
        calibrations = [calibrate(several, features.classes) for several in others]
        summary = report.summarise(found, calibrations, features)
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
    """Its temperature is 1, which is also that of a bundle that was never calibrated."""
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
