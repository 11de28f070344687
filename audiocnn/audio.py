"""Bytes -> mono float32 windows at one rate: the only decoder, and its limits.

A recording is decoded block by block, and read from its file as it is decoded, so memory stays
flat whatever its length.
"""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audiocnn.config import AudioLimits, WindowConfig
from audiocnn.containers import Spliced, WavHeader, check_mp3, check_ogg, read_wav, sniff
from audiocnn.errors import AudioError

__all__ = [
    "AUDIO_SUFFIXES", "AudioInfo", "AudioLimits", "Samples", "Segment", "Source", "Window",
    "WindowConfig", "batched", "count_windows", "cut", "decode", "needs_libsndfile", "read",
    "read_info", "windows",
]  # fmt: skip

Samples = npt.NDArray[np.float32]
Samples16 = npt.NDArray[np.int16]
Source = bytes | BinaryIO
"""A recording: its bytes, or a seekable file of them."""
Segment = tuple[float, float]
"""A stretch of a recording: where it begins and where it ends, in seconds."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""File names that are taken for recordings when a folder or a bucket is listed."""

_BLOCK_FRAMES = 1 << 18
_FRAMES_UNKNOWN = 2**63 - 1
"""What libsndfile says of a FLAC that was streamed and never told its length."""
_LOUDEST = 1e6
"""Largest sample taken for sound: above full scale in 16-bit integer units, below overflow."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a recording.

    `samples` is [window_samples] float32; `duration_s` is the recorded part of it, the rest
    is padding.
    """

    start_s: float
    duration_s: float
    samples: Samples


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a recording's header says."""

    container: str
    sample_rate: int
    channels: int
    frames: int
    """0 where the header does not say."""


def read_info(source: Source, limits: AudioLimits | None = None) -> AudioInfo:
    """What the header says, checked against the limits; nothing is decoded.

    Raises AudioError: empty, unrecognised, truncated, too_large, channels, sample_rate,
    too_long, too_short, decode.
    """
    with _Recording(source, limits or AudioLimits()) as recording:
        return recording.info


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Read once, from the front.

    A seekable SoundFile seeks behind each block that it has read, which fails in a FLAC whose
    length is unknown, or another one than its header says.
    """

    def seekable(self) -> bool:
        return False


class _Recording:
    """A checked recording, closed at the end of its block."""

    def __init__(self, source: Source, limits: AudioLimits) -> None:
        self.limits = limits
        self._sound: soundfile.SoundFile | None = None
        self._pcm16: Samples16 = np.empty((0, 1), np.int16)
        self._spliced: Spliced | None = None
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        size = file.seek(0, io.SEEK_END)
        if size > limits.max_bytes:
            raise AudioError("too_large", f"{size} bytes, the limit is {limits.max_bytes}")
        container = sniff(file)
        wav = read_wav(file) if container == "wav" else None
        if isinstance(source, bytes) and wav is not None and _is_plain(wav):
            self.info = self._open_pcm16(source, wav)
        else:
            self.info = self._open_sound(file, container)
        try:
            _check_limits(self.info, limits)
        except AudioError:
            self.close()
            raise

    def _open_pcm16(self, data: bytes, wav: WavHeader) -> AudioInfo:
        """The commonest sound of all, without libsndfile: the same samples in a tenth of the time.

        Its calls back into Python for every 8 kB cost more than decoding does.
        """
        frames = wav.data_bytes // wav.block_bytes
        flat = np.frombuffer(data, "<i2", frames * wav.channels, wav.data_at)
        self._pcm16 = flat.reshape(frames, wav.channels)
        return AudioInfo(
            container="wav", sample_rate=wav.sample_rate, channels=wav.channels, frames=frames
        )

    def _open_sound(self, file: BinaryIO, container: str) -> AudioInfo:
        head, rest = b"", 0
        if container == "ogg":
            check_ogg(file)
        if container == "mp3":
            mp3 = check_mp3(file)
            head, rest = mp3.head, mp3.rest
        self._spliced = Spliced(file, head, rest)
        try:
            sound = self._sound = _Forward(self._spliced)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise self._error(error) from error
        return AudioInfo(
            container=container,
            sample_rate=sound.samplerate,
            channels=sound.channels,
            frames=0 if sound.frames == _FRAMES_UNKNOWN else sound.frames,
        )

    def _error(self, error: Exception) -> Exception:
        """Why libsndfile failed: the file could not be read, or could not be decoded."""
        if self._spliced is not None and self._spliced.error is not None:
            return self._spliced.error
        reason = re.sub(r"^Error opening <.*>: ", "", str(error).strip(), flags=re.DOTALL)
        return AudioError("decode", reason.rstrip("."))

    def __enter__(self) -> "_Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what libsndfile holds."""
        if self._sound is not None:
            self._sound.close()

    def blocks(self) -> Iterator[Samples]:
        """Checked blocks, [frames, channels] float32, at the recording's own rate."""
        total = 0
        for block in self._decoded_blocks():
            total += len(block)
            _check_length(total, self.info, self.limits)
            # Not abs: it costs an array. NaN compares false.
            if not (block.min() >= -_LOUDEST and block.max() <= _LOUDEST):
                raise AudioError("non_finite", f"NaN, Inf or above {_LOUDEST:g} near frame {total}")
            yield block
        _check_ending(self.info, total, self.limits)

    def _decoded_blocks(self) -> Iterator[Samples]:
        if self._sound is not None:
            yield from self._sound_blocks(self._sound)
            return
        for start in range(0, len(self._pcm16), _BLOCK_FRAMES):
            block = self._pcm16[start : start + _BLOCK_FRAMES].astype(np.float32)
            block *= np.float32(1 / 32_768)
            yield block

    def _sound_blocks(self, sound: soundfile.SoundFile) -> Iterator[Samples]:
        # A short recording needs a small buffer only; a header that lies makes it slow, no more.
        size = min(_BLOCK_FRAMES, max(4_096, self.info.frames or _BLOCK_FRAMES))
        while True:
            buffer = np.empty((size, self.info.channels), np.float32)
            try:
                # Not SoundFile.read: it believes the header's frame count.
                count = sound.buffer_read_into(buffer.data, "float32")
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise self._error(error) from error
            if count == 0:
                break
            yield buffer[:count]
        if self._spliced is not None and self._spliced.error is not None:
            raise self._spliced.error


