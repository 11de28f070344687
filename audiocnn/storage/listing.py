"""What lies below a URI: listed page by page, so that a bucket may hold more than memory does."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from fsspec.implementations.local import LocalFileSystem

from audiocnn.storage import absolute, filesystem, join, on_s3, s3, s3_path, translate_errors
from audiocnn.storage.stores import generic, local

_PAGE = 1_000

_Found = tuple[str, int, str]
"""A file's path in its filesystem, its size and its version."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A listed file: its URI, its path below the listed root, its size in bytes."""

    uri: str
    path: str
    size: int
    version: str = ""
    """Another one where the content was written anew: an ETag, or size and time of change."""


def list_files(uri: str) -> list[StoredFile]:
    """Every file below a folder, sorted by path, as it is now. Raises as `iter_files` does."""
    return sorted(iter_files(uri), key=lambda file: file.path)


def iter_files(uri: str) -> Iterator[StoredFile]:
    """Every file below a folder as it is now, in the store's order; a page at a time in memory.

    The empty objects ending in `/` that stand for folders are left out. Raises StorageError where
    there is no folder, NotAFolderError where it is a file.
    """
    pages = _pages(uri)
    _, root = filesystem(absolute(uri))
    prefix, base = root.rstrip("/") + "/", absolute(uri)
    while page := _next(uri, pages):
        for name, size, version in page:
            if path := name.removeprefix(prefix):
                yield StoredFile(uri=join(base, path), path=path, size=size, version=version)


@translate_errors
def _next(uri: str, pages: Iterator[list[_Found]]) -> list[_Found]:
    """The next page that has something on it. Raises StorageError."""
    return next((page for page in pages if page), [])


def _pages(uri: str) -> Iterator[list[_Found]]:
    if on_s3(uri):
        yield from s3().pages(s3_path(absolute(uri)))
        return
    fs, root = filesystem(absolute(uri))
    if isinstance(fs, LocalFileSystem):
        local.require_folder(uri, root)
        found = local.walk(root)
    else:
        found = generic.find(fs, root, uri)
    while page := list(islice(found, _PAGE)):
        yield page


@translate_errors
def folders(uri: str) -> list[str]:
    """Names of the folders in a folder; none where there is no folder. Raises StorageError."""
    if on_s3(uri):
        found: list[str] = s3().folders(s3_path(absolute(uri)))
        return found
    fs, path = filesystem(absolute(uri))
    if isinstance(fs, LocalFileSystem):
        return local.folders(path)
    return generic.folders(fs, path)


@translate_errors
def stored_file(uri: str) -> StoredFile:
    """One file, as its folder's listing has it. Raises StorageError where it is none."""
    fs, path = filesystem(absolute(uri))
    if isinstance(fs, LocalFileSystem):
        with local.open_file(path):
            size, version = local.size_version(path)
    elif on_s3(uri):
        size, version = s3().head(s3_path(uri))
    else:
        size, version = generic.size_version(fs, path)
    name = path.rsplit("/", 1)[-1]
    return StoredFile(uri=absolute(uri), path=name, size=size, version=(version or "").strip('"'))
