"""Select the windows of a labelled bucket that are most useful for a person to review.

The labels are read twice. The first pass counts windows and averages the embeddings of each label.
The second pass keeps a short list of the best windows for each reason. Memory depends on the number
of windows to select and on the number of classes, not on the size of the bucket.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from audiocnn.config import UNKNOWN
from audiocnn.labels.reader import Labelled, Vectors, unit_vectors
from audiocnn.review.shortlist import Apart, Keys, Shortlist

SELECTION_REASONS = {
    "uncertain": "the two best classes have almost the same score, or the best score is low",
    "surprising": "unlike the other windows with its label in this bucket, though its score is not "
    "low; without embeddings: both neighbours in time have the same label, and it has another",
    "rare": "labelled with one of the rarest classes of this bucket",
}
"""Reasons to pick a window, with an explanation for people."""

MOST_OF_A_RECORDING = 3
"""Most windows that are picked from one recording."""

_PICKED = ["uri", "version", "start_s", "end_s", "suggested", "score"]
_RAREST = 20
"""Most classes that count as rare."""
_FEWEST = 5
"""Least number of embeddings of a label to say which windows are unlike the others."""
_LEAST_SPREAD = 1e-3
"""Spread that float16 rounding alone gives to equal embeddings."""

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A window to review."""

    uri: str
    version: str
    start_s: float
    end_s: float
    suggested: str
    """The best class, even if its score is below its threshold and the label is `unknown`."""
    score: float
    why: str
    """A key of `SELECTION_REASONS`."""


def select_windows(labels: Labelled, count: int) -> list[Pick]:
    """Return up to `count` windows, taken from the reasons in turns, the best of each first.

    At most three windows of one recording are picked. None overlap: of overlapping windows the best
    is picked. The same labels give the same windows, even if their rows are in other parts. Raises
    StorageError, FormatError.
    """
    # A window picked for another reason rules out at most the 3 candidates of its recording.
    size = count * (1 + MOST_OF_A_RECORDING)
    norms = _norms(labels)
    uncertain = _shortlist(size)
    surprising = _Outlying(size, norms) if labels.has_embeddings else _Isolated(size)
    rare = {name: _shortlist(size) for name in _rarest(norms)}
    embedding = ["embedding"] if labels.has_embeddings else []
    columns = ["uri", "version", "start_s", "end_s", "label", "score", "top_k", *embedding]
    for batch in labels.batches(columns):
        rows, margins = _with_top(batch)
        uncertain.offer(rows, margins)
        surprising.offer(rows)
        codes, names = _coded(rows, "label")
        scores = _scores(rows)
        for code, name in enumerate(names):
            if name in rare:
                rare[name].offer(rows, np.where(codes == code, -scores, np.nan))
    in_turn = zip_longest(*(best.rows() for best in rare.values()))
    return _dealt(
        {
            "uncertain": iter(uncertain.rows()),
            "surprising": iter(surprising.best.rows()),
            "rare": (row for row in chain.from_iterable(in_turn) if row is not None),
        },
        count,
    )


def _shortlist(size: int) -> Shortlist:
    return Shortlist(size, _PICKED, most=MOST_OF_A_RECORDING)


def _with_top(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Keys]:
    """Return the batch with the best class as `suggested`, and [rows] its margin over the second.

    If only one class was kept, the margin is its score. It is NaN for silence, which has score 0.
    """
    top = batch.column("top_k")
    offsets, length = top.offsets.to_numpy(), len(top.values)
    second = np.minimum(offsets[:-1] + 1, length - 1)
    kept = pc.struct_field(top.values, "score").to_numpy(zero_copy_only=False)
    below = np.where(np.diff(offsets) > 1, kept[second], 0.0)
    best = pc.struct_field(top.values, "label").take(pa.array(offsets[:-1]))
    scores = _scores(batch)
    return batch.append_column("suggested", best), np.where(scores > 0, scores - below, np.nan)


def _scores(batch: pa.RecordBatch) -> Keys:
    scores: Keys = batch.column("score").to_numpy(zero_copy_only=False).astype(np.float64)
    return scores


def _coded(batch: pa.RecordBatch, name: str) -> tuple[Codes, list[str]]:
    """Return a text column as [rows] codes, and the texts that the codes stand for."""
    column = batch.column(name).dictionary_encode()
    return column.indices.to_numpy(zero_copy_only=False), column.dictionary.to_pylist()