def _check_limits(info: AudioInfo, limits: AudioLimits) -> None:
    if info.channels > limits.max_channels:
        raise AudioError(
            "channels", f"{info.channels} channels, the limit is {limits.max_channels}"
        )
    if not limits.min_rate_hz <= info.sample_rate <= limits.max_rate_hz:
        raise AudioError(
            "sample_rate",
            f"{info.sample_rate} Hz is not within {limits.min_rate_hz} to {limits.max_rate_hz} Hz",
        )
    _check_length(info.frames, info, limits)


def _check_length(frames: int, info: AudioInfo, limits: AudioLimits) -> None:
    duration_s = frames / info.sample_rate
    if duration_s > limits.max_duration_s:
        raise AudioError("too_long", f"{duration_s:.0f} s, the limit is {limits.max_duration_s:g}")
    samples = frames * info.channels
    if samples > limits.max_samples:
        raise AudioError("too_long", f"{samples} samples, the limit is {limits.max_samples}")


def decode(
    source: Source,
    sample_rate: int,
    limits: AudioLimits | None = None,
    segment: Segment | None = None,
) -> Iterator[Samples]:
    """A recording, or a segment of it, as mono float32 blocks at `sample_rate`, in full scale ±1.

    `source` is the recording's bytes, or a seekable file of them, which is read as it is needed.
    Channels are averaged; the rate is converted by soxr at its high quality. WAV, FLAC, OGG
    (Vorbis, Opus) and MP3 are read. Raises AudioError as `read_info` does, and non_finite and
    truncated where decoding shows them: blocks before such a place were already given. What lies
    behind a segment is not decoded; one without any sound is too_short.
    """
    with _Recording(source, limits or AudioLimits()) as recording:
        blocks = _converted(recording, sample_rate)
        yield from blocks if segment is None else _within(blocks, sample_rate, segment)


def read(
    source: Source, sample_rate: int, limits: AudioLimits | None = None
) -> tuple[AudioInfo, Samples]:
    """What the header says, and all that `decode` gives in one array. Raises AudioError."""
    with _Recording(source, limits or AudioLimits()) as recording:
        blocks = list(_converted(recording, sample_rate))
        return recording.info, blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def needs_libsndfile(data: bytes) -> bool:
    """Whether native code that a hostile file may break sees a recording's bytes.

    Not where they are refused before, and not for 16-bit WAV, which is read by numpy alone.
    """
    file = io.BytesIO(data)
    try:
        return sniff(file) != "wav" or not _is_plain(read_wav(file))
    except AudioError:
        return False


def _is_plain(wav: WavHeader) -> bool:
    return wav.is_pcm16 and wav.channels > 0


