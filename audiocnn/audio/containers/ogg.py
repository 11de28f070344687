"""OGG: its streams, one or several in sequence, and their decoder.

Files are chained (several streams in sequence, each with its own headers) if a live stream was
interrupted and resumed, or if files were joined. libsndfile reads only the first stream.
Source: RFC 3533.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from audiocnn.audio.containers.frames import AudioInfo, Block, Frames, SoundFileFrames
from audiocnn.audio.containers.spliced import Spliced
from audiocnn.errors import AudioError
from audiocnn.storage.stores.range_file import read_at

_PAGE = b"OggS"
_HEADER_BYTES = 27
_BEGINS, _ENDS = 2, 4
"""Bits in the flags of a page: first page and last page of a stream."""
_EXACT = ("VORBIS", "OPUS")
"""Codecs in which libsndfile seeks to the exact sample."""
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


def open_ogg(file: BinaryIO, start: int) -> Frames:
    """Open the OGG streams that begin at byte `start`. Raises AudioError."""
    links = read_links(file, start)
    if len(links) == 1:
        return _Stream(file, links[0])
    return _Chained([partial(_Stream, file, link) for link in links])


class _Stream(SoundFileFrames):
    """One stream, decoded by libsndfile."""

    preroll = 1 << 14

    def __init__(self, file: BinaryIO, link: Link) -> None:
        super().__init__("ogg", Spliced(file, b"", link.start, link.end))

    def block_before(self, frame: int) -> int:
        return super().block_before(frame) if self._sound.subtype in _EXACT else 0


class _Chained:
    """Streams in sequence; only one of them is open at a time."""

    def __init__(self, links: list[Callable[[], _Stream]]) -> None:
        self._links = links
        self._starts: list[int] = []
        self._current: _Stream | None = None
        frames = 0
        infos: list[AudioInfo] = []
        for opened in links:
            with closing(opened()) as link:
                infos.append(link.info)
            self._starts.append(frames)
            frames += link.info.frames
        self.info = replace(infos[0], frames=frames)
        if any(replace(info, frames=frames) != self.info for info in infos):
            raise AudioError("decode", "its streams differ in sample rate or number of channels")

    def block_before(self, frame: int) -> int:
        place = bisect_right(self._starts, frame) - 1
        start = self._starts[place]
        with closing(self._links[place]()) as link:
            return start + link.block_before(frame - start)

    def blocks(self, first: int = 0) -> Iterator[Block]:
        place = bisect_right(self._starts, first) - 1
        first -= self._starts[place]
        for opened in self._links[place:]:
            self.close()
            self._current = opened()
            yield from self._current.blocks(first)
            first = 0

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
