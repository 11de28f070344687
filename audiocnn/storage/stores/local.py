"""Files of this machine: listed through links, opened only where they are files, placed whole."""

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
"""Names of temporary files. Until November 2026 all digits were of chance; first ones had no
`audiocnn-`."""
_OLD_S = 86_400
"""Seconds without a change after which a temporary file of another machine is nobody's."""

_ONE_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EINVAL,
}  # fmt: skip
"""What opening or reading a local file may say about that file alone."""


def require_folder(uri: str, path: str) -> None:
    """Raise StorageError where there is no folder, NotAFolderError where it is a file."""
    if os.path.isdir(path):
        return
    if os.path.exists(path):
        raise NotAFolderError(f"{uri}: not a folder")
    raise StorageError(f"{uri}: not found")


def walk(root: str) -> Iterator[tuple[str, int, str]]:
    """Names, sizes and versions of all that lies below a local folder, through links, in order.

    A folder that cannot be read raises.
    """

    def stop(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back to where we came from
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                found = size_version(path)
            except FileNotFoundError:  # it is gone since its folder was read
                continue
            yield path, *found


def folders(path: str) -> list[str]:
    """Names of the folders in a local folder, in order; none where there is no folder."""
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def size_version(path: str) -> tuple[int, str]:
    """A local file's size, and what changes when it is written anew."""
    # A link that leads nowhere is listed too: whoever reads it says so.
    status = os.stat(path) if os.path.exists(path) else os.lstat(path)
    return status.st_size, _version(status)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


class _OneVersion(io.FileIO):
    """A file that is read as long as it is of one version: the one given, or that of now.

    Raises ChangedError.
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
        """Fill a buffer, as `FileIO` does."""
        count = super().readinto(buffer)
        self._require()
        return count

    def readall(self) -> bytes:
        """What is left, as `FileIO` gives it."""
        data = super().readall()
        self._require()
        return data

    def _now(self) -> str:
        return _version(os.fstat(self.fileno()))

    def _require(self) -> None:
        # After what was read: the system sets the time before it writes.
        if self._now() != self._version:
            raise ChangedError(f"{self.name}: {CHANGED}")


def open_file(path: str, version: str | None = None) -> BinaryIO:
    """A local file, opened where it is one: a pipe or a device could block or act on it.

    Raises ChangedError, here and while it is read, where it is no longer of that version, or no
    longer of the one that it was opened with.
    """
    if "\0" in path:
        raise UnreadableError(f"{path!r}: its name is none that a file can have")
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UnreadableError(f"{path}: {what}")
    return io.BufferedReader(_OneVersion(path, version))


def advise_read(path: str, offset: int, size: int) -> None:
    """Have the system fetch a file's bytes, where it can be told to; nothing waits for them."""
    # Whoever reads it says what is wrong with it. Not every system can be told.
    with suppress(OSError, UnreadableError, AttributeError), open_file(path) as file:
        os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)


@contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """A path beside this one to write a file to, which takes its place once it is on the disk.

    It says by its name that it is ours, and of which process: see `is_left`.
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
    """12 hex digits that name this machine, since it was started, and the processes seen there."""
    said = socket.gethostname()
    with suppress(OSError):
        said += Path("/proc/sys/kernel/random/boot_id").read_text()
        said += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def is_temporary(path: str) -> bool:
    """Whether a path is one of a file that was never put in its place."""
    return _TEMPORARY.fullmatch(os.path.basename(path)) is not None


def is_left(path: str) -> bool:
    """Whether a path is one of a temporary file that nobody will put in its place any more.

    Its process has ended, or it was last changed a day ago: that process may be on another machine,
    or another one may have its number by now.
    """
    name = _TEMPORARY.fullmatch(os.path.basename(path))
    if name is None:
        return False
    if name["place"] == _place() and not _runs(int(name["process"], 16)):
        return True
    with suppress(FileNotFoundError):  # it is in its place by now
        return time.time() - os.stat(path).st_mtime > _OLD_S
    return False


def _runs(process: int) -> bool:
    """Whether there is a process of this number, which has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    with suppress(OSError):  # one that was killed has its number until its parent asks for it
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def explain(uri: str, error: Exception, *, read: bool) -> StorageError:
    """One line on an error of files; UnreadableError where it is about the one that is read."""
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
