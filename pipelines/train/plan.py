"""The plan of a training: its inputs, the content that decides its weights, and its checks."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

import audiocnn
from audiocnn import storage
from audiocnn.config import content_fingerprint, to_json
from audiocnn.errors import MismatchError
from audiocnn.evaluation.predictions import REPORT_FORMAT
from audiocnn.features.feature_set import FeatureSet
from audiocnn.model.calibration import Calibration
from audiocnn.model.registry import model_json
from audiocnn.storage.output_folder import Notes
from audiocnn.training.batches import fewest_batches
from pipelines.options import Train

_FORMAT = "audiocnn.train/1"


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """The options and inputs of a training, passed to every rank."""

    options: Train
    features: FeatureSet
    train_folds: list[int]
    to: str
    calibration: Calibration | None = None
    """Calibration that an evaluation fitted out of fold, for a model trained on all folds."""

    @property
    def holds_out(self) -> bool:
        """Whether a fold is kept out of training, for a test or to choose the best epoch."""
        return self.train_folds != sorted(self.features.folds)

    @property
    def unseen(self) -> list[str]:
        """Classes without a clip in the folds that are trained on."""
        seen = {name for fold in self.train_folds for name in self.features.folds[fold]}
        return [name for name in self.features.classes if name not in seen]

    @property
    def streams(self) -> bool:
        """Whether features are streamed: by --data stream, or because they exceed --memory-gb."""
        if self.options.data == "auto":
            return self.features.bytes_of(self.train_folds) > self.options.memory_gb * 1e9
        return self.options.data == "stream"

    @property
    def streamed_steps(self) -> int:
        """Number of batches in a streamed epoch that every allowed number of workers can give."""
        fewest, most = self.options.workers_range
        settings = self.options.training
        return min(
            fewest_batches(self.features, self.train_folds, settings, workers)
            for workers in range(fewest, most + 1)
        )

    @property
    def checkpoint(self) -> str:
        """URI of the checkpoint; it exists while the job is unfinished."""
        return storage.join(self.to, "checkpoint.pt")

    @property
    def tensorboard(self) -> str:
        """URI of the folder of the TensorBoard logs."""
        return storage.join(self.to, "tensorboard")

    @property
    def content(self) -> dict[str, Any]:
        """Everything that decides the weights of a run, on one kind of machine."""
        return {
            "features": self.features.fingerprint,
            "model": model_json(self.options.model),
            "training": to_json(self.options.training),
            "test_fold": self.options.test_fold,
            "validation_fold": self.options.validation_fold,
            "workers": self.options.workers,
            "streams": self.streams,
            "versions": {"audiocnn": audiocnn.__version__, "torch": torch.__version__},
        }

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of `content`; the checkpoint carries it."""
        return content_fingerprint(self.content)

    @property
    def note(self) -> dict[str, Any]:
        """Content of `job.json`."""
        return {"format": _FORMAT, "run": self.fingerprint, **self.content}

    def differs_from(self, before: dict[str, Any]) -> str:
        """Return the names of members of `content` that an earlier run had with other values."""
        mine = json.loads(json.dumps(self.content))
        return ", ".join(name for name, value in mine.items() if before.get(name) != value)


def run_of(notes: Notes) -> str | None:
    """Return the fingerprint of the job that left these notes; None if there is no `job.json`."""
    note = notes.get("job.json")
    if note is None:
        return None
    found: str = note.get("run") or content_fingerprint(note)  # at first only `content`
    return found


def log_suffix(run: str | None) -> str:
    """Return the end of the file names of a run's TensorBoard logs."""
    return f".audiocnn-{run}"


def plan(options: Train, features: FeatureSet | None = None) -> TrainPlan:
    """Return the plan for some options, checked against the features before anything is started.

    `features` are read if they are not given.

    Raises AudioCNNError for features that cannot be used or were made by another front end, folds
    that do not exist, too few windows for a batch, or a calibration from other features.
    """
    features = features or FeatureSet.read(options.features)
    features.require_config(options.feature, f"recipe {options.recipe!r} with these options")
    held_out = [f for f in (options.test_fold, options.validation_fold) if f is not None]
    features.require_folds(held_out)
    folds = sorted(set(features.folds) - set(held_out))
    job = TrainPlan(options=options, features=features, train_folds=folds, to=options.to)
    windows = sum(features.part_rows(folds).values())
    batch, workers = options.training.batch_size, options.workers_range[1]
    if windows < batch:
        raise MismatchError(f"--batch-size {batch}: there are only {windows} windows to train on")
    if job.streams and job.streamed_steps < 1:
        raise MismatchError(
            f"--data stream: {len(features.parts)} parts with {windows} windows are too few to "
            f"share out to {workers} workers in batches of {batch}"
        )
    if options.calibration is not None:
        return replace(job, calibration=_calibration(options.calibration, features))
    return job


def _calibration(uri: str, features: FeatureSet) -> Calibration:
    """Read the calibration of a report. Raises MismatchError for a report of other features."""
    plain = storage.read_format(storage.join(uri, "report.json"), REPORT_FORMAT, "report")
    if plain["features"] != features.fingerprint:
        raise MismatchError(f"--calibration {uri}: this report is of other features")
    return Calibration.from_json(plain["calibration"])
