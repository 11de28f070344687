"""Shared by all export formats: the target, the columns of events and safe text files."""

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
"""Columns of `events.parquet` and `events.csv`."""
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Characters that end a line in some program, or that XML does not allow."""
Add = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Destination of an export, and the settings that formats need."""

    files: FileList
    to: str
    bucket: str
    high_hz: float


@contextmanager
def text_file(files: FileList, path: str) -> Iterator[TextIO]:
    """Open a text file that is put at `path` when the block ends.

    Characters that UTF-8 cannot encode are escaped.
    """
    with (
        files.atomic_path(path) as place,
        open(place, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def fields_of(event: Event) -> dict[str, str | float | int]:
    """Return an event by column: times to the microsecond, the score to 6 decimals (float32)."""
    return {
        "uri": event.uri,
        "onset_s": round(event.onset_s, 6),
        "offset_s": round(event.offset_s, 6),
        "label": event.label,
        "score": round(event.score, 6),
        "windows": event.windows,
        "bundle": event.bundle,
    }
