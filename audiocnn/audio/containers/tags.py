"""ID3 and other tags, which stand in front of a recording, between its frames or behind them."""

from collections.abc import Callable
from typing import BinaryIO

from audiocnn.storage.stores.range_file import read_at

AT_THE_END = (b"TAG", b"APETAGEX", b"LYRICS", b"ID3")
"""What a tag behind the sound begins with."""
MOST_TAGS = 100
"""Tags in a row that are passed over: programs write one or two, and each costs a read."""
_ID3V1_BYTES = 128


def behind_id3(file: BinaryIO, position: int) -> int:
    """Where the ID3v2 tags that begin at a position end, or the first `MOST_TAGS` of them.

    It is the position where none begins there. Of a tag its header alone is read, and what that
    says of its size is believed: the end may lie behind that of the file.
    """
    return _behind(file, position, _id3v2_bytes)


def behind_tags(file: BinaryIO, position: int) -> int:
    """Likewise where tags end that are ID3, of either version, or APE."""
    return _behind(
        file,
        position,
        lambda head: _id3v2_bytes(head) or _id3v1_bytes(head) or _ape_bytes(head),
    )


def _behind(file: BinaryIO, position: int, bytes_of: Callable[[bytes], int]) -> int:
    for _ in range(MOST_TAGS):
        size = bytes_of(read_at(file, position, 16))
        if not size:
            break
        position += size
    return position


def _id3v2_bytes(head: bytes) -> int:
    """The size of the tag that begins with these bytes; 0 where none does."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _id3v1_bytes(head: bytes) -> int:
    return _ID3V1_BYTES if head[:3] == b"TAG" else 0


def _ape_bytes(head: bytes) -> int:
    """Source: the APEv2 specification of Monkey's Audio, 2004."""
    if head[:8] != b"APETAGEX" or len(head) < 16:
        return 0
    return 32 + int.from_bytes(head[12:16], "little")


def is_blank(file: BinaryIO, position: int) -> bool:
    """Whether nothing but zeros follows."""
    file.seek(position)
    return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(1 << 20), b""))
