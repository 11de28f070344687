"""Real recordings: all of ESC-10 and a part of ESC-50."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest

from audiocnn.audio.decode import windows
from audiocnn.config import ModelConfig, TrainConfig, WindowConfig
from audiocnn.corpus.clips import Clip
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import AudioError
from audiocnn.features.logmel import LogMel
from audiocnn.labels.label_set import read_labels
from audiocnn.model.predictor import Predictor
from pipelines.ingest.job import ingest
from pipelines.label.job import label
from pipelines.options import Ingest, Label, Train
from pipelines.recipes import esc10, esc50
from pipelines.train.job import train


def read(clip: Clip) -> bytes:
    return Path(clip.uri).read_bytes()


def test_esc10_is_400_clips_of_ten_classes_in_five_folds(recordings: Path) -> None:
    corpus = read_corpus(str(recordings / "esc10"))
    assert len(corpus.clips) == 400
    assert set(Counter(c.label for c in corpus.clips).values()) == {40}
    assert set(Counter(c.fold for c in corpus.clips).values()) == {80}
    assert {"Dog bark", "Rain", "Rooster"} <= set(corpus.classes)
    assert corpus.ignored == 1
    found = [list(windows(read(c), WindowConfig())) for c in corpus.clips]
    assert all(1 <= len(w) <= 2 for w in found)
    assert all(w[0].samples.any() for w in found)


def test_esc50_mini_is_207_clips_of_fifty_classes(recordings: Path) -> None:
    corpus = read_corpus(str(recordings / "esc50-mini"))
    assert corpus.layout == "esc50"
    assert (len(corpus.clips), len(corpus.classes), corpus.folds) == (207, 50, (4,))
    for clip in corpus.clips:
        (window,) = windows(read(clip), WindowConfig())
        assert window.duration_s == pytest.approx(5.0, abs=1e-3)


def test_a_real_clips_log_mel_is_librosas(recordings: Path) -> None:
    config = esc10().feature
    corpus = read_corpus(str(recordings / "esc10"))
    for clip in corpus.clips[::40]:
        window = next(windows(read(clip), config))
        power = librosa.feature.melspectrogram(
            y=window.samples, sr=config.sample_rate, n_fft=config.n_fft,
            hop_length=config.hop_length, n_mels=config.n_mels, pad_mode="reflect",
            htk=True, norm=None,
        )  # fmt: skip
        reference = np.maximum(10 * np.log10(np.maximum(power, 1e-10)), config.floor_db)
        assert np.abs(LogMel(config)([window.samples])[0] - reference).max() < 0.05


def test_resampling_keeps_what_librosa_keeps(recordings: Path) -> None:
    corpus = read_corpus(str(recordings / "esc50-mini"))
    for clip in corpus.clips[::50]:
        ours = next(windows(read(clip), WindowConfig())).samples
        theirs, _ = librosa.load(clip.uri, sr=22_050, mono=True, res_type="soxr_hq")
        assert np.abs(ours - theirs[: len(ours)]).max() < 2e-3


def test_damaged_real_clips_are_an_audio_error_or_finite(recordings: Path) -> None:
    corpus = read_corpus(str(recordings / "esc10"))
    rng = np.random.default_rng(0)
    refused = 0
    for clip in corpus.clips[::20]:
        data = bytearray(read(clip))
        for position in rng.integers(0, len(data), 20):
            data[position] = rng.integers(256)
        for broken in (bytes(data), bytes(data[: rng.integers(1, len(data))])):
            try:
                assert all(np.isfinite(w.samples).all() for w in windows(broken, WindowConfig()))
            except AudioError:
                refused += 1
    assert refused >= len(corpus.clips[::20])


@pytest.mark.usefixtures("ray_cluster")
def test_the_line_on_esc10(recordings: Path, tmp_path: Path) -> None:
    """Ingest all, train a small model for a minute, label a class's folder."""
    recipe = esc10()
    features = ingest(
        Ingest(
            corpus=str(recordings / "esc10"), to=str(tmp_path / "features"), feature=recipe.feature
        )
    )
    assert (features.counts["ingested"], features.counts["failed"]) == (400, 0)
    bundle = train(
        Train(
            features=features.uri,
            to=str(tmp_path / "bundle"),
            test_fold=2,
            feature=recipe.feature,
            model=ModelConfig(stages=(1, 1, 1, 1), channels=8, dropout=0.0),
            training=TrainConfig(
                epochs=6, batch_size=16, max_lr=4e-3, augment=recipe.training.augment
            ),
        )
    )
    assert bundle.metrics["test"]["accuracy"] > 0.45  # chance is 0.1
    summary = label(
        Label(
            bucket=str(recordings / "esc10" / "002 - Rain"),
            bundle=str(tmp_path / "bundle"),
            to=str(tmp_path / "labels"),
        )
    )
    assert (summary["labelled"], summary["failed"]) == (40, 0)
    labels = Counter(read_labels(str(tmp_path / "labels"))["label"].to_pylist())
    assert labels.most_common(1)[0][0] == "Rain"


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.usefixtures("ray_cluster")
def test_the_esc50_recipe_on_fifty_classes(recordings: Path, tmp_path: Path) -> None:
    """The model of 21 M parameters for one epoch."""
    recipe = esc50()
    features = ingest(
        Ingest(
            corpus=str(recordings / "esc50-mini"),
            to=str(tmp_path / "features"),
            recipe="esc50",
            feature=recipe.feature,
        )
    )
    assert len(features.classes) == 50
    bundle = train(
        Train(
            features=features.uri,
            to=str(tmp_path / "bundle"),
            recipe="esc50",
            workers=1,
            feature=recipe.feature,
            model=recipe.model,
            training=replace(recipe.training, epochs=1),
        )
    )
    clip = features.load(list(features.folds)).uris[0]
    answer = Predictor.load(str(tmp_path / "bundle")).predict(clip, top_k=50)
    assert {name for name, _ in answer.top_k} == set(features.classes)
    assert answer.bundle == bundle.fingerprint
