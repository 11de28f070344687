"""Stores other than S3 and local disks (gs, az, memory, ...), through fsspec.

fsspec cannot read a given version of an object. So after each read the object's current version is
requested. If it is still the listed version, the bytes that were read belong to it too.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import fsspec

from audiocnn.errors import NotAFolderError, StorageError


def find(fs: fsspec.AbstractFileSystem, root: str, uri: str) -> Iterator[tuple[str, int, str]]:
    """Yield the names, sizes in bytes and versions of all files below a root.

    fsspec lists them in one piece. Raises StorageError, which names the URI, if there is no folder,
    and NotAFolderError if it is a file.
    """
    fs.invalidate_cache()  # fsspec would keep a listing for ever
    found = [info for info in fs.find(root, detail=True).values() if info["type"] == "file"]
    found = [info for info in found if info["size"] or not info["name"].endswith("/")]
    if any(info["name"] == root for info in found):
        raise NotAFolderError(f"{uri}: not a folder")
    if not found and not fs.isdir(root):
        raise StorageError(f"{uri}: not found")
    for info in found:
        yield info["name"], *_size_version(info)


def folders(fs: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Return the names of a folder's subfolders, sorted; none if there is no such folder."""
    fs.invalidate_cache()
    if not fs.isdir(path):
        return []
    found = (info for info in fs.ls(path, detail=True) if info["type"] == "directory")
    return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found)


def size_version(fs: fsspec.AbstractFileSystem, path: str) -> tuple[int, str]:
    """Return an object's current size in bytes and version, as `find` gives them."""
    fs.invalidate_cache()
    return _size_version(fs.info(path))


def _size_version(info: dict[str, Any]) -> tuple[int, str]:
    """Return size and version: the ETag, or the size and, if the store gives one, a time."""
    size = int(info["size"])
    if tag := info.get("ETag") or info.get("etag"):
        return size, str(tag).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("created")
    if isinstance(changed, int | float):  # from a listing; info() gives a datetime
        changed = datetime.fromtimestamp(changed, UTC)
    return size, f"{size}-{changed}"
