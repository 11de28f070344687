"""Temporary local folders that are removed even if their process was killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from functools import cache
from typing import IO

_MARK = ".audiocnn-scratch"
"""Name of the mark, a file in each folder. The folder's process locks it while it lives."""


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder like those of `tempfile`, in `folder` or in the system's default place.

    The first one that a process creates there removes the leftovers of killed processes: the
    folders with our mark that no process holds locked.
    """

    def __init__(self, folder: str | None = None) -> None:
        folder = folder or tempfile.gettempdir()
        _remove_left(folder)
        super().__init__(prefix="audiocnn-", dir=folder, ignore_cleanup_errors=True)
        self._lock = _mark(self.name)

    def cleanup(self) -> None:
        """Remove the folder with its content, even if other processes still write there."""
        super().cleanup()
        self._lock.close()


def _mark(folder: str) -> IO[bytes]:
    """Put the mark into a folder; it is locked before other processes can see it."""
    path = os.path.join(folder, _MARK)
    file = open(path + ".new", "wb")  # noqa: SIM115
    with contextlib.suppress(OSError):  # a file system without locks: the mark never appears
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(path + ".new", path)
    return file


@cache
def _remove_left(folder: str) -> None:
    """Remove the marked folders in `folder` that no process holds locked."""
    for entry in os.scandir(folder):
        mark = os.path.join(entry.path, _MARK)
        if not entry.name.startswith("audiocnn-") or not os.path.isfile(mark):
            continue
        # OSError: the mark is locked, belongs to another user, or was removed meanwhile.
        with contextlib.suppress(OSError), open(mark, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path)
