"""`failures.parquet`: one row for each object that gave no result, with the reason."""

import pyarrow as pa

from audiocnn import storage
from audiocnn.errors import AudioError, UnreadableError

FAILURES = pa.schema([("uri", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
"""Columns of `failures.parquet`."""


def failure_row(uri: str, error: AudioError | UnreadableError) -> dict[str, str]:
    """Return the row of an object that could not be read or decoded."""
    uri = storage.printable(uri)
    if isinstance(error, AudioError):
        return {"uri": uri, "stage": "decode", "reason": str(error)}
    return {"uri": uri, "stage": "read", "reason": f"{error.reason}: {error}"}


def write_failures(to: str, failures: list[dict[str, str]]) -> None:
    """Write the rows to `failures.parquet` below `to`, sorted by URI. Raises StorageError."""
    rows = sorted(failures, key=lambda row: row["uri"])
    table = pa.Table.from_pylist(rows, FAILURES)
    storage.write_parquet(storage.join(to, "failures.parquet"), table)
