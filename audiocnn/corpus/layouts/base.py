"""What a layout is, and what several of them need."""

import csv
import io
import posixpath
from collections.abc import Iterable, Iterator
from typing import Protocol

from audiocnn import storage
from audiocnn.audio.decode import AUDIO_SUFFIXES
from audiocnn.corpus.clips import Clip, Entry, Rejected, entry
from audiocnn.errors import CorpusError
from audiocnn.storage.listing import StoredFile

DELIMITERS = {".csv": ",", ".tsv": "\t"}


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


def suffix(uri: str) -> str:
    """The end of a name in small letters, such as ".csv"."""
    return posixpath.splitext(uri)[1].lower()


def audio_files(files: list[StoredFile]) -> list[StoredFile]:
    """The files that are recordings, by their names."""
    return [file for file in files if file.path.lower().endswith(AUDIO_SUFFIXES)]


def clip_of_file(
    file: StoredFile, label: str, fold: str, source: str, clip_id: str | None = None
) -> Clip | Rejected:
    """The clip that a whole file is; without `clip_id`, its path names it."""
    return entry(
        file.uri, clip_id or file.path, label, fold=fold, source=source, size=file.size,
        version=file.version,
    )  # fmt: skip


def not_found(uri: str, where: str) -> Rejected:
    """A recording that the file `where` names and that is not there."""
    detail = f"{where} names it, and it is not there"
    return Rejected(uri=storage.printable(uri), reason="unreadable", detail=detail)


def read_text(uri: str) -> str:
    """A file's text, which is UTF-8. Raises CorpusError, StorageError."""
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{uri}: not in UTF-8 ({error})") from error


def read_csv(uri: str, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV or TSV file that has these columns. Raises CorpusError, StorageError."""
    try:
        text = io.StringIO(read_text(uri), newline="")
        delimiter = DELIMITERS[suffix(uri)]
        reader = csv.DictReader(text, delimiter=delimiter, strict=True, restval="")
        check_columns(uri, reader.fieldnames or (), columns)
        yield from reader
    except csv.Error as error:
        raise CorpusError(f"{uri}: not a CSV or TSV file ({error})") from error


def check_columns(uri: str, there: Iterable[str], needed: tuple[str, ...]) -> None:
    """Raise CorpusError where a needed column is missing."""
    missing = [name for name in needed if name not in there]
    if missing:
        raise CorpusError(f"{uri}: no column {', '.join(missing)}; needed: {', '.join(needed)}")
