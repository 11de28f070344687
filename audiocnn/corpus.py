"""Labelled corpora: the layouts that are read, class order, folds, and source groups.

To add a layout, write a class with `name`, `matches` and `clips`, and add it to `LAYOUTS`.
"""

import csv
import io
import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from audiocnn import storage
from audiocnn.audio import AUDIO_SUFFIXES
from audiocnn.errors import CorpusError
from audiocnn.storage import StoredFile


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A labelled recording.

    `source` names the recording it was cut from: clips of one source share a fold.
    """

    clip_id: str
    uri: str
    label: str
    fold: int | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Clips in order of `clip_id`, and the class names, sorted: the order every model uses."""

    uri: str
    layout: str
    clips: tuple[Clip, ...]
    ignored: int = 0
    """Files of the folder that are no clips of it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order that travels with features, models and labels."""
        return tuple(sorted({clip.label for clip in self.clips}))

    @property
    def folds(self) -> tuple[int, ...]:
        """Fold numbers, sorted."""
        return tuple(sorted({clip.fold for clip in self.clips if clip.fold is not None}))


class Layout(Protocol):
    """A way of laying out a corpus that `read_corpus` knows."""

    name: str

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether the listed files are laid out like this."""

    def clips(self, uri: str, files: list[StoredFile]) -> list[Clip]:
        """The clips among the listed files. Raises CorpusError."""


class Esc50:
    """ESC-50's own: `meta/esc50.csv` and `audio/`."""

    name = "esc50"

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether `meta/esc50.csv` is there."""
        return any(file.path == "meta/esc50.csv" for file in files)

    def clips(self, uri: str, files: list[StoredFile]) -> list[Clip]:
        """One clip for each line of the CSV."""
        meta = storage.join(uri, "meta/esc50.csv")
        rows = _read_csv(meta, ("filename", "fold", "category", "src_file"))
        return [
            Clip(
                clip_id=row["filename"],
                uri=storage.join(uri, "audio", row["filename"]),
                label=row["category"].replace("_", " "),
                fold=_fold(row["fold"], meta),
                source=row["src_file"],
            )
            for row in rows
        ]


class FolderPerClass:
    """One folder a class; numbers before all names, as in `001 - Dog bark`, are no part of them.

    Where every file is named like ESC-10's, `{fold}-{source}-{take}.ogg`, fold and source are
    taken from there.
    """

    name = "folders"
    _number = re.compile(r"^\d+ - ")
    _esc_name = re.compile(r"^(\d+)-(\d+)-[A-Z](?:-\d+)?\.[^.]+$")

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether there are recordings in folders."""
        return any("/" in file.path for file in _recordings(files))

    def clips(self, uri: str, files: list[StoredFile]) -> list[Clip]:
        """One clip for each recording in a folder."""
        files = [file for file in _recordings(files) if "/" in file.path]
        folders = {file.path.split("/")[0] for file in files}
        numbered = all(self._number.match(folder) for folder in folders)
        labels = {f: self._number.sub("", f) if numbered else f for f in folders}
        if len(set(labels.values())) < len(folders):
            raise CorpusError(f"{uri}: two class folders have one name behind their numbers")
        esc = [self._esc_name.match(file.path.rsplit("/", 1)[-1]) for file in files]
        named = all(esc)
        return [
            Clip(
                clip_id=file.path,
                uri=file.uri,
                label=labels[file.path.split("/")[0]].strip(),
                fold=int(match[1]) if named and match else None,
                source=match[2] if named and match else None,
            )
            for file, match in zip(files, esc, strict=True)
        ]


