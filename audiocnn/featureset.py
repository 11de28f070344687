"""Features in Parquet that anybody can read: `features.json` and the parts it lists.

One row a window. `logmel` is Arrow's own fixed_shape_tensor of float16, [n_mels, n_frames],
decibels. `features.json` is written last and lists the parts: a reader sees a whole set or none.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from audiocnn import storage
from audiocnn.config import (
    FeatureConfig,
    content_fingerprint,
    differences,
    from_json,
    to_json,
)
from audiocnn.errors import AudioCNNError, AudioError, FormatError, MismatchError

FORMAT = "audiocnn.features/1"
FAILURES = pa.schema([("uri", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
"""Columns of `failures.parquet`: a row for each object that gave no result, and why."""


def failure(uri: str, error: AudioCNNError) -> dict[str, str]:
    """A row of `failures.parquet`."""
    uri = storage.printable(uri)
    if isinstance(error, AudioError):
        return {"uri": uri, "stage": "decode", "reason": str(error)}
    return {"uri": uri, "stage": "read", "reason": f"unreadable: {error}"}


def write_failures(to: str, failures: list[dict[str, str]]) -> None:
    """Write `failures.parquet`, by URI."""
    rows = sorted(failures, key=lambda row: row["uri"])
    table = pa.Table.from_pylist(rows, FAILURES)
    storage.write_parquet(storage.join(to, "failures.parquet"), table)


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
    flat = pa.array(logmel.astype(np.float16).ravel(), pa.float16())
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
class Part:
    """One Parquet file of features."""

    windows: dict[int, int]
    """Rows of each fold."""
    sha256: str
    """Of its rows' content: see `rows_sha256`."""

    def to_json(self) -> dict[str, Any]:
        """As `features.json` has it."""
        return {"windows": _text_keys(self.windows), "sha256": self.sha256}

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "Part":
        """What `to_json` gave."""
        return Part(windows=_int_keys(plain["windows"]), sha256=plain["sha256"])


