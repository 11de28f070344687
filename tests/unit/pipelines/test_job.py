"""What a training job finds out before anything is started."""

import numpy as np
import pytest

from audiocnn.featureset import FeatureSet, Part
from audiocnn.parts import BandSums
from helpers.common import SMALL
from pipelines.job import plan
from pipelines.options import Train
from pipelines.train import warn_unseen

SUMS = BandSums.of(np.ones((1, SMALL.n_mels, SMALL.n_frames)))
FEATURES = FeatureSet(
    uri="features", config=SMALL, classes=("a", "b", "c"), corpus="corpus", counts={},
    parts={"parts/part-0.parquet": Part(windows={1: 40, 2: 40, 3: 40}, rows="f")},
    folds={1: {"a": 20, "b": 20}, 2: {"a": 20, "b": 20}, 3: {"a": 20, "c": 20}},
    bands={1: SUMS, 2: SUMS, 3: SUMS},
)  # fmt: skip


def asked(**options: object) -> Train:
    return Train(features="features", to="bundle", feature=SMALL, **options)  # type: ignore[arg-type]


def test_a_class_that_is_not_trained_on_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for test_fold in (None, 1):
        job = plan(asked(test_fold=test_fold), FEATURES)
        assert job.unseen == []
        warn_unseen(job)
    assert capsys.readouterr().out == ""
    job = plan(asked(test_fold=3), FEATURES)
    assert job.unseen == ["c"]
    warn_unseen(job)
    assert "! no clip of c is in the folds trained on (1, 2)" in capsys.readouterr().out