class Manifest:
    """A CSV or Parquet file with `uri,label[,fold,source]`; relative URIs are beside it."""

    name = "manifest"

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether the URI itself is such a file."""
        return uri.endswith((".csv", ".parquet"))

    def clips(self, uri: str, files: list[StoredFile]) -> list[Clip]:
        """One clip for each row."""
        if uri.endswith(".parquet"):
            rows = _table_rows(storage.read_parquet(uri), uri)
        else:
            rows = _read_csv(uri, ("uri", "label"))
        base = storage.absolute(uri).rsplit("/", 1)[0]
        return [
            Clip(
                clip_id=row["uri"],
                uri=_resolve(base, row["uri"]),
                label=row["label"].strip(),
                fold=_fold(row["fold"], uri) if row.get("fold") else None,
                source=row.get("source") or None,
            )
            for row in rows
        ]


LAYOUTS: tuple[Layout, ...] = (Manifest(), Esc50(), FolderPerClass())


def read_corpus(uri: str) -> Corpus:
    """The corpus at a URI, in whichever of `LAYOUTS` it is, checked.

    Raises StorageError, and CorpusError for another layout, an empty or doubled name, fewer
    than two classes, clips with and without folds, or a source in two folds.
    """
    uri = storage.absolute(uri)
    files = [] if uri.endswith((".csv", ".parquet")) else storage.list_files(uri)
    layout = next((layout for layout in LAYOUTS if layout.matches(uri, files)), None)
    if layout is None:
        raise CorpusError(
            f"{uri}: not a corpus: expected meta/esc50.csv and audio/, or a folder of recordings "
            "for each class, or a manifest .csv or .parquet with uri,label"
        )
    clips = sorted(layout.clips(uri, files), key=lambda clip: clip.clip_id)
    used = {clip.uri for clip in clips}
    ignored = sum(file.uri not in used for file in files)
    corpus = Corpus(uri=uri, layout=layout.name, clips=tuple(clips), ignored=ignored)
    _check(corpus)
    return corpus


def _check(corpus: Corpus) -> None:
    seen: set[str] = set()
    for clip in corpus.clips:
        if clip.clip_id in seen:
            raise CorpusError(f"{corpus.uri}: {clip.clip_id!r} is listed twice")
        seen.add(clip.clip_id)
        if not clip.label:
            raise CorpusError(f"{corpus.uri}: {clip.clip_id!r} has no label")
        if storage.printable(clip.label) != clip.label:
            raise CorpusError(f"{corpus.uri}: the label of {clip.clip_id!r} is not UTF-8")
        if clip.fold is not None and not 0 <= clip.fold < 2**31:
            raise CorpusError(f"{corpus.uri}: {clip.clip_id!r} has fold {clip.fold}")
    if len(corpus.classes) < 2:
        raise CorpusError(f"{corpus.uri}: found {len(corpus.classes)} classes, 2 are needed")
    without = [clip.clip_id for clip in corpus.clips if clip.fold is None]
    if without and len(without) < len(corpus.clips):
        raise CorpusError(f"{corpus.uri}: some clips have a fold and {without[0]!r} has none")
    _check_sources(corpus)


def _check_sources(corpus: Corpus) -> None:
    """Clips of one recording in two folds make a test look better than it is."""
    by_source: dict[str, dict[int | None, str]] = defaultdict(dict)
    for clip in corpus.clips:
        if clip.source is not None:
            by_source[clip.source].setdefault(clip.fold, clip.clip_id)
    for source, folds in by_source.items():
        if len(folds) > 1:
            where = ", ".join(f"{name!r} in fold {fold}" for fold, name in folds.items())
            raise CorpusError(f"{corpus.uri}: source {source!r} is in {len(folds)} folds: {where}")


def with_folds(corpus: Corpus, n_folds: int = 5, seed: int = 0) -> Corpus:
    """The corpus with folds 1 to `n_folds`, where it has none of its own.

    Grouped by source, stratified by class, seeded (scikit-learn's StratifiedGroupKFold).
    Raises CorpusError where a class has fewer sources than there are folds.
    """
    if corpus.folds:
        return corpus
    from sklearn.model_selection import StratifiedGroupKFold

    labels = [clip.label for clip in corpus.clips]
    groups = [clip.source or clip.clip_id for clip in corpus.clips]
    for name in corpus.classes:
        sources = len({g for g, label in zip(groups, labels, strict=True) if label == name})
        if sources < n_folds:
            raise CorpusError(
                f"{corpus.uri}: class {name!r} has {sources} sources, too few for {n_folds} folds"
            )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    clips = list(corpus.clips)
    for fold, (_, chosen) in enumerate(splitter.split(labels, labels, groups), 1):
        for index in chosen:
            clips[index] = replace(clips[index], fold=fold)
    return replace(corpus, clips=tuple(clips))


def _recordings(files: list[StoredFile]) -> list[StoredFile]:
    return [file for file in files if file.path.lower().endswith(AUDIO_SUFFIXES)]


def _resolve(base: str, uri: str) -> str:
    """A manifest's URI: as it is where it has a scheme or is absolute, else beside the manifest."""
    return uri if not storage.is_local(uri) or uri.startswith("/") else storage.join(base, uri)


def _read_csv(uri: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="")
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise CorpusError(
                f"{uri}: no column {', '.join(missing)}; needed: {', '.join(columns)}"
            )
        return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{uri}: not a CSV file in UTF-8 ({error})") from error


def _table_rows(table: pa.Table, uri: str) -> list[dict[str, str]]:
    missing = [name for name in ("uri", "label") if name not in table.column_names]
    if missing:
        raise CorpusError(f"{uri}: no column {', '.join(missing)}; needed: uri, label")
    return [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in table.to_pylist()
    ]


def _fold(text: str, uri: str) -> int:
    try:
        fold = float(text)  # pandas writes 1.0 where a row has none
    except ValueError:
        fold = math.nan
    if not fold.is_integer():
        raise CorpusError(f"{uri}: fold {text!r} is not a whole number")
    return int(fold)
