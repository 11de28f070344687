"""The shard list of a bulk job: the recordings to label, found when the bucket was listed.

It is one Parquet file with one row group per shard. It is written while the bucket is listed and
read one shard at a time, so a bucket may have more objects than fit into memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from audiocnn import storage
from audiocnn.audio.decode import AUDIO_SUFFIXES
from audiocnn.audio.recording import Recording
from audiocnn.storage import parquet
from audiocnn.storage.listing import StoredFile, stored_file

SHARD_LIST_SCHEMA = pa.schema(
    [("uri", pa.string()), ("size", pa.int64()), ("version", pa.string()), ("wrong", pa.string())]
)
"""Columns of the shard list; `wrong` is the reason why a recording cannot be read, or null."""

_RECORDINGS, _BYTES = (32, 4_096), (32 << 20, 1 << 30)
"""Limits of a shard, (of the first shards, of any shard): recordings, and their bytes."""
_GROWTH = 64
_KINDS = 100
_BLOCK = 1 << 18
_MEND = "delete it and run the same `label` again to list the bucket"


@dataclass(kw_only=True)
class ListingCounts:
    """Counts of a listing: each file is a recording or is skipped."""

    recordings: int = 0
    bytes: int = 0
    """Total size of the recordings, in bytes."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of files without the suffix of a recording, by suffix."""

    @property
    def listed(self) -> int:
        """Number of all listed files."""
        return self.recordings + sum(self.skipped.values())

    def of_recordings(self, files: Iterable[StoredFile]) -> Iterator[StoredFile]:
        """Yield the recordings among the files; count all files."""
        for file in files:
            if file.path.lower().endswith(AUDIO_SUFFIXES):
                self.recordings += 1
                self.bytes += file.size
                yield file
            else:
                self._skip(PurePosixPath(storage.printable(file.path)).suffix.lower())

    def _skip(self, suffix: str) -> None:
        known = suffix in self.skipped or len(self.skipped) < _KINDS
        self.skipped[suffix if known else "other"] += 1


def row_of(file: StoredFile) -> dict[str, Any]:
    """Return a file's row of the shard list."""
    uri = storage.printable(file.uri)
    wrong = None if uri == file.uri else "path: its name is not UTF-8"
    return {"uri": uri, "size": file.size, "version": file.version, "wrong": wrong}


def write_manifest(uri: str, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to a shard list as they come; return the number of shards.

    The first shards are small, so that a small bucket is spread evenly over the workers. Later
    ones grow with the rows written before, so that a large bucket has few shards. One shard is in
    memory.
    """
    shards = count = 0
    with storage.atomic_path(uri) as path, parquet.writer(path, SHARD_LIST_SCHEMA) as file:
        held: list[dict[str, Any]] = []
        size = written = 0
        for row in rows:
            full = len(held) >= _room(_RECORDINGS, count) or size + row["size"] > _room(
                _BYTES, written
            )
            if held and full:
                _write_shard(file, held)
                shards, count, written, size = shards + 1, count + len(held), written + size, 0
                held.clear()
            held.append(row)
            size += row["size"]
        if held:
            _write_shard(file, held)
            shards += 1
    return shards


def _room(limits: tuple[int, int], before: int) -> int:
    """Return the limit of the next shard: 1/64 of all shards before it, within `limits`."""
    first, most = limits
    return min(most, max(first, before // _GROWTH))


def _write_shard(file: pq.ParquetWriter, rows: list[dict[str, Any]]) -> None:
    file.write_table(pa.Table.from_pylist(rows, SHARD_LIST_SCHEMA), row_group_size=len(rows))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recording to label; `wrong` is the reason why it cannot be read, or None."""

    recording: Recording
    wrong: str | None


def read_shard(uri: str, index: int) -> list[Entry]:
    """Read one shard of a shard list, by one request. Raises StorageError, FormatError."""
    stored, metadata = _known(uri)
    with parquet.opened(uri, _opened(stored), "a manifest", metadata=metadata, mend=_MEND) as file:
        table = file.read_row_group(index)
    return [
        Entry(
            recording=Recording(uri=row["uri"], size=row["size"], version=row["version"] or None),
            wrong=row["wrong"],
        )
        for row in table.to_pylist()
    ]


def shard_sizes(uri: str) -> list[int]:
    """Return the number of recordings in each shard. Raises StorageError, FormatError."""
    _, metadata = _known(uri)
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


@lru_cache(maxsize=2)
def _known(uri: str) -> tuple[StoredFile, pq.FileMetaData]:
    """Return a shard list's file and its footer; both are cached, because both take requests."""
    stored = stored_file(uri)
    with parquet.opened(uri, _opened(stored), "a manifest", mend=_MEND) as file:
        return stored, file.metadata


def _opened(stored: StoredFile) -> BinaryIO:
    return storage.open_binary(
        stored.uri, block_bytes=_BLOCK, version=stored.version, size=stored.size
    )
