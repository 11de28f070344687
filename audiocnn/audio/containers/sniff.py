"""Which container a recording is in, before libsndfile sees it.

libsndfile opens many more formats than anybody needs, and the rare ones are where it is weak;
and it passes in silence over files that were cut. Both are looked at first.
"""

import io
from typing import BinaryIO

from audiocnn.audio.containers import wav
from audiocnn.audio.containers.mp3 import Mp3, read_mp3
from audiocnn.audio.containers.tags import MOST_TAGS, behind_id3
from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import RangeFile, read_at


def sniff(file: BinaryIO) -> tuple[str, int]:
    """The container of a recording, "wav", "flac", "ogg" or "mp3", and where it begins.

    ID3 tags may stand in front of it. Raises AudioError: empty, unrecognised.
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
    """The counted MP3. Raises AudioError: decode without frames, empty, truncated."""
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
    """`head`, then a file from `start` to `end`, for libsndfile to read through.

    Exceptions cannot cross libsndfile: what reading raises is kept in `error`, and the file
    seems to end there.
    """

    def __init__(
        self, file: BinaryIO, head: bytes = b"", start: int = 0, end: int | None = None
    ) -> None:
        length = file.seek(0, io.SEEK_END)
        super().__init__(self._read, len(head) + (length if end is None else end) - start)
        self._file, self._head, self._start = file, head, start
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; at the front where that would lie before it."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)

    def _read(self, offset: int, size: int) -> bytes:
        """Some of these bytes, at least one where there are any; none where reading fails."""
        if offset < len(self._head):
            return self._head[offset : offset + size]
        try:
            return read_at(self._file, offset - len(self._head) + self._start, size)
        except Exception as error:
            self.error = error
            return b""
