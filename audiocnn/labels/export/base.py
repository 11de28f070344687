"""What all formats need: where to write, the columns of events, and text that breaks no line."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import pyarrow as pa

from audiocnn.corpus.file_list import FileList
from audiocnn.labels.events import Event

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
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""What ends a line somewhere, or what XML cannot have."""
Add = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to write, and what formats ask for."""

    files: FileList
    to: str
    bucket: str
    high_hz: float


@contextmanager
def text_file(files: FileList, path: str) -> Iterator[TextIO]:
    """A text file to write, placed at the end; what is no UTF-8 is escaped."""
    with (
        files.placed(path) as place,
        open(place, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def fields_of(event: Event) -> dict[str, str | float | int]:
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
