"""Write and read the Parquet files of labels, called parts.

A part is the outcome of one shard: rows for the recordings that were labelled, and a ledger in the
footer with the recordings that failed and why. A part is written completely or not at all, so the
existing parts show which shards are done.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audiocnn import storage
from audiocnn.audio.recording import Recording
from audiocnn.config import UNKNOWN
from audiocnn.errors import AudioError, FormatError, UnreadableError
from audiocnn.model.bundle import Bundle
from audiocnn.storage import parquet
from audiocnn.storage.failures import failure_row

FORMAT = "audiocnn.labels/2"
BINS = 20
"""Number of bins of the score histogram; all are equally wide, from 0 to 1."""

_LEDGER, _NAME = b"audiocnn.ledger", b"audiocnn.part"
_ROW_GROUP = 8_192
_FOOTER = 1 << 16
_PART = "a part of labels"
_MEND = "delete it and run the same `label` again to label its recordings"


def schema(embedding: int | None = None) -> pa.Schema:
    """Return the columns of labels, one row per window; `embedding` is the size of an embedding.

    Labels of earlier versions lack `level_dbfs` and `channel`; they can still be read.
    """
    scored = pa.struct([("label", pa.string()), ("score", pa.float32())])
    fields = [
        ("uri", pa.string()),
        ("version", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("top_k", pa.list_(scored)),
        ("bundle", pa.string()),
        ("level_dbfs", pa.float32()),
        ("channel", pa.int32()),
    ]
    if embedding:
        fields.append(("embedding", pa.list_(pa.float16(), embedding)))
    return pa.schema(fields)


@dataclass(kw_only=True)
class LabelLedger:
    """Counts and failures of a part, or their sums over several parts."""

    labelled: int = 0
    """Number of labelled recordings."""
    windows: int = 0
    sound_s: float = 0.0
    """Total length of the windows, in seconds; time in two windows counts twice."""
    classes: Counter[str] = field(default_factory=Counter)
    """Number of windows by label."""
    scores: list[int] = field(default_factory=lambda: [0] * BINS)
    """Number of windows by score, in `BINS` bins."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """Rows of `failures.parquet`, each with the recording's `version` that failed."""
    cpu_s: float = 0.0
    gpu_s: float = 0.0

    @property
    def failed(self) -> int:
        """Number of failed recordings."""
        return len(self.failures)

    def add(self, rows: pa.Table) -> None:
        """Count the windows in rows of labels; the caller counts the recordings (`labelled`)."""
        self.windows += len(rows)
        self.sound_s += (pc.sum(pc.subtract(rows["end_s"], rows["start_s"])).as_py()) or 0.0
        for pair in pc.value_counts(rows["label"]).to_pylist():
            self.classes[pair["values"]] += pair["counts"]
        bins = np.minimum((rows["score"].to_numpy() * BINS).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS).tolist()
        self.scores = [a + b for a, b in zip(self.scores, counts, strict=True)]

    def merge(self, other: "LabelLedger") -> None:
        """Add another ledger's sums, but not its failures: the caller keeps or counts those."""
        self.labelled += other.labelled
        self.windows += other.windows
        self.sound_s += other.sound_s
        self.classes += other.classes
        self.scores = [a + b for a, b in zip(self.scores, other.scores, strict=True)]
        self.cpu_s += other.cpu_s
        self.gpu_s += other.gpu_s

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "LabelLedger":
        """Return the ledger from the JSON object in a part's footer."""
        return LabelLedger(**{**plain, "classes": Counter(plain["classes"])})


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Consecutive windows of a recording and their scores; arrays are [windows, ...]."""

    start_s: np.ndarray
    duration_s: np.ndarray
    scores: np.ndarray
    """[windows, n_classes]"""
    level_dbfs: np.ndarray
    channel: np.ndarray
    """This and `level_dbfs`: as in `windows.Window`."""
    embeddings: np.ndarray | None = None
    """[windows, features] float16"""


class LabelWriter:
    """Write the scores of recordings to one part, a local file; one row group is in memory.

    `name` is the part's path below the labels. If it is given, a part at another path is refused
    when it is read.
    """

    def __init__(
        self, path: str, bundle: Bundle, top_k: int, *, embeddings: bool = False, name: str = ""
    ) -> None:
        self.bundle, self.name = bundle, name
        self.top_k = min(top_k, len(bundle.classes))
        self.schema = schema(bundle.model.embedding_size if embeddings else None)
        self.ledger = LabelLedger()
        self._writer = parquet.writer(path, self.schema)
        self._held: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> "LabelWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, recording: Recording, found: list[Scored]) -> None:
        """Add the rows of a labelled recording."""
        self.ledger.labelled += 1
        for scored in found:
            self._held.append(self._table(recording, scored))
            self._rows += len(scored.start_s)
            if self._rows >= _ROW_GROUP:
                self._flush()

    def fail(self, recording: Recording, error: AudioError | UnreadableError) -> None:
        """Add a failed recording and its error."""
        row = failure_row(recording.uri, error)
        self.ledger.failures.append({**row, "version": recording.version or ""})

    def finish(self) -> LabelLedger:
        """Complete the file; return the ledger in its footer."""
        self._flush()
        _close(self._writer, self.ledger, self.name)
        return self.ledger

    def _flush(self) -> None:
        if self._held:
            table = pa.concat_tables(self._held).combine_chunks()
            self._writer.write_table(table)
            self.ledger.add(table)
        self._held.clear()
        self._rows = 0

    def _table(self, recording: Recording, found: Scored) -> pa.Table:
        count, names = len(found.start_s), np.array(self.bundle.classes, object)
        best = np.argsort(-found.scores, axis=1, kind="stable")[:, : self.top_k]
        scores = np.take_along_axis(found.scores, best, axis=1).astype(np.float32)
        known = self.bundle.calibration.known(found.scores)
        offsets = np.arange(count + 1, dtype=np.int32) * self.top_k
        pairs = pa.StructArray.from_arrays(
            [pa.array(names[best].ravel(), pa.string()), pa.array(scores.ravel())],
            fields=list(self.schema.field("top_k").type.value_type),
        )
        columns = [
            pa.array([recording.uri] * count, pa.string()),
            pa.array([recording.version or ""] * count, pa.string()),
            pa.array(found.start_s, pa.float64()),
            pa.array(found.start_s + found.duration_s, pa.float64()),
            pa.array(np.where(known, names[best[:, 0]], UNKNOWN), pa.string()),
            pa.array(scores[:, 0]),
            pa.ListArray.from_arrays(offsets, pairs),
            pa.array([self.bundle.fingerprint] * count, pa.string()),
            pa.array(found.level_dbfs, pa.float32()),
            pa.array(found.channel, pa.int32()),
        ]
        if found.embeddings is not None:
            flat = pa.array(found.embeddings.astype(np.float16, copy=False).ravel())
            columns.append(pa.FixedSizeListArray.from_arrays(flat, found.embeddings.shape[1]))
        return pa.Table.from_arrays(columns, schema=self.schema)


def _close(writer: pq.ParquetWriter, ledger: LabelLedger, name: str) -> None:
    writer.add_key_value_metadata({_LEDGER: json.dumps(vars(ledger)).encode(), _NAME: name})
    writer.close()


@contextmanager
def reading(uri: str, file: BinaryIO) -> Iterator[pq.ParquetFile]:
    """Open a part's file for reading within a block.

    Raises FormatError if the file is damaged, or if it is at the path of another part.
    """
    with parquet.opened(uri, file, _PART, mend=_MEND) as part:
        name = _name_of(part)
        if name and not uri.endswith(f"/{name}"):
            raise FormatError(f"{uri}: it is {name} at the path of another part; {_MEND}")
        yield part


def _name_of(part: pq.ParquetFile) -> str:
    """Return the name that a part was written with; empty for parts of earlier versions."""
    name: bytes = (part.metadata.metadata or {}).get(_NAME, b"")
    return name.decode()


def read_ledger(uri: str, size: int | None = None, version: str | None = None) -> LabelLedger:
    """Read the ledger of a part. The `size` in bytes, if known, saves a request.

    Raises StorageError, ChangedError if the part no longer has the given version, and FormatError
    if the file is not a part of labels.
    """
    file = storage.open_binary(uri, block_bytes=_FOOTER, size=size, version=version)
    with reading(uri, file) as part:
        return ledger_of(uri, part)


def is_part(uri: str, path: str) -> bool:
    """Return whether the file at a URI is a part of labels for `path`, by any version of ours."""
    try:
        with parquet.opened(uri, storage.open_binary(uri, block_bytes=_FOOTER)) as part:
            name, plain = _name_of(part), _plain_ledger(part)
    except (OSError, KeyError, ValueError, UnreadableError, FormatError):
        return False
    return name in ("", path) and isinstance(plain, dict) and "labelled" in plain


def ledger_of(uri: str, part: pq.ParquetFile) -> LabelLedger:
    """Return the ledger in a part's footer. Raises FormatError."""
    try:
        return LabelLedger.from_json(_plain_ledger(part))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{uri}: not {_PART}, or a damaged one ({error}); {_MEND}") from error


