"""MP3: its length, counted frame by frame, and its decoder.

Many MP3s do not state their length. libsndfile then guesses it from the first frame's bit rate and
stops there without an error, so sound is lost. Counting reads every frame header, about 38 for each
second of sound, and detects a cut end. Source: ISO 11172-3 and 13818-3, layer III.
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from audiocnn.audio.containers.frames import Frames, SoundFileFrames
from audiocnn.audio.containers.spliced import Spliced
from audiocnn.audio.containers.tags import AT_THE_END, behind_id3, behind_tags, is_blank
from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import read_at

LEEWAY_FRAMES = 4 * 1_152
"""Frames that a decoder may leave out: those it starts with, and the encoder's delay."""
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
"""First two bytes of a layer III frame."""
_MONO = 3
_CHUNK, _AHEAD = 1 << 20, 1 << 13
"""Bytes that are searched at a time, and bytes read after them for frames that begin near the end.

A frame has at most 1,441 bytes.
"""
_SOUND, _SURE = 2, 3
"""Consecutive frames by which sound is recognised: at the start of a file, and after a tag.

The second is higher because a picture in a tag may contain two frames by chance.
"""


@dataclass(frozen=True, kw_only=True)
class Mp3:
    """Counts from the frames of an MP3.

    `head`, followed by the file from byte `rest` on, is the same MP3 without the tags before it,
    and with its true number of frames in the place where a decoder looks for it.
    """

    frames: int
    """Frames of sound; a frame that only states the length (Xing, Info) is not counted."""
    whole: bool
    """Whether the last frame is complete and only tags or zeros follow it.

    If a Xing or Info tag states a number of frames, at least that many must be there.
    """
    end: int
    """End of the last whole frame, in bytes."""
    head: bytes
    rest: int


@dataclass(frozen=True, kw_only=True)
class _Frame:
    version: int
    mode: int
    size: int

    @property
    def xing(self) -> int:
        """Offset in the frame of a Xing or Info tag: just after the side information."""
        if self.version == _V1:
            return 4 + (17 if self.mode == _MONO else 32)
        return 4 + (9 if self.mode == _MONO else 17)


def _frame(header: bytes) -> _Frame | None:
    """Return the layer III frame that begins with these four bytes; None if there is none."""
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
    """Find the first `count` consecutive frames; return the position of the first and this frame.

    Each byte is searched once.
    """
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
    """Return the frame at `at` if it begins `count` consecutive frames, else None."""
    first = frame = _frame(data[at : at + 4])
    for _ in range(count - 1):
        if frame is None:
            return None
        at += frame.size
        frame = _frame(data[at : at + 4])
    return None if frame is None else first


def is_frame(head: bytes) -> bool:
    """Return whether these first bytes begin a layer III frame, as far as two bytes can tell."""
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def read_mp3(file: BinaryIO) -> Mp3 | None:
    """Count the frames of an MP3; return None if no two consecutive frames are found.

    The cost depends only on the size of the file, not on its content.
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
    """Return whether a tag begins at a position and no sound follows it.

    The search for sound is needed because a tag with a wrong size could hide it.
    """
    if not read_at(file, position, 8).startswith(AT_THE_END):
        return False
    ends = behind_tags(file, position) == file.seek(0, io.SEEK_END)
    return ends or _find(file, position, _SURE) is None


def _following(file: BinaryIO, position: int, length: int) -> tuple[int, _Frame] | None:
    """Return the frame at a position, or after the tags there, and its position."""
    if position >= length:
        return None
    frame = _frame(read_at(file, position, 4))
    if frame is None:  # Joined files have tags between them.
        position = behind_tags(file, position)
        frame = _frame(read_at(file, position, 4))
    return None if frame is None else (position, frame)


def _with_length(
    file: BinaryIO, found: tuple[int, _Frame], stream_bytes: int, count: int
) -> tuple[bytes, int, int | None]:
    """Make first bytes that state the true number of frames: in the Xing tag, or in a new frame.

    Returns `head` and `rest` of `Mp3`, and the number of frames that the file stated, or None.
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
    header[1] |= 1  # No checksum.
    header[2] = header[2] & 0x0D | 0x90  # A bit rate with room for the tag in a frame; no padding.
    size = (_frame(bytes(header)) or first).size
    made = bytes(header) + bytes(first.xing - 4) + b"Xing" + struct.pack(">II", 1, count)
    return made.ljust(size, b"\0"), start, None


def open_mp3(file: BinaryIO, start: int) -> Frames:
    """Open an MP3; its tags are read from the beginning of the file. Raises AudioError."""
    mp3 = _check(file)
    return _Mp3Frames("mp3", Spliced(file, mp3.head, mp3.rest))


class _Mp3Frames(SoundFileFrames):
    preroll = 1 << 14


def _check(file: BinaryIO) -> Mp3:
    """Count an MP3's frames. Raises AudioError: decode if it has none, empty, truncated."""
    mp3 = read_mp3(file)
    if mp3 is None:
        raise AudioError("decode", "it has no two consecutive MP3 frames")
    if mp3.frames == 0:
        raise AudioError("empty", "it has no MP3 frame with sound")
    if not mp3.whole:
        length = file.seek(0, io.SEEK_END)
        raise AudioError(
            "truncated",
            f"{mp3.frames} whole MP3 frames end at byte {mp3.end} of {length}: a frame is "
            "cut or missing, or other data follows",
        )
    return mp3
