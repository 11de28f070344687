"""Read a manifest: a CSV, TSV or Parquet file that names recordings and their labels."""

import posixpath
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from audiocnn import storage
from audiocnn.corpus.clips import Clip, Rejected, Unreviewed, entry
from audiocnn.corpus.layouts.base import DELIMITERS, check_columns, read_csv, suffix
from audiocnn.storage.csv_cells import unescape_formula
from audiocnn.storage.listing import StoredFile

MANIFEST_SUFFIXES = (*DELIMITERS, ".parquet")
"""Suffixes of manifests, in lower case; upper case is accepted too."""
_COLUMNS = ("uri", "label", "fold", "source", "suggested", "onset_s", "offset_s")


class Manifest:
    """A CSV, TSV or Parquet file with `uri,label[,fold,source]`.

    URIs may be relative to the manifest's folder. With `onset_s,offset_s`, a row's clip is this
    stretch of the recording, in seconds. With a column `suggested`, the file is a review: a row
    without a label has not been answered yet.
    """

    name = "manifest"
    looks = "a manifest .csv, .tsv or .parquet with uri,label"

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Return whether the URI itself has a suffix of manifests."""
        return suffix(uri) in MANIFEST_SUFFIXES

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected | Unreviewed]:
        """Yield one entry for each row. Raises CorpusError, StorageError, FormatError."""
        base = uri.rsplit("/", 1)[0]
        is_parquet = suffix(uri) == ".parquet"
        rows = _read_parquet(uri) if is_parquet else read_csv(uri, "uri", "label")
        for number, row in enumerate(rows, 1):
            name, asked = row["uri"], "suggested" in row
            label = unescape_formula(row["label"]) if asked else row["label"]
            if asked and not label.strip():
                yield Unreviewed(uri=storage.printable(name))
            elif not name.strip():
                yield Rejected(uri=uri, reason="path", detail=f"its row {number} has no URI")
            elif wrong := self._wrong_path(base, name):
                yield Rejected(uri=storage.printable(name), reason="path", detail=wrong)
            else:
                where = self._resolve(base, name)
                fold, source = row.get("fold") or "", row.get("source") or ""
                times = row.get("onset_s") or "", row.get("offset_s") or ""
                yield entry(where, name, label, fold=fold, source=source, segment=times)

    def _wrong_path(self, base: str, name: str) -> str | None:
        """Return why a manifest in the folder `base` may not name this path, or None."""
        if re.search(r"(^|::)(file|local):", name) or name.startswith("/"):
            return None if storage.is_local(base) else "a local path, but its manifest is not local"
        normal = posixpath.normpath(name)
        if storage.is_local(name) and (normal in (".", "..") or normal.startswith("../")):
            return "it leads out of the manifest's folder"
        return None

    def _resolve(self, base: str, name: str) -> str:
        if not storage.is_local(name):
            return name
        local = name.startswith(("/", "file://"))
        return storage.absolute(name if local else storage.join(base, name))


def _read_parquet(uri: str) -> Iterator[dict[str, str]]:
    table = storage.read_parquet(uri)
    check_columns(uri, table.column_names, ("uri", "label"))
    for batch in table.to_batches():
        names = [name for name in _COLUMNS if name in table.column_names]
        columns = [_texts(batch.column(name)) for name in names]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def _texts(column: pa.Array) -> list[str]:
    """Return a column's values as text; bytes that are not UTF-8 give text that `entry` rejects."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())  # Binary values are not decoded by pyarrow.
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return "" if value is None else str(value)
