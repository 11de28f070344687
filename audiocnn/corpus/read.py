"""The layouts of corpora that are read.

To add one, write a class with `name`, `looks`, `matches` and `clips`, and add it to `LAYOUTS`.
"""

import csv
import io
import posixpath
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from audiocnn import storage
from audiocnn.audio.decode import AUDIO_SUFFIXES
from audiocnn.corpus.clips import (
    Clip,
    Corpus,
    Entry,
    Rejected,
    Remark,
    Unreviewed,
    assemble,
    entry,
)
from audiocnn.corpus.layouts.folders import read_meaning
from audiocnn.corpus.layouts.webdataset import WebDataset
from audiocnn.errors import CorpusError, NotAFolderError
from audiocnn.storage import listing
from audiocnn.storage.csv_cells import unescape_formula
from audiocnn.storage.listing import StoredFile

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MANIFESTS = (*_DELIMITERS, ".parquet")
"""Suffixes of manifests, in capitals or not."""
_COLUMNS = ("uri", "label", "fold", "source", "suggested", "onset_s", "offset_s")


class Layout(Protocol):
    """A way of laying out a corpus that `read_corpus` knows."""

    name: str
    looks: str
    """How to tell it, for whoever named something else."""

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether the listed files are laid out like this."""

    def clips(self, uri: str, files: list[StoredFile]) -> Iterable[Entry]:
        """The clips among the listed files, made by `entry`, and what cannot be one.

        Raises CorpusError, StorageError.
        """


class Manifest:
    """A CSV, TSV or Parquet file with `uri,label[,fold,source]`; relative URIs are beside it.

    With `onset_s,offset_s` a row's clip is that stretch of the recording, in seconds.
    Where it has a column `suggested` too, it is a review: a row without a label was not answered.
    """

    name = "manifest"
    looks = "a manifest .csv, .tsv or .parquet with uri,label"

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether the URI itself is such a file."""
        return _suffix(uri) in _MANIFESTS

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected | Unreviewed]:
        """One clip for each row."""
        base = uri.rsplit("/", 1)[0]
        is_parquet = _suffix(uri) == ".parquet"
        rows = _read_parquet(uri) if is_parquet else _read_csv(uri, "uri", "label")
        for number, row in enumerate(rows, 1):
            name, asked = row["uri"], "suggested" in row
            label = unescape_formula(row["label"]) if asked else row["label"]
            if asked and not label.strip():
                yield Unreviewed(uri=storage.printable(name))
            elif not name.strip():
                yield Rejected(uri=uri, reason="path", detail=f"its row {number} has no URI")
            elif wrong := self._wrong_path(base, name):
                yield Rejected(uri=storage.printable(name), reason="path", detail=wrong)
            else:
                where = self._resolve(base, name)
                fold, source = row.get("fold") or "", row.get("source") or ""
                times = row.get("onset_s") or "", row.get("offset_s") or ""
                yield entry(where, name, label, fold=fold, source=source, segment=times)

    def _wrong_path(self, base: str, name: str) -> str | None:
        """Why a manifest in the folder `base` may not name this, if so."""
        if re.search(r"(^|::)(file|local):", name) or name.startswith("/"):
            return None if storage.is_local(base) else "a local path, and its manifest is elsewhere"
        normal = posixpath.normpath(name)
        if storage.is_local(name) and (normal in (".", "..") or normal.startswith("../")):
            return "it leads out of the manifest's folder"
        return None

    def _resolve(self, base: str, name: str) -> str:
        if not storage.is_local(name):
            return name
        local = name.startswith(("/", "file://"))
        return storage.absolute(name if local else storage.join(base, name))


