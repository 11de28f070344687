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
from audiocnn.audio import AudioLimits
from audiocnn.errors import AudioCNNError
from audiocnn.labels import BINS, Ledger, ledger_of, reading
from audiocnn.labelset import SUMMARY, Part, files, find_parts, limits_of, read_note
from audiocnn.scratch import Scratch

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


@dataclass(frozen=True, kw_only=True)
class Row:
    """A window and its label."""

    uri: str
    version: str
    start_s: float
    end_s: float
    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a query found."""

    rows: list[Row]
    total: int
    """Windows that fit it, those included that are before or behind these."""
    histogram: list[int]
    """[BINS] windows by score, of its label and name, whatever their score."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What is there to look through."""

    bucket: str
    bundle: str
    """Fingerprint of the one that made the labels."""
    limits: AudioLimits
    """What a recording may be that was labelled."""
    finished: bool = False
    """Whether the job that writes the labels has ended."""
    parts: int = 0
    parts_read: int = 0
    sums: Ledger = field(default_factory=Ledger)
    """Of the parts that were read; its failures are counted by `failed`."""
    failed: int = 0
    trouble: str | None = None
    """Why it is not up to date."""


def read_state(uri: str) -> State:
    """What labels say of themselves before any part is read.

    Raises StorageError where there are none, FormatError for those of another format.
    """
    made_with = read_note(uri)["made_with"]
    return State(
        bucket=made_with["bucket"], bundle=made_with["bundle"], limits=limits_of(made_with)
    )


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
        self._lock = Lock()
        self._fresh_until = 0.0

    def close(self) -> None:
        """Remove the copy. Nothing may be asked any more."""
        with self._lock:
            self._fresh_until = float("inf")
            self._database.close()
            self._folder.cleanup()

    def refresh(self, *, wait: bool = False) -> None:
        """See whether there are more labels, unless somebody just did; without waiting for them."""
        if monotonic() < self._fresh_until or self._lock.locked():
            return
        reader = Thread(target=self._bring_up_to_date, name="labels", daemon=True)
        reader.start()
        if wait:
            reader.join()

    def find(self, query: Query) -> Rows:
        """The windows that a query wants."""
        match: dict[str, Any] = {"label": query.label, "name": query.name}
        scores = match | {"lowest": query.lowest, "highest": query.highest}
        within = f"{_MATCH} AND score BETWEEN $lowest::FLOAT AND $highest::FLOAT"
        with closing(self._database.cursor()) as cursor:
            bins = cursor.execute(
                f"SELECT least(floor(score * {BINS}), {BINS - 1})::INTEGER, count(*) "  # noqa: S608
                f"FROM labels WHERE {_MATCH} GROUP BY ALL",
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
        return Rows(rows=[_row(values) for values in found], total=count, histogram=histogram)

    def windows(self, places: list[tuple[str, float]]) -> list[Row]:
        """The windows with these URIs that begin at these seconds, those that there are."""
        uris, starts = ([place[side] for place in places] for side in (0, 1))
        with closing(self._database.cursor()) as cursor:
            found = cursor.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM labels JOIN (SELECT "  # noqa: S608
                "unnest($uris::VARCHAR[]) AS uri, unnest($starts::DOUBLE[]) AS start_s"
                ") USING (uri, start_s)",
                {"uris": uris, "starts": starts},
            ).fetchall()
        return [_row(values) for values in found]

    def _bring_up_to_date(self) -> None:
        with self._lock:
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
        finished = storage.exists(storage.join(self.uri, SUMMARY))
        parts = {part.uri: part for part in find_parts(self.uri, note["listings"])}
        gone = [
            uri
            for uri, copied in self._read.items()
            if uri not in parts or parts[uri].size != copied.size  # it was written anew
        ]
        for uri in gone:
            self._database.execute("DELETE FROM labels WHERE part = $uri", {"uri": uri})
            del self._read[uri]
        self._say(_summed(self._read.values()), finished=finished, parts=len(parts))
        new = [part for uri, part in parts.items() if uri not in self._read]
        for part, (_, file) in zip(new, files(new), strict=True):
            self._add(part, file)

    def _add(self, part: Part, file: BinaryIO) -> None:
        """Copy a part, whole or not at all. Raises StorageError, FormatError."""
        with reading(part.uri, file) as opened, self._transaction():
            ledger = ledger_of(part.uri, opened)
            # Not as one stream: what reading raises would come back as DuckDB's own, of many lines.
            for batch in opened.iter_batches(_ROWS, columns=_COLUMNS):
                self._database.register("batch", pa.Table.from_batches([batch]))
                self._database.execute(
                    "INSERT INTO labels SELECT $part, * FROM batch", {"part": part.uri}
                )
                self._database.unregister("batch")
        copied = _Copied(size=part.size, sums=replace(ledger, failures=[]), failed=ledger.failed)
        self._read[part.uri] = copied
        so_far = _Copied(size=0, sums=self.state.sums, failed=self.state.failed)
        self._say(_summed([so_far, copied]))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.begin()
        try:
            yield
        except BaseException:
            self._database.rollback()
            raise
        self._database.commit()

    def _say(self, sums: "_Copied", **changes: Any) -> None:
        """Give the state another value; whoever asked for the one before may still read it."""
        self.state = replace(
            self.state,
            parts_read=len(self._read),
            sums=sums.sums,
            failed=sums.failed,
            **changes,
        )


@dataclass(frozen=True, kw_only=True)
class _Copied:
    """A part that was copied, or several."""

    size: int
    sums: Ledger
    failed: int


def _summed(parts: Iterable[_Copied]) -> _Copied:
    total = Ledger()
    size = failed = 0
    for part in parts:
        total.merge(part.sums)
        size, failed = size + part.size, failed + part.failed
    return _Copied(size=size, sums=total, failed=failed)


def _row(values: tuple[Any, ...]) -> Row:
    return Row(**dict(zip(_COLUMNS, values, strict=True)))
