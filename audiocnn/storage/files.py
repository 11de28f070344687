"""Read, write and remove files by URI (a path, s3://, gs://, ...). All storage access uses this.

Local paths are used as they are, so names with `#`, `%` or `::` are safe. `s3://` goes through
`s3.py`, every other scheme through fsspec. A file is written completely or not at all: a local file
by a temporary file and a rename, an object by one PUT (a large one by a multipart upload).
"""

import io
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, ParamSpec, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from audiocnn.errors import (
    AudioCNNError,
    ChangedError,
    ConfigError,
    FormatError,
    StorageError,
    UnreadableError,
)
from audiocnn.storage import json_note, parquet
from audiocnn.storage.json_note import Note
from audiocnn.storage.scratch import Scratch
from audiocnn.storage.stores import generic, local
from audiocnn.storage.stores.range_file import RangeFile

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_CLIENTS = {"aiohttp", "aiobotocore", "botocore", "s3fs", "obstore"}
_CLIENTS |= {"gcsfs", "google", "adlfs", "azure"}
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_options: dict[str, dict[str, Any]] = {}


def configure(options: dict[str, dict[str, Any]]) -> None:
    """Set how this process reaches storage: fsspec's options by protocol.

    For example `{"s3": {"endpoint_url": "http://127.0.0.1:8333", "anon": true}}`. The options have
    the form of fsspec's configuration files and take precedence over them. They replace the options
    of an earlier call. Raises ConfigError.
    """
    if not isinstance(options, dict) or not all(isinstance(v, dict) for v in options.values()):
        raise ConfigError(
            '--storage-options: not of the form {"s3": {"endpoint_url": "http://..."}}'
        )
    for protocol in options:
        if protocol not in fsspec.available_protocols():
            raise ConfigError(f"--storage-options: there is no protocol {protocol!r}")
    config = fsspec.config
    config.conf.clear()
    config.set_conf_files(config.conf_dir, config.conf)
    config.set_conf_env(config.conf)
    for protocol, values in options.items():
        config.conf[protocol] = {**config.conf.get(protocol, {}), **values}
    _options.clear()
    _options.update(options)
    if "audiocnn.storage.stores.s3" in sys.modules:
        s3().forget()


def configured() -> dict[str, dict[str, Any]]:
    """Return the options of the last `configure`, for other processes that use the same storage."""
    return dict(_options)


def is_local(uri: str) -> bool:
    """Return whether a URI is a path on this machine."""
    return not _SCHEME.match(uri) or uri.startswith("file://")


def absolute(uri: str) -> str:
    """Return a URI that is valid in every process: local paths absolute, no slash at the end."""
    if is_local(uri):
        return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
    return uri.rstrip("/")


def real(uri: str) -> str:
    """Return the absolute URI; links in a local path are resolved."""
    return os.path.realpath(absolute(uri)) if is_local(uri) else absolute(uri)


def join(uri: str, *parts: str) -> str:
    """Return the URI of a path below a URI."""
    return "/".join([uri.rstrip("/"), *parts])


