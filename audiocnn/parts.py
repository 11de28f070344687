"""The Parquet files of features: how one is written, and what it says of itself.

A part is written whole or not at all, and carries in its footer what was done for it: which clips
are in it or failed, and the sums over its rows. So the parts themselves say what is done.
"""

import hashlib
import json
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audiocnn import storage
from audiocnn.config import FeatureConfig
from audiocnn.extractor import Windows

_LEDGER = b"audiocnn.ledger"
_ROW_GROUP = 64


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
        ]
    )


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
class Ledger:
    """What a part says of itself."""

    part: str
    """Its path below the features."""
    ingested: dict[str, str]
    """By clip_id, the key (see `clip_key`) of each clip whose rows are in it."""
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
    def from_json(plain: dict[str, Any]) -> "Ledger":
        """What `to_json` gave, also through JSON's text keys."""
        values = dict(plain)
        values["failed"] = {clip: (key, row) for clip, (key, row) in plain["failed"].items()}
        for name in ("windows", "classes"):
            values[name] = int_keys(plain[name])
        values["bands"] = {fold: BandSums(**v) for fold, v in int_keys(plain["bands"]).items()}
        return Ledger(**values)

    def holds_for(self, keys: dict[str, str]) -> bool:
        """Whether each of its clips is still in the corpus, and as it was."""
        mine = self.ingested | {clip: key for clip, (key, _) in self.failed.items()}
        return all(keys.get(clip) == key for clip, key in mine.items())


def clip_key(clip: dict[str, Any]) -> str:
    """Names a clip and whatever of it, in its corpus, would change its rows."""
    said = [
        clip.get(name)
        for name in ("clip_id", "uri", "label", "fold", "source", "size", "version", "archive")
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def add_digests(digests: list[str]) -> str:
    """Sum of 256-bit numbers, modulo 2 to the 256: names a set of rows in whatever files they lie.

    Source: Bellare and Micciancio, A New Paradigm for Collision-Free Hashing, 1997 (AdHash).
    """
    return f"{sum(int(digest, 16) for digest in digests) % (1 << 256):064x}"


class PartWriter:
    """Clips -> one part; memory is a row group's windows.

    Until `commit` it is a temporary file of this machine, which the end of the block removes.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._schema = schema(config)
        descriptor, self._path = tempfile.mkstemp(prefix="audiocnn-", suffix=".parquet")
        os.close(descriptor)
        plain = [name for name in self._schema.names if name != "logmel"]
        # Dictionaries and statistics of a thousand numbers a row cost more than writing them.
        self._writer = pq.ParquetWriter(
            self._path,
            self._schema,
            compression="zstd",
            use_dictionary=plain,
            write_statistics=plain,
        )
        self._rows: list[dict[str, Any]] = []
        self._logmels = np.empty((_ROW_GROUP, config.n_mels, config.n_frames), np.float16)
        self._digest = 0
        self._sums: dict[int, _FoldSums] = {}
        self._ingested: dict[str, str] = {}
        self._failed: dict[str, tuple[str, dict[str, str]]] = {}
        self._folds: dict[str, int] = {}

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        Path(self._path).unlink(missing_ok=True)

    def add(self, clip: dict[str, Any], windows: Windows) -> None:
        """The rows of an ingested clip."""
        self._ingested[clip["clip_id"]] = clip["key"]
        self._folds[clip["clip_id"]] = clip["fold"]
        sums = self._sums.setdefault(clip["fold"], _FoldSums())
        sums.add(clip["label"], windows)
        for start_s, duration_s, logmel in zip(
            windows.start_s, windows.duration_s, windows.logmels(), strict=True
        ):
            row = {name: clip[name] for name in ("clip_id", "uri", "label", "fold", "source")}
            row |= {"start_s": start_s, "duration_s": duration_s}
            self._digest += int.from_bytes(_row_digest(row, logmel), "big")
            self._logmels[len(self._rows)] = logmel
            self._rows.append(row)
            if len(self._rows) == _ROW_GROUP:
                self._flush()

    def fail(self, clip: dict[str, Any], failure: dict[str, str]) -> None:
        """The row of a clip that failed."""
        self._failed[clip["clip_id"]] = (clip["key"], failure)
        self._folds[clip["clip_id"]] = clip["fold"]

    def _flush(self) -> None:
        plain = pa.Table.from_pylist(self._rows, pa.schema(list(self._schema)[:-1]))
        tensors = tensor_array(self._logmels[: len(self._rows)], self.config)
        self._writer.write_table(plain.append_column(self._schema.field("logmel"), tensors))
        self._rows.clear()

    def commit(self, to: str) -> Ledger:
        """Put the part below `to`, complete, under a name that its clips decide."""
        if self._rows:
            self._flush()
        keys = [*self._ingested.values(), *(key for key, _ in self._failed.values())]
        name = hashlib.sha256(json.dumps([self.config.fingerprint, *keys]).encode()).hexdigest()
        ledger = Ledger(
            part=f"parts/part-{name[:16]}.parquet",
            ingested=self._ingested,
            failed=self._failed,
            folds=self._folds,
            windows={fold: sums.windows for fold, sums in self._sums.items()},
            classes={fold: dict(sums.classes) for fold, sums in self._sums.items()},
            bands={f: sums.bands(self.config.n_frames) for f, sums in self._sums.items()},
            rows=f"{self._digest % (1 << 256):064x}",
            sound_s=sum(sums.sound_s for sums in self._sums.values()),
        )
        self._writer.add_key_value_metadata({_LEDGER: json.dumps(ledger.to_json()).encode()})
        self._writer.close()
        storage.write_file(storage.join(to, ledger.part), self._path)
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


def _row_digest(row: dict[str, Any], logmel: np.ndarray) -> bytes:
    """Names a row by what a model learns from: not by where it was read."""
    names = ("clip_id", "start_s", "duration_s", "label", "fold", "source")
    digest = hashlib.sha256(json.dumps([row[name] for name in names]).encode())
    digest.update(logmel.data)
    return digest.digest()


def read_ledger(uri: str) -> Ledger | None:
    """What a part says of itself, from its footer; None where it is damaged, or not of ours."""
    try:
        with storage.open_binary(uri) as file:
            metadata = pq.read_metadata(file).metadata or {}
        return Ledger.from_json(json.loads(metadata[_LEDGER]))
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def int_keys(plain: dict[Any, Any]) -> dict[int, Any]:
    """JSON's text keys as the folds they are."""
    return {int(key): value for key, value in plain.items()}
