"""The Parquet files of features, called parts: their columns, digests and ledgers.

A part is written completely or not at all. Its footer holds a ledger: the clips that are in it,
the clips that failed, and sums over its rows. So an interrupted job resumes from its parts alone.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from audiocnn import storage
from audiocnn.audio.recording import Archive, Recording
from audiocnn.config import FeatureConfig
from audiocnn.corpus.clips import Clip
from audiocnn.errors import FormatError, UnreadableError
from audiocnn.features.band_sums import BandSums
from audiocnn.storage import parquet

LEDGER_KEY = b"audiocnn.ledger"
_DECIDE = ["clip_id", "start_s", "duration_s", "label", "fold", "source"]
"""Columns that enter a row's digest, together with its log-mel."""
_LATER = ("level_dbfs", "channel")
"""Columns that parts of earlier versions do not have."""

Item = dict[str, Any]
"""A clip as a dictionary of JSON values, see `item_of`."""


def schema(config: FeatureConfig) -> pa.Schema:
    """Return the columns of the parts."""
    logmel = pa.fixed_shape_tensor(
        pa.float16(), (config.n_mels, config.n_frames), dim_names=["mel", "frame"]
    )
    return pa.schema(
        [
            ("clip_id", pa.string()),
            ("uri", pa.string()),
            ("start_s", pa.float64()),
            ("duration_s", pa.float64()),
            ("label", pa.string()),
            ("fold", pa.int32()),
            ("source", pa.string()),
            ("logmel", logmel),
            ("level_dbfs", pa.float32()),
            ("channel", pa.int32()),
        ]
    )


def fits(found: pa.Schema, config: FeatureConfig) -> bool:
    """Return whether the columns are those of a part of this version or of an earlier one."""
    now = schema(config)
    before = pa.schema([field for field in now if field.name not in _LATER])
    return bool(found.equals(now) or found.equals(before))


def tensor_array(logmel: np.ndarray, config: FeatureConfig) -> pa.ExtensionArray:
    """Return log-mels [rows, n_mels, n_frames] in decibels as a float16 column of a part."""
    flat = pa.array(logmel.astype(np.float16, copy=False).ravel(), pa.float16())
    rows = pa.FixedSizeListArray.from_arrays(flat, config.n_mels * config.n_frames)
    return pa.ExtensionArray.from_storage(schema(config).field("logmel").type, rows)


@dataclass(frozen=True, kw_only=True)
class FeatureLedger:
    """The record in a part's footer of the clips and rows of that part."""

    part: str
    """Path of the part, relative to the folder of the features."""
    ingested: dict[str, str]
    """The key (see `item_of`) of each clip with rows in the part, by clip_id."""
    failed: dict[str, tuple[str, dict[str, str]]]
    """The key of each clip that failed, and its row of `failures.parquet`, by clip_id."""
    folds: dict[str, int]
    """Fold of each clip, by clip_id."""
    windows: dict[int, int]
    """Number of rows by fold."""
    classes: dict[int, dict[str, int]]
    """Number of ingested clips by fold and class."""
    bands: dict[int, BandSums]
    """Sums over the rows of each fold."""
    rows: str
    """Sum of the SHA-256 of the rows, see `add_digests`; it does not depend on their order."""
    sound_s: float
    """Total recorded length of the windows, in seconds; time in two windows counts twice."""

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as JSON values, for the part's footer."""
        return asdict(self)

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "FeatureLedger":
        """Return the ledger that `to_json` wrote; JSON turned its integer keys into strings."""
        values = dict(plain)
        values["failed"] = {clip: (key, row) for clip, (key, row) in plain["failed"].items()}
        for name in ("windows", "classes"):
            values[name] = int_keys(plain[name])
        values["bands"] = {fold: BandSums(**v) for fold, v in int_keys(plain["bands"]).items()}
        return FeatureLedger(**values)

    def holds_for(self, keys: dict[str, str]) -> bool:
        """Return whether every clip of the part is in the corpus with an unchanged key.

        `keys` are the keys of the corpus by clip_id.
        """
        mine = self.ingested | {clip: key for clip, (key, _) in self.failed.items()}
        return all(keys.get(clip) == key for clip, key in mine.items())