class _Norm:
    """Means over the windows of one label."""

    def __init__(self) -> None:
        self.windows, self.vectors = 0, 0
        self.score_sum = 0.0
        self.vector_sum: Any = 0.0

    @property
    def score(self) -> float:
        """Mean score."""
        return self.score_sum / self.windows

    @property
    def mean(self) -> Vectors:
        """[features] mean of the embeddings, scaled to length 1 before."""
        mean: Vectors = np.asarray(self.vector_sum / self.vectors, np.float32)
        return mean

    @property
    def spread(self) -> float:
        """Root mean square distance of unit vectors from their mean; its length determines it."""
        mean = self.vector_sum / self.vectors
        return float(np.sqrt(max(0.0, 1.0 - float(mean @ mean))))


def _norms(labels: Labelled) -> dict[str, _Norm]:
    """Read the labels once; return the means of each label except `unknown`."""
    norms: dict[str, _Norm] = defaultdict(_Norm)
    columns = ["label", "score"] + ["embedding"] * labels.has_embeddings
    for batch in labels.batches(columns):
        codes, names = _coded(batch, "label")
        scores = np.nan_to_num(_scores(batch))
        vectors, usable = unit_vectors(batch) if labels.has_embeddings else (None, None)
        for code, name in enumerate(names):
            mine, norm = codes == code, norms[name]
            norm.windows += int(mine.sum())
            norm.score_sum += float(scores[mine].sum())
            if vectors is not None:
                norm.vectors += int((mine & usable).sum())
                norm.vector_sum = norm.vector_sum + vectors[mine].sum(axis=0, dtype=np.float64)
    norms.pop(UNKNOWN, None)
    return dict(norms)


def _rarest(norms: dict[str, _Norm]) -> list[str]:
    """Return classes with fewer windows than the average class, the rarest first; 20 at most."""
    counts = {name: norm.windows for name, norm in norms.items()}
    mean = sum(counts.values()) / max(1, len(counts))
    rare = [name for name, windows in counts.items() if windows < mean]
    return sorted(rare, key=lambda name: (counts[name], name))[:_RAREST]


class _Outlying:
    """Windows far from their label's mean embedding, relative to the spread of the label.

    Only windows with at least the mean score of their label are considered.
    """

    def __init__(self, size: int, norms: dict[str, _Norm]) -> None:
        self.best = _shortlist(size)
        self._norms = {
            name: norm
            for name, norm in norms.items()
            if norm.vectors >= _FEWEST and norm.spread > _LEAST_SPREAD
        }

    def offer(self, batch: pa.RecordBatch) -> None:
        """Add rows of labels with embeddings."""
        vectors, usable = unit_vectors(batch)
        codes, names = _coded(batch, "label")
        scores, keys = _scores(batch), np.full(len(batch), np.nan)
        for code, name in enumerate(names):
            if (norm := self._norms.get(name)) is not None:
                mine = np.flatnonzero((codes == code) & usable & (scores >= norm.score))
                distances = np.linalg.norm(vectors[mine] - norm.mean, axis=1)
                keys[mine] = -distances / norm.spread
        self.best.offer(batch, keys)


class _Isolated:
    """Windows with another label than both neighbours in time, which agree; none `unknown`."""

    def __init__(self, size: int) -> None:
        self.best = _shortlist(size)
        self._tail: pa.RecordBatch | None = None

    def offer(self, batch: pa.RecordBatch) -> None:
        """Add rows of labels; the rows of a recording are adjacent and sorted by time."""
        rows = batch if self._tail is None else pa.concat_batches([self._tail, batch])
        self._tail = rows[-2:]
        if len(rows) < 3:
            return
        labels, names = _coded(rows, "label")
        uris, _ = _coded(rows, "uri")
        unknown = names.index(UNKNOWN) if UNKNOWN in names else -1
        before, here, after = labels[:-2], labels[1:-1], labels[2:]
        odd = (before == after) & (before != here) & (uris[:-2] == uris[2:])
        odd &= (before != unknown) & (here != unknown)
        inner = rows[1:-1]
        self.best.offer(inner, np.where(odd, -_scores(inner), np.nan))


def _dealt(queues: dict[str, Iterator[dict[str, Any]]], count: int) -> list[Pick]:
    """Take rows from the queues in turns: at most three per recording, without overlaps."""
    picks: list[Pick] = []
    taken: dict[str, Apart] = defaultdict(Apart)

    def fits(row: dict[str, Any]) -> bool:
        mine = taken[row["uri"]]
        return len(mine) < MOST_OF_A_RECORDING and mine.fits(row["start_s"], row["end_s"])

    while queues:
        for why in list(queues):
            row = next(filter(fits, queues[why]), None)
            if row is None:
                del queues[why]
                continue
            if len(picks) == count:
                return picks
            taken[row["uri"]].add(row["start_s"], row["end_s"])
            picks.append(Pick(**row, why=why))
    return picks
