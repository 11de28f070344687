import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
import soxr

from audiocnn.audio.containers.mp3 import read_mp3
from audiocnn.audio.containers.registry import find_container
from audiocnn.audio.decode import decode, read_info, windows
from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits, WindowConfig
from audiocnn.errors import AudioError
from helpers.hostile import HOSTILE, TOLERATED, sound

Tone = Callable[..., np.ndarray]
ONE_SECOND = WindowConfig(sample_rate=16_000, window_s=1.0, hop_s=1.0)


def decoded(data: bytes, rate: int) -> np.ndarray:
    return np.concatenate(list(decode(data, rate)))


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_container_gives_the_mean_of_its_channels(
    tone: Tone, container: str, channels: int
) -> None:
    samples = tone(1.0, 44_100, channels)
    got = decoded(encode(samples, 44_100, container), 44_100)
    assert got.dtype == np.float32
    tolerance = {"wav": 1e-4, "flac": 1e-4, "ogg": 0.05, "mp3": 0.05}[container]
    assert abs(len(got) - 44_100) < 2_400  # MP3 pads to whole frames
    middle = slice(5_000, 40_000)
    assert np.abs(got[middle] - samples.mean(axis=1)[middle]).max() < tolerance


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW"])
def test_wav_codecs(tone: Tone, subtype: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.5, 16_000), 16_000, format="WAV", subtype=subtype)
    assert np.abs(decoded(buffer.getvalue(), 16_000) - tone(0.5, 16_000)[:, 0]).max() < 0.02


def test_resampling_block_by_block_equals_resampling_at_once(tone: Tone) -> None:
    samples = tone(20.0, 44_100)  # several blocks
    got = decoded(encode(samples, 44_100), 22_050)
    pcm = np.round(samples[:, 0] * 32767) / 32768
    whole = soxr.resample(pcm.astype(np.float32), 44_100, 22_050)
    assert len(got) == len(whole)
    assert np.abs(got - whole).max() < 1e-3


def test_windows_start_every_hop_and_pad_the_last(tone: Tone) -> None:
    found = list(windows(encode(tone(2.7, 16_000), 16_000), ONE_SECOND))
    assert [w.start_s for w in found] == [0.0, 1.0, 2.0]
    assert [round(w.duration_s, 3) for w in found] == [1.0, 1.0, 0.7]
    assert all(w.samples.shape == (16_000,) and w.samples.dtype == np.float32 for w in found)
    assert not found[2].samples[11_200:].any()


def test_a_short_tail_is_left_out_but_never_the_only_window(tone: Tone) -> None:
    assert len(list(windows(encode(tone(1.3, 16_000), 16_000), ONE_SECOND))) == 1
    (only,) = windows(encode(tone(0.3, 16_000), 16_000), ONE_SECOND)
    assert only.duration_s == pytest.approx(0.3)


def test_overlapping_windows_cover_the_recording_once_past_the_end(tone: Tone) -> None:
    config = WindowConfig(sample_rate=16_000, window_s=1.0, hop_s=0.25, min_tail_s=0.1)
    found = list(windows(encode(tone(2.0, 16_000), 16_000), config))
    assert [w.start_s for w in found] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(w.duration_s == 1.0 for w in found)


def test_repeat_fills_the_window_with_the_sound_itself(tone: Tone) -> None:
    config = WindowConfig(sample_rate=16_000, window_s=1.0, hop_s=1.0, pad="repeat")
    (window,) = windows(encode(tone(0.4, 16_000), 16_000), config)
    assert np.array_equal(window.samples[:6_400], window.samples[6_400:12_800])
    assert np.abs(window.samples[12_800:]).max() > 0.1


def test_a_second_of_silence_is_a_recording_like_any_other() -> None:
    (window,) = windows(encode(np.zeros(16_000), 16_000), ONE_SECOND)
    assert not window.samples.any()


