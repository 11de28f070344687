"""Features in Parquet that any tool can read: `features.json` and the parts that it lists.

There is one row per window. `logmel` is Arrow's standard fixed_shape_tensor of float16,
[n_mels, n_frames] decibels. `features.json` is written last and lists the parts, so a reader sees
a complete set or none.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from audiocnn import __version__, storage
from audiocnn.config import (
    FeatureConfig,
    content_fingerprint,
    differences,
    from_json,
    to_json,
)
from audiocnn.errors import FormatError, MismatchError
from audiocnn.features.band_sums import BandSums
from audiocnn.features.part import add_digests, fits, int_keys, rows_digest, rows_sha256
from audiocnn.features.rows import FeatureRows
from audiocnn.storage import parquet
from audiocnn.storage.json_note import Note

FORMAT = "audiocnn.features/2"
_FIRST = "audiocnn.features/1"
_PARTS_AHEAD = 2
"""Most parts that are read at once."""
_OTHER_ROWS = (
    "its rows do not match features.json: it is damaged, or it is another part; delete it and run "
    "the same `ingest` again"
)


@dataclass(frozen=True, kw_only=True)
class FeaturePart:
    """One Parquet file of features."""

    windows: dict[int, int]
    """Number of rows by fold."""
    rows: str
    """Digest of its rows, see `FeatureLedger.rows`; in the first format, see `rows_sha256`."""

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON values, for `features.json`."""
        return {"windows": _text_keys(self.windows), "rows": self.rows}

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "FeaturePart":
        """Return the part that `to_json` of this version or an earlier one wrote."""
        rows = plain["sha256"] if "sha256" in plain else plain["rows"]
        return FeaturePart(windows=int_keys(plain["windows"]), rows=rows)


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """The content of `features.json` of the features at `uri`."""

    uri: str
    config: FeatureConfig
    classes: tuple[str, ...]
    corpus: str
    counts: dict[str, int]
    """Clips (listed = ingested + failed), windows, and ignored files, which are not clips."""
    parts: dict[str, FeaturePart]
    """The Parquet files, by their paths relative to `uri`."""
    folds: dict[int, dict[str, int]]
    """Number of ingested clips by fold and class."""
    bands: dict[int, BandSums]
    """Sums over the rows of each fold."""
    format: str = FORMAT
    """Format in which the features were written."""
    _whole: dict[str, bytes] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Digest of the footer of each part whose rows were already checked."""

    @property
    def fingerprint(self) -> str:
        """Identifier of the content of these features: config, classes and rows.

        It does not depend on the URI. Except in the first format, it does not depend on the
        distribution of rows over parts either.
        """
        rows = [part.rows for _, part in sorted(self.parts.items())]
        return content_fingerprint(
            {
                "config": self.config.fingerprint,
                "classes": self.classes,
                "rows": rows if self.format == _FIRST else add_digests(rows),
            }
        )

    @property
    def name(self) -> str:
        """Name of the corpus without the folders above it; it may be published."""
        return self.corpus.rpartition("/")[2]

    def name_of(self, uri: str) -> str:
        """Return a clip's name for publication: its path below the corpus or the manifest's folder.

        For a local file elsewhere it is the file name, for any other object the URI.
        """
        return _public_name(self.corpus, uri)

    def mean_std(self, folds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return each band's mean and standard deviation over folds, [n_mels] float32 decibels.

        The folds must not include the tested one.
        """
        return BandSums.merge([self.bands[fold] for fold in folds]).mean_std()

    def require_config(self, config: FeatureConfig, whose: str) -> None:
        """Raise MismatchError unless the features were made with `config`.

        `whose` names the owner of `config` in the message.
        """
        if config.fingerprint != self.config.fingerprint:
            differ = differences(dataclasses.asdict(self.config), dataclasses.asdict(config))
            raise MismatchError(f"{self.uri}: these features do not fit {whose}: {differ}")

    def write(self) -> None:
        """Write `features.json`, which makes the features complete. Raises StorageError."""
        storage.write_json(storage.join(self.uri, "features.json"), _note(self))

    @staticmethod
    def read(uri: str) -> "FeatureSet":
        """Read the features at a URI. Raises StorageError, FormatError, ConfigError."""
        uri = storage.absolute(uri)
        note = storage.join(uri, "features.json")
        return _of_note(uri, storage.read_format(note, FORMAT, "features", _FIRST))

    def load(self, folds: list[int], parts: Collection[str] | None = None) -> "FeatureRows":
        """Load the windows of some folds into memory, sorted by clip and time.

        With `parts`, only these parts are read. The order does not depend on the location of the
        corpus or on the distribution of clips over parts, so training gives the same result.
        Raises StorageError, and FormatError if a part is damaged.
        """
        rows = FeatureRows.concatenate(list(self.stream(folds, parts)), self.config)
        keys = list(zip(rows.clip_ids, rows.start_s.tolist(), strict=True))
        return rows.take(np.array(sorted(range(len(rows)), key=keys.__getitem__), np.int64))

    def stream(
        self, folds: list[int], parts: Collection[str] | None = None
    ) -> Iterator["FeatureRows"]:
        """Yield the windows of some folds part by part; the next parts are read ahead.

        With `parts`, only these parts are read. Raises the errors of `load`.
        """
        named = [
            name
            for name, rows in self.part_rows(folds).items()
            if rows and (parts is None or name in parts)
        ]
        return storage.prefetch(lambda name: self.load_part(name, folds), named, _PARTS_AHEAD)

    def load_part(self, part: str, folds: list[int]) -> "FeatureRows":
        """Load the windows of some folds of one part.

        Raises StorageError, and FormatError if the part is damaged or its rows do not match their
        digest in `features.json`.
        """
        uri = storage.join(self.uri, part)
        table, footer = _read(uri)
        if not fits(table.schema, self.config):
            raise FormatError(f"{uri}: it does not have the columns of features")
        self._require_rows(part, table, footer)
        return FeatureRows.of_table(
            table.filter(pa.compute.is_in(table["fold"], pa.array(folds, pa.int32())))
        )

    def _require_rows(self, part: str, table: pa.Table, footer: bytes) -> None:
        """Raise FormatError unless a part's rows match their digest in `features.json`.

        This is checked once per footer. A replaced file has another footer, and damaged pages are
        found by their checksums when the file is read.
        """
        if self._whole.get(part) == footer:
            return
        digest = rows_sha256 if self.format == _FIRST else rows_digest
        if digest(table) != self.parts[part].rows:
            raise FormatError(f"{storage.join(self.uri, part)}: {_OTHER_ROWS}")
        self._whole[part] = footer

    def part_rows(self, folds: list[int]) -> dict[str, int]:
        """Return the number of windows of some folds in each part."""
        return {k: sum(v.windows.get(fold, 0) for fold in folds) for k, v in self.parts.items()}

    def label_indices(self, labels: list[str]) -> np.ndarray:
        """Convert class names to [len(labels)] int64 indices into `classes`."""
        order = {name: index for index, name in enumerate(self.classes)}
        return np.array([order[name] for name in labels], np.int64)

    def require_folds(self, folds: list[int]) -> None:
        """Raise MismatchError unless the features have all of these folds."""
        for fold in folds:
            if fold not in self.folds:
                there = ", ".join(map(str, sorted(self.folds)))
                raise MismatchError(f"{self.uri}: there is no fold {fold}; the folds are {there}")

    def bytes_of(self, folds: list[int]) -> int:
        """Return the size of the log-mels of some folds in memory, as float16, in bytes."""
        frames = sum(self.bands[fold].count for fold in folds)
        return 2 * frames * self.config.n_mels


