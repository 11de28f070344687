"""The folder that a job writes: whose it is, and which of its files the job may remove.

A job removes, and writes over, only what it can prove to have written. A proof is one of these:

- A note of the verb, such as `job.json`. Before a job writes its first note, it has seen that no
  file of a name that it will write is there. From then on these names are its own.
- A list in a note: of parts, of listings, of folds, of files with their SHA-256 (`filelist.py`).
- The verb's ledger in the footer of a Parquet file.
- The name of a temporary file whose process has ended, see `local.is_left`.

Everything else stays as it is. A folder with a note of another verb is refused.
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
"""JSON objects that say what a folder holds, by the names of their files."""
Proof = Callable[[str, Notes], bool]
"""Whether the file at a URI is the verb's own, which left these notes beside it."""

_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a verb makes of a folder."""

    holds: str
    """What is in such a folder, for people."""
    verb: str
    notes: tuple[str, ...]
    """Names of its notes. The first one is written last: it makes the output whole."""
    formats: tuple[str, ...]
    """How the `format` of its notes begins."""
    files: tuple[str, ...] = ()
    """What else the verb writes under a fixed name."""


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
    """A folder that a verb may write, and what the verb wrote there before."""

    uri: str
    kind: Kind
    notes: Notes
    """The notes that are there."""
    files: tuple[str, ...]
    """The other files that are there under the verb's fixed names."""

    def require_unfinished(self) -> None:
        """Raise ConfigError where the output is whole already."""
        whole = self.kind.notes[0]
        if whole in self.notes:
            raise there_already(self.uri, whole)

    def clear(self) -> None:
        """Remove the note that makes the output whole, files under fixed names, temporary files.

        The other notes stay: they say whose the folder is until the job writes them anew.
        """
        for name in (self.kind.notes[0], *self.files):
            if name in self.notes or name in self.files:
                remove(join(self.uri, name))
        remove_temporary(self.uri)


def there_already(uri: str, name: str) -> ConfigError:
    """The error for an output that is there already."""
    return ConfigError(
        f"--to {uri}: {name} is there already; name another folder, or pass --overwrite"
    )


def resolve(uri: str) -> str:
    """The absolute URI of an output. Raises ConfigError for stores that others do not see."""
    uri = absolute(uri)
    if uri.startswith("memory://"):
        raise ConfigError(f"--to {uri}: the workers are other processes and would not see it")
    return uri


def claim(uri: str, kind: Kind, proofs: Mapping[str, Proof] | None = None) -> Output:
    """The folder that a verb is to write, once it is clear that nothing of others would be lost.

    Nothing is written or removed. A file under a fixed name is the verb's own where it has a note
    there; `proofs` say otherwise for some of these names. Raises ConfigError where the folder has
    a note of another verb, a note that cannot be read, or another file under a name that the verb
    writes.
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
    """Whether there is a note: the proof for most files under fixed names."""
    return bool(notes)


def _notes(uri: str, kind: Kind, names: list[str]) -> Notes:
    """The notes of a kind among some files.

    Raises ConfigError for those of another kind, and for one of this kind's that cannot be read.
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
    """The kind of folder that a note is of."""
    said = str(note.get("format"))
    if name == "job.json" and _is_first_of_train(note):
        return BUNDLE
    return next((kind for kind in _KINDS if said.startswith(kind.formats)), None)


def _is_first_of_train(note: dict[str, Any]) -> bool:
    """Whether a note is one of the first version of train, which gave it no format."""
    versions = note.get("versions")
    known = {"features", "training", "streams", "test_fold", "workers"} <= note.keys()
    return known and isinstance(versions, dict) and "audiocnn" in versions


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What `sweep` left in a folder."""

    bytes: int
    """Of the files that are kept."""
    others: list[str]
    """Files of the job's patterns that it cannot prove to have written, by their paths."""


def sweep(
    uri: str, pattern: str, owned: Callable[[str], bool], kept: Collection[str] = ()
) -> Swept:
    """Remove the job's own files that fit a pattern, but for some, and temporary files of jobs.

    `pattern` is `folder/name` with fnmatch's wildcards, none of which matches a `/`; it and
    `kept` are paths below `uri`. `owned` says of a path whether the job wrote it.
    """
    folder = pattern.rsplit("/", 1)[0]
    files = {f"{folder}/{file.path}": file for file in below(join(uri, folder))}
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
    """Whether a path fits a pattern, component by component."""
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def is_left(uri: str) -> bool:
    """Whether a file is a temporary one that no process writes; in a store all are but copies."""
    return local.is_left(uri) if is_local(uri) else local.is_temporary(uri)


def remove_temporary(uri: str) -> None:
    """Remove the temporary files directly in a folder of this machine that no process writes."""
    if is_local(uri) and os.path.isdir(uri):
        for name in os.listdir(uri):
            if is_left(join(uri, name)):
                remove(join(uri, name))


def below(uri: str) -> list[StoredFile]:
    """Every file below a folder, sorted by path; none where there is no folder."""
    return list_files(uri) if exists(uri) else []
