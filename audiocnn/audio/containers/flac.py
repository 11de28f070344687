"""What the headers of a FLAC say of its length: that of the file, and those of its frames.

Source: RFC 9639.
"""

import struct
from typing import BinaryIO

from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import read_at

_LENGTH_AT = 21
"""Where a FLAC says how many samples it has: in the lower half of this byte, and in four more."""
_BLOCK_AT = 10
"""Where it says the largest number of samples in a frame, in two bytes."""
_HEADER_BYTES = 16
"""Bytes that the header of a frame has at most."""
_BLOCKS = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}}
_BLOCKS |= {code: 256 << code - 8 for code in range(8, 16)}
"""Samples in a frame, by a code in its header; 6 and 7 say that a number of its own follows."""
_READ_AHEAD = 1 << 15
"""Bytes that a decoder may have read behind the last frame that it gave."""
_ANOTHER = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
"""What a FLAC begins with: its name, and the head of 34 bytes of stream info."""
_CHUNK = 1 << 20


def without_length(file: BinaryIO, start: int) -> bytes:
    """The beginning of a FLAC, changed to say that its length is not known.

    What follows it is the file from as many bytes behind `start` on. A decoder that knows a length
    stops there, whatever follows.
    """
    head = bytearray(read_at(file, start, _LENGTH_AT + 5))
    if len(head) == _LENGTH_AT + 5:
        head[_LENGTH_AT:] = bytes([head[_LENGTH_AT] & 0xF0, 0, 0, 0, 0])
    return bytes(head)


def stated_length(file: BinaryIO, start: int) -> int:
    """How many samples a FLAC says that it has; 0 where it does not say."""
    field = read_at(file, start + _LENGTH_AT, 5)
    return (field[0] & 0x0F) << 32 | struct.unpack(">I", field[1:])[0] if len(field) == 5 else 0


def goes_on(file: BinaryIO, start: int, position: int, samples: int) -> bool:
    """Whether the FLAC that begins at `start` has frames behind its first so many samples.

    `position` is how far the decoder has read that gave those samples. Raises AudioError truncated
    where a FLAC of its own follows.
    """
    block = int.from_bytes(read_at(file, start + _BLOCK_AT, 2), "big")
    # From its second byte on: its own beginning is no other one's.
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
    """How many samples there are with those of a frame, where these bytes are its header.

    `block` is the number of samples in a frame where all have the same.
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
    """How long a number is that is coded as UTF-8 codes a character, and the number."""
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
    """With the polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
    return value
