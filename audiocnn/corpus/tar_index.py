"""Index a tar archive from its headers: its members, and the positions of their bytes.

Only headers and the requested small members are read (from object stores in blocks of 64 KiB). The
cost depends on the number of members, not on the size of the archive.
"""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from audiocnn import storage
from audiocnn.storage.listing import StoredFile

_READ_AHEAD = 64 << 10
_BLOCK = 512
_MOST_BYTES = 1 << 20

# Errors that tarfile raises for malformed or hostile headers.
_BAD_HEADERS = (tarfile.TarError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file in a tar: `size` bytes from `offset` on.

    `content` is its bytes, if they were requested and are at most 1 MiB.
    """

    name: str
    offset: int
    size: int
    content: bytes | None = None


@dataclass(kw_only=True)
class Index:
    """The members of a tar, as far as it could be read.

    Links, folders, devices and sparse files are left out. If the tar does not end correctly,
    `damage` is a key of FAILURE_REASONS and a detail.
    """

    members: list[Member] = field(default_factory=list)
    damage: tuple[str, str] | None = None


class _Headers:
    """A file for tarfile that refuses large reads: a header may claim a name of 40 GB."""

    def __init__(self, file: IO[bytes]) -> None:
        self.tell, self.seek, self._read = file.tell, file.seek, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes is not valid")
        return self._read(size)


def read_index(tar: StoredFile, is_text: Callable[[str], bool]) -> Index:
    """Return the index of a listed tar, with the content of members if `is_text(name)` is true.

    Raises StorageError, and ChangedError if the tar changed after it was listed.
    """
    version = tar.version or None
    with storage.open_binary(
        tar.uri, block_bytes=_READ_AHEAD, version=version, size=tar.size
    ) as file:
        return _index(file, tar.size, is_text)


def _index(file: IO[bytes], size: int, is_text: Callable[[str], bool]) -> Index:
    index, headers = Index(), _Headers(file)
    fileobj: Any = headers
    try:
        tar: Any = tarfile.open(fileobj=fileobj, mode="r:", encoding="utf-8")  # noqa: SIM115
    except _BAD_HEADERS as error:
        reason = "unrecognised" if size else "empty"
        return Index(damage=(reason, f"not a tar archive ({error})"))
    try:
        while (info := tar.next()) is not None:
            tar.members.clear()  # Otherwise tarfile keeps all members.
            if info.size < 0 or tar.offset <= info.offset:
                raise tarfile.ReadError("a header points backwards")
            if info.offset_data + (info.size if info.isreg() else 0) > size:
                index.damage = ("truncated", f"it ends in the middle of {info.name!r}")
                return index
            if info.isreg() and not info.issparse():
                index.members.append(_member(headers, info, is_text))
    except _BAD_HEADERS as error:
        reason = "truncated" if headers.tell() >= size else "unreadable"
        index.damage = (reason, f"{error}, at about byte {tar.offset} of {size}")
        return index
    index.damage = _wrong_end(file, tar.offset)
    return index


def _member(headers: _Headers, info: tarfile.TarInfo, is_text: Callable[[str], bool]) -> Member:
    content = None
    if is_text(info.name) and info.size <= _MOST_BYTES:
        headers.seek(info.offset_data)
        content = headers.read(info.size)
    return Member(name=info.name, offset=info.offset_data, size=info.size, content=content)


def _wrong_end(file: IO[bytes], at: int) -> tuple[str, str] | None:
    """Return why an archive does not end in empty blocks, as a reason and a detail, or None.

    tarfile reports no error in these cases.
    """
    file.seek(at)
    end = file.read(_READ_AHEAD)
    if len(end) < _BLOCK:
        return "truncated", "it has no end mark: members may be missing"
    if any(end[:_BLOCK]):
        return "unreadable", f"no header at byte {at}: the rest is not read"
    if any(end):
        return "unreadable", "more data follows its end mark and is not read"
    return None
