"""What a model said of the clips of a fold that it never saw: `predictions.parquet` of a bundle."""

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
"""Of the `report.json` that sums up such predictions."""

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),
        ("duration_s", pa.float64()),
        ("scores", pa.list_(pa.float32())),
    ]
)
"""A row a window of the tested fold; `scores` are of the classes in their order, uncalibrated."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Windows of a tested fold: `duration_s` is [windows], `scores` [windows, n_classes]."""

    fold: int
    seed: int
    bundle: str
    """The fingerprint of the bundle that gave them."""
    clip_ids: list[str]
    uris: list[str]
    """As `FeatureSet.name_of` names them; those of earlier versions are whole."""
    labels: list[str]
    duration_s: np.ndarray
    scores: np.ndarray

    @property
    def silent(self) -> int:
        """Clips of silence alone."""
        return len(set(self.clip_ids)) - len(self.clips().clip_ids)

    def clips(self, temperature: float = 1.0) -> "Predictions":
        """The same with a row a clip: scores are the mean of its windows'.

        Clips of silence alone are left out: nothing was said of them. `silent` counts them.
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
        """Those of several groups of windows of one fold as one, in the order of clips.

        A clip's windows are in one of the groups, or follow each other in several.
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
        """[rows] indices of the true classes."""
        order = {name: index for index, name in enumerate(classes)}
        return np.array([order[label] for label in self.labels], np.int64)

    def confusion(self, classes: tuple[str, ...]) -> np.ndarray:
        """Counts of whole clips [n_classes, n_classes]: rows are the truth."""
        clips = self.clips()
        predicted = clips.scores.argmax(axis=1)
        return metrics.confusion_matrix(clips.truth(classes), predicted, len(classes))

    def accuracy(self, classes: tuple[str, ...]) -> float | None:
        """Part of the whole clips that are right; None where none of them can be heard."""
        confusion = self.confusion(classes)
        return metrics.accuracy(confusion) if confusion.any() else None

    def table(self) -> pa.Table:
        """As `predictions.parquet` has it."""
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
        """What `table` wrote."""
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
    """Names the content of a `predictions.parquet`, by which its bundle knows it."""
    return hashlib.sha256(json.dumps(table.to_pylist()).encode()).hexdigest()


def calibrate(predictions: list[Predictions], classes: tuple[str, ...]) -> Calibration:
    """The calibration that fits these folds' windows, for models that are asked about others.

    Windows, for that is what scores are calibrated of: a clip's are their mean, which is less sure.
    None at all (every answer, temperature 1) where there are no predictions but of silence.
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
