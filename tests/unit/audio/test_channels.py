"""Channels that cancel each other out are not averaged; all other channels are averaged."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audiocnn.audio.channels import to_mono
from audiocnn.audio.containers.frames import BLOCK_FRAMES
from audiocnn.audio.decode import Window, decode, windows
from audiocnn.audio.encode import encode
from audiocnn.config import WindowConfig

RATE = 16_000
CONFIG = WindowConfig(sample_rate=RATE, window_s=1.0, hop_s=1.0)
Noise = np.ndarray


def noise(seconds: float = 3.0, seed: int = 0) -> Noise:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def found(*channels: Noise, container: str = "wav") -> list[Window]:
    return list(windows(encode(np.stack(channels, axis=1), RATE, container), CONFIG))


def level(samples: Noise) -> float:
    return float(10 * np.log10(np.mean(samples**2)))


@pytest.mark.parametrize("container", ["wav", "flac"])
@pytest.mark.parametrize("slip", [0.0, 0.02, -0.1])
def test_a_side_wired_the_wrong_way_round_is_heard(container: str, slip: float) -> None:
    """The levels differ by a factor of 1 + `slip`: cables and microphones are not all equal."""
    left = noise()
    found_ = found(left, -(1 + slip) * left, container=container)
    for window, start in zip(found_, range(3), strict=True):
        assert window.channel == 1
        expected = left[start * RATE : (start + 1) * RATE]
        assert np.abs(window.samples - expected).max() < 1e-4
        assert window.level_dbfs == pytest.approx(level(expected), abs=0.01)


def test_offsets_neither_hide_a_sound_nor_make_one_look_lost() -> None:
    quiet = 0.001 * noise(1.0) / 0.1
    (in_phase,) = found(quiet + 0.05, -quiet + 0.05)
    assert in_phase.channel == 1
    (apart,) = found(quiet + 0.05, quiet - 0.05)
    assert apart.channel == 0
    assert np.abs(apart.samples - quiet).max() < 1e-4


ORDINARY: dict[str, Callable[[], list[Noise]]] = {
    "mono": lambda: [noise()],
    "the same twice": lambda: [noise(), noise()],
    "unlike sounds": lambda: [noise(), noise(seed=1)],
    "one side alone": lambda: [noise(), 0 * noise()],
    "one of eight alone": lambda: [0 * noise()] * 7 + [noise()],
    "eight unlike": lambda: [noise(seed=seed) for seed in range(8)],
    "a delay between the sides": lambda: [noise(), np.roll(noise(), 7)],
    "the other side loud and turned round": lambda: [noise(), -2.0 * noise()],
    "silence": lambda: [0 * noise(), 0 * noise()],
    "offsets alone": lambda: [0 * noise() + 0.1, 0 * noise() - 0.1],
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_channels_are_averaged_as_ever(name: str) -> None:
    channels = ORDINARY[name]()
    stored = np.round(np.stack(channels, axis=1) * 32_767).clip(-32_768, 32_767)
    stored = stored.astype(np.int16).astype(np.float32) * np.float32(1 / 32_768)
    mean, channel = to_mono(stored)
    expected = stored[:, 0].copy()
    for other in stored.T[1:]:
        expected += other
    assert channel == 0
    assert np.array_equal(mean, expected * np.float32(1 / len(channels)))


def test_the_choice_is_one_of_some_seconds_and_each_window_says_it(tmp_path: Path) -> None:
    """The right channel is reversed after the first block, as if somebody swapped its wires."""
    block = BLOCK_FRAMES / RATE
    sound = noise(4 * block)
    right = np.where(np.arange(len(sound)) < BLOCK_FRAMES, sound, -sound)
    data = encode(np.stack([sound, right], axis=1), RATE)
    whole = list(windows(data, CONFIG))
    assert [one.channel for one in whole] == [int(one.start_s + 1.0 > block) for one in whole]
    samples = np.concatenate(list(decode(data, RATE)))
    assert np.abs(samples - sound).max() < 1e-4
    (tmp_path / "turned.wav").write_bytes(data)
    for start in (3.0, round(block) - 0.5, 40.0):
        with (tmp_path / "turned.wav").open("rb") as file:
            (window,) = windows(file, CONFIG, segment=(start, start + 1.0))
        assert window.channel == int(start + 1.0 > block)
        at = round(start * RATE)
        assert np.array_equal(window.samples, samples[at : at + RATE])
    overlapping = list(windows(io.BytesIO(data), replace(CONFIG, hop_s=0.1)))
    assert [one.channel for one in overlapping] == [
        int(round((one.start_s + 1.0) * RATE) > BLOCK_FRAMES) for one in overlapping
    ]


def test_the_level_is_of_what_was_recorded() -> None:
    full, half = found(np.full(RATE, 1.0), np.full(RATE, 1.0))[0], found(noise(1.5))[1]
    assert full.level_dbfs == pytest.approx(0.0, abs=0.01)
    assert half.duration_s == 0.5
    assert half.level_dbfs == pytest.approx(level(noise(1.5)[RATE:]), abs=0.01)
    assert found(0 * noise(1.0))[0].level_dbfs == -200.0
