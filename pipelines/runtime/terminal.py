"""Output of jobs: steps, tables, warnings, and a progress bar on a terminal."""

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
from audiocnn.config import Variable

Thing = TypeVar("Thing")


class _Console(Console):
    """A console that leaves broken pipes to the command line."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError; Rich itself would end the process."""
        raise BrokenPipeError


console = _Console(highlight=False)

_LINE_EVERY_S = 30.0
_about: dict[str, Any] = {}


def about(**names: Any) -> None:
    """Add fields, such as the verb, job or bundle, to every JSON event from now on."""
    _about.update(names)


def step(text: str, **figures: Any) -> None:
    """Print that a step begins. `figures` appear only in JSON events."""
    if not _logged("info", text, figures):
        console.print("[bold cyan]▸[/] ", end="")
        console.print(text, style="bold", markup=False, soft_wrap=True)


def say(text: str, **figures: Any) -> None:
    """Print one line below a step. Square brackets in the text are not read as Rich markup."""
    if not _logged("info", text, figures):
        console.print(f"  {text}", markup=False, soft_wrap=True)


def warn(text: str, **figures: Any) -> None:
    """Print one line as a warning."""
    if not _logged("warning", text, figures):
        console.print("[bold yellow]![/] ", end="")
        console.print(text, markup=False, soft_wrap=True)


def warn_others(to: str, paths: list[str]) -> None:
    """Warn of files among a job's parts that the job did not write, if there are any."""
    if paths:
        more = f" and {len(paths) - 1} more" * (len(paths) > 1)
        warn(
            f"{paths[0]}{more} in {to}: not written by this job, so left there; a reader of "
            f"{paths[0].rsplit('/', 1)[0]}/*.parquet reads these files too"
        )


def warn_kept(verb: str, kept: dict[str, str]) -> None:
    """Warn of files that were changed since a verb wrote them; `kept` maps paths to kept copies."""
    if kept:
        path, beside = next(iter(kept.items()))
        more = f" (and {len(kept) - 1} more files likewise)" * (len(kept) > 1)
        warn(f"{path} is not the file that {verb} wrote: it is kept as {beside}{more}")


def error(text: str) -> bool:
    """Log the error that ends the command as JSON. Return False if it is still to be printed."""
    return _logged("error", text, {})


def _logged(level: str, text: str, figures: dict[str, Any]) -> bool:
    """Print an event as JSON if AUDIOCNN_LOG asks for that; return whether it does."""
    if Variable.LOG.get() != "json":
        return False
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"at": at, "level": level, **_about, "message": text.strip(), **figures}
    print(json.dumps(event, default=str), flush=True)
    return True


def short(uri: str) -> str:
    """Shorten a URI for people: a path below the working directory becomes relative to it."""
    below = os.path.relpath(uri) if storage.is_local(uri) else uri
    return uri if below.startswith("..") else below


def same_command(overwrite: bool) -> str:
    """Name the command that continues a stopped job. With `--overwrite` it would start again."""
    return f"the same command again{', without --overwrite,' * overwrite}"


def command() -> str:
    """Return the name or path that runs `audiocnn` from the working directory."""
    found = shutil.which("audiocnn")
    same = found is not None and os.path.realpath(found) == os.path.realpath(sys.argv[0])
    return "audiocnn" if same else short(sys.argv[0])


def table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a small table. The first column is text, the others are figures."""
    if Variable.LOG.get() == "json":
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
    """Format a number of seconds for people, as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


class Bar:
    """A progress bar with a note after it. Without a terminal, `count` prints a line every 30 s."""

    def __init__(self, progress: Progress, total: int, before: int) -> None:
        self._progress = progress
        self._total, self._before = total, before
        self._task = progress.add_task("", total=total, completed=before, note="")
        self._began = self._said = time.monotonic()

    def count(self, done: int, failed: int, unit: str) -> None:
        """Show the number of items done, their rate, the number that failed, and the time left."""
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
        """Show the progress of a download, from bytes, in MiB; a total of 0 means unknown."""
        self._progress.update(self._task, completed=done // 2**20, total=total // 2**20 or None)

    def update(self, done: int, note: str = "") -> None:
        """Show how much is done, and a note."""
        self._progress.update(self._task, completed=done, note=note)


def counted(things: Iterable[Thing], bar: Bar, unit: str) -> Iterator[Thing]:
    """Yield the same things, and show their number so far on a bar after every 1,000."""
    for count, thing in enumerate(things):
        if count % 1_000 == 0:
            bar.update(count, unit)
        yield thing


@contextmanager
def bar(total: int, before: int = 0) -> Iterator[Bar]:
    """Show a bar while the block runs. It is drawn only on a terminal, and removed at the end.

    Items that were done `before` count as done, but not for the rate.
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
