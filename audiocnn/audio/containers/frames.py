"""Decode the frames of a recording in blocks, from its first frame or from a later block on.

A frame is one sample of each channel. numpy reads 16-bit WAV; libsndfile reads everything else.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from audiocnn.audio.containers import flac
from audiocnn.audio.containers.ogg import Link, read_links
from audiocnn.audio.containers.sniff import Spliced, check_mp3, sniff
from audiocnn.audio.containers.wav import WavHeader, read_wav
from audiocnn.errors import AudioError

Block = npt.NDArray[np.float32]
"""Decoded frames: [frames, channels] float32 in full scale ±1."""

BLOCK_FRAMES = 1 << 18
"""Frames in a block; the last block of a recording and those of short recordings have fewer."""

_FRAMES_UNKNOWN = 2**63 - 1
"""Number of frames that libsndfile reports for a stream of unknown length."""
_PREROLL = {"ogg": 1 << 14, "mp3": 1 << 14}
"""Frames that are decoded and dropped after a jump, because packets depend on earlier packets.

Measured on libsndfile 1.2.2: with them, Vorbis and Opus equal a decoding from the beginning to the
last bit (without them, Vorbis lacks up to 702 samples), and MP3 within 1.2e-7. WAV and FLAC need
none.
"""
_EXACT = ("VORBIS", "OPUS")
"""Codecs in OGG in which libsndfile seeks to the exact sample."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """Information from the header of a recording; `sample_rate` is in Hz."""

    container: str
    sample_rate: int
    channels: int
    frames: int
    """Number of frames; 0 if the header does not state it."""


class Frames(Protocol):
    """An open recording that yields blocks of frames."""

    info: AudioInfo

    def block_before(self, frame: int) -> int:
        """Return the first frame of the last block that begins at or before `frame`.

        Blocks that the decoder cannot jump to are not considered.
        """
        ...

    def blocks(self, first: int = 0) -> Iterator[Block]:
        """Yield the blocks from `first` on, which must be a result of `block_before`.

        Their samples do not depend on `first` (see `_PREROLL`). Raises AudioError, and the errors
        of reading the file.
        """
        ...

    def close(self) -> None:
        """Release the decoder's resources; the file stays open."""
        ...


def open_frames(file: BinaryIO) -> Frames:
    """Open the recording in a seekable file.

    Raises AudioError: empty, unrecognised, truncated, decode.
    """
    container, start = sniff(file)
    if container == "wav":
        wav = read_wav(file, start)
        if wav.is_pcm16:
            return _Pcm16(file, wav)
        end = wav.data_at + wav.data_bytes
        return _Decoded("wav", Spliced(file, wav.plain(), wav.data_at, end), wav.frames)
    if container == "flac":
        return _Flac(file, start)
    if container == "mp3":
        mp3 = check_mp3(file)
        return _Decoded("mp3", Spliced(file, mp3.head, mp3.rest))
    links = read_links(file, start)
    if len(links) == 1:
        return _ogg(file, links[0])
    return _Chained([partial(_ogg, file, link) for link in links])


def is_pcm16(file: BinaryIO) -> bool:
    """Return whether only numpy reads a recording. Raises AudioError as `open_frames` does."""
    container, start = sniff(file)
    return container == "wav" and read_wav(file, start).is_pcm16


