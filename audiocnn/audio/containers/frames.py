"""Decode the frames of a recording in blocks, from its first frame or from a later block on.

A frame is one sample of each channel.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from audiocnn.audio.containers.spliced import Spliced
from audiocnn.errors import AudioError

Block = npt.NDArray[np.float32]
"""Decoded frames: [frames, channels] float32 in full scale ±1."""

BLOCK_FRAMES = 1 << 18
"""Frames in a block; the last block of a recording and those of short recordings have fewer."""

_FRAMES_UNKNOWN = 2**63 - 1
"""Number of frames that libsndfile reports for a stream of unknown length."""


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

        Their samples do not depend on `first` (see `SoundFileFrames.preroll`). Raises AudioError,
        and the errors of reading the file.
        """
        ...

    def close(self) -> None:
        """Release the decoder's resources; the file stays open."""
        ...


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that is only read forward.

    A seekable SoundFile seeks after each block that it has read. This fails in a FLAC with an
    unknown length, or with another length than its header states.
    """

    def seekable(self) -> bool:
        return False


class SoundFileFrames:
    """A recording that libsndfile decodes; `frames` replaces the length that libsndfile states."""

    preroll = 0
    """Frames that are decoded and dropped after a jump, because packets depend on earlier packets.

    Measured on libsndfile 1.2.2: with 2^14, Vorbis and Opus equal a decoding from the beginning to
    the last bit (without them, Vorbis lacks up to 702 samples), and MP3 within 1.2e-7. WAV and FLAC
    need none.
    """

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
        """See `Frames`."""
        self._sound.close()

    def block_before(self, frame: int) -> int:
        """See `Frames`."""
        return frame // self._size * self._size

    def blocks(self, first: int = 0) -> Iterator[Block]:
        """See `Frames`."""
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
        before = max(0, first - self.preroll)
        try:
            self._sound.seek(before)
        except (soundfile.LibsndfileError, RuntimeError):  # Perhaps a wrong header: start anew.
            self._sound.close()
            self._sound, before = self._open(), 0
        while before < first and (got := len(self._read(min(self._size, first - before)))):
            before += got
