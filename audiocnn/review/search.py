"""The windows of a labelled bucket whose embeddings are nearest to a clip's."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from audiocnn.audio.decode import batched
from audiocnn.audio.recording import Recording, closing_source, open_recording
from audiocnn.errors import ConfigError
from audiocnn.labels.reader import Labelled, Vectors, normalised, unit_vectors
from audiocnn.model.predictor import Predictor
from audiocnn.review.shortlist import Shortlist
from audiocnn.storage.csv_cells import csv_file

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
class SearchResult:
    """What a search found."""

    matches: list[Match]
    """The most similar first, equal ones by URI and time; of those that overlap, the best."""
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
    with closing_source(open_recording(Recording(uri=uri), labels.limits.max_bytes)) as source:
        windows = predictor.decode(source, labels.limits, labels.feature.hop_s)
        for group in batched(windows, _WINDOWS):
            logmel = predictor.features([window.samples for window in group])
            scores, embeddings = predictor.scores_and_embeddings(logmel)
            found.append(embeddings[scores.any(axis=1)])
    if not any(map(len, found)):
        raise ConfigError(f"{uri}: nothing can be heard in it")
    return np.concatenate(found)


def nearest(labels: Labelled, clip: Vectors, count: int) -> SearchResult:
    """The `count` windows that are nearest to any of a clip's, [windows, features] embeddings.

    A window that overlaps a nearer one is left out. The labels are read once; in memory are a batch
    and a recording's rows. Raises ConfigError where they have no embeddings,
    or the clip's have no direction, StorageError, FormatError.
    """
    labels.require_embeddings()
    queries, good = normalised(clip)
    if not good.any():
        raise ConfigError("the clip's embeddings are zero or not finite: nothing is like it")
    best = Shortlist(count, ["similarity", *_COLUMNS], most=count)
    windows = unusable = 0
    for batch in labels.batches([*_COLUMNS, "embedding"]):
        vectors, usable = unit_vectors(batch)
        similarity = _similarity(vectors, queries[good])
        windows += len(batch)
        unusable += int(len(batch) - usable.sum())
        rows = batch.append_column("similarity", pa.array(similarity))
        best.offer(rows, np.where(usable, -similarity.astype(np.float64), np.nan))
    matches = [Match(**row) for row in best.rows()]
    return SearchResult(matches=matches, windows=windows, unusable=unusable)


def _similarity(vectors: Vectors, queries: Vectors) -> Vectors:
    """Unit vectors [rows, features] and [windows, features] -> [rows] the highest cosines."""
    best = np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(queries), _AT_ONCE):
        cosines = vectors @ queries[start : start + _AT_ONCE].T
        np.maximum(best, cosines.max(axis=1), out=best)
    return best


def matches_csv(matches: list[Match], bundle: str) -> bytes:
    """Matches as a CSV file, a row each, with the fingerprint of the bundle behind them."""
    header = ("similarity", "label", "score", "start_s", "end_s", "uri", "bundle")
    rows = (
        (round(m.similarity, 6), m.label, round(m.score, 6), m.start_s, m.end_s, m.uri, bundle)
        for m in matches
    )
    return csv_file([header, *rows])
