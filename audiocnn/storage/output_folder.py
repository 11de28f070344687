"""The folder that a job writes: which verb owns it, and which of its files the job may remove.

A job removes and overwrites only files that it can prove to have written. A proof is one of these:

- A note of the verb, such as `job.json`. Before a job writes its first note, it checks that no file
  exists under any fixed name that it will write. From then on, these names belong to the job.
- A list in a note: of parts, of listings, of folds, of files with their SHA-256
  (`corpus/file_list.py`).
- The verb's ledger in the footer of a Parquet file.
- The name of a temporary file that no process writes any more, see `local.is_left`.

All other files stay as they are. A folder with a note of another verb is refused.
"""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from audiocnn.errors import ConfigError, FormatError, UnreadableError
from audiocnn.storage import absolute, exists, is_local, join, prefetch, read_json, remove
from audiocnn.storage.listing import StoredFile, list_files
from audiocnn.storage.stores import local

Notes = dict[str, dict[str, Any]]
"""JSON objects that describe the content of a folder, by file name."""
Proof = Callable[[str, Notes], bool]
"""Function that returns whether the verb wrote the file at a URI, given the folder's notes."""

_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of output folder: the verb that writes it, and the names of its files."""

    holds: str
    """Content of the folder, in words for messages."""
    verb: str
    notes: tuple[str, ...]
    """File names of its notes. The first one is written last: it marks the output as complete."""
    formats: tuple[str, ...]
    """Prefixes of the `format` member of its notes."""
    files: tuple[str, ...] = ()
    """Names of the other files that the verb writes under a fixed name."""


FEATURES = Kind(
    holds="features", verb="ingest", notes=("features.json", "job.json"),
    formats=("audiocnn.features/", "audiocnn.ingest/"), files=("failures.parquet",),
)  # fmt: skip
BUNDLE = Kind(
    holds="a bundle", verb="train", notes=("bundle.json", "job.json"),
    formats=("audiocnn.bundle/", "audiocnn.train/"),
    files=("model.safetensors", "predictions.parquet", "checkpoint.pt"),
)  # fmt: skip
REPORT = Kind(
    holds="a report", verb="evaluate", notes=("report.json", "job.json"),
    formats=("audiocnn.report/", "audiocnn.evaluate/"), files=("report.html",),
)  # fmt: skip
LABELS = Kind(
    holds="labels", verb="label", notes=("summary.json", "labels.json", "exports.json"),
    formats=("audiocnn.labels/", "audiocnn.exports/"),
    files=("failures.parquet", "events.parquet"),
)  # fmt: skip
REVIEW = Kind(
    holds="a review", verb="review", notes=("review.json",), formats=("audiocnn.review/",)
)
DEMO = Kind(
    holds="a demo", verb="demo", notes=("demo.json", "bucket.json"), formats=("audiocnn.demo/",)
)

_KINDS = (FEATURES, BUNDLE, REPORT, LABELS, REVIEW, DEMO)
_NOTES = {name for kind in _KINDS for name in kind.notes}


@dataclass(frozen=True, kw_only=True)
class Output:
    """A folder that a verb may write, and the files that the verb wrote there before."""

    uri: str
    kind: Kind
    notes: Notes
    """The existing notes."""
    files: tuple[str, ...]
    """Names of the other existing files that the verb wrote under its fixed names."""

    def require_unfinished(self) -> None:
        """Raise ConfigError if the output is complete already."""
        whole = self.kind.notes[0]
        if whole in self.notes:
            raise there_already(self.uri, whole)

    def clear(self) -> None:
        """Remove the first note, the files under fixed names and leftover temporary files.

        Without its first note the output does not count as complete. The other notes stay: they
        show which verb owns the folder until the job rewrites them.
        """
        for name in (self.kind.notes[0], *self.files):
            if name in self.notes or name in self.files:
                remove(join(self.uri, name))
        remove_temporary(self.uri)


def there_already(uri: str, name: str) -> ConfigError:
    """Return the error for an output that exists already."""
    return ConfigError(
        f"--to {uri}: {name} is there already; name another folder, or pass --overwrite"
    )


def resolve(uri: str) -> str:
    """Return the absolute URI of an output. Raises ConfigError for `memory://`."""
    uri = absolute(uri)
    if uri.startswith("memory://"):
        raise ConfigError(f"--to {uri}: the workers are other processes and cannot read it")
    return uri


def claim(uri: str, kind: Kind, proofs: Mapping[str, Proof] | None = None) -> Output:
    """Check that a verb may write a folder without losing files of others; return the folder.

    Nothing is written or removed. If the folder has a note of the verb, the files under the fixed
    names belong to the verb; `proofs` replaces this rule for some of the names. Raises ConfigError
    if the folder has a note of another verb, a note of this verb that cannot be read, or a file
    under a name of the verb that the verb did not write.
    """
    uri = resolve(uri)
    names = sorted(_NOTES.union(kind.files)) if exists(uri) else []
    found = prefetch(lambda name: exists(join(uri, name)), names, _AT_ONCE)
    there = [name for name, is_there in zip(names, found, strict=True) if is_there]
    notes = _notes(uri, kind, [name for name in there if name in _NOTES])
    proofs = {name: _noted for name in kind.files} | dict(proofs or {})
    mine = [name for name in kind.files if name in there and proofs[name](join(uri, name), notes)]
    for name in there:
        if name in {*kind.notes, *kind.files} - {*notes, *mine}:
            raise ConfigError(
                f"--to {uri}: {name} is there, and {kind.verb} did not write it; move it away, or "
                "name another folder"
            )
    return Output(uri=uri, kind=kind, notes=notes, files=tuple(mine))


def _noted(_: str, notes: Notes) -> bool:
    """Return whether there is a note: the proof for most files under fixed names."""
    return bool(notes)


def _notes(uri: str, kind: Kind, names: list[str]) -> Notes:
    """Return the notes of a kind among the files `names`.

    Raises ConfigError for a note of another kind, and for a note of this kind that cannot be read.
    """
    notes, unreadable = Notes(), list[str]()
    for name in names:
        try:
            note = read_json(join(uri, name))
        except (FormatError, UnreadableError) as error:
            if name in kind.notes:
                why = str(error).removeprefix(f"{join(uri, name)}: ")
                unreadable.append(f"{name} is there, and cannot be read ({why})")
            continue
        holder = _holder(name, note)
        if holder is kind and name in kind.notes:
            notes[name] = note
        elif holder not in (None, kind):
            raise ConfigError(
                f"--to {uri}: it holds {holder.holds} ({name} of {holder.verb}); name another "
                "folder"
            )
    if unreadable:
        raise ConfigError(f"--to {uri}: {unreadable[0]}; move it away, or name another folder")
    return notes


def _holder(name: str, note: dict[str, Any]) -> Kind | None:
    """Return the kind of folder that a note belongs to; None if it is unknown."""
    said = str(note.get("format"))
    if name == "job.json" and _is_first_of_train(note):
        return BUNDLE
    return next((kind for kind in _KINDS if said.startswith(kind.formats)), None)


def _is_first_of_train(note: dict[str, Any]) -> bool:
    """Return whether the first version of train wrote a note; that version wrote no `format`."""
    versions = note.get("versions")
    known = {"features", "training", "streams", "test_fold", "workers"} <= note.keys()
    return known and isinstance(versions, dict) and "audiocnn" in versions


@dataclass(frozen=True, kw_only=True)
class Swept:
    """The files that `sweep` left in a folder."""

    bytes: int
    """Total size of the files in `kept`, in bytes."""
    others: list[str]
    """Paths of files that match the pattern but that the job cannot prove to have written."""


def sweep(
    uri: str, pattern: str, owned: Callable[[str], bool], kept: Collection[str] = ()
) -> Swept:
    """Remove the job's files that match a pattern, except `kept`, and leftover temporary files.

    `pattern` is `folder/name` with the wildcards of fnmatch; no wildcard matches a `/`. `pattern`
    and `kept` are paths below `uri`. `owned` returns whether the job wrote the file at a path.
    """
    folder = pattern.rsplit("/", 1)[0]
    files = {f"{folder}/{file.path}": file for file in below(join(uri, folder))}
    remove_temporary(uri)
    candidates = [path for path in files if path not in kept and matches(path, pattern)]
    mine = dict(zip(candidates, prefetch(owned, candidates, _AT_ONCE), strict=True))
    for path, file in files.items():
        if mine.get(path) or is_left(file.uri):
            remove(file.uri)
    return Swept(
        bytes=sum(file.size for path, file in files.items() if path in kept),
        others=[path for path, is_mine in mine.items() if not is_mine],
    )


def matches(path: str, pattern: str) -> bool:
    """Return whether a path matches a pattern, component by component."""
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def is_left(uri: str) -> bool:
    """Return whether a file is temporary and no process writes it any more.

    In a store this holds for every temporary file: jobs write temporary files only on local disks,
    so one in a store was copied there.
    """
    return local.is_left(uri) if is_local(uri) else local.is_temporary(uri)


def remove_temporary(uri: str) -> None:
    """Remove leftover temporary files directly in a local folder; do nothing in a store."""
    if is_local(uri) and os.path.isdir(uri):
        for name in os.listdir(uri):
            if is_left(join(uri, name)):
                remove(join(uri, name))


def below(uri: str) -> list[StoredFile]:
    """Return all files below a folder, sorted by path; none if there is no folder."""
    return list_files(uri) if exists(uri) else []
