"""Where a recording's bytes are: an object, or a member of a tar; and how they are opened."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from audiocnn import storage
from audiocnn.audio.decode import Segment, Source
from audiocnn.errors import AudioError
from audiocnn.storage.stores import local

_WHOLE = 32 << 20
"""Bytes up to which a recording is read whole; a longer one is read as it is decoded."""
_MOST_OF_A_MEMBER = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A member of a tar: its bytes are those from `offset` on."""

    uri: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording in storage; `uri` names it to people, also where it lies in an archive."""

    uri: str
    size: int | None = None
    """Bytes, where a listing told."""
    archive: Archive | None = None
    version: str | None = None
    """As a listing has it, of an archive where it is in one; if given, nothing else is read."""
    segment: Segment | None = None
    """What of it is meant; None: all of it."""


def begin_to_read(recording: Recording, most: int, readers: Executor) -> Callable[[], Source]:
    """`open_recording`, begun; what is returned waits for it, and raises as it does."""
    place = recording.archive or recording
    if not storage.is_local(place.uri):
        return readers.submit(open_recording, recording, most).result
    # Not by threads: what they take of the interpreter's lock costs more than such a read.
    if recording.segment is None:
        offset = recording.archive.offset if recording.archive else 0
        local.advise_read(storage.absolute(place.uri), offset, min(place.size or _WHOLE, _WHOLE))
    return partial(open_recording, recording, most)


@contextmanager
def closing_source(source: Source) -> Iterator[Source]:
    """A source, closed at the end of the block where it is a file."""
    try:
        yield source
    finally:
        if not isinstance(source, bytes):
            source.close()


def open_recording(recording: Recording, most: int) -> Source:
    """The recording's bytes, or a file of them where they are many, over `most`, or not all meant.

    Raises UnreadableError (ChangedError where it is of another version), AudioError too_large for
    a member of a tar above 512 MB, and StorageError where the store itself is out of reach.
    """
    whole = min(_WHOLE, most)
    if recording.archive is not None:
        archive = recording.archive
        if archive.size > min(most, _MOST_OF_A_MEMBER):
            raise AudioError("too_large", f"{archive.size} bytes, too many within a tar")
        return storage.read_range(
            archive.uri, archive.offset, archive.size, version=recording.version
        )
    # Of a segment's recording little is read.
    if recording.segment is not None or (recording.size is not None and recording.size > whole):
        return storage.open_binary(recording.uri, version=recording.version)
    data = storage.read_bytes(recording.uri, whole, version=recording.version)
    if len(data) <= whole:
        return data
    return storage.open_binary(recording.uri, version=recording.version)
