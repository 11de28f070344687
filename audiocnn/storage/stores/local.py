"""Local files: links are followed, only regular files are opened, files are written completely."""

import errno
import hashlib
import io
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from audiocnn.errors import (
    ChangedError,
    GoneError,
    NotAFolderError,
    StorageError,
    UnreadableError,
)

CHANGED = "it changed meanwhile"

_TEMPORARY = re.compile(
    r"\.(?:audiocnn-)?(?P<place>[0-9a-f]{12})(?P<process>[0-9a-f]{8})[0-9a-f]{12}\.tmp"
)
"""Pattern for the names of temporary files. Before November 2026 all digits were random. The first
versions wrote names without `audiocnn-`."""
_OLD_S = 86_400
"""Seconds without a change after which a temporary file of any machine counts as left."""

_ONE_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EINVAL,
}  # fmt: skip
"""Error numbers of opening or reading a local file that concern only that file."""


def require_folder(uri: str, path: str) -> None:
    """Raise StorageError if there is no folder, NotAFolderError if the path names a file."""
    if os.path.isdir(path):
        return
    if os.path.exists(path):
        raise NotAFolderError(f"{uri}: not a folder")
    raise StorageError(f"{uri}: not found")


def walk(root: str) -> Iterator[tuple[str, int, str]]:
    """Yield the names, sizes in bytes and versions of all files below a local folder, in order.

    Links are followed. Raises OSError if a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder that was listed before
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                found = size_version(path)
            except FileNotFoundError:  # removed after its folder was read
                continue
            yield path, *found


def folders(path: str) -> list[str]:
    """Return the names of a local folder's subfolders, sorted; none if there is no such folder."""
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def size_version(path: str) -> tuple[int, str]:
    """Return a local file's size in bytes, and a version, which changes when it is rewritten."""
    # A broken link is listed too: the error appears when the link is read.
    status = os.stat(path) if os.path.exists(path) else os.lstat(path)
    return status.st_size, _version(status)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


class _OneVersion(io.FileIO):
    """A file that can be read while it has one version: the given one, or that at the opening.

    Opening it and each read raise ChangedError if the file has another version.
    """

    def __init__(self, path: str, version: str | None) -> None:
        super().__init__(path)
        self._version = version or self._now()
        try:
            self._require()
        except ChangedError:
            self.close()
            raise

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as `FileIO` does. Raises ChangedError."""
        count = super().readinto(buffer)
        self._require()
        return count

    def readall(self) -> bytes:
        """Return the rest of the file, as `FileIO` does. Raises ChangedError."""
        data = super().readall()
        self._require()
        return data

    def _now(self) -> str:
        return _version(os.fstat(self.fileno()))

    def _require(self) -> None:
        # This check comes after the read: the system sets a file's time before it writes the data.
        if self._now() != self._version:
            raise ChangedError(f"{self.name}: {CHANGED}")


def open_file(path: str, version: str | None = None) -> BinaryIO:
    """Open a local file. Raises UnreadableError if it is not regular: a pipe or device could block.

    Raises ChangedError, here and while the file is read, if it does not have the given version, or
    no longer has the version that it was opened with.
    """
    if "\0" in path:
        raise UnreadableError(f"{path!r}: a file name cannot contain a NUL")
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise UnreadableError(f"{path}: {what}")
    return io.BufferedReader(_OneVersion(path, version))


def advise_read(path: str, offset: int, size: int) -> None:
    """Ask the system to load a range of a file into its cache, and do not wait for it."""
    # Errors of the file appear when it is read. Not every system has posix_fadvise.
    with suppress(OSError, UnreadableError, AttributeError), open_file(path) as file:
        os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)


@contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Yield a temporary path in the same folder; the file written there replaces `path` at the end.

    It is on the disk before it replaces `path`. Its name shows that audiocnn wrote it, and which
    process: see `is_left`.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    digits = f"{_place()}{os.getpid():08x}{secrets.token_hex(6)}"
    temporary = os.path.join(folder, f".audiocnn-{digits}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


@cache
def _place() -> str:
    """Return 12 hex digits that identify this machine, its last boot and the PID namespace."""
    said = socket.gethostname()
    with suppress(OSError):
        said += Path("/proc/sys/kernel/random/boot_id").read_text()
        said += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def is_temporary(path: str) -> bool:
    """Return whether a path has the name of a temporary file."""
    return _TEMPORARY.fullmatch(os.path.basename(path)) is not None


def is_left(path: str) -> bool:
    """Return whether a path is a temporary file that no process writes any more.

    Its process has ended, or the file has not changed for a day. The second rule is for processes
    of other machines, and for a process number that another process has by now.
    """
    name = _TEMPORARY.fullmatch(os.path.basename(path))
    if name is None:
        return False
    if name["place"] == _place() and not _runs(int(name["process"], 16)):
        return True
    with suppress(FileNotFoundError):  # it was renamed or removed meanwhile
        return time.time() - os.stat(path).st_mtime > _OLD_S
    return False


def _runs(process: int) -> bool:
    """Return whether a process with this number exists and has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    with suppress(OSError):  # a killed process keeps its number until its parent waits for it
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def explain(uri: str, error: Exception, *, read: bool) -> StorageError:
    """Return an error of one line; UnreadableError if only the file that was read is affected."""
    one = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
    kind: type[StorageError] = StorageError
    if read and (one or getattr(error, "errno", None) in _ONE_FILE):
        kind = UnreadableError
    if isinstance(error, FileNotFoundError):
        kind = GoneError if read else StorageError
        return kind(f"{uri}: not found")
    if isinstance(error, PermissionError):
        return kind(f"{uri}: access denied")
    return kind(f"{uri}: {getattr(error, 'strerror', None) or error}")
