"""ID3 and other tags, which may precede a recording, follow it, or lie between its frames."""

from collections.abc import Callable
from typing import BinaryIO

from audiocnn.storage.stores.range_file import read_at

AT_THE_END = (b"TAG", b"APETAGEX", b"LYRICS", b"ID3")
"""First bytes of the tags that may follow the sound."""
MOST_TAGS = 100
"""Most consecutive tags that are skipped: programs write one or two, and each costs a read."""
_ID3V1_BYTES = 128


def behind_id3(file: BinaryIO, position: int) -> int:
    """Return the end of the ID3v2 tags that begin at a position; at most `MOST_TAGS` are skipped.

    Returns `position` if no tag begins there. Only the header of each tag is read and its stated
    size is not checked, so the result may lie after the end of the file.
    """
    return _behind(file, position, _id3v2_bytes)


def behind_tags(file: BinaryIO, position: int) -> int:
    """Do the same as `behind_id3` for ID3 tags of either version and APE tags."""
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
    """Return the size of the ID3v2 tag that begins with these bytes; 0 if there is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _id3v1_bytes(head: bytes) -> int:
    return _ID3V1_BYTES if head[:3] == b"TAG" else 0


def _ape_bytes(head: bytes) -> int:
    """Return the size of the APE tag that begins with these bytes; 0 if there is none.

    Source: the APEv2 specification of Monkey's Audio, 2004.
    """
    if head[:8] != b"APETAGEX" or len(head) < 16:
        return 0
    return 32 + int.from_bytes(head[12:16], "little")


def is_blank(file: BinaryIO, position: int) -> bool:
    """Return whether only zero bytes follow a position."""
    file.seek(position)
    return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(1 << 20), b""))
