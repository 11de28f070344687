"""Find recordings that are in two folds: a test would then contain training data."""

import hashlib
from collections import defaultdict
from collections.abc import Sized
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from audiocnn.errors import CorpusError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.rows import FeatureRows

NEAR = 0.99
"""Cosine similarity of two windows' coarse pictures above which they may be one recording."""

MOST_NEAR = 1_000
"""Most near pairs that are searched for.

So many pairs are not leaks but one kind of sound, such as short clips in silence.
"""

_COARSE = 32
"""Most rows and columns of a coarse picture."""
_MOST_COMPARED = 20_000
"""Most windows that are searched for near pairs."""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Sources in several folds, and pairs of clips in two folds; a clip is (clip_id, fold)."""

    sources: list[tuple[str, list[int]]]
    """Sources that are in several folds, and these folds."""
    same: list[tuple[tuple[str, int], tuple[str, int]]]
    """Pairs of clips that share a window with identical bits."""
    near: list[tuple[tuple[str, int], tuple[str, int]]]
    """Pairs of clips with windows that look the same (`NEAR`), at most `MOST_NEAR` pairs."""


def find(features: FeatureSet) -> Leaks:
    """Compare every window with the windows of the other folds; read the features once.

    Windows with a constant log-mel (digital silence) are left out. Near pairs are searched for
    among the first 20,000 windows only.
    """
    by_content: dict[bytes, dict[int, str]] = defaultdict(dict)
    by_source: dict[str, set[int]] = defaultdict(set)
    coarse: list[np.ndarray] = []
    clips: list[tuple[str, int]] = []
    for part in features.parts:
        rows = features.load_part(part, list(features.folds))
        for source, fold in zip(rows.sources, rows.folds.tolist(), strict=True):
            if source is not None:
                by_source[source].add(fold)
        for clip_id, fold, logmel in _with_sound(rows):
            by_content[hashlib.sha256(logmel.tobytes()).digest()].setdefault(fold, clip_id)
            if len(clips) < _MOST_COMPARED:
                clips.append((clip_id, fold))
                coarse.append(_coarse(logmel))
    same = [
        ((clip, fold), (other, another))
        for folds in by_content.values()
        for (fold, clip), (another, other) in pairwise(sorted(folds.items()))
    ]
    return Leaks(
        sources=[(s, sorted(folds)) for s, folds in by_source.items() if len(folds) > 1],
        same=same,
        near=sorted(_near(coarse, clips).difference(same)),
    )


def require_none(features: FeatureSet, leaks: Leaks) -> None:
    """Raise CorpusError if a source or an identical sound is in two folds."""
    if leaks.sources:
        source, folds = leaks.sources[0]
        raise CorpusError(
            f"{features.uri}: source {source!r} is in folds {', '.join(map(str, folds))} "
            f"({_others(leaks.sources)}): a test would use training data; "
            "assign folds by source, or pass --allow-leaks"
        )
    if leaks.same:
        (clip, fold), (other, another) = leaks.same[0]
        raise CorpusError(
            f"{features.uri}: {clip} (fold {fold}) and {other} (fold {another}) are the same "
            f"sound ({_others(leaks.same)}): a test would use training data; "
            "remove one, give both the same source, or pass --allow-leaks"
        )


def _others(found: Sized) -> str:
    return f"{len(found) - 1} more like it"


def _with_sound(rows: FeatureRows) -> list[tuple[str, int, np.ndarray]]:
    return [
        (clip_id, int(fold), logmel)
        for clip_id, fold, logmel in zip(rows.clip_ids, rows.folds, rows.logmel, strict=True)
        if logmel.min() != logmel.max()
    ]


def _coarse(logmel: np.ndarray) -> np.ndarray:
    """Return a window [n_mels, n_frames] as a small, flat picture with norm 1."""
    bands = np.array_split(logmel.astype(np.float32), min(_COARSE, logmel.shape[0]))
    rows = np.stack([band.mean(axis=0) for band in bands])
    cells = np.array_split(rows, min(_COARSE, logmel.shape[1]), axis=1)
    picture = np.stack([cell.mean(axis=1) for cell in cells])
    # Subtract each band's mean over time: two hums with one spectrum are not one recording.
    picture = (picture - picture.mean(axis=0)).ravel()
    scaled: np.ndarray = picture / max(float(np.linalg.norm(picture)), 1e-6)
    return scaled


def _near(
    coarse: list[np.ndarray], clips: list[tuple[str, int]]
) -> set[tuple[tuple[str, int], tuple[str, int]]]:
    if not coarse:
        return set()
    pictures, folds = np.stack(coarse), np.array([fold for _, fold in clips])
    found: set[tuple[tuple[str, int], tuple[str, int]]] = set()
    for start in range(0, len(pictures), 1_000):
        cosine = pictures[start : start + 1_000] @ pictures.T
        others = folds[start : start + 1_000, None] < folds[None]
        for row, column in np.argwhere((cosine > NEAR) & others):
            found.add((clips[start + int(row)], clips[int(column)]))
            if len(found) == MOST_NEAR:
                return found
    return found