def _converted(recording: _Recording, sample_rate: int) -> Iterator[Samples]:
    rate = recording.info.sample_rate
    mono = map(_mono, recording.blocks())
    return mono if rate == sample_rate else _resampled(mono, rate, sample_rate)


def _mono(block: Samples) -> Samples:
    """[frames, channels] -> [frames], the mean of the channels."""
    mixed = block[:, 0]
    if block.shape[1] > 1:
        mixed = mixed.copy()
        for channel in range(1, block.shape[1]):
            mixed += block[:, channel]
        mixed *= np.float32(1 / block.shape[1])
    return mixed


def _resampled(blocks: Iterator[Samples], rate: int, sample_rate: int) -> Iterator[Samples]:
    first = next(blocks)
    second = next(blocks, None)
    if second is None:  # the same samples as by the stream, sooner
        resampled = soxr.resample(first, rate, sample_rate)
        if not len(resampled):
            raise AudioError("too_short", f"{len(first)} samples are none at {sample_rate} Hz")
        yield resampled
        return
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    for block in chain([first, second], blocks):
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _check_ending(info: AudioInfo, total: int, limits: AudioLimits) -> None:
    if total == 0:
        raise AudioError("empty", "the file has a header and no samples")
    # An MP3's frames were counted; its decoder leaves out the first, which it only starts with.
    if total < info.frames and info.container != "mp3":
        raise AudioError("truncated", f"{total} of {info.frames} frames are there")
    if total / info.sample_rate < limits.min_duration_s:
        raise AudioError(
            "too_short", f"{total} samples, the least is {limits.min_duration_s:g} s of sound"
        )


def windows(
    source: Source,
    config: WindowConfig,
    limits: AudioLimits | None = None,
    segment: Segment | None = None,
) -> Iterator[Window]:
    """The windows of a recording, or of a segment of it, whose beginning is then their time 0.

    They are in order; memory is a block and a window, whatever the length. Raises AudioError as
    `decode` does.
    """
    return cut(decode(source, config.sample_rate, limits, segment), config)


def _within(blocks: Iterable[Samples], sample_rate: int, segment: Segment) -> Iterator[Samples]:
    """What of consecutive blocks lies in a segment. Raises AudioError too_short."""
    first, end = (round(time * sample_rate) for time in segment)
    at = found = 0
    for block in blocks:
        part = block[max(0, first - at) : max(0, end - at)]
        at, found = at + len(block), found + len(part)
        if len(part):
            yield part
        if at >= end:
            break
    if not found:
        raise AudioError("too_short", f"no sound from {segment[0]:g} to {segment[1]:g} s")


def cut(blocks: Iterable[Samples], config: WindowConfig) -> Iterator[Window]:
    """Consecutive blocks of mono samples -> windows.

    A window starts every `hop_s`. The last one is padded as `config.pad` says; it is left out
    where it would hold less than `min_tail_s` of sound and is not the only one.
    """
    size, hop = config.window_samples, config.hop_samples
    pending = np.zeros(0, np.float32)
    start = 0
    for block in blocks:
        pending = np.concatenate([pending, block]) if len(pending) else block
        while len(pending) >= size:
            yield _window(start, pending[:size], size, config)
            start, pending = start + hop, pending[hop:]
    if _is_window(start, len(pending), config):
        yield _window(start, pending, size, config)


def batched(found: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Consecutive windows, `size` at a time; only these are in memory."""
    while group := list(islice(found, size)):
        yield group


def count_windows(duration_s: float, config: WindowConfig) -> int:
    """How many windows `windows` gives of a recording of so many seconds."""
    samples = round(duration_s * config.sample_rate)
    beyond = samples - config.window_samples
    whole = 0 if beyond < 0 else 1 + beyond // config.hop_samples
    start = whole * config.hop_samples
    return whole + _is_window(start, samples - start, config)


def _is_window(start: int, left: int, config: WindowConfig) -> bool:
    """Whether the samples that are left from `start` on, too few for a window, still make one."""
    # They overlap the window before them.
    fresh = left - (config.window_samples - config.hop_samples if start else 0)
    return start == 0 or (fresh > 0 and fresh >= config.min_tail_s * config.sample_rate)


def _window(start: int, samples: Samples, size: int, config: WindowConfig) -> Window:
    count = len(samples)
    if count < size and config.pad == "repeat":
        samples = np.resize(samples, size)
    elif count < size:
        samples = np.pad(samples, (0, size - count))
    return Window(
        start_s=start / config.sample_rate,
        duration_s=count / config.sample_rate,
        samples=samples,
    )
