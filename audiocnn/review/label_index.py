"""An index of labels, to query any number of them by class, score and name.

The labels are copied, part by part, into a local DuckDB file of about 25 bytes per window. A query
takes milliseconds. Queries also start the refresh of the copy.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock, Thread
from time import monotonic
from typing import Any, BinaryIO, Literal

import duckdb
import pyarrow as pa

from audiocnn import storage
from audiocnn.audio.decode import AudioLimits
from audiocnn.errors import AudioCNNError, MismatchError
from audiocnn.labels.label_set import SUMMARY, LabelPart, files, find_parts, limits_of, read_note
from audiocnn.labels.part import BINS, LabelLedger, ledger_of, reading
from audiocnn.review.revision import Revision
from audiocnn.storage.json_note import Note
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
_FRESH_S = 30.0
"""Seconds after a refresh during which the copy counts as up to date."""
_LOOKS = (True, True, False)
"""Whether to refresh after each failed attempt to answer. Another replica may have read labels that
are missing here. One refresh is not enough: it may have begun before these labels were written."""
_SOON_S, _PATIENCE_S = 1.0, 10.0
"""Seconds to wait for a refresh: before any query, and if the labels that it names are missing."""


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
class State:
    """The state of labels and of the local copy."""

    bucket: str
    bundle: str
    """Fingerprint of the bundle that made the labels."""
    limits: AudioLimits
    """Limits of the recordings that were labelled."""
    listed: bool = False
    """Whether the parts were listed at least once; the fields below are valid only then."""
    finished: bool = False
    """Whether the job that writes the labels has finished."""
    parts: int = 0
    parts_read: int = 0
    sums: LabelLedger = field(default_factory=LabelLedger)
    """Sums over the parts that were read, without failures: `failed` counts them."""
    failed: int = 0
    trouble: str | None = None
    """Error of the last refresh; None if it succeeded."""


def read_state(uri: str) -> State:
    """Return the state of labels from their note, before any part is read.

    Raises StorageError if there are no labels, FormatError for another format.
    """
    return _state(read_note(uri))


def _state(note: Note) -> State:
    made_with = note["made_with"]
    return State(bucket=made_with["bucket"], bundle=made_with["bundle"], limits=limits_of(note))


class Browser:
    """The labels at a URI, copied to this machine. Several threads may use it at once."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.state = read_state(self.uri)
        self._folder = Scratch()
        self._database = duckdb.connect(
            os.path.join(self._folder.name, "labels.duckdb"),
            config={"memory_limit": "512MB", "threads": 1, "python_enable_replacements": False},
        )
        self._database.execute(_TABLE)
        self._read: dict[str, _Copied] = {}
        self._revision: tuple[list[LabelPart], str] | None = None
        self._lock = Lock()
        """Held while the copied labels change, and while a snapshot of them begins."""
        self._looking = Lock()
        """Held by the thread that refreshes the copy."""
        self._fresh_until = 0.0
        self._reader = Thread()

    def close(self) -> None:
        """Remove the copy. The browser must not be used afterwards."""
        with self._looking:
            self._fresh_until = float("inf")
            self._database.close()
            self._folder.cleanup()

    def refresh(self, *, wait: bool = False) -> None:
        """Refresh the copy in the background unless it is up to date; `wait` waits for the end."""
        self._look(None if wait else 0.0)

    def find(self, query: Query) -> QueryResult | None:
        """Return the windows that match a query; None if its labels are not all read here yet.

        Raises MismatchError if the labels of its revision do not exist any more, ConfigError if the
        revision is not valid.
        """
        wanted = None if query.revision is None else Revision.parse(query.revision)
        if wanted is None:
            self._look(_SOON_S)
        for looks in _LOOKS:
            with self._snapshot() as (cursor, there):
                now = self._revision_of(there)
                if wanted is None or query.revision == now:
                    return _found(cursor, query, None, now)
                parts = wanted.among(there)
                if parts is not None:
                    return _found(cursor, query, parts, str(wanted))
            if looks and not self._look(_PATIENCE_S, again=True):
                return None
        if self.state.trouble:
            return None
        raise MismatchError("these labels were rewritten meanwhile: go back to the first page")

    def windows(self, places: list[tuple[str, float]]) -> list[LabelRow] | None:
        """Return the existing windows at these places, which are (URI, start in seconds).

        Return None if some are missing and the labels are not all read here yet.
        """
        uris, starts = ([place[side] for place in places] for side in (0, 1))
        found: list[Any] = []
        for looks in _LOOKS:
            with closing(self._database.cursor()) as cursor:
                found = cursor.execute(
                    f"SELECT {', '.join(_COLUMNS)} FROM labels JOIN (SELECT "  # noqa: S608
                    "unnest($uris::VARCHAR[]) AS uri, unnest($starts::DOUBLE[]) AS start_s"
                    ") USING (uri, start_s)",
                    {"uris": uris, "starts": starts},
                ).fetchall()
            if len(found) >= len(places):
                break
            if looks and not self._look(_PATIENCE_S, again=True):
                return None
        return [_row(values) for values in found]

    # Types in quotes: otherwise duckdb reports them as leaked when the process ends.
    @contextmanager
    def _snapshot(self) -> Iterator[tuple["duckdb.DuckDBPyConnection", list[LabelPart]]]:
        """Yield a cursor that sees the copy as it is now, and the parts in it."""
        with closing(self._database.cursor()) as cursor:
            with self._lock:
                # The query is needed: without one, DuckDB would begin the snapshot later.
                cursor.begin().execute("SELECT 1 FROM labels LIMIT 0")
                there = [copied.part for copied in self._read.values()]
            yield cursor, there

    def _revision_of(self, there: list[LabelPart]) -> str:
        """Return the revision of all parts in a snapshot."""
        known = self._revision
        if known is None or known[0] != there:
            known = self._revision = there, str(Revision.of(there))
        return known[1]

    def _look(self, wait_s: float | None, *, again: bool = False) -> bool:
        """Refresh the copy in a separate thread unless it is up to date; with `again`, in any case.

        Wait up to `wait_s` seconds (None: until it ends). Return whether the copy was up to date or
        the refresh ended in that time.
        """
        if not again and monotonic() < self._fresh_until:
            return True
        reader = self._reader
        if not reader.is_alive():
            self._fresh_until = 0.0
            reader = self._reader = Thread(
                target=self._bring_up_to_date, name="labels", daemon=True
            )
            reader.start()
        reader.join(wait_s)
        return not reader.is_alive()

    def _bring_up_to_date(self) -> None:
        with self._looking:
            if monotonic() < self._fresh_until:
                return
            trouble = None
            try:
                self._follow()
            except (AudioCNNError, duckdb.Error) as error:
                trouble = str(error)
            self.state = replace(self.state, trouble=trouble)
            self._fresh_until = monotonic() + _FRESH_S

    def _follow(self) -> None:
        """Copy new parts and remove missing or rewritten ones. Raises AudioCNNError."""
        note = read_note(self.uri)
        now = _state(note)
        finished = storage.exists(storage.join(self.uri, SUMMARY))
        parts = {part.uri: part for part in find_parts(self.uri, note["listings"])}
        before = self.state
        others = (now.bundle, now.bucket, now.limits) != (
            before.bundle, before.bucket, before.limits
        )  # fmt: skip
        with self._lock:
            for uri, copied in list(self._read.items()):
                if others or parts.get(uri) != copied.part:  # missing or rewritten
                    self._database.execute("DELETE FROM labels WHERE part = $uri", {"uri": uri})
                    del self._read[uri]
            now = replace(now, listed=True, finished=finished, parts=len(parts))
            self._count(now, self._read.values())
        new = [part for uri, part in parts.items() if uri not in self._read]
        for part, (_, file) in zip(new, files(new), strict=True):
            self._add(part, file)

    def _add(self, part: LabelPart, file: BinaryIO) -> None:
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
        copied = _Copied(part=part, sums=replace(ledger, failures=[]), failed=ledger.failed)
        with self._lock:
            self._database.commit()
            self._read[part.uri] = copied
            self._count(self.state, [copied])

    def _count(self, state: State, copied: Iterable["_Copied"]) -> None:
        """Store a new state with these parts added; other threads may still read the old one."""
        sums, failed = LabelLedger(), state.failed
        sums.merge(state.sums)
        for part in copied:
            sums.merge(part.sums)
            failed += part.failed
        self.state = replace(state, parts_read=len(self._read), sums=sums, failed=failed)


@dataclass(frozen=True, kw_only=True)
class _Copied:
    """A part in the copy, with its counts."""

    part: LabelPart
    sums: LabelLedger
    failed: int


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
