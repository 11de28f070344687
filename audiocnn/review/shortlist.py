"""Keep the best windows of a stream of label rows; of overlapping windows only the best."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Keys = npt.NDArray[np.float64]

_TOUCH_S = 1e-6
"""Longest overlap, in seconds, that is ignored: times of windows are rounded sums."""
_ORDER = [("key", "ascending"), ("uri", "ascending"), ("start_s", "ascending")]


class Apart:
    """Time ranges of one recording that do not overlap."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []

    def __len__(self) -> int:
        return len(self._starts)

    def fits(self, start_s: float, end_s: float) -> bool:
        """Return whether a time range overlaps none of them."""
        at = bisect_right(self._starts, start_s)
        behind_it = at == len(self._starts) or self._starts[at] >= end_s - _TOUCH_S
        return behind_it and (at == 0 or self._ends[at - 1] <= start_s + _TOUCH_S)

    def add(self, start_s: float, end_s: float) -> None:
        """Add a time range that fits."""
        at = bisect_right(self._starts, start_s)
        self._starts.insert(at, start_s)
        self._ends.insert(at, end_s)


class Shortlist:
    """The `size` rows with the lowest keys; per recording at most `most`, without overlaps.

    A row is left out if a row with a lower key overlaps it. Rows with equal keys are ordered by URI
    and time. The rows of a recording must be adjacent. In memory are `size` rows, and the rows of
    the current recording with low enough keys.
    """

    def __init__(self, size: int, columns: Iterable[str], most: int) -> None:
        self._size, self._columns, self._most = size, list(columns), most
        self._best: pa.Table | None = None
        self._open: list[pa.Table] = []
        self._last: str | None = None
        self._worst = np.inf

    def offer(self, batch: pa.RecordBatch, keys: Keys) -> None:
        """Add rows with their keys, [rows]; rows with the key NaN are ignored."""
        rows = pa.Table.from_batches([batch.select(self._columns)])
        rows = rows.append_column("key", pa.array(keys)).filter(pa.array(keys <= self._worst))
        last = batch.column("uri")[-1].as_py() if len(batch) else self._last
        is_last = pc.equal(rows["uri"], last)
        if last != self._last:  # now the recording's rows are all there, to compare their times
            self._open.append(rows.filter(pc.invert(is_last)))
            self._settle()
        self._open.append(rows.filter(is_last))
        self._last = last

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows, the lowest key first."""
        self._settle()
        return [] if self._best is None else self._best.drop_columns(["key"]).to_pylist()

    def _settle(self) -> None:
        """Merge the rows of complete recordings into the list."""
        new = [rows for rows in self._open if len(rows)]
        self._open.clear()
        if not new:
            return
        best = pa.concat_tables(new if self._best is None else [self._best, *new])
        best = best.take(pc.sort_indices(best, sort_keys=_ORDER)).combine_chunks()
        self._best = best.take(pa.array(self._apart(best), pa.int64())).combine_chunks()
        if len(self._best) == self._size:
            self._worst = self._best["key"][-1].as_py()

    def _apart(self, rows: pa.Table) -> list[int]:
        """Return the places of the first `size` rows that may stay, in their order."""
        uris = rows["uri"].combine_chunks().dictionary_encode().indices
        columns = (column.to_pylist() for column in (uris, rows["start_s"], rows["end_s"]))
        taken: dict[int, Apart] = defaultdict(Apart)
        places: list[int] = []
        for place, (uri, start_s, end_s) in enumerate(zip(*columns, strict=True)):
            mine = taken[uri]
            if len(mine) < self._most and mine.fits(start_s, end_s):
                mine.add(start_s, end_s)
                places.append(place)
                if len(places) == self._size:
                    break
        return places
