"""A URI (a path, s3://, gs://, ...) -> list, read, write: the one way to storage.

Local paths are taken as they are, so names with `#`, `%` or `::` are safe; everything with a
scheme goes through fsspec. A file is written whole or not at all: local ones through a
temporary file and a rename, objects by one PUT.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
from fsspec.implementations.local import LocalFileSystem

from audiocnn.errors import ConfigError, FormatError, StorageError

P = ParamSpec("P")
R = TypeVar("R")

_CLIENTS = {"aiohttp", "aiobotocore", "botocore", "s3fs", "gcsfs", "google", "adlfs", "azure"}
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A listed file: its URI, its path below the listed root, its size in bytes."""

    uri: str
    path: str
    size: int


def is_local(uri: str) -> bool:
    """Whether a URI is a path of this machine."""
    return not _SCHEME.match(uri) or uri.startswith("file://")


def absolute(uri: str) -> str:
    """The URI as every process can use it: local paths made absolute, no slash at the end."""
    if is_local(uri):
        return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
    return uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """A path below a URI."""
    return "/".join([uri.rstrip("/"), *parts])


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI, and the path in it. Raises StorageError."""
    if is_local(uri):
        return LocalFileSystem(), absolute(uri)
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: {error}") from error
    return fs, path


def arrow_filesystem(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The same filesystem and path, as pyarrow and Ray take them."""
    fs, path = filesystem(uri)
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs)), path


def _reported(function: Callable[P, R]) -> Callable[P, R]:
    """Turn what filesystems raise into a StorageError that names the URI."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except FileNotFoundError as error:
            raise StorageError(f"{args[0]}: not found") from error
        except PermissionError as error:
            raise StorageError(f"{args[0]}: access denied") from error
        except OSError as error:
            raise StorageError(f"{args[0]}: {error.strerror or error}") from error
        except Exception as error:
            # Object stores' clients raise their own, which share no base.
            if type(error).__module__.split(".")[0] not in _CLIENTS:
                raise
            raise StorageError(f"{args[0]}: {error}") from error

    return call


@_reported
def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


@_reported
def list_files(uri: str) -> list[StoredFile]:
    """Every file below a folder, sorted by path. Raises StorageError where it is no folder."""
    fs, root = filesystem(uri)
    fs.invalidate_cache()  # an object store's listing is kept for ever otherwise
    if not fs.isdir(root):
        raise StorageError(f"{uri}: {'not a folder' if fs.exists(root) else 'not found'}")
    if isinstance(fs, LocalFileSystem):
        sizes = dict(_walk(root))
    else:
        sizes = {name: int(info["size"]) for name, info in fs.find(root, detail=True).items()}
    prefix = root.rstrip("/") + "/"
    base = absolute(uri)
    paths = {name.removeprefix(prefix): size for name, size in sizes.items()}
    return [
        StoredFile(uri=join(base, path), path=path, size=size)
        for path, size in sorted(paths.items())
    ]


def _walk(root: str) -> Iterator[tuple[str, int]]:
    """Files and sizes below a local folder, through links; a folder that cannot be read raises."""

    def stop(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back to where we came from
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield path, os.path.getsize(path)


@_reported
def read_bytes(uri: str, most: int = -1) -> bytes:
    """The content of a file; with `most`, its first bytes, and one more where there are more."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise StorageError(f"{printable(uri)}: its name is not UTF-8") from None
    fs, path = filesystem(uri)
    with fs.open(path, "rb") as file:
        data: bytes = file.read(most + 1 if most >= 0 else -1)
    return data


def printable(text: str) -> str:
    """A name as UTF-8, with whatever is none escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_json(uri: str) -> dict[str, Any]:
    """A JSON object. Raises StorageError, and FormatError where it is none."""
    try:
        value = json.loads(read_bytes(uri))
    except ValueError as error:
        raise FormatError(f"{uri}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{uri}: not a JSON object")
    return value


def read_format(uri: str, expected: str, what: str) -> dict[str, Any]:
    """A JSON file of ours. Raises StorageError where it is missing, FormatError for another one."""
    if not exists(uri):
        folder, _, name = uri.rpartition("/")
        raise StorageError(f"{folder}: no {what} there ({name} not found)")
    plain = read_json(uri)
    found = plain.get("format")
    if found != expected:
        raise FormatError(f"{uri}: its format is {found!r}; this version reads {expected!r}")
    return plain


@_reported
def write_bytes(uri: str, data: bytes) -> None:
    """Write a file: complete, or not there at all. Folders are made as needed."""
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_json(uri: str, value: dict[str, Any]) -> None:
    """Write a JSON object, indented for people."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_parquet(uri: str, table: pa.Table) -> int:
    """Write a Parquet file; returns its size in bytes."""
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    write_bytes(uri, data)
    return len(data)


@_reported
def read_parquet(uri: str) -> pa.Table:
    """A Parquet file as a table. Raises StorageError, and FormatError where it is damaged."""
    fs, path = filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            return pa.parquet.read_table(file)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{uri}: not a Parquet file, or a damaged one ({error})") from error


@_reported
def remove(uri: str) -> None:
    """Remove a file or folder where there is one."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem) and os.path.isdir(path):
        shutil.rmtree(path)
    elif isinstance(fs, LocalFileSystem):
        Path(path).unlink(missing_ok=True)
    else:
        for name in fs.find(path):  # not fs.rm: it takes brackets in a name for a pattern
            fs.rm_file(name)


def claim(uri: str, marker: str, *, overwrite: bool) -> str:
    """The absolute URI of an output folder, once it is clear that it may be written.

    `marker` is the file that is written last and makes the output whole. Nothing is removed yet.
    Raises ConfigError where it is there and `overwrite` is not given, and for stores that other
    processes do not see.
    """
    uri = absolute(uri)
    if uri.startswith("memory://"):
        raise ConfigError(f"--to {uri}: the workers are other processes and would not see it")
    if exists(join(uri, marker)) and not overwrite:
        raise ConfigError(
            f"--to {uri}: {marker} is there already; name another folder, or pass --overwrite"
        )
    return uri


def clear(uri: str, marker: str, owned: tuple[str, ...]) -> None:
    """Remove what an earlier run left of an output: the marker first, then files by pattern.

    Patterns (fnmatch, of paths below `uri`) name the job's own files, so that what somebody keeps
    beside them stays.
    """
    if not exists(uri):
        return
    remove(join(uri, marker))
    for file in list_files(uri):
        if any(fnmatchcase(file.path, pattern) for pattern in owned):
            remove(file.uri)