def rows_sha256(rows: list[dict[str, Any]], logmels: list[np.ndarray]) -> str:
    """Names rows by what a model learns from: not by where they were read."""
    digest = hashlib.sha256()
    for row, logmel in zip(rows, logmels, strict=True):
        key = [
            row[name] for name in ("clip_id", "start_s", "duration_s", "label", "fold", "source")
        ]
        digest.update(json.dumps(key).encode())
        digest.update(logmel.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """What `features.json` says about the features at `uri`."""

    uri: str
    config: FeatureConfig
    classes: tuple[str, ...]
    corpus: str
    counts: dict[str, int]
    """listed = ingested + failed (clips); windows; ignored (files that are no recordings)."""
    parts: dict[str, Part]
    """The Parquet files, by their paths below `uri`."""
    folds: dict[int, dict[str, int]]
    """Clips by class in each fold."""
    bands: dict[int, BandSums]
    """By fold."""

    @property
    def fingerprint(self) -> str:
        """Names these features by their content, wherever they lie: config, classes and rows."""
        return content_fingerprint(
            {
                "config": self.config.fingerprint,
                "classes": self.classes,
                "rows": [part.sha256 for _, part in sorted(self.parts.items())],
            }
        )

    def mean_std(self, folds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Each band's mean and standard deviation over some folds: never over the tested one."""
        return BandSums.merge([self.bands[fold] for fold in folds]).mean_std()

    def require_config(self, config: FeatureConfig, whose: str) -> None:
        """Raise MismatchError unless the features were made by this front end."""
        if config.fingerprint != self.config.fingerprint:
            differ = differences(self.config, config)
            raise MismatchError(f"{self.uri}: these features have {differ} as {whose} has it")

    def write(self) -> None:
        """Write `features.json`, which makes the features whole."""
        mean, std = self.mean_std(list(self.bands))
        storage.write_json(
            storage.join(self.uri, "features.json"),
            {
                "format": FORMAT,
                "fingerprint": self.fingerprint,
                "config": to_json(self.config),
                "config_fingerprint": self.config.fingerprint,
                "classes": list(self.classes),
                "corpus": self.corpus,
                "counts": self.counts,
                "folds": _text_keys(self.folds),
                "mean": [round(float(v), 4) for v in mean],
                "std": [round(float(v), 4) for v in std],
                "bands": _bands_json(self.bands),
                "parts": {name: part.to_json() for name, part in self.parts.items()},
            },
        )

    @staticmethod
    def read(uri: str) -> "FeatureSet":
        """The features at a URI. Raises StorageError, FormatError."""
        uri = storage.absolute(uri)
        plain = storage.read_format(storage.join(uri, "features.json"), FORMAT, "features")
        try:
            features = FeatureSet(
                uri=uri,
                config=from_json(FeatureConfig, plain["config"]),
                classes=tuple(plain["classes"]),
                corpus=plain["corpus"],
                counts=plain["counts"],
                parts={name: Part.from_json(part) for name, part in plain["parts"].items()},
                folds=_int_keys(plain["folds"]),
                bands={fold: BandSums(**v) for fold, v in _int_keys(plain["bands"]).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{uri}: features.json is damaged ({error!r})") from error
        if plain["config_fingerprint"] != features.config.fingerprint:
            raise FormatError(
                f"{uri}: features of another version of the front end; ingest the corpus again"
            )
        if plain["fingerprint"] != features.fingerprint:
            raise FormatError(f"{uri}: features.json was changed: its fingerprint does not fit")
        return features

    def load(self, folds: list[int]) -> "Rows":
        """The windows of some folds, in memory. Raises FormatError where a part is damaged."""
        parts = [name for name, rows in self.part_rows(folds).items() if rows]
        return Rows.concatenate([self.load_part(name, folds) for name in parts], self.config)

    def load_part(self, part: str, folds: list[int]) -> "Rows":
        """The windows of some folds in one part. Raises FormatError where it is damaged."""
        table = storage.read_parquet(storage.join(self.uri, part))
        expected = schema(self.config)
        if table.schema.names != expected.names or not table.schema.equals(expected):
            raise FormatError(f"{self.uri}/{part}: its columns are not those of features")
        return Rows.of_table(
            table.filter(pa.compute.is_in(table["fold"], pa.array(folds, pa.int32())))
        )

    def part_rows(self, folds: list[int]) -> dict[str, int]:
        """Windows of some folds in each part."""
        return {
            name: sum(part.windows.get(fold, 0) for fold in folds)
            for name, part in self.parts.items()
        }

    def label_indices(self, labels: list[str]) -> np.ndarray:
        """Class names -> [len(labels)] int64 indices into `classes`."""
        order = {name: index for index, name in enumerate(self.classes)}
        return np.array([order[name] for name in labels], np.int64)

    def require_folds(self, folds: list[int]) -> None:
        """Raise MismatchError unless the features have all of these folds."""
        for fold in folds:
            if fold not in self.folds:
                there = ", ".join(map(str, sorted(self.folds)))
                raise MismatchError(f"{self.uri}: there is no fold {fold}; there are {there}")

    def bytes_of(self, folds: list[int]) -> int:
        """Bytes of some folds' log-mels in memory, as float16."""
        frames = sum(self.bands[fold].count for fold in folds)
        return 2 * frames * self.config.n_mels


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Windows in memory: `logmel` is [windows, n_mels, n_frames] float16."""

    clip_ids: list[str]
    uris: list[str]
    start_s: np.ndarray
    duration_s: np.ndarray
    labels: list[str]
    folds: np.ndarray
    logmel: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, order: np.ndarray) -> "Rows":
        """Some rows, in another order."""
        taken: dict[str, Any] = {
            name: [value[i] for i in order] if isinstance(value, list) else value[order]
            for name, value in vars(self).items()
        }
        return Rows(**taken)

    @staticmethod
    def of_table(table: pa.Table) -> "Rows":
        """The rows of one part."""
        return Rows(
            clip_ids=table["clip_id"].to_pylist(),
            uris=table["uri"].to_pylist(),
            start_s=table["start_s"].to_numpy(),
            duration_s=table["duration_s"].to_numpy(),
            labels=table["label"].to_pylist(),
            folds=table["fold"].to_numpy(),
            logmel=_ndarray(table["logmel"]),
        )

    @staticmethod
    def concatenate(parts: list["Rows"], config: FeatureConfig) -> "Rows":
        """Several parts' rows as one."""
        if not parts:
            empty = schema(config).empty_table()
            return Rows.of_table(empty)
        merged: dict[str, Any] = {}
        for field in dataclasses.fields(Rows):
            values = [getattr(part, field.name) for part in parts]
            merged[field.name] = (
                [item for value in values for item in value]
                if isinstance(values[0], list)
                else np.concatenate(values)
            )
        return Rows(**merged)


def _ndarray(column: pa.ChunkedArray) -> np.ndarray:
    """A tensor column as [rows, n_mels, n_frames]."""
    tensors: np.ndarray = column.combine_chunks().to_numpy_ndarray()
    return tensors


def _int_keys(plain: dict[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in plain.items()}


def _text_keys(values: dict[int, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in sorted(values.items())}


def _bands_json(bands: dict[int, BandSums]) -> dict[str, Any]:
    return _text_keys({fold: dataclasses.asdict(sums) for fold, sums in bands.items()})
