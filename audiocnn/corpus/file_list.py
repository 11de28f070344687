"""Files for people: the list of what a job wrote below a folder, and what others changed of it.

The list is a JSON file with the SHA-256 that each file was left with. A file that is no longer
like that is somebody's work: before the job writes or removes a file of that path, it copies it
to `PATH.kept-1` (2, ...).
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from audiocnn import storage
from audiocnn.errors import GoneError
from audiocnn.storage import output_folder

_AT_ONCE = 8

Told = Callable[[str, str], None]
"""Called with the path of a file that somebody changed, and the path where it is kept."""


def _is_below(path: str) -> bool:
    """Whether a path leads to a file below the folder that it begins at."""
    return not {"", ".", ".."}.intersection(path.split("/"))


class FileList:
    """The files that a job writes below the folder `uri`, listed in the file `name` there."""

    def __init__(self, uri: str, name: str, told: Told = lambda path, kept: None) -> None:
        self.uri = uri
        self._list = storage.join(uri, name)
        self._told = told
        plain = storage.read_json(self._list) if storage.exists(self._list) else {}
        files = plain.get("files")
        listed = files.items() if isinstance(files, dict) else ()
        # What lies elsewhere the job has not written, whoever wrote the list.
        self._before: dict[str, str] = {path: sha for path, sha in listed if _is_below(path)}
        self._now: dict[str, str] = {}
        self._there: dict[str, set[str]] = {}

    @contextmanager
    def placed(self, path: str) -> Iterator[str]:
        """A path of this machine to write a file to, which then goes to `path` below the folder.

        Raises StorageError as `storage.atomic_path` does.
        """
        is_there = self._is_there(path)
        with storage.atomic_path(storage.join(self.uri, path)) as temporary:
            yield temporary
            with open(temporary, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if is_there and self._digest(path) not in (digest, self._before.get(path), None):
                self._keep(path)
        self._now[path] = digest

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file of the list. Raises StorageError."""
        with self.placed(path) as temporary, open(temporary, "wb") as file:
            file.write(data)

    def clear(self, *others: str) -> None:
        """Remove `others` where they are there, and then what the list has, the last first.

        What is not as the list has it is kept beside. What a killed job was writing goes too.
        """
        self._remove(list(dict.fromkeys([*others, *reversed(self._before)])))
        self._before = {}
        output_folder.remove_temporary(self.uri)

    def finish(self, written: Iterable[str], **fields: Any) -> None:
        """Write the list, with other fields of its JSON object.

        `written` are the files, or folders, that were written anew: what the list had of them
        before and was not written this time is removed.
        """
        anew = set(written)
        old = [path for path in self._before.keys() - self._now if path.split("/")[0] in anew]
        self._remove(sorted(old))
        kept = {path: digest for path, digest in self._before.items() if path not in old}
        if kept or self._now:
            storage.write_json(self._list, {**fields, "files": {**kept, **self._now}})
        else:
            storage.remove(self._list)

    def _remove(self, paths: list[str]) -> None:
        paths = [path for path in paths if self._is_there(path)]
        for path, digest in zip(
            paths, storage.prefetch(self._digest, paths, _AT_ONCE), strict=True
        ):
            if digest not in (self._before.get(path), None):
                self._keep(path)
            storage.remove(storage.join(self.uri, path))
            self._listed(path).discard(path)

    def _keep(self, path: str) -> None:
        """Copy a file that somebody changed to where nothing is."""
        number = 1
        while self._is_there(kept := f"{path}.kept-{number}"):
            number += 1
        with (
            storage.open_binary(storage.join(self.uri, path)) as source,
            storage.atomic_path(storage.join(self.uri, kept)) as place,
            open(place, "wb") as sink,
        ):
            shutil.copyfileobj(source, sink)
        self._listed(kept).add(kept)
        self._told(path, kept)

    def _digest(self, path: str) -> str | None:
        """The SHA-256 of a file; None where it is gone."""
        try:
            with storage.open_binary(storage.join(self.uri, path)) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except GoneError:
            return None

    def _is_there(self, path: str) -> bool:
        return path in self._listed(path)

    def _listed(self, path: str) -> set[str]:
        """The files in the path's first folder, listed once; of those without one, itself alone."""
        folder = path.rpartition("/")[0].split("/")[0]
        if not folder:
            there = storage.exists(storage.join(self.uri, path))
            return self._there.setdefault(path, {path} if there else set())
        if folder not in self._there:
            self._there[folder] = set()
            for file in output_folder.below(storage.join(self.uri, folder)):
                if output_folder.is_left(file.uri):
                    storage.remove(file.uri)
                else:
                    self._there[folder].add(f"{folder}/{file.path}")
        return self._there[folder]
