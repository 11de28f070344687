"""Locate the bytes of a recording (an object, or a member of a tar), and open them."""

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
"""Largest recording that is read at once, in bytes; a longer one is read while it is decoded."""
_MOST_OF_A_MEMBER = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A member of a tar: `size` bytes from `offset` on."""

    uri: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording in storage; `uri` is its name for users, also if it lies in an archive."""

    uri: str
    size: int | None = None
    """Size in bytes, if known from a listing."""
    archive: Archive | None = None
    version: str | None = None
    """Version from a listing, of the archive if there is one; any other version is an error."""
    segment: Segment | None = None
    """Time range to decode, in seconds; None decodes everything."""


def begin_to_read(recording: Recording, most: int, readers: Executor) -> Callable[[], Source]:
    """Start `open_recording`; return a function that waits for its result and raises its errors.

    For a local file, only the operating system's read-ahead is started.
    """
    place = recording.archive or recording
    if not storage.is_local(place.uri):
        return readers.submit(open_recording, recording, most).result
    # No threads: their use of the interpreter's lock costs more than a local read.
    if recording.segment is None:
        offset = recording.archive.offset if recording.archive else 0
        local.advise_read(storage.absolute(place.uri), offset, min(place.size or _WHOLE, _WHOLE))
    return partial(open_recording, recording, most)


@contextmanager
def closing_source(source: Source) -> Iterator[Source]:
    """Yield the source, and close it at the end of the block if it is a file."""
    try:
        yield source
    finally:
        if not isinstance(source, bytes):
            source.close()


def open_recording(recording: Recording, most: int) -> Source:
    """Return the recording's bytes, or an open file if it is long or only a segment is needed.

    A recording is long above 32 MiB or `most` bytes. A member of a tar is always read at once.
    Raises UnreadableError (ChangedError for another version), AudioError too_large for a member
    of a tar above 512 MiB or `most` bytes, and StorageError if the store cannot be reached.
    """
    whole = min(_WHOLE, most)
    if recording.archive is not None:
        archive = recording.archive
        limit = min(most, _MOST_OF_A_MEMBER)
        if archive.size > limit:
            raise AudioError("too_large", f"{archive.size} bytes, the limit in a tar is {limit}")
        return storage.read_range(
            archive.uri, archive.offset, archive.size, version=recording.version
        )
    # Only a small part of the file is needed for a segment.
    if recording.segment is not None or (recording.size is not None and recording.size > whole):
        return storage.open_binary(recording.uri, version=recording.version)
    data = storage.read_bytes(recording.uri, whole, version=recording.version)
    if len(data) <= whole:
        return data
    return storage.open_binary(recording.uri, version=recording.version)
