"""Assign folds, by source and class, to the clips of a corpus that has no folds of its own."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from audiocnn.corpus.clips import Clip, Corpus, check_sources
from audiocnn.errors import CorpusError


def with_folds(
    corpus: Corpus, n_folds: int = 5, seed: int = 0, kept: Mapping[str, int] | None = None
) -> Corpus:
    """Return the corpus with folds 1 to `n_folds`, unless it has folds of its own.

    Clips in `kept` (clip_id -> fold) keep their fold, and new clips of their sources join them.
    The other sources are assigned, the largest first, to the fold with the fewest clips of their
    classes, then with the fewest clips, then by a seeded hash. The result does not depend on the
    order in which clips are listed.

    Raises CorpusError if a class has fewer sources than there are folds, a kept fold is not one
    of them, or the clips of a source were kept in two folds.
    """
    if corpus.folds:
        return corpus
    kept = kept or {}
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        groups[_group(clip)].append(clip)
    _check_groups(corpus, groups, n_folds)
    folds = _kept_folds(corpus, kept, n_folds)
    _deal(groups, folds, n_folds, seed)
    dealt = replace(
        corpus,
        clips=tuple(
            replace(clip, fold=kept.get(clip.clip_id, folds[_group(clip)])) for clip in corpus.clips
        ),
    )
    check_sources(dealt)
    return dealt


def _group(clip: Clip) -> str:
    """Return the group that shares a fold: the source, else the clip, marked by a NUL."""
    return f"\0{clip.clip_id}" if clip.source is None else clip.source


def _check_groups(corpus: Corpus, groups: Mapping[str, list[Clip]], n_folds: int) -> None:
    sources = Counter(label for clips in groups.values() for label in {c.label for c in clips})
    for name in corpus.classes:
        if sources[name] < n_folds:
            raise CorpusError(
                f"{corpus.uri}: class {name!r} has {sources[name]} sources, too few for "
                f"{n_folds} folds"
            )


def _kept_folds(corpus: Corpus, kept: Mapping[str, int], n_folds: int) -> dict[str, int]:
    """Return the folds of the groups that have kept clips. Raises CorpusError."""
    folds = {}
    for clip in corpus.clips:
        fold = kept.get(clip.clip_id)
        if fold is not None and not 1 <= fold <= n_folds:
            raise CorpusError(
                f"{corpus.uri}: {clip.clip_id!r} was in fold {fold}, but there are {n_folds} folds"
            )
        if fold is not None:
            folds[_group(clip)] = fold
    return folds


def _deal(groups: Mapping[str, list[Clip]], folds: dict[str, int], n_folds: int, seed: int) -> None:
    """Add a fold to `folds` for every group that has none."""
    of_class: dict[str, list[int]] = defaultdict(lambda: [0] * n_folds)
    in_all = [0] * n_folds

    def put(group: str, fold: int) -> None:
        folds[group] = fold
        in_all[fold - 1] += len(groups[group])
        for clip in groups[group]:
            of_class[clip.label][fold - 1] += 1

    for group, fold in list(folds.items()):
        put(group, fold)
    hashes = {
        group: int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big")
        for group in groups
        if group not in folds
    }
    for group in sorted(hashes, key=lambda name: (-len(groups[name]), hashes[name])):
        labels = {clip.label for clip in groups[group]}
        counts = [sum(column) for column in zip(*(of_class[name] for name in labels), strict=True)]
        start = hashes[group] % n_folds
        order = (*range(start, n_folds), *range(start))
        put(group, 1 + min(order, key=lambda f: (counts[f], in_all[f])))
