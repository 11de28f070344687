"""Bytes -> mono float32 windows at one rate: the only decoder, and its limits.

A recording is decoded block by block, so memory stays flat whatever its length. Its
container is recognised from its first bytes before libsndfile sees them: libsndfile opens
many more formats than anybody needs, and the rare ones are where it is weak.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audiocnn.config import AudioLimits, WindowConfig
from audiocnn.errors import AudioError
from audiocnn.mp3 import read_mp3

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioInfo",
    "AudioLimits",
    "Samples",
    "Window",
    "WindowConfig",
    "decode",
    "read_info",
    "sniff",
    "windows",
]

Samples = npt.NDArray[np.float32]

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""File names that are taken for recordings when a folder or a bucket is listed."""

_BLOCK_FRAMES = 1 << 18
_MOST_CHUNKS = 1_000
_LOUDEST = 1e6
"""Largest sample taken for sound: above full scale in 16-bit integer units, below overflow."""

_WAV_CODECS = {1: "PCM", 3: "float", 6: "A-law", 7: "mu-law"}
_WAV_EXTENSIBLE = 0xFFFE


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


def sniff(data: bytes) -> str:
    """The container of a recording, from its bytes: "wav", "flac", "ogg" or "mp3".

    Raises AudioError: empty, unrecognised, truncated.
    """
    if not data:
        raise AudioError("empty", "the file has no bytes")
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        _check_wav(data)
        return "wav"
    if data[:4] == b"fLaC":
        return "flac"
    if data[:4] == b"OggS":
        _check_ogg(data)
        return "ogg"
    if data[:3] == b"ID3" or (len(data) > 2 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2):
        return "mp3"
    raise AudioError("unrecognised", f"it begins with {data[:4]!r}: not WAV, FLAC, OGG or MP3")


def _check_wav(data: bytes) -> None:
    """Refuse codecs that we do not read, and a data chunk longer than the file."""
    position, codec = 12, None
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data):
            break
        name, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        body = position + 8
        if name == b"fmt " and size >= 16 and body + 16 <= len(data):
            codec = struct.unpack_from("<H", data, body)[0]
            if codec == _WAV_EXTENSIBLE and size >= 26 and body + 26 <= len(data):
                codec = struct.unpack_from("<H", data, body + 24)[0]
            if codec not in _WAV_CODECS:
                known = ", ".join(_WAV_CODECS.values())
                raise AudioError("unrecognised", f"WAV codec 0x{codec:04x}: not {known}")
        if name == b"data":
            if codec is None:
                break
            present = len(data) - body
            # A writer to a pipe cannot know the size and leaves it at its largest.
            if present < size < 0x7FFFFF00:
                raise AudioError("truncated", f"{present} of {size} bytes of sound are there")
            return
        position = body + size + size % 2
    raise AudioError(
        "truncated" if codec else "unrecognised",
        "the WAV header ends before its sound begins",
    )


def _check_ogg(data: bytes) -> None:
    """Refuse an OGG stream whose last page is cut, or not marked as the last."""
    last = data.rfind(b"OggS")
    header = data[last : last + 27]
    if len(header) == 27:
        segments = data[last + 27 : last + 27 + header[26]]
        page_end = last + 27 + header[26] + sum(segments)
        if len(segments) == header[26] and page_end <= len(data) and header[5] & 4:
            return
    raise AudioError("truncated", "the OGG stream ends before its last page")


def _check_mp3(data: bytes) -> bytes:
    """The recording with its true length in it. Refuse one without frames, or with a cut one."""
    mp3 = read_mp3(data)
    if mp3 is None:
        raise AudioError("decode", "no MP3 frames follow each other in it")
    if mp3.frames == 0:
        raise AudioError("empty", "the file has no frame of sound")
    if not mp3.whole:
        raise AudioError("truncated", f"the MP3 ends within a frame, after {mp3.frames} whole ones")
    return mp3.with_length


def read_info(data: bytes, limits: AudioLimits | None = None) -> AudioInfo:
    """What the header says, checked against the limits; nothing is decoded.

    Raises AudioError: empty, unrecognised, truncated, too_large, channels, sample_rate,
    too_long, too_short, decode.
    """
    with _open(data, limits or AudioLimits()) as (info, _):
        return info


