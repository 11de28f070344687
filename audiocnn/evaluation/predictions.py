"""A model's predictions for a fold kept out of its training: a bundle's `predictions.parquet`."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from audiocnn.evaluation import metrics
from audiocnn.model.calibration import (
    Calibration,
    apply_temperature,
    fit_temperature,
    fit_thresholds,
)
from audiocnn.model.clip_scores import clip_scores

REPORT_FORMAT = "audiocnn.report/2"
"""Format of `report.json`, which summarises predictions."""

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),
        ("duration_s", pa.float64()),
        ("scores", pa.list_(pa.float32())),
    ]
)
"""One row per window of the tested fold; `scores` are uncalibrated, in the order of the classes."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Scores for the windows of a tested fold, or for its clips: see `clips`.

    Lists have one entry per window; `duration_s` is [windows], `scores` [windows, n_classes].
    """

    fold: int
    seed: int
    bundle: str
    """Fingerprint of the bundle with this model."""
    clip_ids: list[str]
    uris: list[str]
    """Names as in `FeatureSet.name_of`; earlier versions wrote whole URIs."""
    labels: list[str]
    duration_s: np.ndarray
    scores: np.ndarray

    @property
    def silent(self) -> int:
        """Number of clips with only silence."""
        return len(set(self.clip_ids)) - len(self.clips().clip_ids)

    def clips(self, temperature: float = 1.0) -> "Predictions":
        """Return the same with one row per clip; its scores are the mean of its windows' scores.

        The temperature is applied to the windows' scores first. Clips with only silence are left
        out because they have no scores; `silent` counts them.
        """
        scores = self.scores if temperature == 1.0 else apply_temperature(self.scores, temperature)
        names, by_clip = clip_scores(self.clip_ids, self.duration_s, scores)
        heard = np.flatnonzero(by_clip.any(axis=1))
        names, by_clip = [names[at] for at in heard], by_clip[heard]
        first = {name: row for row, name in reversed(list(enumerate(self.clip_ids)))}
        rows = [first[name] for name in names]
        seconds = dict.fromkeys(self.clip_ids, 0.0)
        for name, duration_s in zip(self.clip_ids, self.duration_s, strict=True):
            seconds[name] += float(duration_s)
        return replace(
            self,
            clip_ids=names,
            uris=[self.uris[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            duration_s=np.array([seconds[name] for name in names]),
            scores=by_clip,
        )

    @staticmethod
    def merge(several: list["Predictions"]) -> "Predictions":
        """Merge groups of windows of one fold, sorted by clip.

        The windows of a clip must be in order within a group and from group to group.
        """
        order = sorted(
            (clip_id, group, row)
            for group, one in enumerate(several)
            for row, clip_id in enumerate(one.clip_ids)
        )
        places = [(group, row) for _, group, row in order]
        return replace(
            several[0],
            clip_ids=[clip_id for clip_id, _, _ in order],
            uris=[several[group].uris[row] for group, row in places],
            labels=[several[group].labels[row] for group, row in places],
            duration_s=np.array([several[group].duration_s[row] for group, row in places]),
            scores=np.stack([several[group].scores[row] for group, row in places]),
        )

    def truth(self, classes: tuple[str, ...]) -> np.ndarray:
        """Return the indices of the true classes, [rows] int64."""
        order = {name: index for index, name in enumerate(classes)}
        return np.array([order[label] for label in self.labels], np.int64)

    def confusion(self, classes: tuple[str, ...]) -> np.ndarray:
        """Count whole clips: [n_classes, n_classes], rows are true, columns predicted."""
        clips = self.clips()
        predicted = clips.scores.argmax(axis=1)
        return metrics.confusion_matrix(clips.truth(classes), predicted, len(classes))

    def accuracy(self, classes: tuple[str, ...]) -> float | None:
        """Return the fraction of clips with the right prediction; None if all clips are silent."""
        confusion = self.confusion(classes)
        return metrics.accuracy(confusion) if confusion.any() else None

    def table(self) -> pa.Table:
        """Return the rows of `predictions.parquet`."""
        columns = [
            self.clip_ids,
            self.uris,
            self.labels,
            self.duration_s,
            list(self.scores.astype(np.float32)),
        ]
        return pa.Table.from_arrays(
            [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )

    @staticmethod
    def of_table(table: pa.Table, *, fold: int, seed: int, bundle: str) -> "Predictions":
        """Return the predictions from rows that `table` returned."""
        return Predictions(
            fold=fold,
            seed=seed,
            bundle=bundle,
            clip_ids=table["clip_id"].to_pylist(),
            uris=table["uri"].to_pylist(),
            labels=table["label"].to_pylist(),
            duration_s=table["duration_s"].to_numpy(),
            scores=np.array(table["scores"].to_pylist(), np.float64),
        )


def sha256_of(table: pa.Table) -> str:
    """Return the SHA-256 of the rows of a `predictions.parquet`; its bundle stores it."""
    return hashlib.sha256(json.dumps(table.to_pylist()).encode()).hexdigest()


def calibrate(predictions: list[Predictions], classes: tuple[str, ...]) -> Calibration:
    """Fit a calibration to the windows of these folds, for models that are used on other sounds.

    It is fitted to windows because calibration is applied to windows; a clip's scores are means of
    them and are less confident. If all windows are silent, return the default: temperature 1, no
    thresholds.
    """
    heard = [one.scores.any(axis=1) for one in predictions]
    if not any(some.any() for some in heard):
        return Calibration()
    pairs = list(zip(predictions, heard, strict=True))
    truth = np.concatenate([one.truth(classes)[some] for one, some in pairs])
    scores = np.concatenate([one.scores[some] for one, some in pairs])
    seconds = np.concatenate([one.duration_s[some] for one, some in pairs])
    temperature = fit_temperature(scores, truth, seconds)
    thresholds = fit_thresholds(apply_temperature(scores, temperature), truth)
    return Calibration(temperature=temperature, thresholds=thresholds)
