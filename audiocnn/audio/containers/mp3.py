"""The length of an MP3, counted frame by frame.

Many MP3s do not say how long they are, and libsndfile then guesses from the first frame's bit
rate and stops there: sound is lost in silence. Counting the frames costs a look at every header,
about 38 a second of sound, and shows a cut end. Source: ISO 11172-3 and 13818-3, layer III.
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from audiocnn.audio.containers.tags import AT_THE_END, behind_id3, behind_tags, is_blank
from audiocnn.storage.stores.range_file import read_at

_V1, _V2, _V25 = 3, 2, 0
_KBPS = {
    _V1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    _V2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {
    _V1: (44_100, 48_000, 32_000),
    _V2: (22_050, 24_000, 16_000),
    _V25: (11_025, 12_000, 8_000),
}
_LAYER_III = 1
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
"""The first two bytes of a frame of layer III."""
_MONO = 3
_CHUNK, _AHEAD = 1 << 20, 1 << 13
"""Bytes that are searched at a time, and with them what frames that begin there may need.

A frame has at most 1,441.
"""
_SOUND, _SURE = 2, 3
"""Frames in a row that are sound where it should begin; and in a tag, whose picture may have two.
"""


@dataclass(frozen=True, kw_only=True)
class Mp3:
    """What the frames of an MP3 say.

    `head` followed by the file from `rest` on is the same MP3, without the tags in front of it,
    with its true number of frames where a decoder looks for it.
    """

    frames: int
    """Frames of sound; one that only says the length (Xing, Info) is not counted."""
    whole: bool
    """Whether the file ends where a frame, or a tag, does."""
    end: int
    """Where the last whole frame ends, in bytes."""
    head: bytes
    rest: int


@dataclass(frozen=True, kw_only=True)
class _Frame:
    version: int
    mode: int
    size: int

    @property
    def xing(self) -> int:
        """Where in the frame a Xing or Info tag stands: behind the side information."""
        if self.version == _V1:
            return 4 + (17 if self.mode == _MONO else 32)
        return 4 + (9 if self.mode == _MONO else 17)


def _frame(header: bytes) -> _Frame | None:
    """The layer III frame that begins with these four bytes, if one does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bit_rate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version not in _RATES or layer != _LAYER_III or not 0 < bit_rate < 15 or rate == 3:
        return None
    kbps = _KBPS[_V1 if version == _V1 else _V2][bit_rate]
    slots = 144 if version == _V1 else 72
    size = slots * kbps * 1_000 // _RATES[version][rate] + padding
    return _Frame(version=version, mode=header[3] >> 6, size=size)


def _find(file: BinaryIO, start: int, count: int) -> tuple[int, _Frame] | None:
    """The first of so many frames in a row, and where it begins: each byte is looked at once."""
    while chunk := read_at(file, start, _CHUNK + _AHEAD):
        for candidate in _SYNC.finditer(chunk):
            at = candidate.start()
            if at >= _CHUNK:
                break
            first = _first_of(chunk, at, count)
            if first is not None:
                return start + at, first
        start += _CHUNK
    return None


def _first_of(data: bytes, at: int, count: int) -> _Frame | None:
    """The frame at a place in some bytes, where so many are there in a row with it."""
    first = frame = _frame(data[at : at + 4])
    for _ in range(count - 1):
        if frame is None:
            return None
        at += frame.size
        frame = _frame(data[at : at + 4])
    return None if frame is None else first


def read_mp3(file: BinaryIO) -> Mp3 | None:
    """Count the frames of an MP3; None where no two frames follow each other.

    What it costs grows with the file alone, whatever is in it.
    """
    length = file.seek(0, io.SEEK_END)
    found = _find(file, behind_id3(file, 0), _SOUND)
    if found is None:
        return None
    start, frame = found
    count, position = 1, start + frame.size
    while (following := _following(file, position, length)) is not None:
        at, frame = following
        count, position = count + 1, at + frame.size
    whole = position == length
    if position > length:
        count, position = count - 1, position - frame.size
    elif position < length:
        whole = is_blank(file, position) or _is_tag(file, position)
    head, rest, stated = _with_length(file, found, length - start, count)
    return Mp3(
        frames=count if stated is None else count - 1,
        whole=whole and (stated is None or stated <= count - 1),
        end=position,
        head=head,
        rest=rest,
    )


def _is_tag(file: BinaryIO, position: int) -> bool:
    """Whether a tag begins at a position, and no sound follows.

    A tag that says a wrong size would hide the sound behind it.
    """
    if not read_at(file, position, 8).startswith(AT_THE_END):
        return False
    ends = behind_tags(file, position) == file.seek(0, io.SEEK_END)
    return ends or _find(file, position, _SURE) is None


def _following(file: BinaryIO, position: int, length: int) -> tuple[int, _Frame] | None:
    """The frame at a position, or behind the tags that are there, and where it begins."""
    if position >= length:
        return None
    frame = _frame(read_at(file, position, 4))
    if frame is None:  # joined files have tags between them
        position = behind_tags(file, position)
        frame = _frame(read_at(file, position, 4))
    return None if frame is None else (position, frame)


def _with_length(
    file: BinaryIO, found: tuple[int, _Frame], stream_bytes: int, count: int
) -> tuple[bytes, int, int | None]:
    """Write the count into the file's own Xing tag, or put a frame with one in front.

    Returns `head`, `rest`, and what the tag said, where there is one.
    """
    start, first = found
    tag = read_at(file, start + first.xing, 12)
    flags = tag[7] if len(tag) == 12 else 0
    if tag[:4] in (b"Xing", b"Info") and flags & 1:
        (stated,) = struct.unpack_from(">I", tag, 8)
        length = struct.pack(">I", count - 1)
        if flags & 2:
            length += struct.pack(">I", stream_bytes & 0xFFFFFFFF)
        head = read_at(file, start, first.xing + 8) + length
        return head, start + len(head), stated
    header = bytearray(read_at(file, start, 4))
    header[1] |= 1  # no checksum
    header[2] = header[2] & 0x0D | 0x90  # a bit rate whose frame has room, no padding
    size = (_frame(bytes(header)) or first).size
    made = bytes(header) + bytes(first.xing - 4) + b"Xing" + struct.pack(">II", 1, count)
    return made.ljust(size, b"\0"), start, None
