"""Scores of windows -> scores of whole clips."""

import numpy as np


def clip_scores(
    clip_ids: list[str], durations_s: np.ndarray, scores: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Average scores [windows, n_classes]; return the clips' names and [clips, n_classes].

    `clip_ids` and `durations_s`, in seconds, have one entry per window. A clip's scores are the
    mean of its windows' scores, weighted by their recorded duration, so padding has no weight.
    Windows with only zeros (silence) have no weight; a clip with no other windows gets zeros.
    Clips are in the order of their first windows.
    """
    order = {name: index for index, name in enumerate(dict.fromkeys(clip_ids))}
    index = np.array([order[name] for name in clip_ids])
    weight = np.asarray(durations_s, np.float64)[:, None]
    total = np.zeros((len(order), scores.shape[1]))
    np.add.at(total, index, scores * weight)
    weights = total.sum(axis=1, keepdims=True)
    return list(order), np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
