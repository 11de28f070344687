"""List the files that a job wrote below a folder, and find those that somebody changed.

The list is a JSON file with the SHA-256 of each file as the job left it. If the content of a file
differs, somebody has edited it. Before the job overwrites or removes such a file, it copies it to
`PATH.kept-1` (2, ...).
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

OnKept = Callable[[str, str], None]
"""Called with the path of a file that somebody changed, and the path of the kept version."""


def _is_below(path: str) -> bool:
    """Return whether a path, relative to a folder, leads to a file below this folder."""
    return not {"", ".", ".."}.intersection(path.split("/"))


class FileList:
    """The files that a job writes below the folder `uri`, listed in its file `name`."""

    def __init__(self, uri: str, name: str, on_kept: OnKept = lambda path, kept: None) -> None:
        self.uri = uri
        self._list = storage.join(uri, name)
        self._on_kept = on_kept
        plain = storage.read_json(self._list) if storage.exists(self._list) else {}
        files = plain.get("files")
        listed = files.items() if isinstance(files, dict) else ()
        # Ignore paths outside the folder, even if they are listed: the job did not write them.
        self._before: dict[str, str] = {path: sha for path, sha in listed if _is_below(path)}
        self._now: dict[str, str] = {}
        self._there: dict[str, set[str]] = {}

    @contextmanager
    def atomic_path(self, path: str) -> Iterator[str]:
        """Yield a local path to write a file to; then move the file to `path` below the folder.

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
        """Write a file and add it to the list. Raises StorageError."""
        with self.atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(data)

    def clear(self, *others: str) -> None:
        """Remove `others`, if they exist, and then the listed files, the last one first.

        Files that differ from the list, or are not in it, are kept as `PATH.kept-1` (2, ...).
        Temporary files of a killed job are removed too.
        """
        self._remove(list(dict.fromkeys([*others, *reversed(self._before)])))
        self._before = {}
        output_folder.remove_temporary(self.uri)

    def finish(self, written: Iterable[str], **fields: Any) -> None:
        """Write the list, with other fields of its JSON object.

        `written` names files or top folders of this run. Files that an earlier run listed in them
        are removed unless they were written again.
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
        """Copy a file that somebody changed to the first free `PATH.kept-1` (2, ...)."""
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
        self._on_kept(path, kept)

    def _digest(self, path: str) -> str | None:
        """Return the SHA-256 of a file; None if the file is gone."""
        try:
            with storage.open_binary(storage.join(self.uri, path)) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except GoneError:
            return None

    def _is_there(self, path: str) -> bool:
        return path in self._listed(path)

    def _listed(self, path: str) -> set[str]:
        """Return the existing files in the path's top folder, which is listed once.

        For a path without a folder, return that file if it exists. Temporary files of killed jobs
        are removed.
        """
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
