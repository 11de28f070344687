"""Events -> files that other programs open: CSV, JSON Lines, Raven, Audacity, Label Studio.

Names of recordings and classes are somebody else's: none of them runs as a formula, breaks a line
or a tag, or leads out of the folder. Parquet and JSON Lines alone have every name exactly as it is.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO
from xml.sax.saxutils import quoteattr

import pyarrow as pa

from audiocnn import storage
from audiocnn.config import UNKNOWN
from audiocnn.corpus.file_list import FileList, Told
from audiocnn.errors import ConfigError
from audiocnn.labels.events import Event
from audiocnn.storage import parquet
from audiocnn.storage.csv_cells import escape_formula

EVENTS = pa.schema(
    [
        ("uri", pa.string()),
        ("onset_s", pa.float64()),
        ("offset_s", pa.float64()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("windows", pa.int32()),
        ("bundle", pa.string()),
    ]
)
"""Columns of `events.parquet`, and of the CSV."""
EXPORTS = "exports.json"
"""The list of what was exported for people: all formats but Parquet."""
_FORMAT = "audiocnn.exports/1"
_ROW_GROUP = 8_192
_RAVEN = (
    "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)",
    "High Freq (Hz)", "Annotation", "Score", "Begin Path", "File Offset (s)",
)  # fmt: skip
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""What ends a line somewhere, or what XML cannot have."""
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff'
                    r'\ud800-\udfff\\<>:"|?*]')  # fmt: skip
"""What some file system, or somebody who reads a listing, would stumble over."""
_MARKED = re.compile(r"~[0-9a-f]{16}$")
_MOST_OF_A_PART, _MOST_OF_A_PATH = 200, 700  # bytes; files have 255, keys of S3 1024

Add = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class _Target:
    files: FileList
    to: str
    bucket: str
    high_hz: float


def export(
    formats: Sequence[str],
    events: Iterable[Event],
    to: str,
    bucket: str,
    *,
    high_hz: float,
    told: Told = lambda path, kept: None,
) -> dict[str, str]:
    """Write events in the formats below the folder `to`; the path there of each format.

    Events come recording by recording, as `events.merged` gives them, and are in memory one at a
    time. Files of all events are placed when all are written; `raven` and `audacity` are folders
    of a file a recording, named as it is below `bucket`, and each is placed when its events are
    over. `high_hz` is the upper edge of Raven's boxes, which refuses those above half a recording's
    rate.

    What an earlier export wrote in these formats is replaced. A file that somebody changed since,
    or put there, is kept beside, and `told` is called with its path and where it is kept.

    Raises ConfigError for a format that is not in `FORMATS`, StorageError.
    """
    for name in formats:
        if name not in _WRITERS:
            raise ConfigError(f"no format {name!r} to export: choose from {', '.join(FORMATS)}")
    to = storage.absolute(to)
    files = FileList(to, EXPORTS, told)
    target = _Target(files=files, to=to, bucket=storage.absolute(bucket), high_hz=high_hz)
    chosen = {name: _WRITERS[name] for name in formats}
    with ExitStack() as stack:
        adds = [stack.enter_context(writer(target)) for _, writer in chosen.values()]
        for event in events:
            for add in adds:
                add(event)
    files.finish((path for path, _ in chosen.values()), format=_FORMAT)
    return {name: path for name, (path, _) in chosen.items()}


def clear_exports(to: str, told: Told) -> None:
    """Remove what `export` wrote below a folder; `told` is called as by `export`."""
    files = FileList(to, EXPORTS, told)
    files.clear()
    files.finish((), format=_FORMAT)


