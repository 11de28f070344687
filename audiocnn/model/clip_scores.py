"""Scores of windows -> scores of whole clips."""

import numpy as np


def clip_scores(
    clip_ids: list[str], durations_s: np.ndarray, scores: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Scores of windows [windows, classes] -> of clips [clips, classes], each clip once.

    A clip's score is the mean of its windows', weighted by their recorded duration, so that a
    padded end counts for what it holds. Windows with scores of 0 alone, as silence has, count for
    nothing; a clip of such windows has such scores. Clips keep the order of their first windows.
    """
    order = {name: index for index, name in enumerate(dict.fromkeys(clip_ids))}
    index = np.array([order[name] for name in clip_ids])
    weight = np.asarray(durations_s, np.float64)[:, None]
    total = np.zeros((len(order), scores.shape[1]))
    np.add.at(total, index, scores * weight)
    weights = total.sum(axis=1, keepdims=True)
    return list(order), np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