class _Pcm16:
    """16-bit WAV, the most common format, read without libsndfile in a tenth of the time.

    The samples are the same. libsndfile calls Python for every 8 kB, which costs more than its
    decoding.
    """

    def __init__(self, file: BinaryIO, wav: WavHeader) -> None:
        self._file, self._wav = file, wav
        self.info = AudioInfo(
            container="wav", sample_rate=wav.sample_rate, channels=wav.channels, frames=wav.frames
        )

    def block_before(self, frame: int) -> int:
        return frame // BLOCK_FRAMES * BLOCK_FRAMES

    def blocks(self, first: int = 0) -> Iterator[Block]:
        wav = self._wav
        for start in range(first, wav.frames, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, wav.frames - start)
            self._file.seek(wav.data_at + start * wav.block_bytes)
            data = self._file.read(count * wav.block_bytes)
            there = len(data) // wav.block_bytes
            if not there:
                return
            flat = np.frombuffer(data, "<i2", there * wav.channels).astype(np.float32)
            flat *= np.float32(1 / 32_768)
            yield flat.reshape(there, wav.channels)

    def close(self) -> None:
        pass


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that is only read forward.

    A seekable SoundFile seeks after each block that it has read. This fails in a FLAC with an
    unknown length, or with another length than its header states.
    """

    def seekable(self) -> bool:
        return False


class _Decoded:
    """A recording that libsndfile decodes."""

    def __init__(self, container: str, file: Spliced, frames: int | None = None) -> None:
        self._file = file
        self._sound = self._open()
        sound = self._sound
        if frames is None:
            frames = 0 if sound.frames == _FRAMES_UNKNOWN else sound.frames
        self.info = AudioInfo(
            container=container,
            sample_rate=sound.samplerate,
            channels=sound.channels,
            frames=frames,
        )
        # A short recording needs only a small buffer. A wrong length only makes reading slower.
        self._size = min(BLOCK_FRAMES, max(4_096, frames or BLOCK_FRAMES))

    def _open(self) -> _Forward:
        self._file.seek(0)
        try:
            return _Forward(self._file)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> Exception:
        """Return the cause of a failure in libsndfile: a read error of the file, or AudioError."""
        if self._file.error is not None:
            return self._file.error
        reason = re.sub(r"^Error opening <.*>: ", "", str(error).strip(), flags=re.DOTALL)
        return AudioError("decode", reason.rstrip("."))

    def close(self) -> None:
        self._sound.close()

    def block_before(self, frame: int) -> int:
        if self.info.container == "ogg" and self._sound.subtype not in _EXACT:
            return 0
        return frame // self._size * self._size

    def blocks(self, first: int = 0) -> Iterator[Block]:
        if first:
            self._jump(first)
        at = first
        while len(block := self._block(at)):
            yield block
            at += len(block)
        if self._file.error is not None:
            raise self._file.error

    def _block(self, at: int) -> Block:
        """Return the block at frame `at`, the decoder's position. Raises AudioError."""
        return self._read(self._size)

    def _read(self, count: int) -> Block:
        """Return up to `count` frames. Raises AudioError."""
        buffer = np.empty((count, self.info.channels), np.float32)
        try:
            # Not SoundFile.read, which relies on the frame count in the header.
            there = self._sound.buffer_read_into(buffer.data, "float32")
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise self._error(error) from error
        return buffer[:there]

    def _jump(self, first: int) -> None:
        """Go to the block that begins at frame `first`. Raises AudioError."""
        before = max(0, first - _PREROLL.get(self.info.container, 0))
        try:
            self._sound.seek(before)
        except (soundfile.LibsndfileError, RuntimeError):  # Perhaps a wrong header: start anew.
            self._sound.close()
            self._sound, before = self._open(), 0
        while before < first and (got := len(self._read(min(self._size, first - before)))):
            before += got


class _Flac(_Decoded):
    """A FLAC, decoded to its real end, even if its header states a shorter length."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._whole, self._start = file, start
        self._stated = flac.stated_length(file, start)
        super().__init__("flac", Spliced(file, b"", start), self._stated)

    def block_before(self, frame: int) -> int:
        return super().block_before(min(frame, self._stated or frame))

    def _block(self, at: int) -> Block:
        left = self._stated - at
        if left > 0:  # After the stated length libsndfile would take a tag for a damaged frame.
            return self._read(min(self._size, left))
        if self._stated and left == 0:
            read = self._start + self._file.at
            if not flac.goes_on(self._whole, self._start, read, at):
                return np.empty((0, self.info.channels), np.float32)
            self._forget_length()
            self._jump(at)
        return self._read(self._size)

    def _forget_length(self) -> None:
        """Reopen the file with an unknown length: libsndfile then reads on, but seeks slowly."""
        head = flac.without_length(self._whole, self._start)
        self._sound.close()
        self._file = Spliced(self._whole, head, self._start + len(head))
        self._sound = self._open()


def _ogg(file: BinaryIO, link: Link) -> _Decoded:
    return _Decoded("ogg", Spliced(file, b"", link.start, link.end))


class _Chained:
    """Streams in sequence; only one of them is open at a time."""

    def __init__(self, links: list[Callable[[], _Decoded]]) -> None:
        self._links = links
        self._starts: list[int] = []
        self._current: _Decoded | None = None
        frames = 0
        infos: list[AudioInfo] = []
        for opened in links:
            with closing(opened()) as link:
                infos.append(link.info)
            self._starts.append(frames)
            frames += link.info.frames
        self.info = replace(infos[0], frames=frames)
        if any(replace(info, frames=frames) != self.info for info in infos):
            raise AudioError("decode", "its streams have not all one rate and as many channels")

    def block_before(self, frame: int) -> int:
        place = bisect_right(self._starts, frame) - 1
        start = self._starts[place]
        with closing(self._links[place]()) as link:
            return start + link.block_before(frame - start)

    def blocks(self, first: int = 0) -> Iterator[Block]:
        place = bisect_right(self._starts, first) - 1
        first -= self._starts[place]
        for opened in self._links[place:]:
            self.close()
            self._current = opened()
            yield from self._current.blocks(first)
            first = 0

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
