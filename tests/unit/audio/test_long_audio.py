"""Files are decoded while they are read: memory stays constant, and samples are the same."""

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiocnn.audio.decode import Source, count_windows, decode, windows
from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits, WindowConfig
from audiocnn.errors import AudioError

Tone = Callable[..., np.ndarray]
CONFIG = WindowConfig(sample_rate=16_000, window_s=1.0, hop_s=0.5)


def samples_of(source: Source, rate: int = 16_000) -> np.ndarray:
    return np.concatenate(list(decode(source, rate)))


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_gives_the_samples_that_its_bytes_give(container: str, channels: int) -> None:
    data = encode(noise(20.0, 22_050, channels), 22_050, container)
    assert np.array_equal(samples_of(io.BytesIO(data)), samples_of(data))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_16_bit_wav_has_the_samples_that_libsndfile_reads(channels: int) -> None:
    data = encode(noise(2.0, 16_000, channels), 16_000)
    reference, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert np.allclose(samples_of(data), reference.mean(axis=1), atol=1e-7)
    assert np.array_equal(samples_of(data), samples_of(io.BytesIO(data)))


def test_one_block_and_many_are_resampled_alike(tone: Tone) -> None:
    """soxr resamples a recording of one block in one call, and a longer one as a stream."""
    second = samples_of(encode(tone(12.0, 44_100), 44_100), 22_050)
    first = samples_of(encode(tone(3.0, 44_100), 44_100), 22_050)
    inside = len(first) - 2_000
    assert np.abs(first[:inside] - second[:inside]).max() < 1e-6


def test_an_mp3_without_its_length_is_read_to_its_end_from_a_file_too() -> None:
    data = encode(noise(4.0, 44_100), 44_100, "mp3")
    tag = data.find(b"Xing") if b"Xing" in data[:200] else data.find(b"Info")
    without = data[data.index(data[:2], tag + 120) :]
    assert np.array_equal(samples_of(io.BytesIO(without)), samples_of(without))
    assert len(samples_of(without)) > 3.9 * 16_000


@pytest.mark.parametrize("hop_s", [1.0, 0.5, 0.3])
def test_windows_are_counted_as_they_are_cut(hop_s: float) -> None:
    config = WindowConfig(sample_rate=16_000, window_s=1.0, hop_s=hop_s, min_tail_s=0.25)
    for seconds in (0.1, 0.99, 1.0, 1.2, 1.3, 1.75, 2.0, 3.6):
        found = list(windows(encode(noise(seconds, 16_000), 16_000), config))
        assert count_windows(seconds, config) == len(found), seconds


def test_rf64_is_wav() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(1.0, 16_000), 16_000, format="RF64", subtype="PCM_16")
    assert len(samples_of(buffer.getvalue())) == 16_000


class Failing(io.BytesIO):
    """A file that fails after byte 60,000, as if it were read over a broken connection."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 60_000:
            raise ConnectionError("connection reset")
        return super().read(size)


@pytest.mark.parametrize("container", ["wav", "flac"])
def test_a_failing_read_is_not_taken_for_a_short_file(container: str) -> None:
    data = encode(noise(10.0, 16_000), 16_000, container)
    with pytest.raises(ConnectionError, match="connection reset"):
        samples_of(Failing(data))


def test_a_cut_file_is_truncated_whichever_way_it_is_read() -> None:
    for container in ("wav", "flac", "ogg", "mp3"):
        data = encode(noise(4.0, 16_000), 16_000, container)
        with pytest.raises(AudioError, match=r"truncated|decode"):
            samples_of(io.BytesIO(data[: len(data) // 2]))


def long_wav(path: Path, hours: float, rate: int) -> None:
    """Write a WAV of `hours` hours, which is sparse and takes no space on the disk."""
    size = int(hours * 3_600) * rate * 2
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    head = b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.truncate(44 + size)


MEASURE = """
import resource, sys
from audiocnn.audio.decode import windows
from audiocnn.config import AudioLimits, WindowConfig
config = WindowConfig(sample_rate=8_000, window_s=5.0, hop_s=5.0)
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        count = sum(1 for _ in windows(file, config, AudioLimits()))
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_is_the_same_for_a_minute_and_for_ten_hours(tmp_path: Path) -> None:
    paths = tmp_path / "minute.wav", tmp_path / "hours.wav"
    long_wav(paths[0], 1 / 60, 16_000)
    long_wav(paths[1], 10, 16_000)
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [int(count) for count in told[::2]] == [12, 7_200]
    before, after = map(int, told[1::2])
    assert after - before < 40, f"{before} and {after} MB"


def test_a_short_clip_of_a_low_rate_is_a_recording_like_any_other() -> None:
    (window,) = windows(encode(noise(0.4, 8_000), 8_000), CONFIG, AudioLimits())
    assert window.duration_s == pytest.approx(0.4, abs=0.001)
