"""Write a part of features: the rows of its clips in order, and its ledger in the footer."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa

from audiocnn.config import FeatureConfig
from audiocnn.errors import AudioError, UnreadableError
from audiocnn.features.band_sums import BandSums
from audiocnn.features.part import (
    LEDGER_KEY,
    FeatureLedger,
    Item,
    hex_digest,
    part_name,
    row_digest,
    schema,
    tensor_array,
)
from audiocnn.storage import parquet
from audiocnn.storage.failures import failure_row

_ROW_GROUP = 64
_PAGE = 8 << 20
_IN_MEMORY = 32 << 20
_WINDOW_COLUMNS = ("start_s", "duration_s", "level_dbfs", "channel")
"""Columns with one value per window of a clip, apart from the log-mel."""


@dataclass(kw_only=True)
class CollectedWindows:
    """The windows of one recording, collected until all of it is decoded.

    Beyond 32 MiB, all of the log-mels are moved to a temporary file. `total` and `squares` are
    [windows, n_mels] sums over frames, of decibels and of their squares.
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

    def __enter__(self) -> "CollectedWindows":
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
        """Add windows; arrays are [windows, ...].

        `logmel` is [windows, n_mels, n_frames] float16 decibels, `total` and `squares` are
        [windows, n_mels].
        """
        self.start_s += start_s.tolist()
        self.duration_s += duration_s.tolist()
        self.level_dbfs += level_dbfs.tolist()
        self.channel += channel.tolist()
        self.total += list(total)
        self.squares += list(squares)
        self._shape = logmel.shape[1:]
        self._logmels.write(logmel.data)

    def logmels(self) -> Iterator[np.ndarray]:
        """Yield the log-mel of each window, [n_mels, n_frames] float16 decibels."""
        self._logmels.seek(0)
        size = 2 * int(np.prod(self._shape))
        for _ in self.start_s:
            yield np.frombuffer(self._logmels.read(size), np.float16).reshape(self._shape)


class PartWriter:
    """A writer of clips to one part in a local file; memory holds one row group of windows."""

    def __init__(self, path: str, config: FeatureConfig) -> None:
        self.config = config
        self._schema = schema(config)
        plain = [name for name in self._schema.names if name != "logmel"]
        self._writer = parquet.writer(
            path,
            self._schema,
            # Not for log-mels: dictionaries and statistics would take longer than the write itself.
            # Byte stream split would save an eighth, but DuckDB cannot read it for float16.
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

    def add(self, item: Item, windows: CollectedWindows) -> None:
        """Write the rows of an ingested clip."""
        self._items.append(item)
        self._ingested[item["clip_id"]] = item["key"]
        sums = self._sums.setdefault(item["fold"], _FoldSums())
        sums.add(item["label"], windows)
        for at, logmel in enumerate(windows.logmels()):
            row = {name: item[name] for name in ("clip_id", "uri", "label", "fold", "source")}
            row |= {name: getattr(windows, name)[at] for name in _WINDOW_COLUMNS}
            self._digest += int.from_bytes(row_digest(row, logmel), "big")
            self._logmels[len(self._rows)] = logmel
            self._rows.append(row)
            if len(self._rows) == _ROW_GROUP:
                self._flush()

    def fail(self, item: Item, error: AudioError | UnreadableError) -> None:
        """Record a clip that failed, with its row of `failures.parquet`."""
        self._items.append(item)
        self._failed[item["clip_id"]] = (item["key"], failure_row(item["uri"], error))

    def _flush(self) -> None:
        place = self._schema.get_field_index("logmel")
        plain = pa.Table.from_pylist(self._rows, self._schema.remove(place))
        tensors = tensor_array(self._logmels[: len(self._rows)], self.config)
        self._writer.write_table(plain.add_column(place, self._schema.field(place), tensors))
        self._rows.clear()

    def finish(self) -> FeatureLedger:
        """Write the footer and close the file; return the ledger in the footer."""
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
            rows=hex_digest(self._digest),
            sound_s=sum(sums.sound_s for sums in self._sums.values()),
        )
        self._writer.add_key_value_metadata({LEDGER_KEY: json.dumps(ledger.to_json()).encode()})
        self._writer.close()
        return ledger


@dataclass(kw_only=True)
class _FoldSums:
    windows: int = 0
    sound_s: float = 0.0
    classes: Counter[str] = field(default_factory=Counter)
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, label: str, windows: CollectedWindows) -> None:
        self.windows += len(windows)
        self.sound_s += sum(windows.duration_s)
        self.classes[label] += 1
        self.total = self.total + np.sum(windows.total, axis=0, dtype=np.float64)
        self.squares = self.squares + np.sum(windows.squares, axis=0, dtype=np.float64)

    def bands(self, n_frames: int) -> BandSums:
        return BandSums(
            count=self.windows * n_frames, total=self.total.tolist(), squares=self.squares.tolist()
        )
