"""The best windows of labels as their rows stream by: of those that overlap, the best alone."""

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
"""Windows that share no more than this touch: their times are sums that were rounded."""
_ORDER = [("key", "ascending"), ("uri", "ascending"), ("start_s", "ascending")]


class Apart:
    """Stretches of one recording that do not overlap."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []

    def __len__(self) -> int:
        return len(self._starts)

    def fits(self, start_s: float, end_s: float) -> bool:
        """Whether a stretch overlaps none of them."""
        at = bisect_right(self._starts, start_s)
        behind_it = at == len(self._starts) or self._starts[at] >= end_s - _TOUCH_S
        return behind_it and (at == 0 or self._ends[at - 1] <= start_s + _TOUCH_S)

    def add(self, start_s: float, end_s: float) -> None:
        """One more, which fits."""
        at = bisect_right(self._starts, start_s)
        self._starts.insert(at, start_s)
        self._ends.insert(at, end_s)


class Shortlist:
    """The rows with the lowest keys; of a recording none that overlap, and no more than `most`.

    A row is left out where one of a lower key overlaps it. Rows of equal keys are ordered by URI
    and time. A recording's rows come together; memory is `size` rows, and those of the recording
    that is read whose keys are low enough.
    """

    def __init__(self, size: int, columns: Iterable[str], most: int) -> None:
        self._size, self._columns, self._most = size, list(columns), most
        self._best: pa.Table | None = None
        self._open: list[pa.Table] = []
        self._last: str | None = None
        self._worst = np.inf

    def offer(self, batch: pa.RecordBatch, keys: Keys) -> None:
        """Rows and their keys [rows]; those of NaN are not wanted."""
        rows = pa.Table.from_batches([batch.select(self._columns)])
        rows = rows.append_column("key", pa.array(keys)).filter(pa.array(keys <= self._worst))
        last = batch.column("uri")[-1].as_py() if len(batch) else self._last
        is_last = pc.equal(rows["uri"], last)
        if last != self._last:  # what overlaps what is known once a recording's rows are all there
            self._open.append(rows.filter(pc.invert(is_last)))
            self._settle()
        self._open.append(rows.filter(is_last))
        self._last = last

    def rows(self) -> list[dict[str, Any]]:
        """The best first."""
        self._settle()
        return [] if self._best is None else self._best.drop_columns(["key"]).to_pylist()

    def _settle(self) -> None:
        """Put the rows of recordings that are all there in their places."""
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
        """Places of up to `size` rows, taken in their order."""
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