def _read(uri: str) -> tuple[pa.Table, bytes]:
    """Read a part's rows and the SHA-256 of its footer. Raises StorageError, FormatError."""
    data = storage.read_bytes(uri)
    with parquet.opened(uri, pa.BufferReader(data)) as file:
        return file.read(), hashlib.sha256(parquet.footer(data)).digest()


def _note(features: FeatureSet) -> dict[str, Any]:
    """Return the content of `features.json`."""
    mean, std = features.mean_std(list(features.bands))
    return {
        "format": FORMAT,
        "written_by": __version__,
        "fingerprint": features.fingerprint,
        "config": to_json(features.config),
        "config_fingerprint": features.config.fingerprint,
        "classes": list(features.classes),
        "corpus": features.corpus,
        "counts": features.counts,
        "folds": _text_keys(features.folds),
        "mean": [round(float(v), 4) for v in mean],
        "std": [round(float(v), 4) for v in std],
        "bands": _text_keys({k: dataclasses.asdict(v) for k, v in features.bands.items()}),
        "parts": {name: part.to_json() for name, part in features.parts.items()},
    }


def _of_note(uri: str, plain: Note) -> FeatureSet:
    """Return the features that `features.json` describes. Raises FormatError, ConfigError."""
    try:
        features = FeatureSet(
            uri=uri,
            config=from_json(FeatureConfig, plain["config"]),
            classes=tuple(plain["classes"]),
            corpus=plain["corpus"],
            counts=plain["counts"],
            parts={name: FeaturePart.from_json(part) for name, part in plain["parts"].items()},
            folds=int_keys(plain["folds"]),
            bands={fold: BandSums(**v) for fold, v in int_keys(plain["bands"]).items()},
            format=plain["format"],
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{uri}: features.json is damaged ({error})") from error
    if plain["config_fingerprint"] != features.config.fingerprint:
        raise FormatError(
            f"{uri}: made with another version of the front end; ingest the corpus again"
        )
    if plain["fingerprint"] != features.fingerprint:
        raise FormatError(f"{uri}: features.json was changed: its fingerprint does not match")
    return features


def _public_name(corpus: str, uri: str) -> str:
    is_manifest = corpus.lower().endswith((".csv", ".tsv", ".parquet"))
    folder = corpus.rpartition("/")[0] if is_manifest else corpus
    if uri.startswith(f"{folder}/"):
        return uri.removeprefix(f"{folder}/")
    return uri.rpartition("/")[2] if storage.is_local(uri) else uri


def _text_keys(values: dict[int, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in sorted(values.items())}
