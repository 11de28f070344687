"""Temporary folders of this machine that are removed also where their process was killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from functools import cache
from typing import IO

_MARK = ".audiocnn-scratch"
"""A file that is locked as long as the process lives whose folder it is in."""


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder, as `tempfile` has them, in `folder` or where the system has such.

    The first one there in a process removes those that killed processes left: folders with our
    mark, which nobody holds locked.
    """

    def __init__(self, folder: str | None = None) -> None:
        folder = folder or tempfile.gettempdir()
        _remove_left(folder)
        super().__init__(prefix="audiocnn-", dir=folder, ignore_cleanup_errors=True)
        self._lock = _mark(self.name)

    def cleanup(self) -> None:
        """Remove the folder, with whatever others are writing there."""
        super().cleanup()
        self._lock.close()


def _mark(folder: str) -> IO[bytes]:
    """Put the mark into a folder, locked before it can be seen."""
    path = os.path.join(folder, _MARK)
    file = open(path + ".new", "wb")  # noqa: SIM115
    with contextlib.suppress(OSError):  # a file system without locks: it is never removed
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(path + ".new", path)
    return file


@cache
def _remove_left(folder: str) -> None:
    """Remove the marked folders there that nobody holds."""
    for entry in os.scandir(folder):
        mark = os.path.join(entry.path, _MARK)
        if not entry.name.startswith("audiocnn-") or not os.path.isfile(mark):
            continue
        # Another user's cannot be opened; one that went meanwhile is not there.
        with contextlib.suppress(OSError), open(mark, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path)
