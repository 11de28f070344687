"""Decode bytes to mono float32 windows at one rate, within limits. There is no other decoder.

A recording is read and decoded block by block, so memory use does not depend on its length. Only
`read` returns all samples at once. A frame here is one sample of each channel.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from math import gcd
from operator import itemgetter
from typing import BinaryIO

import numpy as np
import soxr

from audiocnn.audio.channels import to_mono
from audiocnn.audio.containers.frames import AudioInfo, Block
from audiocnn.audio.containers.registry import AUDIO_SUFFIXES, find_container
from audiocnn.audio.windows import Samples, Window, batched, count_windows, cut
from audiocnn.config import AudioLimits, WindowConfig
from audiocnn.errors import AudioError

__all__ = [
    "AUDIO_SUFFIXES", "AudioInfo", "AudioLimits", "Samples", "Segment", "Source", "Window",
    "WindowConfig", "batched", "count_windows", "cut", "decode", "needs_libsndfile", "read",
    "read_info", "windows",
]  # fmt: skip

Source = bytes | BinaryIO
"""A recording: its bytes, or a seekable file with these bytes."""
Segment = tuple[float, float]
"""Start and end of a segment of a recording, in seconds."""

_LOUDEST = 1e6
"""Largest sample value that is accepted. A float file with 16-bit units is below it."""
_FILTER_FRAMES = 4_096
"""Number of frames before a sample, and after it, from which soxr computes it.

This is for a recording with a lower rate than the result. Measured on soxr 1.1: if decoding begins
this many frames earlier, the sample is the same within 3e-7.
"""
_LONGEST_PERIOD = 2_048
"""Largest number of samples of the result until one has exactly the time of a frame again.

If the ratio of the rates needs more, soxr only approximates the times of samples, and its result
depends on where it began. Then a segment is decoded from the beginning of the recording.
"""


def read_info(source: Source, limits: AudioLimits | None = None) -> AudioInfo:
    """Return the header's information, checked against the limits. Nothing is decoded.

    Raises AudioError: empty, unrecognised, truncated, too_large, channels, sample_rate,
    too_long, decode.
    """
    with _Recording(source, limits or AudioLimits()) as recording:
        return recording.info


class _Recording:
    """A checked recording; a context manager that closes the decoder."""

    def __init__(self, source: Source, limits: AudioLimits) -> None:
        self.limits = limits
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        size = file.seek(0, io.SEEK_END)
        if size > limits.max_bytes:
            raise AudioError("too_large", f"{size} bytes, the limit is {limits.max_bytes}")
        self._taken: list[tuple[int, int]] = []
        """(first frame, channel): from this frame on, this channel is used, or the mean (0)."""
        self._container, start = find_container(file)
        self._frames = self._container.open(file, start)
        self.info = self._frames.info
        try:
            _check_limits(self.info, limits)
        except AudioError:
            self.close()
            raise

    def __enter__(self) -> "_Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the decoder's resources."""
        self._frames.close()

    def mono(self, sample_rate: int, segment: Segment | None = None) -> Iterator[Samples]:
        """Return the recording, or a segment, as consecutive mono blocks [samples] at a rate in Hz.

        Raises AudioError, also too_short if there is not a single sample.
        """
        rate = self.info.sample_rate
        first = 0 if segment is None else self._begin(segment[0], sample_rate)
        blocks = self._mixed(first)
        if rate != sample_rate:
            ahead = -first % _step(rate, sample_rate)
            first, blocks = first + ahead, _without(blocks, ahead)
            blocks = _resampled(blocks, rate, sample_rate)
        if segment is None:
            return _require_samples(blocks, f"less than one sample at {sample_rate} Hz")
        blocks = _within(blocks, sample_rate, segment, first * sample_rate // rate)
        return _require_samples(blocks, f"no sound from {segment[0]:g} to {segment[1]:g} s")

    def channel(self, start_s: float, duration_s: float) -> int:
        """Return the channel that was used alone in a decoded part, or in some of that part.

        Channels count from 1. If several were used one after another, it is the first one of them.
        If only the mean of the channels was used, it is 0.
        """
        rate = self.info.sample_rate
        first, end = round(start_s * rate), round((start_s + duration_s) * rate)
        place = bisect_right(self._taken, first, key=itemgetter(0)) - 1
        for at, channel in islice(self._taken, max(0, place), None):
            if channel or at >= end:
                return channel if at < end else 0
        return 0

    def _mixed(self, first: int) -> Iterator[Samples]:
        """Yield mono blocks at the recording's own rate, and note the channel of each block."""
        at = first
        for block in self._blocks(first):
            mono, channel = to_mono(block)
            if not self._taken or self._taken[-1][1] != channel:
                self._taken.append((at, channel))
            at += len(block)
            yield mono

    def _begin(self, start_s: float, sample_rate: int) -> int:
        """Return the first frame of a block that lies far enough before `start_s`.

        Decoding from there gives the same samples at `start_s` as decoding from the beginning.
        """
        rate = self.info.sample_rate
        before = 0
        if rate != sample_rate:
            step = _step(rate, sample_rate)
            if step * sample_rate // rate > _LONGEST_PERIOD:
                return 0
            before = _FILTER_FRAMES * (1 + rate // sample_rate) + step
        wanted = int(start_s * rate) - before
        if self.info.frames:  # A start after the end: the last block shows that nothing is there.
            wanted = min(wanted, self.info.frames - 1)
        return self._frames.block_before(max(0, wanted))

    def _blocks(self, first: int = 0) -> Iterator[Block]:
        """Yield checked blocks at the recording's own rate, from the block at frame `first` on."""
        total = first
        for block in self._frames.blocks(first):
            total += len(block)
            _check_length(total, self.info, self.limits)
            # Not abs(), which would allocate an array. Comparisons with NaN are false.
            if not (block.min() >= -_LOUDEST and block.max() <= _LOUDEST):
                raise AudioError("non_finite", f"NaN, Inf or above {_LOUDEST:g} near frame {total}")
            yield block
        _check_ending(self.info, total, self.limits, self._container.leeway_frames)


def _step(rate: int, sample_rate: int) -> int:
    """Return the distance, in frames, between frames that coincide in time with output samples."""
    return rate // gcd(rate, sample_rate)


def _without(blocks: Iterable[Samples], count: int) -> Iterator[Samples]:
    """Yield consecutive blocks without their first `count` samples."""
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))


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
    """Yield a recording, or a segment of it, as mono float32 blocks [samples] in full scale ±1.

    `source` has one of the `CONTAINERS`; a file is read as needed. The channels are averaged. In
    blocks in which they cancel each other out, one of the loudest is used: see `to_mono`. soxr
    converts the rate to `sample_rate`, in Hz, at its high quality.

    Raises AudioError as `read_info` does, and too_short and non_finite. An error that only decoding
    finds, for example too_short, non_finite or truncated, comes after the blocks before it.

    The samples of a segment equal those of the whole recording within 1e-6. Parts far before the
    segment and after it are not decoded. A segment without a sample raises too_short.
    """
    with _Recording(source, limits or AudioLimits()) as recording:
        yield from recording.mono(sample_rate, segment)


