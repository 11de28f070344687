"""Read corpora with a folder for each class; folders with names of folds become folds."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from audiocnn.corpus.clips import Clip, Rejected, Remark
from audiocnn.corpus.layouts.base import audio_files, clip_of_file
from audiocnn.errors import CorpusError, few
from audiocnn.storage.listing import StoredFile

Folders = tuple[str, ...]
"""The folders that contain a recording, the outermost first."""

_FOLDS = {
    "train": 1, "training": 1,
    "val": 2, "valid": 2, "validation": 2, "dev": 2,
    "test": 3, "testing": 3, "eval": 3, "evaluation": 3,
}  # fmt: skip
"""Fold numbers by folder name, the same numbers as in Speech Commands."""
_MEND = "use a manifest to change this"
_FOLD = re.compile(r"fold[ _-]?(\d{1,4})", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """Which of a recording's folders is its class, and which is its fold.

    `passed_over` is the number of outermost folders that are skipped because all recordings share
    them. `fold` is a level among the others, the outermost is 0. `label` is a level among those
    that are left without the level of folds.
    """

    passed_over: int
    fold: int | None
    label: int
    said: str | None
    """Note for users on the choice, if folders lie in folders."""

    def label_of(self, path: Folders) -> str:
        """Return a recording's class; empty if it is in no class folder."""
        rest = _without(path[self.passed_over :], self.fold)
        return rest[self.label] if rest else ""

    def fold_of(self, path: Folders) -> str:
        """Return a recording's fold; empty if no folder stands for a fold."""
        if self.fold is None or len(path) <= self.passed_over:
            return ""
        return str(_fold(path[self.passed_over + self.fold]))


def read_meaning(paths: Iterable[Folders]) -> Meaning:
    """Find which folders are classes and which are folds; each path has at least one folder.

    Folders that all recordings share are skipped. The outermost level with only names of folds
    (train, val, test or numbers), at least two different ones, is the fold. Of the other levels,
    the outermost is the class. The innermost is the class instead if there are several classes
    and several folders around them, and each of these folders has the same classes.
    """
    all_of_them = set(paths)
    ends = zip(min(all_of_them), max(all_of_them), strict=False)  # Their prefix is shared by all.
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))
    passed_over = shared if len(all_of_them) > 1 else max(0, shared - 1)
    paths = [path[passed_over:] for path in all_of_them if len(path) > passed_over]
    levels = list(_levels_of_folds(paths))
    fold = next((at.level for at in levels if not at.others), None)
    rests = {rest for path in paths if (rest := _without(path, fold))}
    outer = _innermost_is_class(rests)
    said = []
    if fold is not None:
        numbers = sorted({(_fold(path[fold]), path[fold]) for path in paths})
        said.append("the folds are folders: " + few([f"{n} is {name}" for n, name in numbers]))
    elif levels:
        named, others = few(levels[0].folds), few(levels[0].others)
        said.append(f"{named} are not folds, because they are beside {others} ({_MEND})")
    if outer:
        where = few(outer)
        said.append(f"classes are the innermost folders, the same in each of {where} ({_MEND})")
    elif any(len(rest) > 1 for rest in rests):
        said.append(f"classes are the outermost folders, not the folders inside them ({_MEND})")
    return Meaning(
        passed_over=passed_over, fold=fold, label=-1 if outer else 0, said="; ".join(said) or None
    )


def _without(path: Folders, level: int | None) -> Folders:
    return path if level is None else path[:level] + path[level + 1 :]


def _fold(name: str) -> int | None:
    """Return the fold that a folder of this name stands for, or None."""
    numbered = _FOLD.fullmatch(name)
    return int(numbered[1]) if numbered else _FOLDS.get(name.lower())


@dataclass(frozen=True, kw_only=True)
class _Level:
    """A level where some folders have the names of folds, at least two different ones."""

    level: int
    folds: list[str]
    others: list[str]
    """Folders of the level without such a name; if there are none, it is the level of folds."""


def _levels_of_folds(paths: list[Folders]) -> Iterator[_Level]:
    """Yield the levels that every recording has and that may be folds, the outermost first.

    There are none if at least half of the folders are not nested: these are classes.
    """
    if 2 * sum(len(path) > 1 for path in paths) <= len(paths):
        return
    for level in range(min(map(len, paths))):
        names = {path[level] for path in paths}
        folds = {name for name in names if _fold(name) is not None}
        if len({_fold(name) for name in folds}) > 1:
            yield _Level(level=level, folds=sorted(folds), others=sorted(names - folds))


def _innermost_is_class(rests: set[Folders]) -> list[str]:
    """Return the folders around the classes if all have the same classes, else an empty list."""
    inner: dict[Folders, set[str]] = defaultdict(set)
    for rest in rests:
        inner[rest[:-1]].add(rest[-1])
    first = next(iter(inner.values()), set())
    alike = len({len(rest) for rest in rests}) == 1 and all(one == first for one in inner.values())
    several = len(first) > 1 and len(inner) > 1
    return sorted("/".join(path) for path in inner) if alike and several else []


class FolderPerClass:
    """One folder for each class; see `read_meaning` for nested folders.

    If all class folders begin with a number, as in `001 - Dog bark`, the numbers are removed from
    the class names. If every file is named like those of ESC-10, `{fold}-{source}-{take}.ogg`, the
    name gives the source, and the fold unless a folder gives it.
    """

    name = "folders"
    looks = "a folder of recordings for each class"
    _number = re.compile(r"^\d+ - ")
    _esc_name = re.compile(r"^(\d+)-(\d+)-[A-Z](?:-\d+)?\.[^.]+$")

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Return whether there are recordings in folders."""
        return any("/" in file.path for file in audio_files(files))

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected | Remark]:
        """Yield one clip for each recording in a folder, and a remark on nested folders."""
        files = [file for file in audio_files(files) if "/" in file.path]
        paths = [tuple(file.path.split("/")[:-1]) for file in files]
        meaning = read_meaning(paths)
        if meaning.said:
            yield Remark(meaning.said)
        folders = {folder for path in paths if (folder := meaning.label_of(path))}
        numbered = all(self._number.match(folder) for folder in folders)
        labels = {f: self._number.sub("", f) if numbered else f for f in folders}
        if len(set(labels.values())) < len(folders):
            raise CorpusError(f"{uri}: two class folders have the same name after their numbers")
        esc = [self._esc_name.match(file.path.rsplit("/", 1)[-1]) for file in files]
        named = all(esc)
        for file, path, match in zip(files, paths, esc, strict=True):
            fold, source = (match[1], match[2]) if named and match else ("", "")
            label = labels.get(meaning.label_of(path), "")
            yield clip_of_file(file, label, meaning.fold_of(path) or fold, source)
