"""Labels to look through, by class, score and name, however many there are.

What is looked through is copied, part by part, into a DuckDB file of this machine, which is brought
up to date when somebody looks: 25 bytes a window or so, and a query takes milliseconds.
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
"""Seconds for which nobody looks whether there is more."""
_LOOKS = (True, True, False)
"""To look twice for what another copy has read, and then no more: whoever looks already may have
begun before it was there."""
_SOON_S, _PATIENCE_S = 1.0, 10.0
"""Seconds that a query waits for what is being read: of itself, and where it names a revision."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which windows are wanted, and in which order."""

    label: str | None = None
    name: str = ""
    """Part of the recording's URI, in capitals or not."""
    lowest: float = 0.0
    highest: float = 1.0
    """Scores, both included."""
    sort: Sort = "highest"
    offset: int = 0
    limit: int = 50
    revision: str | None = None
    """That of an answer, to go on with what that one was of; None: the labels as they are now."""


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
    """What a query found."""

    rows: list[LabelRow]
    total: int
    """Windows that fit it, those included that are before or behind these."""
    histogram: list[int]
    """[BINS] windows by score, of its label and name, whatever their score."""
    revision: str
    """Of what labels this is an answer: see `audiocnn.review.revision`."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What is there to look through."""

    bucket: str
    bundle: str
    """Fingerprint of the one that made the labels."""
    limits: AudioLimits
    """What a recording may be that was labelled."""
    listed: bool = False
    """Whether the parts were listed once; before that, what follows says nothing."""
    finished: bool = False
    """Whether the job that writes the labels has ended."""
    parts: int = 0
    parts_read: int = 0
    sums: LabelLedger = field(default_factory=LabelLedger)
    """Of the parts that were read; its failures are counted by `failed`."""
    failed: int = 0
    trouble: str | None = None
    """Why it is not up to date."""


def read_state(uri: str) -> State:
    """What labels say of themselves before any part is read.

    Raises StorageError where there are none, FormatError for those of another format.
    """
    return _state(read_note(uri))


def _state(note: Note) -> State:
    made_with = note["made_with"]
    return State(bucket=made_with["bucket"], bundle=made_with["bundle"], limits=limits_of(note))


class Browser:
    """The labels at a URI. It may be asked by several threads at once."""

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
        """Held while what has been read changes, and while a snapshot of it begins."""
        self._looking = Lock()
        """Held by the one who looks whether there is more."""
        self._fresh_until = 0.0
        self._reader = Thread()

    def close(self) -> None:
        """Remove the copy. Nothing may be asked any more."""
        with self._looking:
            self._fresh_until = float("inf")
            self._database.close()
            self._folder.cleanup()

    def refresh(self, *, wait: bool = False) -> None:
        """See whether there are more labels, unless somebody just did; without waiting for them."""
        self._look(None if wait else 0.0)

    def find(self, query: Query) -> QueryResult | None:
        """The windows that a query wants; None where they have not all been read here yet.

        Raises MismatchError where the labels of its revision are there no more, ConfigError where
        it is none.
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
        raise MismatchError("these labels were written anew since: begin with the first page")

    def windows(self, places: list[tuple[str, float]]) -> list[LabelRow] | None:
        """The windows with these URIs that begin at these seconds, those that there are.

        None where some are missing, and not all has been read here yet.
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

    # Its types in quotes: duckdb counts those that an annotation holds as lost when a process ends.
    @contextmanager
    def _snapshot(self) -> Iterator[tuple["duckdb.DuckDBPyConnection", list[LabelPart]]]:
        """The copy as it is at this moment, and the parts that are in it."""
        with closing(self._database.cursor()) as cursor:
            with self._lock:
                cursor.begin().execute("SELECT 1 FROM labels LIMIT 0")  # or it begins later
                there = [copied.part for copied in self._read.values()]
            yield cursor, there

    def _revision_of(self, there: list[LabelPart]) -> str:
        """The revision of all that is in a snapshot."""
        known = self._revision
        if known is None or known[0] != there:
            known = self._revision = there, str(Revision.of(there))
        return known[1]

    def _look(self, wait_s: float | None, *, again: bool = False) -> bool:
        """Bring the copy up to date in a thread of its own, unless it is, or `again`.

        Waits for so many seconds (None: as long as it takes); whether it was brought to an end.
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
        """Read the parts that are new, and forget those that are gone. Raises AudioCNNError."""
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
                if others or parts.get(uri) != copied.part:  # it was written anew
                    self._database.execute("DELETE FROM labels WHERE part = $uri", {"uri": uri})
                    del self._read[uri]
            now = replace(now, listed=True, finished=finished, parts=len(parts))
            self._count(now, self._read.values())
        new = [part for uri, part in parts.items() if uri not in self._read]
        for part, (_, file) in zip(new, files(new), strict=True):
            self._add(part, file)

    def _add(self, part: LabelPart, file: BinaryIO) -> None:
        """Copy a part, whole or not at all. Raises StorageError, FormatError."""
        self._database.begin()
        try:
            with reading(part.uri, file) as opened:
                ledger = ledger_of(part.uri, opened)
                # Not as one stream: what reading raises would come back as DuckDB's, of many lines.
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
        """Add parts to a state's sums; whoever asked for the state before may still read it."""
        sums, failed = LabelLedger(), state.failed
        sums.merge(state.sums)
        for part in copied:
            sums.merge(part.sums)
            failed += part.failed
        self.state = replace(state, parts_read=len(self._read), sums=sums, failed=failed)


@dataclass(frozen=True, kw_only=True)
class _Copied:
    """A part that was copied."""

    part: LabelPart
    sums: LabelLedger
    failed: int


def _found(
    cursor: "duckdb.DuckDBPyConnection", query: Query, parts: list[LabelPart] | None, revision: str
) -> QueryResult:
    """The windows of these parts, or of all, that a query wants."""
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
