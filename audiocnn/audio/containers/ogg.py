"""The streams of an OGG file: one, or several in sequence.

Files are chained (several streams in sequence, each with its own headers) if a live stream was
interrupted and resumed, or if files were joined. libsndfile reads only the first stream.
Source: RFC 3533.
"""

import io
from dataclasses import dataclass
from typing import BinaryIO

from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import read_at

_PAGE = b"OggS"
_HEADER_BYTES = 27
_BEGINS, _ENDS = 2, 4
"""Bits in the flags of a page: first page and last page of a stream."""
_LEAST, _CHUNK = 1 << 8, 1 << 16
"""Bytes that are searched at a time: at first, and at most."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One of the streams: the bytes from `start` to `end`."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class _Page:
    flags: int
    end: int


def read_links(file: BinaryIO, start: int = 0) -> list[Link]:
    """Return the streams from `start` on, found page by page.

    Raises AudioError truncated if the last page is cut or not marked as the last.
    """
    length = file.seek(0, io.SEEK_END)
    begins = [start]
    page: _Page | None = None
    heads = True
    at: int | None = start
    while at is not None and (found := _page(file, at)) is not None:
        page = found
        if page.flags & _BEGINS and not heads:
            begins.append(at)
        # The first pages of multiplexed streams follow each other: they begin one link.
        heads = bool(page.flags & _BEGINS)
        at = page.end if _is_page(file, page.end) else _find(file, page.end)
    if page is None or page.end > length or not page.flags & _ENDS:
        raise AudioError("truncated", f"the OGG stream ends before its last page, at byte {length}")
    ends = [*begins[1:], length]
    return [Link(start=begin, end=end) for begin, end in zip(begins, ends, strict=True)]


def _is_page(file: BinaryIO, position: int) -> bool:
    return read_at(file, position, 4) == _PAGE


def _page(file: BinaryIO, position: int) -> _Page | None:
    """Return the page at a position; None if no complete page header is there."""
    header = read_at(file, position, _HEADER_BYTES)
    sizes = file.read(header[26]) if len(header) == _HEADER_BYTES else b""
    if header[:4] != _PAGE or len(header) < _HEADER_BYTES or len(sizes) < header[26]:
        return None
    return _Page(flags=header[5], end=position + _HEADER_BYTES + len(sizes) + sum(sizes))


def _find(file: BinaryIO, position: int) -> int | None:
    """Return the position of the next page, skipping other bytes; None if there is none."""
    size = _LEAST  # Start small: a file may have one foreign byte after every page.
    while len(chunk := read_at(file, position, size)) >= len(_PAGE):
        found = chunk.find(_PAGE)
        if found >= 0:
            return position + found
        position += len(chunk) - 3
        size = min(2 * size, _CHUNK)
    return None
