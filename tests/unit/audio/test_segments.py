"""A segment has the samples of the whole recording; the decoder jumps to the segment."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiocnn.audio.containers import frames
from audiocnn.audio.decode import Segment, Source, decode, read_info
from audiocnn.errors import AudioError
from helpers.hostile import ID3

RATE, SECONDS = 22_050, 90.0


def noise(seconds: float = SECONDS, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Return noise, [samples, channels], with a changing level, so that all places differ."""
    samples = np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    level = 0.02 + 0.1 * np.abs(np.sin(np.arange(len(samples)) / rate))
    return samples * level[:, None]


def encoded(samples: np.ndarray, rate: int, container: str, codec: str | None = None) -> bytes:
    """Encode one second at a time: libsndfile's Vorbis encoder crashes on long arrays."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate, samples.shape[1], format=container, subtype=codec
    ) as file:
        for start in range(0, len(samples), rate):
            file.write(samples[start : start + rate])
    return buffer.getvalue()


def samples_of(source: Source, rate: int, segment: Segment | None = None) -> np.ndarray:
    return np.concatenate(list(decode(source, rate, segment=segment)))


class Counting(io.BytesIO):
    """A file that counts the bytes that were read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of frames that libsndfile returned in each read."""
    counts: list[int] = []
    read = frames.SoundFileFrames._read

    def counted(self: frames.SoundFileFrames, count: int) -> frames.Block:
        block = read(self, count)
        counts.append(len(block))
        return block

    monkeypatch.setattr(frames.SoundFileFrames, "_read", counted)
    return counts


CONTAINERS = [
    ("WAV", "PCM_16", 22_050),
    ("WAV", "PCM_24", 22_050),
    ("FLAC", None, 22_050),
    ("OGG", "VORBIS", 22_050),
    ("OGG", "OPUS", 24_000),
    ("MP3", None, 44_100),
]


@pytest.mark.parametrize(("container", "codec", "rate"), CONTAINERS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", [22_050, 24_000, 44_100, 16_000])
def test_a_segment_has_the_samples_of_the_whole(
    container: str, codec: str | None, rate: int, channels: int, sample_rate: int
) -> None:
    data = encoded(noise(40.0, rate, channels), rate, container, codec)
    whole = samples_of(data, sample_rate)
    last = len(whole) / sample_rate
    for start, end in [(0.0, 1.0), (5.9, 6.1), (11.88, 24.3), (37.25, 38.0), (last - 0.5, 99.0)]:
        expected = whole[round(start * sample_rate) : round(end * sample_rate)]
        found = samples_of(data, sample_rate, (start, end))
        assert len(found) == len(expected)
        if rate == sample_rate and container != "MP3":
            assert np.array_equal(found, expected)
        assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_what_is_before_a_segment_is_not_read(container: str) -> None:
    data = encoded(noise(300.0), RATE, container)
    file = Counting(data)
    samples_of(file, 16_000, (280.0, 281.0))
    assert file.count < len(data) / 6


@pytest.mark.parametrize(("container", "codec", "rate"), CONTAINERS[1:])
def test_what_is_before_a_segment_is_not_decoded(
    container: str, codec: str | None, rate: int, decoded: list[int]
) -> None:
    data = encoded(noise(SECONDS, rate), rate, container, codec)
    samples_of(data, 16_000, (80.0, 81.0))
    assert 0 < sum(decoded) <= 2 * frames.BLOCK_FRAMES + 2**15
    assert sum(decoded) < 0.7 * SECONDS * rate


def test_a_segment_may_lie_in_any_stream_of_a_chained_ogg(decoded: list[int]) -> None:
    parts = [encoded(noise(seconds), RATE, "OGG", "VORBIS") for seconds in (30.0, 31.0, 45.0)]
    joined = b"".join(parts)
    whole = samples_of(joined, RATE)
    for start, end in [(10.0, 11.0), (29.5, 30.5), (60.5, 61.5), (100.0, 101.0), (29.0, 62.0)]:
        decoded.clear()
        found = samples_of(joined, RATE, (start, end))
        assert np.array_equal(found, whole[round(start * RATE) : round(end * RATE)])
        if end - start == 1.0:
            assert sum(decoded) <= 3 * frames.BLOCK_FRAMES


def test_a_flac_that_does_not_say_its_length_is_jumped_into_too(decoded: list[int]) -> None:
    data = bytearray(encoded(noise(), RATE, "FLAC"))
    whole = samples_of(bytes(data), RATE)
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    decoded.clear()
    found = samples_of(bytes(data), RATE, (80.0, 81.0))
    assert np.array_equal(found, whole[80 * RATE : 81 * RATE])
    assert sum(decoded) <= 2 * frames.BLOCK_FRAMES
    with pytest.raises(AudioError, match="too_short: no sound from 100 to 101 s"):
        samples_of(bytes(data), RATE, (100.0, 101.0))


@pytest.mark.parametrize(("container", "codec", "rate"), CONTAINERS)
def test_behind_its_end_there_is_no_sound(container: str, codec: str | None, rate: int) -> None:
    data = ID3 + encoded(noise(30.0, rate), rate, container, codec)
    for start in (31.0, 1e3, 1e9):
        with pytest.raises(AudioError, match="too_short: no sound from"):
            samples_of(data, 16_000, (start, start + 1.0))


def test_a_rate_that_soxr_only_comes_near_is_decoded_from_the_beginning() -> None:
    data = encoded(noise(30.0, 22_051), 22_051, "WAV")
    whole = samples_of(data, 16_000)
    assert np.array_equal(samples_of(data, 16_000, (25.0, 26.0)), whole[25 * 16_000 : 26 * 16_000])


def test_the_end_of_a_recording_of_six_hours(tmp_path: Path) -> None:
    """The file is sparse on the disk: 16-bit stereo at 48 kHz, more than 4 GB."""
    rate, hours = 48_000, 6
    frames_there = hours * 3_600 * rate
    tail = np.random.default_rng(0).integers(-5_000, 5_000, (rate, 2)).astype("<i2")
    path = tmp_path / "long.wav"
    fmt = struct.pack("<IHHIIHH", 16, 1, 2, rate, 4 * rate, 4, 16)
    size = struct.pack("<I", 4 * frames_there & 0xFFFFFFFF)
    with path.open("wb") as file:
        file.write(b"RIFF" + size + b"WAVEfmt " + fmt + b"data" + size)
        file.seek(44 + 4 * (frames_there - rate))
        file.write(tail.tobytes())
    with path.open("rb") as file:
        assert read_info(file).frames == frames_there
        end = float(hours * 3_600)
        found = samples_of(file, rate, (end - 1.0, end))
    assert np.abs(found - tail.mean(axis=1) / 32_768).max() < 1e-6
