"""An index of labels, to query any number of them by class, score and name.

The labels are copied, part by part, into a local DuckDB file of about 25 bytes per window. A query
takes milliseconds. Queries also start the refresh of the copy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from threading import Lock, Thread
from time import monotonic

import duckdb

from audiocnn import storage
from audiocnn.audio.decode import AudioLimits
from audiocnn.errors import AudioCNNError, MismatchError
from audiocnn.labels.label_set import SUMMARY, files, find_parts, limits_of, read_note
from audiocnn.labels.part import LabelLedger
from audiocnn.review.label_copy import CopiedPart, LabelCopy, LabelRow, Query, QueryResult
from audiocnn.review.revision import Revision
from audiocnn.storage.json_note import Note

_FRESH_S = 30.0
"""Seconds after a refresh during which the copy counts as up to date."""
_LOOKS = (True, True, False)
"""Whether to refresh after each failed attempt to answer. Another replica may have read labels that
are missing here. One refresh is not enough: it may have begun before these labels were written."""
_SOON_S, _PATIENCE_S = 1.0, 10.0
"""Seconds to wait for a refresh: before any query, and if the labels that it names are missing."""


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
        self._copy = LabelCopy()
        self._looking = Lock()
        """Held by the thread that refreshes the copy."""
        self._fresh_until = 0.0
        self._reader = Thread()

    def close(self) -> None:
        """Remove the copy. The browser must not be used afterwards."""
        with self._looking:
            self._fresh_until = float("inf")
            self._copy.close()

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
            if found := self._copy.find(query, wanted):
                return found
            if looks and not self._look(_PATIENCE_S, again=True):
                return None
        if self.state.trouble:
            return None
        raise MismatchError("these labels were rewritten meanwhile: go back to the first page")

    def windows(self, places: list[tuple[str, float]]) -> list[LabelRow] | None:
        """Return the existing windows at these places, which are (URI, start in seconds).

        Return None if some are missing and the labels are not all read here yet.
        """
        found: list[LabelRow] = []
        for looks in _LOOKS:
            found = self._copy.windows(places)
            if len(found) >= len(places):
                break
            if looks and not self._look(_PATIENCE_S, again=True):
                return None
        return found

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
        self._copy.keep({} if others else parts)
        now = replace(now, listed=True, finished=finished, parts=len(parts))
        self._count(now, self._copy.parts.values())
        new = [part for uri, part in parts.items() if uri not in self._copy.parts]
        for part, (_, file) in zip(new, files(new), strict=True):
            self._count(self.state, [self._copy.add(part, file)])

    def _count(self, state: State, copied: Iterable[CopiedPart]) -> None:
        """Store a new state with these parts added; other threads may still read the old one."""
        sums, failed = LabelLedger(), state.failed
        sums.merge(state.sums)
        for part in copied:
            sums.merge(part.sums)
            failed += part.failed
        self.state = replace(state, parts_read=len(self._copy.parts), sums=sums, failed=failed)
