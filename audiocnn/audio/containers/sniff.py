"""Detect the container of a recording before libsndfile opens the file.

libsndfile opens many more formats than audiocnn needs, and its code for rare formats is weak. It
also accepts truncated files without an error. Both cases are rejected here first.
"""

import io
from typing import BinaryIO

from audiocnn.audio.containers import wav
from audiocnn.audio.containers.mp3 import Mp3, read_mp3
from audiocnn.audio.containers.tags import MOST_TAGS, behind_id3
from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import RangeFile, read_at


def sniff(file: BinaryIO) -> tuple[str, int]:
    """Return the container of a recording, "wav", "flac", "ogg" or "mp3", and its first byte.

    ID3 tags may precede the recording. Raises AudioError: empty, unrecognised.
    """
    begin = read_at(file, 0, 4)
    if not begin:
        raise AudioError("empty", "the file has no bytes")
    start = behind_id3(file, 0)
    head = read_at(file, start, 12)
    if head[:3] == b"ID3":
        raise AudioError("unrecognised", f"over {MOST_TAGS} ID3 tags stand in front of it")
    if head[:4] in wav.MAGIC and head[8:12] == b"WAVE":
        return "wav", start
    if head[:4] == b"fLaC":
        return "flac", start
    if head[:4] == b"OggS":
        return "ogg", start
    if start or (len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        return "mp3", start
    raise AudioError("unrecognised", f"it begins with {begin!r}: not WAV, FLAC, OGG or MP3")


def check_mp3(file: BinaryIO) -> Mp3:
    """Count an MP3's frames. Raises AudioError: decode if it has none, empty, truncated."""
    mp3 = read_mp3(file)
    if mp3 is None:
        raise AudioError("decode", "no MP3 frames follow each other in it")
    if mp3.frames == 0:
        raise AudioError("empty", "the file has no frame of sound")
    if not mp3.whole:
        length = file.seek(0, io.SEEK_END)
        raise AudioError(
            "truncated",
            f"{mp3.frames} whole MP3 frames end at byte {mp3.end} of {length}, and none begins "
            "there",
        )
    return mp3


class Spliced(RangeFile):
    """`head`, then the bytes of a file from `start` to `end`, as one file for libsndfile.

    Exceptions cannot pass through libsndfile. An exception while reading is kept in `error`, and
    the file appears to end there.
    """

    def __init__(
        self, file: BinaryIO, head: bytes = b"", start: int = 0, end: int | None = None
    ) -> None:
        length = file.seek(0, io.SEEK_END)
        super().__init__(self._read, len(head) + (length if end is None else end) - start)
        self._file, self._head, self._start = file, head, start
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; a position before the beginning becomes 0."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)

    def _read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes, at least one before the end of the file; none on an error."""
        if offset < len(self._head):
            return self._head[offset : offset + size]
        try:
            return read_at(self._file, offset - len(self._head) + self._start, size)
        except Exception as error:
            self.error = error
            return b""
