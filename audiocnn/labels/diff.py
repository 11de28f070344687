"""Compare the listing of a bucket with the recordings that were labelled before.

DuckDB joins the two lists on disk and spills what does not fit into memory, so their length does
not matter.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import duckdb
import pyarrow as pa

from audiocnn.labels import label_set
from audiocnn.labels.label_set import LabelPart
from audiocnn.labels.part import outcomes
from audiocnn.labels.shard_list import SHARD_LIST_SCHEMA
from audiocnn.storage.scratch import Scratch

_BATCH = 10_000
_MEMORY = "1GB"
_KNOWN = pa.schema([("part", pa.string()), ("uri", pa.string()), ("version", pa.string())])


class ListingComparison:
    """A listing on disk, and its comparison with existing parts; see `compare_listing`."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._parts: dict[str, LabelPart] = {}

    def against(self, parts: list[LabelPart], *, retry_failed: bool) -> None:
        """Compare with the recordings in these parts; call this once.

        With `retry_failed`, failed recordings count as not done. Raises FormatError, and
        StorageError as `label_set.files` does.
        """
        self._parts = {part.uri: part for part in parts}
        _load(self._database, "known", _KNOWN, _known(parts, retry_failed))

    def to_do(self) -> Iterator[dict[str, Any]]:
        """Yield rows of the shard list, sorted by URI, of recordings to label.

        These are not done, or done in another version.
        """
        yield from self._rows(
            "SELECT listed.* FROM listed ANTI JOIN known USING (uri, version) ORDER BY uri"
        )

    def stale(self) -> Iterator[tuple[LabelPart, set[str]]]:
        """Yield parts, each with the URIs of the recordings to remove from it.

        A recording is removed if the bucket no longer has it in this version, if it failed and is
        retried, or if several parts have it: only the first part, sorted by URI, keeps it.
        """
        for row in self._rows(
            "SELECT part, list(uri) AS uris FROM ("
            "  SELECT part, uri FROM known ANTI JOIN listed USING (uri, version)"
            "  UNION ALL"
            "  SELECT part, uri FROM known"
            "    QUALIFY row_number() OVER (PARTITION BY uri, version ORDER BY part) > 1"
            ") GROUP BY part ORDER BY part"
        ):
            yield self._parts[row["part"]], set(row["uris"])

    def _rows(self, query: str) -> Iterator[dict[str, Any]]:
        for batch in self._database.sql(query).to_arrow_reader(_BATCH):
            yield from batch.to_pylist()


@contextmanager
def compare_listing(rows: Iterable[dict[str, Any]]) -> Iterator[ListingComparison]:
    """Yield the `ListingComparison` of a listing, given as rows of the shard list.

    Raises StorageError.
    """
    with (
        Scratch() as folder,
        duckdb.connect(os.path.join(folder, "changes.duckdb")) as database,
    ):
        database.execute(f"SET memory_limit = '{_MEMORY}'")
        _load(database, "listed", SHARD_LIST_SCHEMA, rows)
        yield ListingComparison(database)


def _known(parts: list[LabelPart], retry_failed: bool) -> Iterator[dict[str, Any]]:
    for part, file in label_set.files(parts):
        for uri, version, failed in outcomes(part, file):
            # A NULL version never matches in SQL, so a failed recording is retried and removed.
            yield {
                "part": part,
                "uri": uri,
                "version": None if failed and retry_failed else version,
            }


def _load(
    database: duckdb.DuckDBPyConnection,
    name: str,
    schema: pa.Schema,
    rows: Iterable[dict[str, Any]],
) -> None:
    database.from_arrow(schema.empty_table()).create(name)
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH)):
        database.from_arrow(pa.Table.from_pylist(batch, schema)).insert_into(name)
