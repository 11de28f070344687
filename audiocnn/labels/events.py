"""Merge the labels of windows into events: from when to when each sound lasts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

_TOUCHING_S = 0.001 + 1e-9  # a millisecond, and rounding of float64


@dataclass(frozen=True, kw_only=True)
class Event:
    """A sound in a recording: neighbouring windows with the same label."""

    uri: str
    onset_s: float
    offset_s: float
    """Latest end of its windows, in seconds from the recording's start, like `onset_s`."""
    label: str
    score: float
    """Highest score of its windows, 0 to 1."""
    windows: int
    bundle: str
    """Fingerprint of the bundle that made the labels."""


def merged(rows: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """Yield the events of label rows, in their order; one row and one event are in memory.

    Rows are windows (`uri, start_s, end_s, label, score, bundle`), one recording after another,
    sorted by time within each. Adjacent rows with the same recording, label and bundle become one
    event if the windows overlap or are at most 1 ms apart. This holds for the label
    `config.UNKNOWN` too. If windows overlap, events may overlap: events of different classes, and
    also two events of one class with a window of another class between them.
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
    """Return whether the next window belongs to the same event."""
    same = (event.uri, event.label, event.bundle) == (window.uri, window.label, window.bundle)
    return same and window.onset_s - event.offset_s <= _TOUCHING_S
