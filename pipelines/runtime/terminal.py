"""What a job prints: steps, a progress bar on a terminal, tables, and warnings."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from audiocnn import storage

Thing = TypeVar("Thing")


class _Console(Console):
    """A console that leaves it to the command what to do when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, which Rich would turn into an exit."""
        raise BrokenPipeError


console = _Console(highlight=False)

LOG = "AUDIOCNN_LOG"
"""Set to `json` for a line of JSON an event, in the place of what is for people."""
_LINE_EVERY_S = 30.0
_about: dict[str, Any] = {}


def about(**names: Any) -> None:
    """What every event from now on is about: the verb, the job, the bundle."""
    _about.update(names)


def step(text: str, **figures: Any) -> None:
    """Say what begins. Figures are for machines that read the log."""
    if not _logged("info", text, figures):
        console.print("[bold cyan]▸[/] ", end="")
        console.print(text, style="bold", markup=False, soft_wrap=True)


def say(text: str, **figures: Any) -> None:
    """One line below a step. The text is data: square brackets in it are no markup."""
    if not _logged("info", text, figures):
        console.print(f"  {text}", markup=False, soft_wrap=True)


def warn(text: str, **figures: Any) -> None:
    """One line that should not be missed."""
    if not _logged("warning", text, figures):
        console.print("[bold yellow]![/] ", end="")
        console.print(text, markup=False, soft_wrap=True)


def warn_others(to: str, paths: list[str]) -> None:
    """Say which files among a job's parts are not its own, where there are any."""
    if paths:
        more = f" and {len(paths) - 1} more" * (len(paths) > 1)
        warn(
            f"{paths[0]}{more} in {to}: not of this job, and so left there; who reads all of "
            f"{paths[0].rsplit('/', 1)[0]}/*.parquet reads that too"
        )


def warn_kept(verb: str, kept: dict[str, str]) -> None:
    """Say which files are kept beside, by their paths, for they are not as a verb wrote them."""
    if kept:
        path, beside = next(iter(kept.items()))
        more = f", and {len(kept) - 1} more like that" * (len(kept) > 1)
        warn(f"{path} is not as {verb} wrote it: it is kept as {beside}{more}")


def error(text: str) -> bool:
    """Log why the command ends; whether that was done, or is still to be said to people."""
    return _logged("error", text, {})


def _logged(level: str, text: str, figures: dict[str, Any]) -> bool:
    """Print an event as JSON, where that is wanted; whether it was."""
    if os.environ.get(LOG) != "json":
        return False
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"at": at, "level": level, **_about, "message": text.strip(), **figures}
    print(json.dumps(event, default=str), flush=True)
    return True


def short(uri: str) -> str:
    """A URI for people: a path below the working directory is said from there."""
    below = os.path.relpath(uri) if storage.is_local(uri) else uri
    return uri if below.startswith("..") else below


def same_command(overwrite: bool) -> str:
    """What goes on where a job was stopped: `--overwrite` would begin anew once more."""
    return f"the same command{' without --overwrite' * overwrite}"


def command() -> str:
    """How to call `audiocnn` from the working directory."""
    found = shutil.which("audiocnn")
    same = found is not None and os.path.realpath(found) == os.path.realpath(sys.argv[0])
    return "audiocnn" if same else short(sys.argv[0])


def table(columns: list[str], rows: list[list[str]]) -> None:
    """A small table; the first column is text, the others are figures."""
    if os.environ.get(LOG) == "json":
        for row in rows:
            say(row[0], **dict(zip(columns[1:], row[1:], strict=False)))
        return
    drawn = Table(box=None, pad_edge=True)
    for index, name in enumerate(columns):
        drawn.add_column(name, justify="right" if index else "left")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


class Bar:
    """A progress bar with a note behind it; without a terminal, a line now and then."""

    def __init__(self, progress: Progress, total: int, before: int) -> None:
        self._progress = progress
        self._total, self._before = total, before
        self._task = progress.add_task("", total=total, completed=before, note="")
        self._began = self._said = time.monotonic()

    def count(self, done: int, failed: int, unit: str) -> None:
        """Show how many are done, how fast, how many of them failed, and the time left."""
        now = time.monotonic()
        rate = (done - self._before) / max(now - self._began, 1e-3)
        note = f"{rate:.0f} {unit}/s" + (f", {failed} failed" if failed else "")
        self.update(done, note)
        if not console.is_terminal and now - self._said > _LINE_EVERY_S:
            self._said = now
            left = (self._total - done) / max(rate, 1e-9)
            say(
                f"{done}/{self._total} {unit}, {note}, {duration(left)} left",
                done=done, total=self._total, failed=failed, per_s=rate, left_s=left,
            )  # fmt: skip

    def bytes(self, done: int, total: int) -> None:
        """Show how many megabytes have come."""
        self._progress.update(self._task, completed=done // 2**20, total=total // 2**20 or None)

    def update(self, done: int, note: str = "") -> None:
        """Show how much is done."""
        self._progress.update(self._task, completed=done, note=note)


def counted(things: Iterable[Thing], bar: Bar, unit: str) -> Iterator[Thing]:
    """The same things; a bar shows now and then how many have passed."""
    for count, thing in enumerate(things):
        if count % 1_000 == 0:
            bar.update(count, unit)
        yield thing


@contextmanager
def bar(total: int, before: int = 0) -> Iterator[Bar]:
    """A bar while the block runs; it is drawn on a terminal only, and leaves no trace.

    What was done `before` counts as done, but not as fast.
    """
    columns = (
        TextColumn(" "),
        SpinnerColumn(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        yield Bar(progress, total, before)
