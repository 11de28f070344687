"""Write the result of a training: its bundle, tested once on the test fold if there is one."""

from dataclasses import replace
from typing import Any

import numpy as np

from audiocnn import storage
from audiocnn.evaluation.figures import confusion_figure
from audiocnn.evaluation.predictions import Predictions, calibrate, sha256_of
from audiocnn.model.bundle import Bundle
from audiocnn.model.calibration import Calibration
from audiocnn.training.trainer import Trainer
from pipelines.train.plan import TrainPlan
from pipelines.train.tensorboard import Log


def write_bundle(
    job: TrainPlan,
    trainer: Trainer,
    kept: dict[str, Any] | None,
    found: dict[int, Predictions],
    log: Log,
) -> None:
    """Write the best epoch, or the last one, as a bundle.

    `found` has the model's uncalibrated predictions for each held-out fold. The bundle is tested on
    the test fold. It is calibrated on the validation fold, or has the job's calibration.
    """
    options, features = job.options, job.features
    made = {
        "epochs": options.training.epochs,
        "kept_epoch": kept["epoch"] if kept else "last",
        "precision": "bfloat16" if trainer.bfloat16 else "float32",
        "fit": trainer.fit(),
    }
    bundle = Bundle(
        model=trainer.average,
        feature=features.config,
        classes=features.classes,
        metrics=made,
        provenance={
            "corpus": features.name,
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
        calibration = calibrate([found[options.validation_fold]], features.classes)
    if options.test_fold is not None:
        made["test"] = _write_test(found[options.test_fold], job, log)
    log.upload()
    replace(bundle, calibration=calibration).write(job.to)


def _write_test(found: Predictions, job: TrainPlan, log: Log) -> dict[str, Any]:
    """Write the predictions for the test fold; return their figures for the bundle."""
    epochs, classes = job.options.training.epochs, job.features.classes
    accuracy = found.accuracy(classes)
    log.figure("confusion/test", confusion_figure(found.confusion(classes), classes), epochs)
    if accuracy is not None:
        log.epoch({"epoch": epochs, "test_accuracy": accuracy})
    table = found.table()
    storage.write_parquet(storage.join(job.to, "predictions.parquet"), table)
    return {
        "fold": found.fold,
        "accuracy": accuracy,
        "silent": found.silent,
        "predictions_sha256": sha256_of(table),
    }