def item_of(clip: Clip) -> Item:
    """Return a clip's fields and its `key`, a digest of all fields that affect its rows."""
    item = dict(vars(clip))
    item["archive"] = clip.archive and asdict(clip.archive)
    said = [
        item[name]
        for name in ("clip_id", "uri", "label", "fold", "source", "size", "version", "archive")
    ]  # the segment is part of the clip_id
    return {**item, "key": hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}


def recording_of(item: Item) -> Recording:
    """Return the location of an item's bytes."""
    said = {name: item[name] for name in ("uri", "size", "version", "segment")}
    return Recording(archive=item["archive"] and Archive(**item["archive"]), **said)


def part_name(config: FeatureConfig, items: list[Item]) -> str:
    """Return the path of the part of these clips, relative to the features.

    The same clips and front end always give the same path.
    """
    said = json.dumps([config.fingerprint, *(item["key"] for item in items)])
    return f"parts/part-{hashlib.sha256(said.encode()).hexdigest()[:16]}.parquet"


def add_digests(digests: list[str]) -> str:
    """Return the sum of 256-bit digests modulo 2^256.

    It identifies a set of rows, in any order and in any files.

    Source: Bellare and Micciancio, A New Paradigm for Collision-Free Hashing, 1997 (AdHash).
    """
    return hex_digest(sum(int(digest, 16) for digest in digests))


def hex_digest(total: int) -> str:
    """Return a sum of digests modulo 2^256 as 64 hex digits."""
    return f"{total % (1 << 256):064x}"


def rows_digest(table: pa.Table) -> str:
    """Return the digest of a part's rows, as in `FeatureLedger.rows`."""
    return hex_digest(sum(int.from_bytes(row_digest(*row), "big") for row in _rows(table)))


def rows_sha256(table: pa.Table) -> str:
    """Return the digest of the first format: one SHA-256 of all rows, in their order."""
    digest = hashlib.sha256()
    for row, logmel in _rows(table):
        digest.update(_said(row))
        digest.update(logmel.data)
    return digest.hexdigest()


def _rows(table: pa.Table) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for batch in table.to_batches():
        rows = batch.select(_DECIDE).to_pylist()
        yield from zip(rows, batch.column("logmel").to_numpy_ndarray(), strict=True)


def row_digest(row: dict[str, Any], logmel: np.ndarray) -> bytes:
    """Return a row's SHA-256: of the columns `_DECIDE` and the log-mel, but not of its URI."""
    digest = hashlib.sha256(_said(row))
    digest.update(logmel.data)
    return digest.digest()


def _said(row: dict[str, Any]) -> bytes:
    return json.dumps([row[name] for name in _DECIDE]).encode()


def read_ledger(uri: str) -> FeatureLedger | None:
    """Read the ledger in a part's footer; None if the file is damaged or not a part."""
    try:
        return FeatureLedger.from_json(_footer(uri))
    except (KeyError, TypeError, ValueError):
        return None


def is_part(uri: str, path: str) -> bool:
    """Return whether the file at a URI is a part of any version that was written for `path`."""
    return _footer(uri).get("part") == path


def _footer(uri: str) -> dict[str, Any]:
    """Read the JSON object of the ledger in a part's footer; empty if there is none."""
    try:
        with parquet.opened(uri, storage.open_binary(uri)) as part:
            plain = json.loads((part.metadata.metadata or {})[LEDGER_KEY])
    except (OSError, KeyError, ValueError, UnreadableError, FormatError):
        return {}
    return plain if isinstance(plain, dict) else {}


def int_keys(plain: dict[Any, Any]) -> dict[int, Any]:
    """Return a dictionary with its keys converted from strings to integers, such as folds."""
    return {int(key): value for key, value in plain.items()}
