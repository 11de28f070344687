"""The Parquet files of features: how one is written, and what it says of itself.

A part is written whole or not at all, and carries in its footer what was done for it: which clips
are in it or failed, and the sums over its rows. So the parts themselves say what is done.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa

from audiocnn import storage
from audiocnn.audio.recording import Archive, Recording
from audiocnn.config import FeatureConfig
from audiocnn.corpus.clips import Clip
from audiocnn.errors import AudioError, FormatError, UnreadableError
from audiocnn.storage import parquet
from audiocnn.storage.failures import failure_row

_LEDGER = b"audiocnn.ledger"
_ROW_GROUP = 64
_PAGE = 8 << 20
_IN_MEMORY = 32 << 20
_DECIDE = ["clip_id", "start_s", "duration_s", "label", "fold", "source"]
"""Columns that name a row, with its log-mel."""
_LATER = ("level_dbfs", "channel")
"""Columns that earlier versions did not write."""
_OF_WINDOWS = ("start_s", "duration_s", "level_dbfs", "channel")
"""Columns that differ from window to window of a clip, but for the log-mel."""

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
class BandSums:
    """Sums over frames, by which mean and deviation of any folds together follow exactly."""

    count: int
    total: list[float]
    """[n_mels] sums of decibels."""
    squares: list[float]
    """[n_mels] sums of their squares."""

    @staticmethod
    def of(logmel: np.ndarray) -> "BandSums":
        """Sums of [windows, n_mels, n_frames]."""
        x = logmel.astype(np.float64)
        return BandSums(
            count=x.shape[0] * x.shape[2],
            total=x.sum(axis=(0, 2)).tolist(),
            squares=(x**2).sum(axis=(0, 2)).tolist(),
        )

    @staticmethod
    def merge(parts: list["BandSums"]) -> "BandSums":
        """The sums of several together."""
        return BandSums(
            count=sum(p.count for p in parts),
            total=np.sum([p.total for p in parts], axis=0).tolist(),
            squares=np.sum([p.squares for p in parts], axis=0).tolist(),
        )

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Each band's mean and standard deviation, [n_mels] float32 decibels; std at least 1."""
        mean = np.array(self.total) / self.count
        variance = np.array(self.squares) / self.count - mean**2
        return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1.0)).astype(np.float32)


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
    return _hex(sum(int(digest, 16) for digest in digests))


def _hex(total: int) -> str:
    return f"{total % (1 << 256):064x}"


@dataclass(kw_only=True)
class Windows:
    """A recording's windows until it is known to be whole; beyond 32 MB they are in a file.

    `total` and `squares` are [windows, n_mels] sums over frames, of decibels and their squares.
    """

    start_s: list[float] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    level_dbfs: list[float] = field(default_factory=list)
    channel: list[int] = field(default_factory=list)
    total: list[np.ndarray] = field(default_factory=list)
    squares: list[np.ndarray] = field(default_factory=list)
    _shape: tuple[int, ...] = ()
    _logmels: IO[bytes] = field(
        default_factory=lambda: tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    )

    def __len__(self) -> int:
        return len(self.start_s)

    def __enter__(self) -> "Windows":
        return self

    def __exit__(self, *_: object) -> None:
        self._logmels.close()

    def append(
        self,
        *,
        start_s: np.ndarray,
        duration_s: np.ndarray,
        level_dbfs: np.ndarray,
        channel: np.ndarray,
        logmel: np.ndarray,
        total: np.ndarray,
        squares: np.ndarray,
    ) -> None:
        """Add some windows; `logmel` is [windows, n_mels, n_frames] float16."""
        self.start_s += start_s.tolist()
        self.duration_s += duration_s.tolist()
        self.level_dbfs += level_dbfs.tolist()
        self.channel += channel.tolist()
        self.total += list(total)
        self.squares += list(squares)
        self._shape = logmel.shape[1:]
        self._logmels.write(logmel.data)

    def logmels(self) -> Iterator[np.ndarray]:
        """Each window's, [n_mels, n_frames] float16."""
        self._logmels.seek(0)
        size = 2 * int(np.prod(self._shape))
        for _ in self.start_s:
            yield np.frombuffer(self._logmels.read(size), np.float16).reshape(self._shape)


