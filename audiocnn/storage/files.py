"""A URI (a path, s3://, gs://, ...) -> list, read, write: the one way to storage.

Local paths are taken as they are, so names with `#`, `%` or `::` are safe; `s3://` goes through
`s3.py`, every other scheme through fsspec. A file is written whole or not at all: local ones
through a temporary file and a rename, objects by one PUT (in parts where large).
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

    For example `{"s3": {"endpoint_url": "http://127.0.0.1:8333", "anon": true}}`: what fsspec's
    own configuration files hold, and over them; options of an earlier call are forgotten.
    Raises ConfigError.
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
    """The options last given to `configure`, for processes that shall reach the same storage."""
    return dict(_options)


def is_local(uri: str) -> bool:
    """Whether a URI is a path of this machine."""
    return not _SCHEME.match(uri) or uri.startswith("file://")


def absolute(uri: str) -> str:
    """The URI as every process can use it: local paths made absolute, no slash at the end."""
    if is_local(uri):
        return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
    return uri.rstrip("/")


def real(uri: str) -> str:
    """The absolute URI; of a path of this machine the one that it leads to through links."""
    return os.path.realpath(absolute(uri)) if is_local(uri) else absolute(uri)


def join(uri: str, *parts: str) -> str:
    """A path below a URI."""
    return "/".join([uri.rstrip("/"), *parts])


def is_within(uri: str, folder: str) -> bool:
    """Whether an absolute URI is that of a folder, or of something below it."""
    return f"{uri}/".startswith(folder.rstrip("/") + "/")


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI, and the path in it. Raises StorageError."""
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
    """Whether a URI is read by `s3.py`."""
    return uri.startswith(("s3://", "s3a://"))


def s3_path(uri: str) -> str:
    """`bucket/key`; fsspec would take `?versionId=` or `::` in a key for its own."""
    return uri.split("://", 1)[1]


def s3() -> ModuleType:
    """`s3.py`, which imports clients that only `s3://` needs."""
    from audiocnn.storage.stores import s3

    return s3


def endpoint(uri: str) -> str:
    """Where requests for a URI go, for people."""
    if is_local(uri):
        return "this machine"
    return str(s3().endpoint()) if on_s3(uri) else uri.split("://", maxsplit=1)[0]


def arrow_filesystem(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The same filesystem and path, as pyarrow and Ray take them."""
    fs, path = filesystem(uri)
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs)), path


def translate_errors(function: Callable[P, R], *, read: bool = False) -> Callable[P, R]:
    """Turn what filesystems raise into one line that names the URI, the first argument.

    With `read`, into UnreadableError where the object at the URI is to blame.
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
            # Object stores' clients raise their own, which share no base.
            known = isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS
            if not known:
                raise
            if on_s3(uri):
                raise s3().explain(uri, error, time.monotonic() - begun, read=read) from error
            raise local.explain(uri, error, read=read) from error

    return call


@translate_errors
def exists(uri: str) -> bool:
    """Whether there is a file or folder. Raises StorageError where the bucket is missing."""
    if on_s3(uri):
        return bool(s3().exists(s3_path(uri)))
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


@partial(translate_errors, read=True)
def read_bytes(uri: str, most: int = -1, *, version: str | None = None) -> bytes:
    """The content of a file; with `most`, its first bytes, and one more where there are more.

    Raises UnreadableError where the fault is this file's, also where it is no longer of a
    `version` (of `listing.StoredFile`), and StorageError where others would fail like it.
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
    """Raise ChangedError where an object of another store is not of a version, if one is given."""
    if version and generic.size_version(*filesystem(uri))[1] != version:
        raise ChangedError(f"{uri}: {local.CHANGED}")


@partial(translate_errors, read=True)
def read_range(uri: str, offset: int, size: int, *, version: str | None = None) -> bytes:
    """`size` bytes of a file from `offset` on.

    Raises as `read_bytes` does, and UnreadableError where there are fewer.
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
    """A file to read and to seek in; where it is not local, by blocks, one of them in memory.

    One that is no larger than a block is one request, or two where its `size` is not given. All of
    it is of one version, where that or no `size` is given. Raises as `read_bytes` does, here and
    while it is read.
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
    """An object's size and version now; a HEAD's ETag has its quotes."""
    if on_s3(uri):
        size, tag = s3().head(s3_path(uri))
        return size, tag
    return generic.size_version(*filesystem(uri))


def prefetch(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """The results for items in their order, `count` of them on their way, in threads of their own.

    So that requests one after another do not wait for one another.
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
    """A name as UTF-8, with whatever is none escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_json(uri: str) -> Note:
    """A JSON object. Raises StorageError, and FormatError where it is none.

    Asked for a member that is not there, the object raises FormatError too.
    """
    return json_note.parse(uri, read_bytes(uri))


def read_format(uri: str, expected: str, what: str, *earlier: str) -> Note:
    """A JSON file of ours, of the format of this version or an earlier one.

    Raises StorageError where it is missing, FormatError for another format.
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
    """Write a file: complete, or not there at all. Folders are made as needed."""
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    with local.atomic_path(path) as temporary:
        Path(temporary).write_bytes(data)


@contextmanager
def atomic_path(uri: str) -> Iterator[str]:
    """A path of this machine to write a file to; at the end of the block it goes to the URI.

    There it is complete, or not there at all. Folders are made as needed. Raises StorageError,
    also where the block fails to write.
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
    limits = {"max_concurrency": 2} if on_s3(uri) else {}  # parts of 50 MB are in memory
    fs.put_file(path, target, **limits)


def write_json(uri: str, value: dict[str, Any]) -> None:
    """Write a JSON object, indented for people."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_parquet(uri: str, table: pa.Table) -> int:
    """Write a Parquet file; returns its size in bytes."""
    sink = pa.BufferOutputStream()
    with parquet.writer(sink, table.schema) as file:
        file.write_table(table)
    data = sink.getvalue().to_pybytes()
    write_bytes(uri, data)
    return len(data)


def read_parquet(uri: str) -> pa.Table:
    """A Parquet file as a table. Raises StorageError, and FormatError where it is damaged."""
    with parquet.opened(uri, pa.BufferReader(read_bytes(uri))) as file:
        return file.read()


@translate_errors
def remove(uri: str) -> None:
    """Remove a file where there is one; never a folder with what is in it."""
    fs, path = filesystem(uri)
    with suppress(FileNotFoundError):
        # Not fs.rm: it removes folders, and takes brackets in a name for a pattern.
        Path(path).unlink() if isinstance(fs, LocalFileSystem) else fs.rm_file(path)