def is_within(uri: str, folder: str) -> bool:
    """Return whether an absolute URI is the folder's, or that of a file or folder below it."""
    return f"{uri}/".startswith(folder.rstrip("/") + "/")


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the fsspec file system of a URI, and the path in it. Raises StorageError."""
    if is_local(uri):
        return LocalFileSystem(), absolute(uri)
    if on_s3(uri):
        return s3().filesystem(), s3_path(uri)
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: {error}") from error
    return fs, path


def on_s3(uri: str) -> bool:
    """Return whether `s3.py` handles a URI."""
    return uri.startswith(("s3://", "s3a://"))


def s3_path(uri: str) -> str:
    """Return `bucket/key`. fsspec itself would interpret `?versionId=` and `::` in a key."""
    return uri.split("://", 1)[1]


def s3() -> ModuleType:
    """Import and return `s3.py`: only `s3://` needs its clients."""
    from audiocnn.storage.stores import s3

    return s3


def endpoint(uri: str) -> str:
    """Return the place that requests for a URI go to, for messages."""
    if is_local(uri):
        return "this machine"
    return str(s3().endpoint()) if on_s3(uri) else uri.split("://", maxsplit=1)[0]


def translate_errors(function: Callable[P, R], *, read: bool = False) -> Callable[P, R]:
    """Decorate a function of a URI: errors of file systems and clients become StorageError.

    The URI is the first argument, and the message is one line that names it. With `read`, the error
    is UnreadableError if its cause is this object alone.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given, begun = str(args[0]), time.monotonic()
        uri = printable(given)
        if read and uri != given:
            raise UnreadableError(f"{uri}: its name is not UTF-8")
        try:
            return function(*args, **kwargs)
        except AudioCNNError:
            raise
        except Exception as error:
            # The clients of object stores raise their own errors, without a common base class.
            known = isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS
            if not known:
                raise
            if on_s3(uri):
                raise s3().explain(uri, error, time.monotonic() - begun, read=read) from error
            raise local.explain(uri, error, read=read) from error

    return call


@translate_errors
def exists(uri: str) -> bool:
    """Return whether a file or folder exists. Raises StorageError if the bucket is missing."""
    if on_s3(uri):
        return bool(s3().exists(s3_path(uri)))
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


@partial(translate_errors, read=True)
def read_bytes(uri: str, most: int = -1, *, version: str | None = None) -> bytes:
    """Return the content of a file; with `most`, only the first `most` + 1 bytes.

    The extra byte shows that the file is longer than `most`. `version` is that of
    `listing.StoredFile`. Raises UnreadableError if only this file cannot be read (ChangedError if
    it no longer has this version), and StorageError if other files would fail too.
    """
    if on_s3(uri):
        return bytes(s3().read(s3_path(uri), most, version))
    if is_local(uri):
        with local.open_file(absolute(uri), version) as file:
            size = os.fstat(file.fileno()).st_size
            return file.read() if most < 0 else file.read(min(size, most) + 1)
    fs, path = filesystem(uri)
    with fs.open(path, "rb") as file:
        data: bytes = file.read(most + 1 if most >= 0 else -1)
    _require(uri, version)
    return data


def _require(uri: str, version: str | None) -> None:
    """Raise ChangedError if an object of a generic store does not have the given version."""
    if version and generic.size_version(*filesystem(uri))[1] != version:
        raise ChangedError(f"{uri}: {local.CHANGED}")


@partial(translate_errors, read=True)
def read_range(uri: str, offset: int, size: int, *, version: str | None = None) -> bytes:
    """Return `size` bytes of a file from `offset` on.

    Raises as `read_bytes` does, and UnreadableError if the file has fewer bytes.
    """
    if not size:
        return b""
    if on_s3(uri):
        data = bytes(s3().read_range(s3_path(uri), offset, size, version))
    elif is_local(uri):
        with local.open_file(absolute(uri), version) as file:
            file.seek(offset)
            data = file.read(size)
    else:
        fs, path = filesystem(uri)
        data = fs.cat_file(path, start=offset, end=offset + size)
        _require(uri, version)
    if len(data) != size:
        raise UnreadableError(f"{uri}: it is shorter than expected")
    return data


@partial(translate_errors, read=True)
def open_binary(
    uri: str, *, block_bytes: int = 8 << 20, version: str | None = None, size: int | None = None
) -> BinaryIO:
    """Open a file for reading and seeking. A remote file is read in blocks; one is in memory.

    A remote file up to one block long takes one request, or two if `size` (in bytes) is not given.
    The whole file is read in one version, except a remote file with a `size` but no `version`.
    Raises as `read_bytes` does, here and while the file is read.
    """
    if is_local(uri):
        return local.open_file(absolute(uri), version)
    if size is None:
        size, now = _size_version(uri)
        if version and now and now.strip('"') != version:
            raise ChangedError(f"{uri}: {local.CHANGED}")
        version = now
    read = partial(read_range, uri, version=version)
    if size <= block_bytes:
        return io.BytesIO(read(0, size))
    return io.BufferedReader(RangeFile(read, size), block_bytes)


