"""What a training leaves: its bundle, tested once on the test fold where there is one."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from audiocnn import metrics, storage
from audiocnn.bundle import Bundle
from audiocnn.calibration import Calibration
from audiocnn.figures import confusion_figure
from audiocnn.predictions import Predictions, calibrate, sha256_of
from audiocnn.predictor import Predictor
from audiocnn.training import Trainer
from pipelines.job import Job
from pipelines.tensorboard import Log


def write_bundle(job: Job, trainer: Trainer, kept: dict[str, Any] | None, log: Log) -> None:
    """Write the kept epoch, or the last one, as a bundle.

    It is tested on the test fold, and calibrated by the validation fold or as the job says.
    """
    options, features = job.options, job.features
    model = trainer.best
    if kept is not None:
        model.load_state_dict(kept["weights"])
    made = {
        "epochs": options.training.epochs,
        "kept_epoch": kept["epoch"] if kept else "last",
        "precision": "bfloat16" if trainer.bfloat16 else "float32",
    }
    bundle = Bundle(
        model=model.eval(),
        feature=features.config,
        classes=features.classes,
        metrics=made,
        provenance={
            "corpus": features.corpus,
            "recipe": options.recipe,
            "train_folds": job.train_folds,
            **job.content,
        },
    )
    calibration = job.calibration or Calibration()
    if kept is not None and options.validation_fold is not None:
        figure = confusion_figure(np.array(kept["confusion"]), features.classes)
        log.figure("confusion/validation", figure, kept["epoch"])
        made["validation"] = {k: kept[k] for k in ("accuracy", "loss")}
        found = _predictions(bundle, job, options.validation_fold, trainer.device)
        calibration = calibrate([found], features.classes)
    if options.test_fold is not None:
        found = _predictions(bundle, job, options.test_fold, trainer.device)
        made["test"] = _write_test(found, job, log)
    log.upload()
    replace(bundle, calibration=calibration).write(job.to)


def _write_test(found: Predictions, job: Job, log: Log) -> dict[str, Any]:
    """Keep what was said of the tested fold; returns its figures for the bundle."""
    epochs, confusion = job.options.training.epochs, found.confusion(job.features.classes)
    accuracy = metrics.accuracy(confusion)
    log.figure("confusion/test", confusion_figure(confusion, job.features.classes), epochs)
    log.epoch({"epoch": epochs, "test_accuracy": accuracy})
    table = found.table()
    storage.write_parquet(storage.join(job.to, "predictions.parquet"), table)
    return {"fold": found.fold, "accuracy": accuracy, "predictions_sha256": sha256_of(table)}


def _predictions(bundle: Bundle, job: Job, fold: int, device: torch.device) -> Predictions:
    """What the uncalibrated bundle says of a fold."""
    rows = job.features.load([fold])
    return Predictions(
        fold=fold,
        seed=job.options.training.seed,
        bundle="",
        clip_ids=rows.clip_ids,
        uris=rows.uris,
        labels=rows.labels,
        duration_s=rows.duration_s,
        scores=Predictor(bundle, device).scores(rows.logmel),
    )
