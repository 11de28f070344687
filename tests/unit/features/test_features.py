import subprocess
import sys

import librosa
import numpy as np
import pytest
import torch

from audiocnn.config import FeatureConfig, TrainConfig, from_json, to_json
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError
from audiocnn.features.logmel import LogMel, mel_filters
from audiocnn.features.torch_logmel import TorchLogMel
from pipelines.recipes import RECIPES

_RANGE_DB = 70
"""Decibels below a frame's loudest band that are compared; float32 rounding shows below that."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_log_mel_is_librosas(recipe: str) -> None:
    config = RECIPES[recipe]().feature
    for name in synthetic.SOUNDS:
        samples = synthetic.sound(name, 7, config.window_s, config.sample_rate)
        ours = LogMel(config)([samples])[0]
        power = librosa.feature.melspectrogram(
            y=samples,
            sr=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
            fmin=config.f_min,
            fmax=config.f_max_hz,
            pad_mode="reflect",
            htk=True,
            norm=None,
        )
        reference = 10 * np.log10(np.maximum(power, 10 ** (config.floor_db / 10)))
        assert ours.shape == reference.shape == (config.n_mels, config.n_frames)
        assert ours.dtype == np.float32
        audible = reference > reference.max(axis=0) - _RANGE_DB
        assert np.abs(ours - reference)[audible].max() < 0.01


ODD = FeatureConfig(sample_rate=44_100, n_fft=1_103, hop_length=441)
"""Frames of 25 ms every 10 ms: a window is a whole number of hops, but `n_fft` is odd."""


@pytest.mark.parametrize("config", [*(made().feature for made in RECIPES.values()), ODD])
def test_the_log_mel_is_torchaudios(config: FeatureConfig) -> None:
    import torchaudio

    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
        f_min=config.f_min,
        f_max=config.f_max_hz,
    )
    sounds = [synthetic.sound(n, 3, config.window_s, config.sample_rate) for n in synthetic.SOUNDS]
    samples = torch.from_numpy(np.stack(sounds))
    floor = 10 ** (config.floor_db / 10)
    reference = torchaudio.functional.amplitude_to_DB(mel(samples), 10.0, floor, 0.0)
    audible = reference > reference.amax(dim=1, keepdim=True) - _RANGE_DB
    ours = torch.from_numpy(LogMel(config)(sounds))
    assert (ours - reference)[audible].abs().max() < 0.01
    assert ours.shape[1:] == (config.n_mels, config.n_frames)
    on_gpus = TorchLogMel(config)(samples)
    assert (ours - on_gpus)[audible].abs().max() < 0.01


@pytest.mark.parametrize("n_fft", [16, 17, 400, 401, 1_999, 2_000])
@pytest.mark.parametrize("hop_length", [1, 7, 10, 16])
@pytest.mark.parametrize("window_s", [0.5, 0.50025])
def test_a_log_mel_has_as_many_frames_as_its_config_says(
    n_fft: int, hop_length: int, window_s: float
) -> None:
    config = FeatureConfig(
        sample_rate=4_000, window_s=window_s, hop_s=window_s, min_tail_s=0.1,
        n_fft=n_fft, hop_length=hop_length, n_mels=8,
    )  # fmt: skip
    logmel = LogMel(config)([np.zeros(config.window_samples, np.float32)])
    assert logmel.shape == (1, config.n_mels, config.n_frames)


def test_silence_is_the_floor_and_nothing_is_infinite() -> None:
    config = FeatureConfig(floor_db=-50)
    silent = LogMel(config)([np.zeros(config.window_samples, np.float32)])
    assert np.allclose(silent, -50)


def test_a_batch_is_its_windows() -> None:
    config = FeatureConfig(sample_rate=16_000, window_s=1.0, hop_s=1.0, n_mels=64)
    front_end = LogMel(config)
    sounds = [synthetic.sound(name, 1, 1.0, 16_000) for name in synthetic.SOUNDS]
    for sound, expected in zip(sounds, front_end(sounds), strict=True):
        assert np.array_equal(front_end([sound])[0], expected)


def test_the_filters_are_torchaudios() -> None:
    import torchaudio

    for config in (made().feature for made in RECIPES.values()):
        theirs = torchaudio.functional.melscale_fbanks(
            config.n_fft // 2 + 1, config.f_min, config.f_max_hz, config.n_mels, config.sample_rate
        )
        assert np.allclose(mel_filters(config), theirs.numpy(), atol=1e-4)


def test_a_front_end_starts_without_torch() -> None:
    """Each worker has a front-end process; torch would cost it almost a second and 200 MB."""
    code = "import sys, audiocnn.features.extractor_child; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_fingerprint_names_every_option() -> None:
    base = FeatureConfig()
    others = [
        FeatureConfig(sample_rate=44_100),
        FeatureConfig(window_s=4.0, hop_s=4.0),
        FeatureConfig(hop_s=2.5),
        FeatureConfig(pad="repeat"),
        FeatureConfig(n_fft=2_048),
        FeatureConfig(hop_length=256),
        FeatureConfig(n_mels=64),
        FeatureConfig(f_min=50.0),
        FeatureConfig(f_max=8_000.0),
        FeatureConfig(floor_db=-50.0),
        FeatureConfig(min_tail_s=1.0),
    ]
    assert len({c.fingerprint for c in [base, *others]}) == len(others) + 1
    assert base.fingerprint == FeatureConfig().fingerprint


@pytest.mark.parametrize(
    "options",
    [
        {"sample_rate": 100},
        {"window_s": 0.0},
        {"hop_s": 9.0},
        {"n_fft": 8},
        {"hop_length": 0},
        {"n_mels": 4},
        {"f_min": 12_000.0},
        {"f_max": 20_000.0},
        {"floor_db": 3.0},
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        FeatureConfig(**options)  # type: ignore[arg-type]


def test_configs_survive_json() -> None:
    for recipe in RECIPES.values():
        made = recipe()
        assert from_json(FeatureConfig, to_json(made.feature)) == made.feature
        assert from_json(TrainConfig, to_json(made.training)) == made.training