class _Table:
    """Recordings beside a CSV of their names, folds, classes and sources."""

    name: str
    looks: str
    meta: str
    """The CSV's path."""
    path: str
    """A row's file, with the names of columns in braces."""
    columns: tuple[str, str, str, str]
    """The columns of clip_id, fold, label and source."""

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether the CSV is there."""
        return any(file.path == self.meta for file in files)

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected]:
        """One clip for each line of the CSV; underscores in names of classes are spaces."""
        by_path = {file.path: file for file in files}
        for row in _read_csv(storage.join(uri, self.meta), *self.columns):
            clip_id, fold, label, source = (row[name] for name in self.columns)
            path = self.path.format_map(row)
            if path in by_path:
                yield _entry(by_path[path], label.replace("_", " "), fold, source, clip_id)
            else:
                yield _missing(storage.join(uri, path), self.meta)


class Esc50(_Table):
    """ESC-50's own: five folds."""

    name = "esc50"
    looks = "meta/esc50.csv and audio/"
    meta = "meta/esc50.csv"
    path = "audio/{filename}"
    columns = ("filename", "fold", "category", "src_file")


class UrbanSound8K(_Table):
    """UrbanSound8K's own: ten folds, a folder each; a source is a recording of Freesound."""

    name = "urbansound8k"
    looks = "metadata/UrbanSound8K.csv and audio/fold1/"
    meta = "metadata/UrbanSound8K.csv"
    path = "audio/fold{fold}/{slice_file_name}"
    columns = ("slice_file_name", "fold", "class", "fsID")


class SpeechCommands:
    """Speech Commands' own: one folder a word, and lists of the files to validate and test with.

    Folds: 1 to train with, 2 to validate, 3 to test. A source is a speaker.
    """

    name = "speechcommands"
    looks = "validation_list.txt and testing_list.txt beside a folder for each word"
    _lists = (("validation_list.txt", "2"), ("testing_list.txt", "3"))

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether both lists are there."""
        return {file.path for file in files} >= {path for path, _ in self._lists}

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected]:
        """One clip for each recording in a word's folder; `_background_noise_` is none."""
        folds: dict[str, str] = {}
        for path, fold in self._lists:
            text = _read_text(storage.join(uri, path))
            folds |= {line.rstrip("\r"): fold for line in text.split("\n") if line.strip()}
        recordings = {
            file.path: file
            for file in _recordings(files)
            if "/" in file.path and not file.path.startswith("_background_noise_/")
        }
        for path in sorted(folds.keys() - recordings.keys()):
            yield _missing(storage.join(uri, path), "one of the lists")
        for path, file in recordings.items():
            word, _, name = path.partition("/")
            speaker, found, _ = name.partition("_nohash_")
            yield _entry(file, word, folds.get(path, "1"), speaker if found else "")


