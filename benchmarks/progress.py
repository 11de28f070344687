"""The times at which clips were finished, and the steady rate computed from them."""

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

Event = tuple[float, int]
"""A time in seconds since 1970, and the number of clips that were finished then."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates of a contender in one round, in clips/s."""

    steady: float
    whole: float

    @staticmethod
    def of(events: list[Event], workers: int, clips: int, wall_s: float) -> "Rates":
        """Return the rates of workers that share their work, from the events of all of them."""
        return Rates(steady=steady_rate(events, workers), whole=clips / wall_s)

    @staticmethod
    def of_each(workers: list[list[Event]], clips: int, wall_s: float) -> "Rates":
        """Return the rates of independent workers: the steady rate is the sum of their own."""
        return Rates(steady=sum(steady_rate(events, 1) for events in workers), whole=clips / wall_s)


class Finished:
    """Writes the times at which clips are finished to the file of one worker."""

    def __init__(self, folder: str, worker: object) -> None:
        self.path = Path(folder) / str(worker)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, clips: int) -> None:
        """Note that this many more clips are finished."""
        with self.path.open("a") as file:
            file.write(f"{time.time()} {clips}\n")


def noted(folder: Path) -> list[list[Event]]:
    """Return the events that each worker noted with `Finished`."""
    found = []
    for path in sorted(folder.iterdir()):
        lines = [line.split() for line in path.read_text().splitlines()]
        found.append([(float(moment), int(clips)) for moment, clips in lines])
    return found


def together(folder: Path) -> list[Event]:
    """Return the events that all workers noted with `Finished`."""
    return [event for worker in noted(folder) for event in worker]


def parts(features: Path) -> list[Event]:
    """Return an event for each part of features: the time it was written, and its clips."""
    found = []
    for path in (features / "parts").glob("*.parquet"):
        clips = pq.read_table(path, columns=["clip_id"])["clip_id"].unique()
        found.append((path.stat().st_mtime, len(clips)))
    return found


def steady_rate(events: list[Event], workers: int) -> float:
    """Return the clips/s from the time when all workers are busy to the last event.

    The start, and with it the first piece of each worker, is left out. Time begins at the mean of
    the first `workers` events, because a worker that was early has done a part of its next piece
    by then. The end counts, although some workers are idle there. Raises ValueError if there are
    too few events.
    """
    events = sorted(events)
    if len(events) <= workers:
        raise ValueError(f"{len(events)} events of {workers} workers: too few for a rate")
    start = sum(moment for moment, _ in events[:workers]) / workers
    return sum(clips for _, clips in events[workers:]) / (events[-1][0] - start)