def _size_version(uri: str) -> tuple[int, str | None]:
    """Return an object's current size in bytes and version; the ETag of a HEAD has quotes."""
    if on_s3(uri):
        size, tag = s3().head(s3_path(uri))
        return size, tag
    return generic.size_version(*filesystem(uri))


def prefetch(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Yield `function(item)` for each item, in order; up to `count` calls run in threads at once.

    Use it for requests: they run side by side and do not wait for each other.
    """
    with ThreadPoolExecutor(count) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def printable(text: str) -> str:
    """Return a name that can be encoded as UTF-8; characters that cannot be are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_json(uri: str) -> Note:
    """Read a JSON object. Raises StorageError, and FormatError if the file has none.

    `note[name]` on the result raises FormatError too if the member is missing.
    """
    return json_note.parse(uri, read_bytes(uri))


def read_format(uri: str, expected: str, what: str, *earlier: str) -> Note:
    """Read a JSON file of audiocnn with the format `expected` or one of the `earlier` formats.

    `what` names the artefact in messages. Raises StorageError if the file is missing, FormatError
    for another format.
    """
    if not exists(uri):
        folder, _, name = uri.rpartition("/")
        raise StorageError(f"{folder}: no {what} there ({name} not found)")
    plain = read_json(uri)
    found = plain.get("format")
    if found not in (expected, *earlier):
        raise FormatError(f"{uri}: its format is {found!r}; this version reads {expected!r}")
    return plain


@translate_errors
def write_bytes(uri: str, data: bytes) -> None:
    """Write a file completely or not at all. Creates missing folders. Raises StorageError."""
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    with local.atomic_path(path) as temporary:
        Path(temporary).write_bytes(data)


@contextmanager
def atomic_path(uri: str) -> Iterator[str]:
    """Yield a local path to write a file to; at the end of the block the file goes to the URI.

    It arrives there completely or not at all. Missing folders are created. Raises StorageError,
    also if the block fails to write.
    """
    try:
        if is_local(uri):
            with local.atomic_path(absolute(uri)) as path:
                yield path
            return
        with Scratch() as folder:
            path = os.path.join(folder, "file")
            yield path
            _upload(uri, path)
    except OSError as error:
        raise local.explain(uri, error, read=False) from error


@translate_errors
def _upload(uri: str, path: str) -> None:
    fs, target = filesystem(uri)
    limits = {"max_concurrency": 2} if on_s3(uri) else {}  # each part, in memory, is 50 MB
    fs.put_file(path, target, **limits)


def write_json(uri: str, value: dict[str, Any]) -> None:
    """Write a JSON object, indented so that people can read it. Raises StorageError."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_parquet(uri: str, table: pa.Table) -> int:
    """Write a Parquet file and return its size in bytes. Raises StorageError."""
    sink = pa.BufferOutputStream()
    with parquet.writer(sink, table.schema) as file:
        file.write_table(table)
    data = sink.getvalue().to_pybytes()
    write_bytes(uri, data)
    return len(data)


def read_parquet(uri: str) -> pa.Table:
    """Read a Parquet file as a table. Raises StorageError, and FormatError if it is damaged."""
    with parquet.opened(uri, pa.BufferReader(read_bytes(uri))) as file:
        return file.read()


@translate_errors
def remove(uri: str) -> None:
    """Remove a file if it exists; a folder is never removed with its content."""
    fs, path = filesystem(uri)
    with suppress(FileNotFoundError):
        # Not fs.rm: it removes folders, and treats brackets in a name as a pattern.
        Path(path).unlink() if isinstance(fs, LocalFileSystem) else fs.rm_file(path)
