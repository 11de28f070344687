"""List the files below a URI page by page, so that a listing need not fit into memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from fsspec.implementations.local import LocalFileSystem

from audiocnn.storage import absolute, filesystem, join, on_s3, s3, s3_path, translate_errors
from audiocnn.storage.stores import generic, local

_PAGE = 1_000

_Found = tuple[str, int, str]
"""A file's path in its file system, its size in bytes and its version."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A listed file: its URI, its path below the listed folder, and its size in bytes."""

    uri: str
    path: str
    size: int
    version: str = ""
    """Text that changes when the file is rewritten: its ETag, or its size and time of change."""


def list_files(uri: str) -> list[StoredFile]:
    """Return all current files below a folder, sorted by path. Raises as `iter_files` does."""
    return sorted(iter_files(uri), key=lambda file: file.path)


def iter_files(uri: str) -> Iterator[StoredFile]:
    """Yield all current files below a folder, in the store's order.

    Of S3 one page is in memory at a time, of a local disk one folder; fsspec lists other stores in
    one piece. Empty objects ending in `/`, which represent folders, are left out. Raises
    StorageError if there is no folder, NotAFolderError if the URI names a file.
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
    """Return the next page that is not empty; an empty list at the end. Raises StorageError."""
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
    """Return the names of a folder's subfolders; none if it is missing. Raises StorageError."""
    if on_s3(uri):
        found: list[str] = s3().folders(s3_path(absolute(uri)))
        return found
    fs, path = filesystem(absolute(uri))
    if isinstance(fs, LocalFileSystem):
        return local.folders(path)
    return generic.folders(fs, path)


@translate_errors
def stored_file(uri: str) -> StoredFile:
    """Return one file as a listing of its folder has it. Raises StorageError if it is no file."""
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
