"""The manifest of a bulk job: what a bucket held when it was listed, in shards to be done.

One Parquet file, a row group a shard: written as the bucket is listed and read a shard at a time,
so that a bucket may hold more objects than any process holds names.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audiocnn import storage
from audiocnn.audio import AUDIO_SUFFIXES
from audiocnn.listing import StoredFile
from audiocnn.recordings import Recording

MANIFEST = pa.schema(
    [("uri", pa.string()), ("size", pa.int64()), ("version", pa.string()), ("wrong", pa.string())]
)
"""Its columns; `wrong` says why a recording cannot be tried."""

_FEWEST, _MOST = 16, 4_096
_GROWTH = 64
_SHARD_BYTES = 1 << 30
_KINDS = 100
_BLOCK = 1 << 18


@dataclass(kw_only=True)
class Census:
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
    with storage.placed(uri) as path, pq.ParquetWriter(path, MANIFEST, compression="zstd") as file:
        held: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            most = min(_MOST, max(_FEWEST, count // _GROWTH))
            if held and (len(held) >= most or size + row["size"] > _SHARD_BYTES):
                _write_shard(file, held)
                shards, count, size = shards + 1, count + len(held), 0
                held.clear()
            held.append(row)
            size += row["size"]
        if held:
            _write_shard(file, held)
            shards += 1
    return shards


def _write_shard(file: pq.ParquetWriter, rows: list[dict[str, Any]]) -> None:
    file.write_table(pa.Table.from_pylist(rows, MANIFEST), row_group_size=len(rows))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recording to do, and what is known to be wrong with it."""

    recording: Recording
    wrong: str | None


def read_shard(uri: str, index: int) -> list[Entry]:
    """One shard of a manifest. Raises StorageError."""
    with storage.open_binary(uri, block_bytes=_BLOCK) as file:
        table = pq.ParquetFile(file, metadata=_metadata(uri)).read_row_group(index)
    return [
        Entry(
            recording=Recording(uri=row["uri"], size=row["size"], version=row["version"] or None),
            wrong=row["wrong"],
        )
        for row in table.to_pylist()
    ]


def shard_sizes(uri: str) -> list[int]:
    """Recordings in each shard of a manifest. Raises StorageError."""
    metadata = _metadata(uri)
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


@lru_cache(maxsize=2)
def _metadata(uri: str) -> pq.FileMetaData:
    """Where each shard lies; kept, for a large manifest's takes a while to read."""
    with storage.open_binary(uri, block_bytes=_BLOCK) as file:
        return pq.read_metadata(file)