@contextmanager
def _text(files: FileList, path: str) -> Iterator[TextIO]:
    """A text file to write, placed at the end; what is no UTF-8 is escaped."""
    with (
        files.placed(path) as place,
        open(place, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def _fields(event: Event) -> dict[str, str | float | int]:
    """An event by column: times to the microsecond, scores as float32 had them."""
    return {
        "uri": event.uri,
        "onset_s": round(event.onset_s, 6),
        "offset_s": round(event.offset_s, 6),
        "label": event.label,
        "score": round(event.score, 6),
        "windows": event.windows,
        "bundle": event.bundle,
    }


@contextmanager
def _parquet(target: _Target) -> Iterator[Add]:
    """`events.parquet`: a row an event."""
    with (
        storage.atomic_path(storage.join(target.to, "events.parquet")) as path,
        parquet.writer(path, EVENTS) as file,
    ):
        held: list[dict[str, str | float | int]] = []

        def flush() -> None:
            file.write_table(pa.Table.from_pylist(held, EVENTS))
            held.clear()

        def add(event: Event) -> None:
            held.append(vars(event))
            if len(held) == _ROW_GROUP:
                flush()

        yield add
        flush()


@contextmanager
def _csv(target: _Target) -> Iterator[Add]:
    """`events.csv` after RFC 4180: a row an event, quoted where a name has line ends."""
    with _text(target.files, "events.csv") as file:
        writer = csv.writer(file)
        writer.writerow(EVENTS.names)

        def add(event: Event) -> None:
            values = _fields(event).values()
            writer.writerow([escape_formula(v) if isinstance(v, str) else v for v in values])

        yield add


@contextmanager
def _jsonl(target: _Target) -> Iterator[Add]:
    """`events.jsonl`: an object a line, in ASCII."""
    with _text(target.files, "events.jsonl") as file:
        yield lambda event: _write_line(file, json.dumps(_fields(event)))


def _write_line(file: TextIO, line: str) -> None:
    file.write(line + "\n")


class _FilePerRecording:
    """Text files of the known events, one a recording; none where nothing is known."""

    def __init__(
        self, target: _Target, folder: str, suffix: str, header: str, line: Callable[..., str]
    ) -> None:
        self._target, self._folder, self._suffix = target, folder, suffix
        self._header, self._line = header, line
        self._open = ExitStack()
        self._uri: str | None = None
        self._rows = 0

    def add(self, event: Event) -> None:
        """Write an event's line to its recording's file."""
        if event.label == UNKNOWN:
            return
        if event.uri != self._uri:
            self._begin(event.uri)
        self._rows += 1
        self._file.write(self._line(event, self._rows))

    def _begin(self, uri: str) -> None:
        self._open.close()  # and so places the file of the recording before
        name = _file_name(uri, self._target.bucket) + self._suffix
        path = storage.join(self._folder, name)
        self._file = self._open.enter_context(_text(self._target.files, path))
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


def _raven(target: _Target) -> AbstractContextManager[Add]:
    """`raven/<recording>.selections.txt`: a selection table a recording, as BirdNET writes them.

    Raven reads `Begin Time` of a table that is opened on a sound, and `Begin Path` with
    `File Offset` of one that is opened by itself ("sound selection table"). With a table a
    recording both times are from its start, so either opens right. A table of many recordings
    would need their summed lengths in `Begin Time`, which events do not tell. `Annotation` is the
    column that Raven Lite, opensoundscape and crowsetta look for.
    """

    def line(event: Event, number: int) -> str:
        onset, offset = f"{event.onset_s:.6f}", f"{event.offset_s:.6f}"
        cells = [str(number), "Spectrogram 1", "1", onset, offset, "0.0", f"{target.high_hz:.1f}"]
        # People open these tables in spreadsheets too.
        cells += [_cell(escape_formula(event.label)), f"{event.score:.6f}", _cell(event.uri), onset]
        return "\t".join(cells) + "\n"

    header = "\t".join(_RAVEN) + "\n"
    return _FilePerRecording(target, "raven", ".selections.txt", header, line)


def _audacity(target: _Target) -> AbstractContextManager[Add]:
    """`audacity/<recording>.txt`: a label track a recording, for File > Import > Labels."""

    def line(event: Event, _: int) -> str:
        return f"{event.onset_s:.6f}\t{event.offset_s:.6f}\t{_cell(event.label)}\n"

    return _FilePerRecording(target, "audacity", ".txt", "", line)


def _cell(text: str) -> str:
    """One cell of a line that is split at tabs; a quote that would open a longer one is single."""
    text = _CONTROLS.sub(" ", text)
    return "'" + text[1:] if text.startswith('"') else text


@contextmanager
def _label_studio(target: _Target) -> Iterator[Add]:
    """`label_studio.json`, tasks to import, and `label_studio.xml`, the project's configuration.

    A recording's URI is its task's audio: Label Studio resolves `s3://` by a source storage of
    that bucket, and a path not at all.
    """
    with _text(target.files, "label_studio.json") as file:
        tasks = _Tasks(file)
        yield tasks.add
        tasks.close()
    # Label Studio refuses a configuration without any label.
    labels = sorted(tasks.labels) or [UNKNOWN]
    lines = [f"    <Label value={quoteattr(label)}/>" for label in labels]
    lines = ["<View>", '  <Labels name="label" toName="audio">', *lines, "  </Labels>"]
    lines += ['  <Audio name="audio" value="$audio"/>', "</View>", ""]
    target.files.write_bytes("label_studio.xml", "\n".join(lines).encode())


class _Tasks:
    """A JSON array of Label Studio's tasks, one a recording, written as events come.

    Known events are regions of a prediction, whose score is the mean of theirs; a recording where
    nothing is known is a task to label from scratch. Regions are of all channels (`channel` is 0
    unless the view splits them), and `original_length` is filled in by Label Studio's editor.
    """

    def __init__(self, file: TextIO) -> None:
        self.labels: set[str] = set()
        self._file = file
        self._uri: str | None = None
        self._written = 0
        self._regions, self._score = 0, 0.0
        file.write("[")

    def add(self, event: Event) -> None:
        """Write an event, and first what ends and begins a task where its recording is another."""
        if event.uri != self._uri:
            self._end_task()
            data = json.dumps({"audio": event.uri})
            self._file.write("\n" if self._uri is None else ",\n")
            self._file.write(f'{{"data": {data}, "predictions": [')
            self._uri, self._regions, self._score = event.uri, 0, 0.0
        if event.label != UNKNOWN:
            version = json.dumps(f"audiocnn {event.bundle}")
            begin = f'{{"model_version": {version}, "result": ['
            self._file.write(", " if self._regions else begin)
            self._file.write(json.dumps(self._region(event)))
            self._regions, self._score = self._regions + 1, self._score + event.score

    def _region(self, event: Event) -> dict[str, object]:
        label = _CONTROLS.sub(" ", event.label)
        self.labels.add(label)
        self._written += 1  # ids are to be unique in a project
        fields = _fields(event)
        start, end = fields["onset_s"], fields["offset_s"]
        return {
            "id": f"audiocnn-{self._written}",
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "value": {"start": start, "end": end, "channel": 0, "labels": [label]},
            "score": fields["score"],
        }

    def _end_task(self) -> None:
        if self._regions:
            self._file.write(f'], "score": {round(self._score / self._regions, 6)}}}')
        if self._uri is not None:
            self._file.write("]}")

    def close(self) -> None:
        """End the array."""
        self._end_task()
        self._file.write("\n]\n")


def _file_name(uri: str, bucket: str) -> str:
    """A recording's path below its bucket, as any file system can have it below a folder.

    Where that is another path, or the recording is not below the bucket, part of the URI's SHA-256
    is appended, so that no two recordings have one name.
    """
    root = bucket.rstrip("/") + "/"
    below = uri.startswith(root)
    path = uri[len(root) :] if below else uri.split("://", 1)[-1].lstrip("/")
    parts = [_file_name_part(part) for part in path.split("/")]
    name = "/".join(parts)
    fits = len(name.encode()) <= _MOST_OF_A_PATH
    # A name that ends as a changed one does might be that of another recording.
    if below and fits and name == path and not _MARKED.search(name):
        return name
    digest = hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name if fits else parts[-1]}~{digest[:16]}"


def _file_name_part(part: str) -> str:
    part = _UNFIT.sub("_", part).encode()[:_MOST_OF_A_PART].decode(errors="ignore")
    part = re.sub(r"[ .]+$", "_", part) or "_"  # `..`, and what Windows strips
    # A folder of this name might be where the file of another recording should be.
    return part + "_" if part.lower().endswith(".txt") else part


_WRITERS: dict[str, tuple[str, Callable[[_Target], AbstractContextManager[Add]]]] = {
    "parquet": ("events.parquet", _parquet),
    "csv": ("events.csv", _csv),
    "jsonl": ("events.jsonl", _jsonl),
    "raven": ("raven", _raven),
    "audacity": ("audacity", _audacity),
    "label-studio": ("label_studio.json", _label_studio),
}
"""By format: the path that it writes, and what writes it there."""

FORMATS: tuple[str, ...] = tuple(_WRITERS)
