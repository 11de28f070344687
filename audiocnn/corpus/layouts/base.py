"""The interface of a layout, and functions that several layouts need."""

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
    """A way to lay out a corpus that `read_corpus` can read."""

    name: str
    looks: str
    """Description of the expected files, for the error message if no layout matches."""

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Return whether the listed files have this layout."""

    def clips(self, uri: str, files: list[StoredFile]) -> Iterable[Entry]:
        """Yield the clips among the listed files, made by `entry`, and the rejected entries.

        Raises CorpusError, StorageError.
        """


def suffix(uri: str) -> str:
    """Return the suffix of a name in lower case, for example ".csv"."""
    return posixpath.splitext(uri)[1].lower()


def audio_files(files: list[StoredFile]) -> list[StoredFile]:
    """Return the files with a suffix of recordings."""
    return [file for file in files if file.path.lower().endswith(AUDIO_SUFFIXES)]


def clip_of_file(
    file: StoredFile, label: str, fold: str, source: str, clip_id: str | None = None
) -> Clip | Rejected:
    """Return the clip of a whole file; its id is the file's path unless `clip_id` is given."""
    return entry(
        file.uri, clip_id or file.path, label, fold=fold, source=source, size=file.size,
        version=file.version,
    )  # fmt: skip


def not_found(uri: str, where: str) -> Rejected:
    """Return the rejected entry of a recording that the file `where` names but that is missing."""
    detail = f"{where} names it, but the file is missing"
    return Rejected(uri=storage.printable(uri), reason="unreadable", detail=detail)


def read_text(uri: str) -> str:
    """Return the text of a UTF-8 file. Raises CorpusError, StorageError."""
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{uri}: not in UTF-8 ({error})") from error


def read_csv(uri: str, *columns: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV file with these columns. Raises CorpusError, StorageError."""
    try:
        text = io.StringIO(read_text(uri), newline="")
        delimiter = DELIMITERS[suffix(uri)]
        reader = csv.DictReader(text, delimiter=delimiter, strict=True, restval="")
        check_columns(uri, reader.fieldnames or (), columns)
        yield from reader
    except csv.Error as error:
        raise CorpusError(f"{uri}: not a CSV or TSV file ({error})") from error


def check_columns(uri: str, there: Iterable[str], needed: tuple[str, ...]) -> None:
    """Raise CorpusError if a needed column is missing."""
    missing = [name for name in needed if name not in there]
    if missing:
        raise CorpusError(f"{uri}: no column {', '.join(missing)}; needed: {', '.join(needed)}")
