"""The manifest of a bulk job: what a bucket held when it was listed, in shards to be done.

One Parquet file, a row group a shard: written as the bucket is listed and read a shard at a time,
so that a bucket may hold more objects than any process holds names.
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
"""Its columns; `wrong` says why a recording cannot be tried."""

_RECORDINGS, _BYTES = (32, 4_096), (32 << 20, 1 << 30)
"""How much the first shards may hold, and how much any may."""
_GROWTH = 64
_KINDS = 100
_BLOCK = 1 << 18
_MEND = "delete it, and the same `label` lists the bucket again"


@dataclass(kw_only=True)
class ListingCounts:
    """What a listing saw: every file is a recording or one of the skipped."""

    recordings: int = 0
    bytes: int = 0
    """Of the recordings."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files that are no recordings by their names, by suffix."""

    @property
    def listed(self) -> int:
        """All of them."""
        return self.recordings + sum(self.skipped.values())

    def of_recordings(self, files: Iterable[StoredFile]) -> Iterator[StoredFile]:
        """The recordings among the files; all are counted as they pass."""
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
    """A file's row of the manifest."""
    uri = storage.printable(file.uri)
    wrong = None if uri == file.uri else "path: its name is not UTF-8"
    return {"uri": uri, "size": file.size, "version": file.version, "wrong": wrong}


def write_manifest(uri: str, rows: Iterable[dict[str, Any]]) -> int:
    """Write a manifest of rows as they come; returns the number of shards.

    The first shards are small, so that a small bucket is shared out evenly; they grow with what
    was listed, so that the shards of a large one are few. Memory is a shard.
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
    """How much the next shard may hold, by how much those before it do."""
    first, most = limits
    return min(most, max(first, before // _GROWTH))


def _write_shard(file: pq.ParquetWriter, rows: list[dict[str, Any]]) -> None:
    file.write_table(pa.Table.from_pylist(rows, SHARD_LIST_SCHEMA), row_group_size=len(rows))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recording to do, and what is known to be wrong with it."""

    recording: Recording
    wrong: str | None


def read_shard(uri: str, index: int) -> list[Entry]:
    """One shard of a manifest, by one request. Raises StorageError, FormatError."""
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
    """Recordings in each shard of a manifest. Raises StorageError, FormatError."""
    _, metadata = _known(uri)
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


@lru_cache(maxsize=2)
def _known(uri: str) -> tuple[StoredFile, pq.FileMetaData]:
    """What a manifest is, and where each shard lies; kept, for both take requests."""
    stored = stored_file(uri)
    with parquet.opened(uri, _opened(stored), "a manifest", mend=_MEND) as file:
        return stored, file.metadata


def _opened(stored: StoredFile) -> BinaryIO:
    return storage.open_binary(
        stored.uri, block_bytes=_BLOCK, version=stored.version, size=stored.size
    )
