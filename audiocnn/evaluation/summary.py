"""The content of `report.json`: the results of all folds together."""

from dataclasses import asdict
from typing import Any

import numpy as np

from audiocnn.evaluation import metrics
from audiocnn.evaluation.predictions import REPORT_FORMAT, Predictions, calibrate
from audiocnn.features.feature_set import FeatureSet
from audiocnn.model.calibration import Calibration, Reliability, reliability


def summarise(
    results: list[Predictions], calibrations: list[Calibration], features: FeatureSet
) -> dict[str, Any]:
    """Return the content of `report.json` from one result and one calibration per (fold, seed).

    Accuracies are of whole clips that are not silent, 0 to 1. Deviations are over folds, and over
    seeds if there are several. A fold with only silent clips has no accuracy and is left out of
    the means.
    """
    classes = features.classes
    by_result = [result.confusion(classes) for result in results]
    accuracies = [result.accuracy(classes) for result in results]
    together = np.sum(by_result, axis=0)
    by_fold = list(_means([result.fold for result in results], accuracies).values())
    by_seed = _means([result.seed for result in results], accuracies)
    seeds = sorted({result.seed for result in results})
    return {
        "format": REPORT_FORMAT,
        "features": features.fingerprint,
        "classes": list(classes),
        "accuracy_mean": float(np.mean(by_fold)) if by_fold else None,
        "accuracy_std": _deviation(by_fold),
        "accuracy_std_seeds": _deviation(list(by_seed.values())),
        "seeds": [{"seed": seed, "accuracy_mean": by_seed.get(seed)} for seed in seeds],
        "macro_f1": metrics.macro_f1(together, classes),
        "clips": int(together.sum()) // len(seeds),
        "silent": sum(result.silent for result in results) // len(seeds),
        "folds": [
            {"fold": r.fold, "seed": r.seed, "clips": int(c.sum()), "silent": r.silent}
            | {"accuracy": a, "bundle": r.bundle}
            for r, c, a in zip(results, by_result, accuracies, strict=True)
        ],
        "per_class": [
            {**asdict(row), "clips": row.clips // len(seeds)}
            for row in metrics.per_class(together, classes)
        ],
        "confusion": together.tolist(),
        "calibration": _calibration(results, calibrations, classes),
        "mistakes": _mistakes([result.clips() for result in results], classes),
    }


def _means(keys: list[int], accuracies: list[float | None]) -> dict[int, float]:
    """Return the mean accuracy by key, a fold or a seed; keys without any accuracy are left out."""
    found: dict[int, list[float]] = {key: [] for key in sorted(keys)}
    for key, accuracy in zip(keys, accuracies, strict=True):
        if accuracy is not None:
            found[key].append(accuracy)
    return {key: float(np.mean(known)) for key, known in found.items() if known}


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _calibration(
    results: list[Predictions], calibrations: list[Calibration], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Return a calibration fitted to all folds, and reliability before and after calibration."""
    clips = [result.clips() for result in results]
    truth = np.concatenate([one.truth(classes) for one in clips])
    before = np.concatenate([one.scores for one in clips])
    pairs = zip(results, calibrations, strict=True)
    scores = [result.clips(c.temperature).scores for result, c in pairs]
    after = np.concatenate(scores)
    known = np.concatenate([c.known(s) for s, c in zip(scores, calibrations, strict=True)])
    right = after.argmax(axis=1) == truth
    return {
        **calibrate(results, classes).to_json(),
        "calibrated": any(c != Calibration() for c in calibrations),
        "before": _reliability_json(reliability(before, truth)),
        "after": _reliability_json(reliability(after, truth)),
        "temperatures": [c.temperature for c in calibrations],
        "answered": float(known.mean()) if len(known) else None,
        "accuracy_of_answers": float(right[known].mean()) if known.any() else None,
    }


def _reliability_json(found: Reliability) -> dict[str, Any]:
    rows = {name: value.tolist() for name, value in vars(found).items()}
    error = found.error if found.counts.any() else None
    return {"expected_calibration_error": error, **rows}


def _mistakes(results: list[Predictions], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return every clip with a wrong prediction, highest score first."""
    wrong = []
    for result in results:
        for index, label in enumerate(result.labels):
            best = int(result.scores[index].argmax())
            if classes[best] != label:
                row: dict[str, Any] = {"clip_id": result.clip_ids[index], "fold": result.fold}
                row |= {"seed": result.seed, "uri": result.uris[index], "label": label}
                row |= {"predicted": classes[best], "score": float(result.scores[index, best])}
                wrong.append(row)
    return sorted(wrong, key=lambda row: -row["score"])


def silence(summary: dict[str, Any]) -> str:
    """Return a sentence about the silent clips that a summary leaves out; "" if there are none."""
    silent, clips = summary["silent"], summary["clips"]
    if not silent:
        return ""
    deaf = sorted({row["fold"] for row in summary["folds"] if row["accuracy"] is None})
    folds = ", ".join(map(str, deaf))
    return (
        f"{silent} of {clips + silent} clips contain only silence: they have no answer and are "
        "not counted" + (f"; the means leave out fold {folds}, with no other clip" if deaf else "")
    )