@pytest.mark.parametrize("rate", [44_100, 192_000])
def test_what_gives_not_one_sample_is_too_short_and_gives_no_window(rate: int) -> None:
    """A window of length 0 would have no weight in a recording's mean, and no time in an event."""
    data, limits = encode(np.full(1, 0.1), rate), AudioLimits(min_duration_s=1e-6)
    with pytest.raises(AudioError, match="too_short: less than one sample at 16000 Hz"):
        list(windows(data, ONE_SECOND, limits))


def test_memory_is_bounded_by_the_windows_asked_for(tone: Tone) -> None:
    limits = AudioLimits(max_duration_s=7_200)
    silent_hour = encode(np.zeros(3_600 * 8_000, np.int16), 8_000, "flac")
    assert len(silent_hour) < 1e6
    first = next(windows(silent_hour, ONE_SECOND, limits))
    assert first.samples.shape == (16_000,)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_an_audio_error_with_its_reason(name: str) -> None:
    data, reasons = HOSTILE[name]
    limits = AudioLimits(max_duration_s=600)
    with pytest.raises(AudioError) as caught:
        list(windows(data, ONE_SECOND, limits))
    assert caught.value.reason in reasons.split("|")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TOLERATED)
def test_odd_but_readable_recordings_are_read(name: str) -> None:
    found = list(windows(TOLERATED[name], ONE_SECOND))
    assert found
    assert all(np.isfinite(w.samples).all() for w in found)


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3"])
def test_no_cut_of_a_recording_passes_for_a_whole_one(container: str) -> None:
    data = sound(container)
    rng = np.random.default_rng(2)
    cuts = [*range(64), *rng.integers(64, len(data) - 1, 60).tolist(), len(data) - 1]
    for cut in cuts:
        with pytest.raises(AudioError):
            list(windows(data[:cut], ONE_SECOND))


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3"])
def test_flipped_bytes_give_windows_or_an_audio_error(container: str) -> None:
    data = sound(container)
    rng = np.random.default_rng(3)
    for _ in range(60):
        broken = bytearray(data)
        for position in rng.integers(0, len(data), 8):
            broken[position] = rng.integers(256)
        try:
            found = list(windows(bytes(broken), ONE_SECOND))
        except AudioError:
            continue
        assert all(np.isfinite(w.samples).all() for w in found)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_that_does_not_say_its_length_is_read_to_its_end(rate: int, channels: int) -> None:
    """libsndfile guesses the length from the first frame: it would cut a VBR that begins loud."""
    rng = np.random.default_rng(0)
    loud = rng.standard_normal(4 * rate) * 0.2
    samples = np.concatenate([loud, loud * 0.001])
    data = encode(np.stack([samples] * channels, axis=1), rate, "mp3")
    whole = read_mp3(io.BytesIO(data))
    assert whole is not None
    tag = data.find(b"Xing")
    assert 0 < tag < 100
    without = data[data.index(data[:2], tag + 120) :]
    counted = read_mp3(io.BytesIO(without))
    assert counted is not None
    assert abs(counted.frames - whole.frames) <= 1
    for found in (decoded(without, rate), decoded(data + without, rate)[len(samples) :]):
        assert abs(len(found) - len(samples)) < 4_000
    with pytest.raises(AudioError, match="truncated"):
        decoded(without[:-7], rate)


def test_limits_come_from_the_header_before_anything_is_decoded(tone: Tone) -> None:
    data = encode(tone(3.0, 16_000, 2), 16_000)
    info = read_info(data)
    assert (info.container, info.sample_rate, info.channels) == ("wav", 16_000, 2)
    for limits, reason in [
        (AudioLimits(max_bytes=1_000), "too_large"),
        (AudioLimits(max_channels=1), "channels"),
        (AudioLimits(max_rate_hz=8_000), "sample_rate"),
        (AudioLimits(max_duration_s=2.0), "too_long"),
    ]:
        with pytest.raises(AudioError) as caught:
            read_info(data, limits)
        assert caught.value.reason == reason


def test_the_container_is_found_by_its_first_bytes() -> None:
    for container in ("wav", "flac", "ogg", "mp3"):
        found, start = find_container(io.BytesIO(sound(container)))
        assert (found.name, start) == (container, 0)
