"""Write a text file for each recording: Raven's selection tables and Audacity's label tracks."""

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from audiocnn import storage
from audiocnn.config import UNKNOWN
from audiocnn.labels.events import Event
from audiocnn.labels.export.base import CONTROLS, Add, Target, text_file
from audiocnn.storage.csv_cells import escape_formula

_RAVEN = (
    "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)",
    "High Freq (Hz)", "Annotation", "Score", "Begin Path", "File Offset (s)",
)  # fmt: skip
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff'
                    r'\ud800-\udfff\\<>:"|?*]')  # fmt: skip
"""Characters that some file systems refuse, or that are invisible or misleading in a listing."""
_MARKED = re.compile(r"~[0-9a-f]{16}$")
_MOST_OF_A_PART, _MOST_OF_A_PATH = 200, 700  # bytes; limits: names 255, S3 keys 1024


class _FilePerRecording:
    """Writer of known events, one text file per recording; no file if no event is known."""

    def __init__(
        self, target: Target, folder: str, suffix: str, header: str, line: Callable[..., str]
    ) -> None:
        self._target, self._folder, self._suffix = target, folder, suffix
        self._header, self._line = header, line
        self._open = ExitStack()
        self._uri: str | None = None
        self._rows = 0

    def add(self, event: Event) -> None:
        """Write an event's line to the file of its recording."""
        if event.label == UNKNOWN:
            return
        if event.uri != self._uri:
            self._begin(event.uri)
        self._rows += 1
        self._file.write(self._line(event, self._rows))

    def _begin(self, uri: str) -> None:
        self._open.close()  # this puts the previous recording's file in place
        name = _file_name(uri, self._target.bucket) + self._suffix
        path = storage.join(self._folder, name)
        self._file = self._open.enter_context(text_file(self._target.files, path))
        self._file.write(self._header)
        self._uri, self._rows = uri, 0

    def __enter__(self) -> Add:
        return self.add

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)


def to_raven(target: Target) -> AbstractContextManager[Add]:
    """Return a writer of Raven selection tables, `raven/<recording>.selections.txt`, as by BirdNET.

    Raven reads `Begin Time` if a table is opened on a sound, and `Begin Path` with `File Offset` if
    it is opened by itself ("sound selection table"). With one table per recording both times count
    from the recording's start, so both ways work. One table of many recordings would need the sums
    of their lengths in `Begin Time`, and events do not contain these lengths. Raven Lite,
    opensoundscape and crowsetta look for the column `Annotation`.
    """

    def line(event: Event, number: int) -> str:
        onset, offset = f"{event.onset_s:.6f}", f"{event.offset_s:.6f}"
        cells = [str(number), "Spectrogram 1", "1", onset, offset, "0.0", f"{target.high_hz:.1f}"]
        # Escaped because people open these tables in spreadsheets too.
        cells += [_cell(escape_formula(event.label)), f"{event.score:.6f}", _cell(event.uri), onset]
        return "\t".join(cells) + "\n"

    header = "\t".join(_RAVEN) + "\n"
    return _FilePerRecording(target, "raven", ".selections.txt", header, line)


def to_audacity(target: Target) -> AbstractContextManager[Add]:
    """Return a writer of `audacity/<recording>.txt`, label tracks for File > Import > Labels."""

    def line(event: Event, _: int) -> str:
        return f"{event.onset_s:.6f}\t{event.offset_s:.6f}\t{_cell(event.label)}\n"

    return _FilePerRecording(target, "audacity", ".txt", "", line)


def _cell(text: str) -> str:
    """Return a cell of a tab-separated line.

    A double quote at its start becomes a single one: it would start a cell of several lines.
    """
    text = CONTROLS.sub(" ", text)
    return "'" + text[1:] if text.startswith('"') else text


def _file_name(uri: str, bucket: str) -> str:
    """Return a recording's path below the bucket, changed so that every file system accepts it.

    If this changes the path, or the recording is not below the bucket, 16 digits of the URI's
    SHA-256 are appended, so that no two recordings get the same name.
    """
    root = bucket.rstrip("/") + "/"
    below = uri.startswith(root)
    path = uri[len(root) :] if below else uri.split("://", 1)[-1].lstrip("/")
    parts = [_file_name_part(part) for part in path.split("/")]
    name = "/".join(parts)
    fits = len(name.encode()) <= _MOST_OF_A_PATH
    # A path that ends like a changed name could equal another recording's changed name.
    if below and fits and name == path and not _MARKED.search(name):
        return name
    digest = hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name if fits else parts[-1]}~{digest[:16]}"


def _file_name_part(part: str) -> str:
    part = _UNFIT.sub("_", part).encode()[:_MOST_OF_A_PART].decode(errors="ignore")
    part = re.sub(r"[ .]+$", "_", part) or "_"  # for `..`, and because Windows strips these
    # A folder `a.txt` would block the file of a recording `a`.
    return part + "_" if part.lower().endswith(".txt") else part