class PartWriter:
    """Clips -> one part, in a file of this machine; memory is a row group's windows."""

    def __init__(self, path: str, config: FeatureConfig) -> None:
        self.config = config
        self._schema = schema(config)
        plain = [name for name in self._schema.names if name != "logmel"]
        self._writer = parquet.writer(
            path,
            self._schema,
            # Dictionaries and statistics of a thousand numbers a row cost more than writing them.
            # Byte stream split would save an eighth, but DuckDB cannot read it for halves.
            use_dictionary=plain,
            write_statistics=plain,
            data_page_size=_PAGE,
        )
        self._rows: list[dict[str, Any]] = []
        self._logmels = np.empty((_ROW_GROUP, config.n_mels, config.n_frames), np.float16)
        self._digest = 0
        self._sums: dict[int, _FoldSums] = {}
        self._items: list[Item] = []
        self._ingested: dict[str, str] = {}
        self._failed: dict[str, tuple[str, dict[str, str]]] = {}

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, item: Item, windows: Windows) -> None:
        """The rows of an ingested clip."""
        self._items.append(item)
        self._ingested[item["clip_id"]] = item["key"]
        sums = self._sums.setdefault(item["fold"], _FoldSums())
        sums.add(item["label"], windows)
        for at, logmel in enumerate(windows.logmels()):
            row = {name: item[name] for name in ("clip_id", "uri", "label", "fold", "source")}
            row |= {name: getattr(windows, name)[at] for name in _OF_WINDOWS}
            self._digest += int.from_bytes(_row_digest(row, logmel), "big")
            self._logmels[len(self._rows)] = logmel
            self._rows.append(row)
            if len(self._rows) == _ROW_GROUP:
                self._flush()

    def fail(self, item: Item, error: AudioError | UnreadableError) -> None:
        """The row of a clip that failed."""
        self._items.append(item)
        self._failed[item["clip_id"]] = (item["key"], failure_row(item["uri"], error))

    def _flush(self) -> None:
        place = self._schema.get_field_index("logmel")
        plain = pa.Table.from_pylist(self._rows, self._schema.remove(place))
        tensors = tensor_array(self._logmels[: len(self._rows)], self.config)
        self._writer.write_table(plain.add_column(place, self._schema.field(place), tensors))
        self._rows.clear()

    def finish(self) -> FeatureLedger:
        """End the file; returns what is in its footer."""
        if self._rows:
            self._flush()
        ledger = FeatureLedger(
            part=part_name(self.config, self._items),
            ingested=self._ingested,
            failed=self._failed,
            folds={item["clip_id"]: item["fold"] for item in self._items},
            windows={fold: sums.windows for fold, sums in self._sums.items()},
            classes={fold: dict(sums.classes) for fold, sums in self._sums.items()},
            bands={f: sums.bands(self.config.n_frames) for f, sums in self._sums.items()},
            rows=_hex(self._digest),
            sound_s=sum(sums.sound_s for sums in self._sums.values()),
        )
        self._writer.add_key_value_metadata({_LEDGER: json.dumps(ledger.to_json()).encode()})
        self._writer.close()
        return ledger


@dataclass(kw_only=True)
class _FoldSums:
    windows: int = 0
    sound_s: float = 0.0
    classes: Counter[str] = field(default_factory=Counter)
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, label: str, windows: Windows) -> None:
        self.windows += len(windows)
        self.sound_s += sum(windows.duration_s)
        self.classes[label] += 1
        self.total = self.total + np.sum(windows.total, axis=0, dtype=np.float64)
        self.squares = self.squares + np.sum(windows.squares, axis=0, dtype=np.float64)

    def bands(self, n_frames: int) -> BandSums:
        return BandSums(
            count=self.windows * n_frames, total=self.total.tolist(), squares=self.squares.tolist()
        )


def rows_digest(table: pa.Table) -> str:
    """`Ledger.rows` of the rows of a part."""
    return _hex(sum(int.from_bytes(_row_digest(*row), "big") for row in _rows(table)))


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


def _row_digest(row: dict[str, Any], logmel: np.ndarray) -> bytes:
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
            plain = json.loads((part.metadata.metadata or {})[_LEDGER])
    except (OSError, KeyError, ValueError, UnreadableError, FormatError):
        return {}
    return plain if isinstance(plain, dict) else {}


def int_keys(plain: dict[Any, Any]) -> dict[int, Any]:
    """JSON's text keys as the folds they are."""
    return {int(key): value for key, value in plain.items()}
