"""A local copy of labels in a DuckDB file of about 25 bytes per window, and queries of it."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, BinaryIO, Literal

import duckdb
import pyarrow as pa

from audiocnn.labels.label_set import LabelPart
from audiocnn.labels.part import BINS, LabelLedger, ledger_of, reading
from audiocnn.review.revision import Revision
from audiocnn.storage.scratch import Scratch

Sort = Literal["highest", "lowest", "name"]

_COLUMNS = ["uri", "version", "start_s", "end_s", "label", "score"]
_TABLE = """
CREATE TABLE labels (
    part VARCHAR, uri VARCHAR, version VARCHAR, start_s DOUBLE, end_s DOUBLE, label VARCHAR,
    score FLOAT
)"""
_ORDERS: dict[Sort, str] = {
    "highest": "score DESC, uri, start_s",
    "lowest": "score, uri, start_s",
    "name": "uri, start_s",
}
_MATCH = "($label IS NULL OR label = $label) AND contains(lower(uri), lower($name))"
_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Query:
    """The windows to return, and their order."""

    label: str | None = None
    name: str = ""
    """Part of the recording's URI; case is ignored."""
    lowest: float = 0.0
    highest: float = 1.0
    """Range of scores, both ends included."""
    sort: Sort = "highest"
    offset: int = 0
    limit: int = 50
    revision: str | None = None
    """Revision of an earlier result, to read the same labels; None: the labels as they are now."""


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """A window and its label."""

    uri: str
    version: str
    start_s: float
    end_s: float
    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """The result of a query."""

    rows: list[LabelRow]
    total: int
    """Number of windows that match the query, on all pages."""
    histogram: list[int]
    """[BINS] number of windows by score, with the query's label and name and any score."""
    revision: str
    """Name of the set of labels that was read: see `audiocnn.review.revision`."""


@dataclass(frozen=True, kw_only=True)
class CopiedPart:
    """A part in the copy, with its counts."""

    part: LabelPart
    sums: LabelLedger
    failed: int


class LabelCopy:
    """A copy of labels in a temporary file. One thread may change it while others read it."""

    def __init__(self) -> None:
        self._folder = Scratch()
        self._database = duckdb.connect(
            os.path.join(self._folder.name, "labels.duckdb"),
            config={"memory_limit": "512MB", "threads": 1, "python_enable_replacements": False},
        )
        self._database.execute(_TABLE)
        self.parts: dict[str, CopiedPart] = {}
        """The copied parts, by URI."""
        self._revision: tuple[list[LabelPart], str] | None = None
        self._lock = Lock()
        """Held while the copied labels change, and while a snapshot of them begins."""

    def close(self) -> None:
        """Remove the file. The copy must not be used afterwards."""
        self._database.close()
        self._folder.cleanup()

    def keep(self, parts: dict[str, LabelPart]) -> None:
        """Remove all copied parts that are not among these: missing or rewritten ones."""
        with self._lock:
            for uri, copied in list(self.parts.items()):
                if parts.get(uri) != copied.part:
                    self._database.execute("DELETE FROM labels WHERE part = $uri", {"uri": uri})
                    del self.parts[uri]

    def add(self, part: LabelPart, file: BinaryIO) -> CopiedPart:
        """Copy a part, completely or not at all. Raises StorageError, FormatError."""
        self._database.begin()
        try:
            with reading(part.uri, file) as opened:
                ledger = ledger_of(part.uri, opened)
                # Not as one stream: DuckDB would turn read errors into its own, of many lines.
                for batch in opened.iter_batches(_ROWS, columns=_COLUMNS):
                    self._database.register("batch", pa.Table.from_batches([batch]))
                    self._database.execute(
                        "INSERT INTO labels SELECT $part, * FROM batch", {"part": part.uri}
                    )
                    self._database.unregister("batch")
        except BaseException:
            self._database.rollback()
            raise
        copied = CopiedPart(part=part, sums=replace(ledger, failures=[]), failed=ledger.failed)
        with self._lock:
            self._database.commit()
            self.parts[part.uri] = copied
        return copied

    def find(self, query: Query, revision: Revision | None) -> QueryResult | None:
        """Return the windows that match a query, in the labels of a revision or in all labels.

        Return None if a part of the revision is missing here.
        """
        with self._snapshot() as (cursor, there):
            now = self._revision_of(there)
            if revision is None or str(revision) == now:
                return _found(cursor, query, None, now)
            parts = revision.among(there)
            return None if parts is None else _found(cursor, query, parts, str(revision))

    def windows(self, places: list[tuple[str, float]]) -> list[LabelRow]:
        """Return the existing windows at these places, which are (URI, start in seconds)."""
        uris, starts = ([place[side] for place in places] for side in (0, 1))
        with closing(self._database.cursor()) as cursor:
            found = cursor.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM labels JOIN (SELECT "  # noqa: S608
                "unnest($uris::VARCHAR[]) AS uri, unnest($starts::DOUBLE[]) AS start_s"
                ") USING (uri, start_s)",
                {"uris": uris, "starts": starts},
            ).fetchall()
        return [_row(values) for values in found]

    # Types in quotes: otherwise duckdb reports them as leaked when the process ends.
    @contextmanager
    def _snapshot(self) -> Iterator[tuple["duckdb.DuckDBPyConnection", list[LabelPart]]]:
        """Yield a cursor that sees the copy as it is now, and the parts in it."""
        with closing(self._database.cursor()) as cursor:
            with self._lock:
                # The query is needed: without one, DuckDB would begin the snapshot later.
                cursor.begin().execute("SELECT 1 FROM labels LIMIT 0")
                there = [copied.part for copied in self.parts.values()]
            yield cursor, there

    def _revision_of(self, there: list[LabelPart]) -> str:
        """Return the revision of all parts in a snapshot."""
        known = self._revision
        if known is None or known[0] != there:
            known = self._revision = there, str(Revision.of(there))
        return known[1]


def _found(
    cursor: "duckdb.DuckDBPyConnection", query: Query, parts: list[LabelPart] | None, revision: str
) -> QueryResult:
    """Return the windows that match a query, in these parts or, if None, in all parts."""
    match: dict[str, Any] = {"label": query.label, "name": query.name}
    matches = _MATCH
    if parts is not None:
        match["parts"] = [part.uri for part in parts]
        matches += " AND part IN (SELECT unnest($parts::VARCHAR[]))"
    scores = match | {"lowest": query.lowest, "highest": query.highest}
    within = f"{matches} AND score BETWEEN $lowest::FLOAT AND $highest::FLOAT"
    bins = cursor.execute(
        f"SELECT least(floor(score * {BINS}), {BINS - 1})::INTEGER, count(*) "  # noqa: S608
        f"FROM labels WHERE {matches} GROUP BY ALL",
        match,
    ).fetchall()
    total = cursor.execute(f"SELECT count(*) FROM labels WHERE {within}", scores)  # noqa: S608
    (count,) = total.fetchone() or (0,)
    found = cursor.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM labels WHERE {within} "  # noqa: S608
        f"ORDER BY {_ORDERS[query.sort]} LIMIT $limit OFFSET $offset",
        scores | {"limit": query.limit, "offset": query.offset},
    ).fetchall()
    histogram = [0] * BINS
    for at, windows in bins:
        histogram[at] = windows
    rows = [_row(values) for values in found]
    return QueryResult(rows=rows, total=count, histogram=histogram, revision=revision)


def _row(values: tuple[Any, ...]) -> LabelRow:
    return LabelRow(**dict(zip(_COLUMNS, values, strict=True)))