class _open:
    """A checked recording as (AudioInfo, SoundFile), closed at the end of the block."""

    def __init__(self, data: bytes, limits: AudioLimits) -> None:
        if len(data) > limits.max_bytes:
            raise AudioError("too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
        container = sniff(data)
        if container == "mp3":
            data = _check_mp3(data)
        try:
            self.file = soundfile.SoundFile(io.BytesIO(data))
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError("decode", _reason(error)) from error
        self.info = AudioInfo(
            container=container,
            sample_rate=self.file.samplerate,
            channels=self.file.channels,
            frames=self.file.frames,
        )
        try:
            _check_limits(self.info, limits)
        except AudioError:
            self.file.close()
            raise

    def __enter__(self) -> tuple[AudioInfo, soundfile.SoundFile]:
        return self.info, self.file

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _reason(error: Exception) -> str:
    return str(error).removeprefix("Error opening <_io.BytesIO object>: ").strip().rstrip(".")


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
    _check_duration(info.frames / info.sample_rate, limits)


def _check_duration(duration_s: float, limits: AudioLimits) -> None:
    if duration_s > limits.max_duration_s:
        raise AudioError("too_long", f"{duration_s:.0f} s, the limit is {limits.max_duration_s:g}")


def decode(data: bytes, sample_rate: int, limits: AudioLimits | None = None) -> Iterator[Samples]:
    """A recording as mono float32 blocks at `sample_rate`, in full scale ±1.

    Channels are averaged; the rate is converted by soxr at its high quality. WAV, FLAC, OGG
    (Vorbis, Opus) and MP3 are read. Raises AudioError as `read_info` does, and non_finite and
    truncated where decoding shows them: blocks before such a place were already given.
    """
    limits = limits or AudioLimits()
    with _open(data, limits) as (info, file):
        resampler = None
        if info.sample_rate != sample_rate:
            resampler = soxr.ResampleStream(info.sample_rate, sample_rate, 1, dtype="float32")
        for block in _mono_blocks(file, info, limits):
            yield block if resampler is None else resampler.resample_chunk(block)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _mono_blocks(
    file: soundfile.SoundFile, info: AudioInfo, limits: AudioLimits
) -> Iterator[Samples]:
    """Checked mono blocks at the recording's own rate."""
    buffer = np.empty((_BLOCK_FRAMES, info.channels), np.float32)
    total = 0
    while True:
        try:
            # Not SoundFile.read: it believes the header's frame count, which may be 0 or a lie.
            count = file.buffer_read_into(buffer.data, "float32")
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError("decode", _reason(error)) from error
        if count == 0:
            break
        total += count
        _check_duration(total / info.sample_rate, limits)
        block = buffer[:count]
        if not np.abs(block).max() <= _LOUDEST:  # NaN compares false
            raise AudioError("non_finite", f"NaN, Inf or above {_LOUDEST:g} near frame {total}")
        yield block[:, 0].copy() if info.channels == 1 else block.mean(axis=1, dtype=np.float32)
    _check_ending(info, total, limits)


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
    data: bytes, config: WindowConfig, limits: AudioLimits | None = None
) -> Iterator[Window]:
    """The windows of a recording, in order; memory is a block and a window, whatever its length.

    A window starts every `hop_s`. The last one is padded as `config.pad` says; it is left out
    where it would hold less than `min_tail_s` of sound and is not the only one. Raises
    AudioError as `decode` does.
    """
    size, hop = config.window_samples, config.hop_samples
    pending = np.zeros(0, np.float32)
    start = 0
    for block in decode(data, config.sample_rate, limits):
        pending = np.concatenate([pending, block])
        while len(pending) >= size:
            yield _window(start, pending[:size].copy(), size, config)
            start, pending = start + hop, pending[hop:]
    # What is left overlaps the window before it by size - hop samples.
    fresh = len(pending) - (size - hop if start else 0)
    if start == 0 or (fresh > 0 and fresh >= config.min_tail_s * config.sample_rate):
        yield _window(start, pending, size, config)


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