class FolderPerClass:
    """One folder a class; numbers before all names, as in `001 - Dog bark`, are no part of them.

    Where every file is named like ESC-10's, `{fold}-{source}-{take}.ogg`, fold and source are
    taken from there. Of folders in folders see `folders.read_meaning`.
    """

    name = "folders"
    looks = "a folder of recordings for each class"
    _number = re.compile(r"^\d+ - ")
    _esc_name = re.compile(r"^(\d+)-(\d+)-[A-Z](?:-\d+)?\.[^.]+$")

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether there are recordings in folders."""
        return any("/" in file.path for file in _recordings(files))

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected | Remark]:
        """One clip for each recording in a folder."""
        files = [file for file in _recordings(files) if "/" in file.path]
        paths = [tuple(file.path.split("/")[:-1]) for file in files]
        meaning = read_meaning(paths)
        if meaning.said:
            yield Remark(meaning.said)
        folders = {folder for path in paths if (folder := meaning.label_of(path))}
        numbered = all(self._number.match(folder) for folder in folders)
        labels = {f: self._number.sub("", f) if numbered else f for f in folders}
        if len(set(labels.values())) < len(folders):
            raise CorpusError(f"{uri}: two class folders have one name behind their numbers")
        esc = [self._esc_name.match(file.path.rsplit("/", 1)[-1]) for file in files]
        named = all(esc)
        for file, path, match in zip(files, paths, esc, strict=True):
            fold, source = (match[1], match[2]) if named and match else ("", "")
            label = labels.get(meaning.label_of(path), "")
            yield _entry(file, label, meaning.fold_of(path) or fold, source)


LAYOUTS: tuple[Layout, ...] = (
    Manifest(),
    Esc50(),
    UrbanSound8K(),
    SpeechCommands(),
    FolderPerClass(),
    WebDataset(),
)
"""The first that matches is taken."""


def read_corpus(uri: str) -> Corpus:
    """The corpus at a URI, in whichever of `LAYOUTS` it is, checked.

    Whatever of it cannot be used is in `rejected`. Raises StorageError, and CorpusError for
    another layout, and as `corpus.assemble`.
    """
    uri = storage.absolute(uri)
    looks = ", or ".join(layout.looks for layout in LAYOUTS)
    try:
        files = _listed(uri)
    except NotAFolderError as error:
        raise CorpusError(f"{uri}: a file, and not a corpus: expected {looks}") from error
    layout = next((layout for layout in LAYOUTS if layout.matches(uri, files)), None)
    if layout is None:
        raise CorpusError(f"{uri}: not a corpus: expected {looks}")
    corpus = assemble(uri, layout.name, layout.clips(uri, files))
    return replace(corpus, ignored=corpus.ignored + _ignored(corpus, files))


def _listed(uri: str) -> list[StoredFile]:
    if _suffix(uri) in _MANIFESTS:
        return []
    return [listing.stored_file(uri)] if _suffix(uri) == ".tar" else listing.list_files(uri)


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()


def _ignored(corpus: Corpus, files: list[StoredFile]) -> int:
    """How many files neither are, nor hold, a clip or what could not be one."""
    used = sorted([clip.uri for clip in corpus.clips] + [item.uri for item in corpus.rejected])

    def first_from(uri: str) -> str:
        at = bisect_left(used, uri)
        return used[at] if at < len(used) else ""

    uris = (storage.printable(file.uri) for file in files)
    return sum(first_from(u) != u and not first_from(f"{u}/").startswith(f"{u}/") for u in uris)


def _recordings(files: list[StoredFile]) -> list[StoredFile]:
    return [file for file in files if file.path.lower().endswith(AUDIO_SUFFIXES)]


def _entry(
    file: StoredFile, label: str, fold: str, source: str, clip_id: str | None = None
) -> Clip | Rejected:
    return entry(
        file.uri,
        clip_id or file.path,
        label,
        fold=fold,
        source=source,
        size=file.size,
        version=file.version,
    )


def _missing(uri: str, where: str) -> Rejected:
    detail = f"{where} names it, and it is not there"
    return Rejected(uri=storage.printable(uri), reason="unreadable", detail=detail)


def _read_text(uri: str) -> str:
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{uri}: not in UTF-8 ({error})") from error


def _read_csv(uri: str, *columns: str) -> Iterator[dict[str, str]]:
    try:
        text = io.StringIO(_read_text(uri), newline="")
        delimiter = _DELIMITERS[_suffix(uri)]
        reader = csv.DictReader(text, delimiter=delimiter, strict=True, restval="")
        _check_columns(uri, reader.fieldnames or (), columns)
        yield from reader
    except csv.Error as error:
        raise CorpusError(f"{uri}: not a CSV or TSV file ({error})") from error


def _read_parquet(uri: str) -> Iterator[dict[str, str]]:
    table = storage.read_parquet(uri)
    _check_columns(uri, table.column_names, ("uri", "label"))
    for batch in table.to_batches():
        names = [name for name in _COLUMNS if name in table.column_names]
        columns = [_texts(batch.column(name)) for name in names]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def _texts(column: pa.Array) -> list[str]:
    """A column's values as text; bytes that are no UTF-8 become what `entry` rejects."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())  # whose values are not decoded yet
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return "" if value is None else str(value)


def _check_columns(uri: str, there: Iterable[str], needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in there]
    if missing:
        raise CorpusError(f"{uri}: no column {', '.join(missing)}; needed: {', '.join(needed)}")
