"""A URI (a path, s3://, gs://, ...) -> list, read, write: the one way to storage.

Local paths are taken as they are, so names with `#`, `%` or `::` are safe; everything with a
scheme goes through fsspec. A file is written whole or not at all: local ones through a
temporary file and a rename, objects by one PUT.
"""

import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
from fsspec.implementations.local import LocalFileSystem

from audiocnn.errors import ConfigError, FormatError, StorageError

P = ParamSpec("P")
R = TypeVar("R")

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
    if not fs.isdir(root):
        raise StorageError(f"{uri}: {'not a folder' if fs.exists(root) else 'not found'}")
    if is_local(uri) and not os.access(root, os.R_OK | os.X_OK):
        raise StorageError(f"{uri}: access denied")
    found = fs.find(root, detail=True)
    prefix = root.rstrip("/") + "/"
    base = absolute(uri)
    return [
        StoredFile(
            uri=join(base, name.removeprefix(prefix)),
            path=name.removeprefix(prefix),
            size=int(info["size"]),
        )
        for name, info in sorted(found.items())
    ]


@_reported
def read_bytes(uri: str) -> bytes:
    """The content of a file."""
    fs, path = filesystem(uri)
    with fs.open(path, "rb") as file:
        data: bytes = file.read()
    return data


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
def read_parquet(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file as a table. Raises StorageError, and FormatError where it is damaged."""
    fs, path = filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            return pa.parquet.read_table(file, columns=columns)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{uri}: not a Parquet file, or a damaged one ({error})") from error


@_reported
def remove(uri: str) -> None:
    """Remove a file or folder where there is one."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def claim(uri: str, marker: str, owned: tuple[str, ...], *, overwrite: bool) -> str:
    """Make ready to write an output folder, and return its absolute URI.

    `marker` is the file that is written last and makes the output whole. Where it is there, the
    output is refused, or with `overwrite` its `owned` files and folders are removed: never
    anything else that somebody keeps beside them. Raises ConfigError.
    """
    uri = absolute(uri)
    if exists(join(uri, marker)):
        if not overwrite:
            raise ConfigError(
                f"--to {uri}: {marker} is there already; name another folder, or pass --overwrite"
            )
        for name in (marker, *owned):
            remove(join(uri, name))
    return uri
