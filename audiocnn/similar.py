"""The windows of a labelled bucket whose embeddings are nearest to a clip's."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from audiocnn.audio import batched
from audiocnn.cells import csv_file
from audiocnn.errors import ConfigError
from audiocnn.labelled import Labelled, Vectors, normalised, unit_vectors
from audiocnn.predictor import Predictor
from audiocnn.recordings import Recording, closing, open_recording

_COLUMNS = ["uri", "start_s", "end_s", "label", "score"]
_WINDOWS = 64
_AT_ONCE = 1_024
"""Windows of the clip that a batch of the bucket is compared with at once."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A window of the bucket."""

    similarity: float
    """Cosine of its embedding and the nearest of the clip's, within -1 and 1."""
    label: str
    score: float
    start_s: float
    end_s: float
    uri: str


@dataclass(kw_only=True)
class Found:
    """What a search found."""

    matches: list[Match] = field(default_factory=list)
    """The most similar first; of equals, the one that comes first in the labels."""
    windows: int = 0
    """Windows of the bucket that were looked at."""
    unusable: int = 0
    """Those among them whose embedding has no direction: zero, or not finite."""


def embed(predictor: Predictor, uri: str, labels: Labelled) -> Vectors:
    """A recording's windows, cut as those of the labels were -> [windows, features] embeddings.

    Those of silence are left out: all silence is alike. Raises AudioError, StorageError, and
    ConfigError where there are no others.
    """
    found = []
    with closing(open_recording(Recording(uri=uri), labels.limits.max_bytes)) as source:
        windows = predictor.decode(source, labels.limits, labels.feature.hop_s)
        for group in batched(windows, _WINDOWS):
            logmel = predictor.features([window.samples for window in group])
            scores, embeddings = predictor.scores_and_embeddings(logmel)
            found.append(embeddings[scores.any(axis=1)])
    if not any(map(len, found)):
        raise ConfigError(f"{uri}: nothing can be heard in it")
    return np.concatenate(found)


def nearest(labels: Labelled, clip: Vectors, count: int) -> Found:
    """The `count` windows that are nearest to any of a clip's, [windows, features] embeddings.

    The labels are read once, a batch in memory. Raises ConfigError where they have no embeddings,
    or the clip's have no direction, StorageError, FormatError.
    """
    labels.require_embeddings()
    queries, good = normalised(clip)
    if not good.any():
        raise ConfigError("the clip's embeddings are zero or not finite: nothing is like it")
    found = Found()
    for batch in labels.batches([*_COLUMNS, "embedding"]):
        vectors, usable = unit_vectors(batch)
        similarity = np.where(usable, _similarity(vectors, queries[good]), -np.inf)
        found.windows += len(batch)
        found.unusable += int(len(batch) - usable.sum())
        _keep(found.matches, batch, similarity, count)
    return found


def _similarity(vectors: Vectors, queries: Vectors) -> Vectors:
    """Unit vectors [rows, features] and [windows, features] -> [rows] the highest cosines."""
    best = np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(queries), _AT_ONCE):
        cosines = vectors @ queries[start : start + _AT_ONCE].T
        np.maximum(best, cosines.max(axis=1), out=best)
    return best


def _keep(matches: list[Match], batch: pa.RecordBatch, similarity: Vectors, count: int) -> None:
    """Put the rows of a batch that are among the nearest so far in their places."""
    worst = matches[-1].similarity if len(matches) == count else -np.inf
    order = np.argsort(-similarity, kind="stable")[:count]
    order = order[similarity[order] > worst]
    rows = batch.select(_COLUMNS).take(pa.array(order)).to_pylist()
    matches += [
        Match(similarity=float(similarity[at]), **row) for at, row in zip(order, rows, strict=True)
    ]
    matches.sort(key=lambda match: -match.similarity)
    del matches[count:]


def matches_csv(matches: list[Match], bundle: str) -> bytes:
    """Matches as a CSV file, a row each, with the fingerprint of the bundle behind them."""
    header = ("similarity", "label", "score", "start_s", "end_s", "uri", "bundle")
    rows = (
        (round(m.similarity, 6), m.label, round(m.score, 6), m.start_s, m.end_s, m.uri, bundle)
        for m in matches
    )
    return csv_file([header, *rows])
