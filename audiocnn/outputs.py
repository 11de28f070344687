"""The folder that a job writes: that it may be written, and what an earlier run left in it."""

from collections.abc import Collection
from fnmatch import fnmatchcase

from audiocnn import local
from audiocnn.errors import ConfigError
from audiocnn.listing import StoredFile, list_files
from audiocnn.storage import absolute, exists, is_local, join, remove


def resolve(uri: str) -> str:
    """The absolute URI of an output folder. Raises ConfigError for stores others do not see."""
    uri = absolute(uri)
    if uri.startswith("memory://"):
        raise ConfigError(f"--to {uri}: the workers are other processes and would not see it")
    return uri


def claim(uri: str, marker: str, *, overwrite: bool) -> str:
    """The absolute URI of an output folder, once it is clear that it may be written.

    `marker` is the file that is written last and makes the output whole. Nothing is removed yet.
    Raises ConfigError where it is there and `overwrite` is not given, and for stores that other
    processes do not see.
    """
    uri = resolve(uri)
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
    # Listed first: an object store's folder is gone with its last file.
    files = below(uri)
    remove(join(uri, marker))
    for file in files:
        if _is_owned(file.path, owned):
            remove(file.uri)


def sweep(uri: str, folder: str, owned: tuple[str, ...], kept: Collection[str]) -> int:
    """Remove the job's own files in a folder of an output but for some; the bytes of these.

    `owned` are patterns as for `clear`, `kept` paths; both are of paths below `uri`.
    """
    size = 0
    for file in below(join(uri, folder)):
        path = f"{folder}/{file.path}"
        if path in kept:
            size += file.size
        elif _is_owned(path, owned):
            remove(file.uri)
    return size


def remove_unfinished(uri: str) -> None:
    """Remove the files that killed processes of ours began to write to a folder of this machine.

    Object stores have none: there a file is whole or not at all.
    """
    if is_local(uri):
        local.remove_unfinished(absolute(uri))


def below(uri: str) -> list[StoredFile]:
    """Every file below a folder, sorted by path; none where there is no folder."""
    return list_files(uri) if exists(uri) else []


def _is_owned(path: str, owned: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in owned)
