"""Stores that are neither S3 nor this machine's disk (gs, az, memory, ...), as fsspec reaches them.

fsspec cannot be asked for one version of an object. So the store is asked after each read whether
the object still is of the version that was listed: then what was read is of it too.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import fsspec

from audiocnn.errors import NotAFolderError, StorageError


def find(fs: fsspec.AbstractFileSystem, root: str, uri: str) -> Iterator[tuple[str, int, str]]:
    """Names, sizes and versions of all that lies below a root; fsspec lists it whole.

    Raises StorageError, which names the URI, where it is no folder.
    """
    fs.invalidate_cache()  # a listing is kept for ever otherwise
    found = [info for info in fs.find(root, detail=True).values() if info["type"] == "file"]
    found = [info for info in found if info["size"] or not info["name"].endswith("/")]
    if any(info["name"] == root for info in found):
        raise NotAFolderError(f"{uri}: not a folder")
    if not found and not fs.isdir(root):
        raise StorageError(f"{uri}: not found")
    for info in found:
        yield info["name"], *_size_version(info)


def folders(fs: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Names of the folders in a folder, in order; none where there is no folder."""
    fs.invalidate_cache()
    if not fs.isdir(path):
        return []
    found = (info for info in fs.ls(path, detail=True) if info["type"] == "directory")
    return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found)


def size_version(fs: fsspec.AbstractFileSystem, path: str) -> tuple[int, str]:
    """An object's size and version now, as `find` has them."""
    fs.invalidate_cache()
    return _size_version(fs.info(path))


def _size_version(info: dict[str, Any]) -> tuple[int, str]:
    """The version is its ETag, or its size and a time where the store tells any."""
    size = int(info["size"])
    if tag := info.get("ETag") or info.get("etag"):
        return size, str(tag).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("created")
    if isinstance(changed, int | float):  # by a listing, where the object's own answer has a date
        changed = datetime.fromtimestamp(changed, UTC)
    return size, f"{size}-{changed}"