def _plain_ledger(part: pq.ParquetFile) -> Any:
    return json.loads((part.metadata.metadata or {})[_LEDGER])


def outcomes(uri: str, file: BinaryIO) -> Iterator[tuple[str, str, bool]]:
    """Yield (URI, version, whether it failed) of each recording in a part.

    Raises StorageError, FormatError.
    """
    last = None
    with reading(uri, file) as part:
        failures = ledger_of(uri, part).failures
        for batch in part.iter_batches(columns=["uri", "version"]):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if row != last:  # a recording's rows are adjacent
                    last = row
                    yield *row, False
    for failure in failures:
        yield failure["uri"], failure["version"], True


def without(uri: str, gone: set[str], *, version: str | None = None) -> bool:
    """Rewrite a part without the recordings with the URIs in `gone`; return whether any are left.

    If none are left, the part is removed. Raises StorageError, FormatError, and ChangedError if
    the part no longer has the given version; the part is unchanged then.
    """
    with reading(uri, storage.open_binary(uri, version=version)) as part:
        name, ledger, table = _name_of(part), ledger_of(uri, part), part.read()
    kept = table.filter(pc.invert(pc.is_in(table["uri"], pa.array(sorted(gone), pa.string()))))
    left = LabelLedger(cpu_s=ledger.cpu_s, gpu_s=ledger.gpu_s)
    left.failures = [row for row in ledger.failures if row["uri"] not in gone]
    left.labelled = len(pc.unique(kept["uri"]))
    left.add(kept)
    if not left.labelled + left.failed:
        storage.remove(uri)
        return False
    kept = kept.replace_schema_metadata(None)
    with storage.atomic_path(uri) as path:
        writer = parquet.writer(path, kept.schema)
        writer.write_table(kept, row_group_size=_ROW_GROUP)
        _close(writer, left, name)
    return True
