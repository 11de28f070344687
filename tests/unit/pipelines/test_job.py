"""Messages of a training job about missing classes, a poor model and its test."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiocnn.evaluation.predictions import Predictions
from audiocnn.features.band_sums import BandSums
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from helpers.common import SMALL
from pipelines.options import Train
from pipelines.train.finish import _write_test
from pipelines.train.job import _say_test, doubts, warn_unseen
from pipelines.train.plan import plan
from pipelines.train.tensorboard import Log

SUMS = BandSums.of(np.ones((1, SMALL.n_mels, SMALL.n_frames)))
FEATURES = FeatureSet(
    uri="features", config=SMALL, classes=("a", "b", "c"), corpus="corpus", counts={},
    parts={"parts/part-0.parquet": FeaturePart(windows={1: 40, 2: 40, 3: 40}, rows="f")},
    folds={1: {"a": 20, "b": 20}, 2: {"a": 20, "b": 20}, 3: {"a": 20, "c": 20}},
    bands={1: SUMS, 2: SUMS, 3: SUMS},
)  # fmt: skip


def asked(**options: object) -> Train:
    return Train(features="features", to="bundle", feature=SMALL, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, None),  # a bundle of an earlier version
        (
            {"fit": {"training": 0.93, "kept": 0.14}},
            "right on 14 % of its training windows, but was right on 93 % during training",
        ),
        ({"fit": {"training": 0.93, "kept": 0.9}}, None),
        ({"fit": {"training": 0.1, "kept": 0.1}, "test": {"fold": 1, "accuracy": 0.1}}, None),
        (
            {"fit": {"training": 1, "kept": 1}, "test": {"fold": 4, "accuracy": 0.4}},
            "fold 4 is far below the 100 %",
        ),
        ({"fit": {"training": 1, "kept": 1}, "test": {"fold": 4, "accuracy": 0.6}}, None),
        ({"fit": {"training": 1, "kept": 1}, "test": {"fold": 4, "accuracy": None}}, None),
    ],
)
def test_what_is_kept_and_far_worse_than_its_training_is_said(
    metrics: dict[str, Any], said: str | None
) -> None:
    found = doubts(metrics)
    assert (found is None) == (said is None)
    assert said is None or said in str(found)


@pytest.mark.parametrize(
    ("scores", "accuracy", "silent"),
    [
        ([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]], 0.5, 0),
        ([[0.9, 0.1, 0.0], [0.0, 0.0, 0.0]], 1.0, 1),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], None, 2),
    ],
)
def test_a_test_says_how_many_clips_are_silence_alone(
    scores: list[list[float]],
    accuracy: float | None,
    silent: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = Predictions(
        fold=3, seed=0, bundle="", clip_ids=["1", "2"], uris=["1", "2"], labels=["a", "c"],
        duration_s=np.ones(2), scores=np.array(scores),
    )  # fmt: skip
    job = replace(plan(asked(test_fold=3), FEATURES), to=str(tmp_path))
    test = _write_test(found, job, Log(job.tensorboard, ".x"))
    assert (test["accuracy"], test["silent"]) == (accuracy, silent)
    _say_test(test)
    said = capsys.readouterr().out
    assert ("of its clips" in said) == (accuracy is not None)
    assert (f"! {silent} clips of fold 3 contain only silence" in said) == (silent > 0)


def test_a_class_that_is_not_trained_on_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for test_fold in (None, 1):
        job = plan(asked(test_fold=test_fold), FEATURES)
        assert job.unseen == []
        warn_unseen(job)
    assert capsys.readouterr().out == ""
    job = plan(asked(test_fold=3), FEATURES)
    assert job.unseen == ["c"]
    warn_unseen(job)
    assert "! no clip of c is in the training folds (1, 2)" in capsys.readouterr().out
