"""The Parquet files of features: how one is written, and what it says of itself.

A part is written whole or not at all, and carries in its footer what was done for it: which clips
are in it or failed, and the sums over its rows. So the parts themselves say what is done.
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
"""Columns that name a row, with its log-mel."""
_LATER = ("level_dbfs", "channel")
"""Columns that earlier versions did not write."""

Item = dict[str, Any]
"""A clip as JSON carries it, see `item_of`."""


def schema(config: FeatureConfig) -> pa.Schema:
    """The columns of the parts."""
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
    """Whether columns are those of the parts, of this version or of an earlier one."""
    now = schema(config)
    before = pa.schema([field for field in now if field.name not in _LATER])
    return bool(found.equals(now) or found.equals(before))


def tensor_array(logmel: np.ndarray, config: FeatureConfig) -> pa.ExtensionArray:
    """[rows, n_mels, n_frames] as a column of the parts."""
    flat = pa.array(logmel.astype(np.float16, copy=False).ravel(), pa.float16())
    rows = pa.FixedSizeListArray.from_arrays(flat, config.n_mels * config.n_frames)
    return pa.ExtensionArray.from_storage(schema(config).field("logmel").type, rows)


@dataclass(frozen=True, kw_only=True)
class FeatureLedger:
    """What a part says of itself."""

    part: str
    """Its path below the features."""
    ingested: dict[str, str]
    """By clip_id, the key (see `item_of`) of each clip whose rows are in it."""
    failed: dict[str, tuple[str, dict[str, str]]]
    """By clip_id, the key of each clip that failed, and its row of `failures.parquet`."""
    folds: dict[str, int]
    """Each clip's fold."""
    windows: dict[int, int]
    """Rows by fold."""
    classes: dict[int, dict[str, int]]
    """Ingested clips by fold and class."""
    bands: dict[int, BandSums]
    """By fold."""
    rows: str
    """The sum of its rows' SHA-256, see `add_digests`: the same in whichever order they are."""
    sound_s: float
    """Seconds of sound in its windows."""

    def to_json(self) -> dict[str, Any]:
        """As the part's footer has it."""
        return asdict(self)

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "FeatureLedger":
        """What `to_json` gave, also through JSON's text keys."""
        values = dict(plain)
        values["failed"] = {clip: (key, row) for clip, (key, row) in plain["failed"].items()}
        for name in ("windows", "classes"):
            values[name] = int_keys(plain[name])
        values["bands"] = {fold: BandSums(**v) for fold, v in int_keys(plain["bands"]).items()}
        return FeatureLedger(**values)

    def holds_for(self, keys: dict[str, str]) -> bool:
        """Whether each of its clips is still in the corpus, and as it was."""
        mine = self.ingested | {clip: key for clip, (key, _) in self.failed.items()}
        return all(keys.get(clip) == key for clip, key in mine.items())


def item_of(clip: Clip) -> Item:
    """A clip's fields, and its `key`: it names whatever of a clip would change its rows."""
    item = dict(vars(clip))
    item["archive"] = clip.archive and asdict(clip.archive)
    said = [
        item[name]
        for name in ("clip_id", "uri", "label", "fold", "source", "size", "version", "archive")
    ]  # a segment is in the clip_id
    return {**item, "key": hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}


def recording_of(item: Item) -> Recording:
    """Where an item's bytes are."""
    said = {name: item[name] for name in ("uri", "size", "version", "segment")}
    return Recording(archive=item["archive"] and Archive(**item["archive"]), **said)


def part_name(config: FeatureConfig, items: list[Item]) -> str:
    """The path, below the features, of the part of these clips: the same whenever it is written."""
    said = json.dumps([config.fingerprint, *(item["key"] for item in items)])
    return f"parts/part-{hashlib.sha256(said.encode()).hexdigest()[:16]}.parquet"


def add_digests(digests: list[str]) -> str:
    """Sum of 256-bit numbers, modulo 2 to the 256: names a set of rows in whatever files they lie.

    Source: Bellare and Micciancio, A New Paradigm for Collision-Free Hashing, 1997 (AdHash).
    """
    return hex_digest(sum(int(digest, 16) for digest in digests))


def hex_digest(total: int) -> str:
    """A sum of digests, modulo 2^256, as 64 hex digits."""
    return f"{total % (1 << 256):064x}"


def rows_digest(table: pa.Table) -> str:
    """`Ledger.rows` of the rows of a part."""
    return hex_digest(sum(int.from_bytes(row_digest(*row), "big") for row in _rows(table)))


def rows_sha256(table: pa.Table) -> str:
    """What the first format had in its place: one SHA-256 of all rows, in their order."""
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
    """Names a row by what a model learns from: not by where it was read."""
    digest = hashlib.sha256(_said(row))
    digest.update(logmel.data)
    return digest.digest()


def _said(row: dict[str, Any]) -> bytes:
    return json.dumps([row[name] for name in _DECIDE]).encode()


def read_ledger(uri: str) -> FeatureLedger | None:
    """What a part says of itself, from its footer; None where it is damaged, or not of ours."""
    try:
        return FeatureLedger.from_json(_footer(uri))
    except (KeyError, TypeError, ValueError):
        return None


def is_part(uri: str, path: str) -> bool:
    """Whether the file at a URI is the part that features have at this path, of any version."""
    return _footer(uri).get("part") == path


def _footer(uri: str) -> dict[str, Any]:
    """The ledger in a part's footer; an empty one where there is none."""
    try:
        with parquet.opened(uri, storage.open_binary(uri)) as part:
            plain = json.loads((part.metadata.metadata or {})[LEDGER_KEY])
    except (OSError, KeyError, ValueError, UnreadableError, FormatError):
        return {}
    return plain if isinstance(plain, dict) else {}


def int_keys(plain: dict[Any, Any]) -> dict[int, Any]:
    """JSON's text keys as the folds they are."""
    return {int(key): value for key, value in plain.items()}
