"""FLAC: its real length, and a decoder that goes on to the real end.

Source: RFC 9639.
"""

import struct
from typing import BinaryIO

import numpy as np

from audiocnn.audio.containers.frames import Block, SoundFileFrames
from audiocnn.audio.containers.spliced import Spliced
from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import read_at

_LENGTH_AT = 21
"""Position of the number of samples: the lower half of this byte, and the next four bytes."""
_BLOCK_AT = 10
"""Position of the largest number of samples in a frame, two bytes."""
_HEADER_BYTES = 16
"""Largest size of a frame's header, in bytes."""
_BLOCKS = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}}
_BLOCKS |= {code: 256 << code - 8 for code in range(8, 16)}
"""Samples in a frame, by a code in its header; codes 6 and 7 mean that a number follows."""
_READ_AHEAD = 1 << 15
"""Bytes that the decoder may have read beyond the last frame that it returned."""
_ANOTHER = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
"""First bytes of a FLAC file: its name, and the block header of the stream info (34 bytes)."""
_CHUNK = 1 << 20


def without_length(file: BinaryIO, start: int) -> bytes:
    """Return the first bytes of a FLAC file, changed so that its length is unknown.

    They replace as many bytes from `start` on; the rest of the file stays as it is. A decoder
    that knows a length stops there, even if more frames follow.
    """
    head = bytearray(read_at(file, start, _LENGTH_AT + 5))
    if len(head) == _LENGTH_AT + 5:
        head[_LENGTH_AT:] = bytes([head[_LENGTH_AT] & 0xF0, 0, 0, 0, 0])
    return bytes(head)


def stated_length(file: BinaryIO, start: int) -> int:
    """Return the number of samples stated in the header of the file; 0 if none is stated."""
    field = read_at(file, start + _LENGTH_AT, 5)
    return (field[0] & 0x0F) << 32 | struct.unpack(">I", field[1:])[0] if len(field) == 5 else 0


def goes_on(file: BinaryIO, start: int, position: int, samples: int) -> bool:
    """Return whether the FLAC that begins at `start` has frames after its first `samples` samples.

    `position` is the byte up to which the decoder read for these samples. Raises AudioError
    truncated if another FLAC file follows.
    """
    block = int.from_bytes(read_at(file, start + _BLOCK_AT, 2), "big")
    # Start at the second byte at the earliest, so that the file's own beginning is not found.
    read, position = position, max(start + 1, position - _READ_AHEAD)
    while chunk := read_at(file, position, _CHUNK):
        if any(mark in chunk for mark in _ANOTHER):
            raise AudioError("truncated", f"another recording follows its {samples} samples")
        at = chunk.find(b"\xff")
        while at >= 0:
            end = _last_sample(chunk[at : at + _HEADER_BYTES], block)
            if end is not None and (end > samples or position + at >= read):
                return True
            at = chunk.find(b"\xff", at + 1)
        if len(chunk) < _CHUNK:
            return False
        position += len(chunk) - _HEADER_BYTES
    return False


def _last_sample(header: bytes, block: int) -> int | None:
    """Return the number of samples up to the end of a frame; None if `header` is no frame header.

    `block` is the number of samples in a frame, for files in which all frames have the same.
    """
    if len(header) < _HEADER_BYTES or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    code, rate = header[2] >> 4, header[2] & 0x0F
    size, number = _number(header[4:])
    at = 4 + size
    own = {6: 1, 7: 2}.get(code, 0)
    end = at + own + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if not size or not code or rate == 15 or _crc8(header[:end]) != header[end]:
        return None
    samples = 1 + int.from_bytes(header[at : at + own], "big") if own else _BLOCKS[code]
    return samples + (number if header[1] & 1 else number * block)


def _number(coded: bytes) -> tuple[int, int]:
    """Return the size in bytes and the value of a number coded like UTF-8; (0, 0) if invalid."""
    first = coded[0]
    if first < 0x80:
        return 1, first
    size = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= size <= 7:
        return 0, 0
    number = first & (1 << 7 - size) - 1
    for byte in coded[1:size]:
        number = number << 6 | byte & 0x3F
    return size, number


def _crc8(data: bytes) -> int:
    """Return the CRC-8 with the polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
    return value


class FlacFrames(SoundFileFrames):
    """A FLAC, decoded to its real end, even if its header states a shorter length."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._whole, self._start = file, start
        self._stated = stated_length(file, start)
        super().__init__("flac", Spliced(file, b"", start), self._stated)

    def block_before(self, frame: int) -> int:
        """See `Frames`."""
        return super().block_before(min(frame, self._stated or frame))

    def _block(self, at: int) -> Block:
        left = self._stated - at
        if left > 0:  # After the stated length libsndfile would take a tag for a damaged frame.
            return self._read(min(self._size, left))
        if self._stated and left == 0:
            read = self._start + self._file.at
            if not goes_on(self._whole, self._start, read, at):
                return np.empty((0, self.info.channels), np.float32)
            self._forget_length()
            self._jump(at)
        return self._read(self._size)

    def _forget_length(self) -> None:
        """Reopen the file with an unknown length: libsndfile then reads on, but seeks slowly."""
        head = without_length(self._whole, self._start)
        self._sound.close()
        self._file = Spliced(self._whole, head, self._start + len(head))
        self._sound = self._open()
