"""Silence has no class: for the predictor, in labels, in an evaluation and in a search."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn.audio.encode import encode
from audiocnn.audio.recording import Recording
from audiocnn.config import UNKNOWN, AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError
from audiocnn.evaluation.predictions import Predictions, calibrate
from audiocnn.features.extractor import Extractor
from audiocnn.labels.labeller import Labeller, Scorer
from audiocnn.labels.part import read_ledger
from audiocnn.labels.reader import open_labels
from audiocnn.labels.shard_list import Entry
from audiocnn.model.bundle import Bundle
from audiocnn.model.calibration import Calibration
from audiocnn.model.predictor import Predictor
from audiocnn.review.search import embed
from helpers.common import SMALL, make_bundle
from helpers.small_labels import label_bucket

RATE = SMALL.sample_rate
CLASSES = ("bell", "dog", "rain")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return Predictor(bundle)


def recording(*seconds: float) -> bytes:
    """Return a recording with one second of sound for each level; level 0 is silence."""
    sound = synthetic.sound("siren", 1, 1.0, RATE)
    return encode(np.concatenate([level * sound for level in seconds]), RATE, "flac")


@pytest.mark.parametrize("thresholds", [(), (0.0, 0.0, 0.0)])
def test_a_silent_window_is_unknown_and_weighs_nothing(
    bundle: Bundle, thresholds: tuple[float, ...]
) -> None:
    asked = Predictor(replace(bundle, calibration=Calibration(thresholds=thresholds)))
    heard = asked.predict(recording(1.0, 0.5))
    found = asked.predict(recording(0.0, 1.0, 0.0, 0.0, 0.5, 0.0))
    assert [one.known for one in found.windows] == [False, True, False, False, True, False]
    assert [one.label == UNKNOWN for one in found.windows] == [
        not one.known for one in found.windows
    ]
    assert [one.score for one in found.windows if not one.known] == [0.0] * 4
    assert found.label == heard.label
    assert found.score == pytest.approx(heard.score, abs=1e-5)


def test_a_recording_of_silence_alone_is_unknown(predictor: Predictor) -> None:
    found = predictor.predict(recording(0.0, 0.0))
    assert (found.known, found.label, found.score) == (False, UNKNOWN, 0.0)
    assert len(found.top_k) == 3


def test_what_lies_wholly_at_the_floor_is_silence(bundle: Bundle) -> None:
    """A window with a single value slightly above the floor is not silence."""
    for floor_db in (-60.0, -59.97):  # float16 cannot represent every floor
        deaf = Predictor(replace(bundle, feature=replace(SMALL, floor_db=floor_db)))
        assert deaf.predict(recording(1e-5)).label == UNKNOWN
        logmel = np.full((2, SMALL.n_mels, SMALL.n_frames), floor_db, np.float16)
        logmel[1, 3, 4] += np.float16(0.1)
        assert [row.any() for row in deaf.scores(logmel)] == [False, True]


def test_labels_have_each_windows_level_and_silence_is_unknown(
    predictor: Predictor, tmp_path: Path
) -> None:
    levels = (0.0, 1.0, 0.1)
    (tmp_path / "a.flac").write_bytes(recording(*levels))
    path = tmp_path / "part.parquet"
    score = Scorer(predictor, embeddings=True).score
    with Extractor(SMALL, AudioLimits()) as extractor:
        labeller = Labeller(predictor.bundle, extractor, score, 2, embeddings=True)
        entry = Entry(recording=Recording(uri=str(tmp_path / "a.flac")), wrong=None)
        labeller.part([entry], str(path))
    rows = pq.read_table(path).to_pylist()
    assert [row["label"] == UNKNOWN for row in rows] == [True, False, False]
    assert rows[0]["score"] == 0.0
    assert rows[0]["level_dbfs"] == -200.0
    assert rows[1]["level_dbfs"] - rows[2]["level_dbfs"] == pytest.approx(20.0, abs=0.01)
    assert [row["channel"] for row in rows] == [0, 0, 0]
    assert read_ledger(str(path)).classes[UNKNOWN] == 1
    expected = predictor.predict(recording(*levels), top_k=2)
    assert [row["label"] for row in rows] == [one.label for one in expected.windows]
    assert [row["score"] for row in rows] == pytest.approx([w.score for w in expected.windows])


def said(*scores: tuple[float, float, float]) -> Predictions:
    """Return predictions of windows of the clips `0`, `0`, `1`, `1`, ..., all of the class dog."""
    count = len(scores)
    return Predictions(
        fold=1, seed=0, bundle="", clip_ids=[f"{n // 2}" for n in range(count)],
        uris=["u"] * count, labels=["dog"] * count, duration_s=np.ones(count),
        scores=np.array(scores),
    )  # fmt: skip


def test_evaluation_and_calibration_leave_silence_out() -> None:
    nothing = (0.0, 0.0, 0.0)
    found = said((0.2, 0.7, 0.1), nothing, nothing, nothing, (0.6, 0.3, 0.1), (0.5, 0.4, 0.1))
    for temperature in (1.0, 2.0):
        clips = found.clips(temperature)
        assert clips.clip_ids == ["0", "2"]
        assert clips.duration_s.tolist() == [2.0, 2.0]
    assert found.clips().scores[0].tolist() == pytest.approx([0.2, 0.7, 0.1])
    assert found.confusion(CLASSES).sum() == 2
    assert (found.silent, found.accuracy(CLASSES)) == (1, 0.5)
    heard = said((0.2, 0.7, 0.1), (0.6, 0.3, 0.1), (0.5, 0.4, 0.1))
    assert heard.silent == 0
    silence = said(nothing, nothing)
    assert (silence.silent, silence.accuracy(CLASSES)) == (1, None)
    assert calibrate([found], CLASSES) == calibrate([heard], CLASSES)
    assert calibrate([said(nothing, nothing)], CLASSES) == Calibration()


def test_what_is_like_a_clip_is_not_like_its_silence(predictor: Predictor, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "a.flac").write_bytes(recording(0.0, 1.0))
    predictor.bundle.write(str(tmp_path / "bundle"))
    label_bucket(str(tmp_path / "labels"), str(bucket), predictor, str(tmp_path / "bundle"))
    labels = open_labels(str(tmp_path / "labels"))
    assert len(embed(predictor, str(bucket / "a.flac"), labels)) == 1
    (tmp_path / "silence.flac").write_bytes(recording(0.0, 0.0))
    with pytest.raises(ConfigError, match="all its windows are silent"):
        embed(predictor, str(tmp_path / "silence.flac"), labels)
