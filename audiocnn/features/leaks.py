"""Recordings that are in two folds, by which a test would be of what was trained on."""

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
"""Cosine of two windows' coarse pictures above which they may be one recording."""

MOST_NEAR = 1_000
"""Pairs that are looked for: so many are no leak but a kind of sound, as short clips in silence."""

_COARSE = 32
_MOST_COMPARED = 20_000


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Pairs of clips in two folds: (clip_id, fold) of each."""

    sources: list[tuple[str, list[int]]]
    """Sources, and the folds that they are in."""
    same: list[tuple[tuple[str, int], tuple[str, int]]]
    """Clips with a window that is the same to the last bit."""
    near: list[tuple[tuple[str, int], tuple[str, int]]]
    """Clips with a window that looks the same, at most `MOST_NEAR`."""


def find(features: FeatureSet) -> Leaks:
    """Compare every window with those of the other folds; reads the features once.

    Windows without any change in them (digital silence) say nothing and are left out. Near ones
    are looked for among the first 20,000 windows.
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
    """Raise CorpusError where a source or a sound is in two folds."""
    if leaks.sources:
        source, folds = leaks.sources[0]
        raise CorpusError(
            f"{features.uri}: source {source!r} is in folds {', '.join(map(str, folds))} "
            f"({_others(leaks.sources)}): a test would be of what was trained on; "
            "deal the folds by source, or pass --allow-leaks"
        )
    if leaks.same:
        (clip, fold), (other, another) = leaks.same[0]
        raise CorpusError(
            f"{features.uri}: {clip} (fold {fold}) and {other} (fold {another}) are the same "
            f"sound ({_others(leaks.same)}): a test would be of what was trained on; "
            "remove one, give both one source, or pass --allow-leaks"
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
    """A window as a small picture of length 1, each band's mean taken away."""
    bands = np.array_split(logmel.astype(np.float32), min(_COARSE, logmel.shape[0]))
    rows = np.stack([band.mean(axis=0) for band in bands])
    cells = np.array_split(rows, min(_COARSE, logmel.shape[1]), axis=1)
    picture = np.stack([cell.mean(axis=1) for cell in cells])
    # What changes in time alone: two hums of one spectrum are not one recording.
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
