"""When clips were finished, and the steady rate that follows."""

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

Event = tuple[float, int]
"""A moment in seconds, and how many clips were finished at it."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """One contender's round: clips/s."""

    steady: float
    whole: float

    @staticmethod
    def of(events: list[Event], workers: int, clips: int, wall_s: float) -> "Rates":
        """Of events that workers share."""
        return Rates(steady=steady_rate(events, workers), whole=clips / wall_s)

    @staticmethod
    def of_each(workers: list[list[Event]], clips: int, wall_s: float) -> "Rates":
        """Of workers that know nothing of each other: the sum of their own steady rates."""
        return Rates(steady=sum(steady_rate(events, 1) for events in workers), whole=clips / wall_s)


class Finished:
    """Notes in a file when clips are finished; one for each worker."""

    def __init__(self, folder: str, worker: object) -> None:
        self.path = Path(folder) / str(worker)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, clips: int) -> None:
        """Note that this many more are."""
        with self.path.open("a") as file:
            file.write(f"{time.time()} {clips}\n")


def noted(folder: Path) -> list[list[Event]]:
    """What each worker noted by `Finished`."""
    found = []
    for path in sorted(folder.iterdir()):
        lines = [line.split() for line in path.read_text().splitlines()]
        found.append([(float(moment), int(clips)) for moment, clips in lines])
    return found


def together(folder: Path) -> list[Event]:
    """What all workers noted by `Finished`."""
    return [event for worker in noted(folder) for event in worker]


def parts(features: Path) -> list[Event]:
    """When each part of some features was finished, and the clips in it."""
    found = []
    for path in (features / "parts").glob("*.parquet"):
        clips = pq.read_table(path, columns=["clip_id"])["clip_id"].unique()
        found.append((path.stat().st_mtime, len(clips)))
    return found


def steady_rate(events: list[Event], workers: int) -> float:
    """Clips/s once all workers are at work, to the last event of all.

    Starting up is left out, and each worker's first piece with it: time begins at the mean of
    the first `workers` events, since a worker that was ahead of the others then has a part of
    its next piece done. The end, where some have nothing left to do, counts. Raises ValueError
    for too few events.
    """
    events = sorted(events)
    if len(events) <= workers:
        raise ValueError(f"{len(events)} events of {workers} workers: too few for a rate")
    start = sum(moment for moment, _ in events[:workers]) / workers
    return sum(clips for _, clips in events[workers:]) / (events[-1][0] - start)
