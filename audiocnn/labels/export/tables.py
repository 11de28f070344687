"""Write events as Parquet, CSV and JSON Lines."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pyarrow as pa

from audiocnn import storage
from audiocnn.labels.events import Event
from audiocnn.labels.export.base import EVENTS, Add, Target, fields_of, text_file
from audiocnn.storage import parquet
from audiocnn.storage.csv_cells import escape_formula

_ROW_GROUP = 8_192


@contextmanager
def to_parquet(target: Target) -> Iterator[Add]:
    """Write `events.parquet`, one row per event."""
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
def to_csv(target: Target) -> Iterator[Add]:
    """Write `events.csv` (RFC 4180), one row per event; names with line ends are quoted."""
    with text_file(target.files, "events.csv") as file:
        writer = csv.writer(file)
        writer.writerow(EVENTS.names)

        def add(event: Event) -> None:
            values = fields_of(event).values()
            writer.writerow([escape_formula(v) if isinstance(v, str) else v for v in values])

        yield add


@contextmanager
def to_jsonl(target: Target) -> Iterator[Add]:
    """Write `events.jsonl`, one JSON object per line, in ASCII."""
    with text_file(target.files, "events.jsonl") as file:
        yield lambda event: _write_line(file, json.dumps(fields_of(event)))


def _write_line(file: TextIO, line: str) -> None:
    file.write(line + "\n")
