"""Search a labelled bucket for the windows with embeddings nearest to those of a clip."""

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
"""Number of the clip's windows that are compared with a batch of the bucket at once."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A window of the bucket, with its similarity to the clip."""

    similarity: float
    """Cosine of its embedding and the clip's nearest embedding, from -1 to 1."""
    label: str
    score: float
    start_s: float
    end_s: float
    uri: str


@dataclass(kw_only=True)
class SearchResult:
    """The result of a search."""

    matches: list[Match]
    """The most similar first, ties by URI and time; of overlapping windows only the best."""
    windows: int = 0
    """Number of windows of the bucket that were compared."""
    unusable: int = 0
    """Number of these whose embedding is zero or not finite; they cannot match."""


def embed(predictor: Predictor, uri: str, labels: Labelled) -> Vectors:
    """Return the embeddings of a recording's windows, [windows, features] float32.

    The recording is cut like those that were labelled. Silent windows are left out, because all
    silence is alike. Raises AudioError, StorageError, and ConfigError if all windows are silent.
    """
    found = []
    with closing_source(open_recording(Recording(uri=uri), labels.limits.max_bytes)) as source:
        windows = predictor.decode(source, labels.limits, labels.feature.hop_s)
        for group in batched(windows, _WINDOWS):
            logmel = predictor.features([window.samples for window in group])
            scores, embeddings = predictor.scores_and_embeddings(logmel)
            found.append(embeddings[scores.any(axis=1)])
    if not any(map(len, found)):
        raise ConfigError(f"{uri}: all its windows are silent")
    return np.concatenate(found)


def nearest(labels: Labelled, clip: Vectors, count: int) -> SearchResult:
    """Return the `count` windows nearest to any of a clip's, by [windows, features] embeddings.

    A window that overlaps a nearer one is left out. The labels are read once; one batch, the rows
    of one recording and the best rows are in memory. Raises ConfigError if the labels have no
    embeddings or all embeddings of the clip are zero or not finite, StorageError, FormatError.
    """
    labels.require_embeddings()
    queries, good = normalised(clip)
    if not good.any():
        raise ConfigError("the clip's embeddings are zero or not finite: it cannot be compared")
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
    """Return [rows] the highest cosines of unit vectors [rows, features], [windows, features]."""
    best = np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(queries), _AT_ONCE):
        cosines = vectors @ queries[start : start + _AT_ONCE].T
        np.maximum(best, cosines.max(axis=1), out=best)
    return best


def matches_csv(matches: list[Match], bundle: str) -> bytes:
    """Return a CSV file with one row per match; `bundle` is the fingerprint of the bundle."""
    header = ("similarity", "label", "score", "start_s", "end_s", "uri", "bundle")
    rows = (
        (round(m.similarity, 6), m.label, round(m.score, 6), m.start_s, m.end_s, m.uri, bundle)
        for m in matches
    )
    return csv_file([header, *rows])
