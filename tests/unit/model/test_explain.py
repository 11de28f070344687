"""Grad-CAM, and the part of the sound that it marks."""

from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch

from audiocnn.config import ModelConfig
from audiocnn.features.logmel import LogMel, band_centres
from audiocnn.model.grad_cam import grad_cam, marked_sound
from audiocnn.model.resnet import AudioCNN
from helpers.common import SMALL


@pytest.fixture(scope="module")
def model() -> AudioCNN:
    torch.manual_seed(0)
    config = ModelConfig(stages=(1, 1, 1, 1), channels=8)
    return AudioCNN(config, SMALL.n_mels, 3).eval()


def test_grad_cam_is_the_formula_of_the_paper(model: AudioCNN) -> None:
    logmel = np.random.default_rng(0).normal(size=(32, SMALL.n_frames)).astype(np.float32)
    x = torch.from_numpy(logmel)[None]
    x = ((x - model.mean[:, None]) / model.std[:, None]).unsqueeze(1)
    maps = model.layer4(model.layer3(model.layer2(model.layer1(model.conv1(x)))))
    # A linear head gets the mean of each map, so the gradient is weight / size of the map.
    index = int(model.fc.weight.sum(1).argmax())  # maps are >= 0: some places support this class
    weights = model.fc.weight[index] / maps[0, 0].numel()
    plain = torch.relu((weights[:, None, None] * maps[0]).sum(0))
    cam = grad_cam(model, logmel, index)
    assert cam.shape == logmel.shape
    assert cam.dtype == np.float32
    assert 0 <= cam.min() <= cam.max() == pytest.approx(1)
    coarse = torch.nn.functional.interpolate(
        plain[None, None], size=logmel.shape, mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(cam, (coarse / coarse.max()).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", AudioCNN.layers[1:])
def test_every_layer_can_be_looked_at_and_nothing_is_left_behind(
    model: AudioCNN, layer: str
) -> None:
    logmel = np.zeros((32, SMALL.n_frames), np.float16)
    with torch.inference_mode():
        before = model(torch.zeros(1, 32, SMALL.n_frames))
    assert np.isfinite(grad_cam(model, logmel, 0, layer)).all()
    with torch.inference_mode():
        assert np.isfinite(grad_cam(model, logmel, 0, layer)).all()
    assert all(p.grad is None for p in model.parameters())
    assert not model.get_submodule(layer)._forward_hooks
    with torch.inference_mode():
        assert torch.equal(before, model(torch.zeros(1, 32, SMALL.n_frames)))


def test_one_hears_what_is_marked_and_nothing_else() -> None:
    rate, time = SMALL.sample_rate, np.arange(SMALL.window_samples) / SMALL.sample_rate
    low = 0.3 * np.sin(2 * np.pi * 500 * time).astype(np.float32)
    high = 0.3 * np.sin(2 * np.pi * 5_000 * time).astype(np.float32)
    cam = np.zeros((SMALL.n_mels, SMALL.n_frames), np.float32)
    cam[band_centres(SMALL) < 2_000, : SMALL.n_frames // 2] = 1
    heard = marked_sound(low + high, cam, SMALL)
    assert heard.shape == low.shape
    first, second = heard[rate // 8 : rate * 3 // 8], heard[rate * 5 // 8 : rate * 7 // 8]
    np.testing.assert_allclose(first, low[rate // 8 : rate * 3 // 8], atol=0.01)
    assert np.abs(second).max() < 0.01
    whole = marked_sound(low + high, np.ones_like(cam), SMALL)
    np.testing.assert_allclose(whole[512:-512], (low + high)[512:-512], atol=1e-3)


@pytest.mark.parametrize("n_fft", [SMALL.n_fft, SMALL.n_fft - 1])
def test_one_hears_it_where_frames_do_not_overlap(n_fft: int) -> None:
    config = replace(SMALL, n_fft=n_fft, hop_length=n_fft)
    sound = 0.3 * np.sin(np.arange(config.window_samples) / 8).astype(np.float32)
    whole = marked_sound(sound, np.ones((config.n_mels, config.n_frames), np.float32), config)
    np.testing.assert_allclose(whole[512:-512], sound[512:-512], atol=1e-3)
    late = np.zeros((config.n_mels, config.n_frames), np.float32)
    late[:, config.n_frames // 2 :] = 1
    heard = marked_sound(sound, late, config)
    assert np.abs(heard[: len(heard) // 3]).max() < 0.01
    np.testing.assert_allclose(heard[-4_000:-512], sound[-4_000:-512], atol=0.01)


def test_band_centres_are_librosas_and_where_a_sine_is_loudest() -> None:
    theirs = librosa.mel_frequencies(SMALL.n_mels + 2, fmin=0, fmax=8_000, htk=True)[1:-1]
    np.testing.assert_allclose(band_centres(SMALL), theirs, rtol=1e-6)
    time = np.arange(SMALL.window_samples) / SMALL.sample_rate
    for band in (8, 16, 28):
        sine = np.sin(2 * np.pi * band_centres(SMALL)[band] * time).astype(np.float32)
        logmel = LogMel(SMALL)([sine])[0]
        assert logmel.mean(axis=1).argmax() == band