def read(
    source: Source,
    sample_rate: int,
    limits: AudioLimits | None = None,
    after_block: Callable[[], None] = lambda: None,
) -> tuple[AudioInfo, Samples]:
    """Return the header's information and all samples as one array [samples]. Raises AudioError.

    `after_block` is called after each block; an exception from it ends the reading.
    """
    with _Recording(source, limits or AudioLimits()) as recording:
        blocks = []
        for block in recording.mono(sample_rate):
            blocks.append(block)
            after_block()
        return recording.info, blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def needs_libsndfile(data: bytes) -> bool:
    """Return whether libsndfile would read these bytes. A hostile file may crash libsndfile.

    It reads neither files that are rejected first, nor those that numpy alone decodes.
    """
    try:
        file = io.BytesIO(data)
        container, start = find_container(file)
        return not container.is_plain(file, start)
    except AudioError:
        return False


def _resampled(blocks: Iterator[Samples], rate: int, sample_rate: int) -> Iterator[Samples]:
    first, second = next(blocks, None), next(blocks, None)
    if first is None:
        return
    if second is None:  # One call gives the same samples as the stream, and is faster.
        yield soxr.resample(first, rate, sample_rate)
        return
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    for block in chain([first, second], blocks):
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _check_ending(info: AudioInfo, total: int, limits: AudioLimits, leeway_frames: int) -> None:
    if total == 0:
        raise AudioError("empty", "the file has a header and no samples")
    if total < info.frames - leeway_frames:
        raise AudioError("truncated", f"{total} of {info.frames} frames are there")
    if total / info.sample_rate < limits.min_duration_s:
        raise AudioError(
            "too_short", f"{total} samples, the minimum is {limits.min_duration_s:g} s"
        )


def windows(
    source: Source,
    config: WindowConfig,
    limits: AudioLimits | None = None,
    segment: Segment | None = None,
) -> Iterator[Window]:
    """Yield the windows of a recording in order; times in a segment count from its start.

    Memory use is one block and one window, whatever the length. Raises AudioError as `decode` does.
    """
    begin = 0.0 if segment is None else segment[0]
    with _Recording(source, limits or AudioLimits()) as recording:
        for window in cut(recording.mono(config.sample_rate, segment), config):
            channel = recording.channel(begin + window.start_s, window.duration_s)
            yield replace(window, channel=channel) if channel else window


def _within(
    blocks: Iterable[Samples], sample_rate: int, segment: Segment, at: int
) -> Iterator[Samples]:
    """Yield the samples within a segment; `at` is the index of the first block's first sample."""
    first, end = (round(time * sample_rate) for time in segment)
    for block in blocks:
        part = block[max(0, first - at) : max(0, end - at)]
        at += len(block)
        if len(part):
            yield part
        if at >= end:
            break


def _require_samples(blocks: Iterable[Samples], wrong: str) -> Iterator[Samples]:
    """Yield the blocks unchanged. Raises AudioError too_short if they hold no sample."""
    found = 0
    for block in blocks:
        found += len(block)
        yield block
    if not found:
        raise AudioError("too_short", wrong)
