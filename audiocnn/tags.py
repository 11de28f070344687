"""ID3 and other tags, which stand in front of a recording, between its frames or behind them."""

from typing import BinaryIO

from audiocnn.rangefile import read_at

AT_THE_END = (b"TAG", b"APETAGEX", b"LYRICS", b"ID3")
"""What a tag behind the sound begins with."""
_ID3V1_BYTES = 128


def behind_id3(file: BinaryIO, position: int) -> int:
    """Where the ID3v2 tags that begin at a position end; the position where none begins there."""
    while True:
        tag = read_at(file, position, 10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            return position
        size = 0
        for byte in tag[6:10]:
            size = size << 7 | byte & 0x7F
        footer = 10 if tag[5] & 0x10 else 0
        position += 10 + size + footer


def behind_tags(file: BinaryIO, position: int) -> int:
    """Where ID3 tags of either version that begin at a position end."""
    while True:
        end = behind_id3(file, position)
        if read_at(file, end, 3) == b"TAG":
            end += _ID3V1_BYTES
        if end == position:
            return end
        position = end


def is_blank(file: BinaryIO, position: int) -> bool:
    """Whether nothing but zeros follows."""
    file.seek(position)
    return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(1 << 20), b""))
