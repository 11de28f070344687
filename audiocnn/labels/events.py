"""Labels of windows -> events: how long each sound was heard."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

_TOUCHING_S = 0.001 + 1e-9  # a millisecond, and what float64 makes of the times of a day


@dataclass(frozen=True, kw_only=True)
class Event:
    """A sound in a recording: neighbouring windows with one answer."""

    uri: str
    onset_s: float
    offset_s: float
    """Where its last window ends, in seconds from the recording's start as `onset_s` is."""
    label: str
    score: float
    """The highest of its windows' scores, 0 to 1."""
    windows: int
    bundle: str
    """The fingerprint of the bundle that gave the labels."""


def merged(rows: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """The events of label rows, in their order; one row and one event are in memory.

    Rows are windows (`uri, start_s, end_s, label, score, bundle`), recordings one after another
    and in order of time in each. Neighbours of one recording, label and bundle that overlap, or
    are at most 1 ms apart, are one event; those labelled `calibration.UNKNOWN` likewise. Where
    windows overlap, neighbours of other labels do too: events of different classes may share time,
    and a class that another one interrupts gives two events, which may share time as well.
    """
    event: Event | None = None
    for row in rows:
        window = _of_window(row)
        if event is not None and _goes_on(event, window):
            event = replace(
                event,
                offset_s=max(event.offset_s, window.offset_s),
                score=max(event.score, window.score),
                windows=event.windows + 1,
            )
            continue
        if event is not None:
            yield event
        event = window
    if event is not None:
        yield event


def _of_window(row: Mapping[str, Any]) -> Event:
    return Event(
        uri=row["uri"],
        onset_s=float(row["start_s"]),
        offset_s=float(row["end_s"]),
        label=row["label"],
        score=float(row["score"]),
        windows=1,
        bundle=row["bundle"],
    )


def _goes_on(event: Event, window: Event) -> bool:
    """Whether the next window is of the same event."""
    same = (event.uri, event.label, event.bundle) == (window.uri, window.label, window.bundle)
    return same and window.onset_s - event.offset_s <= _TOUCHING_S
