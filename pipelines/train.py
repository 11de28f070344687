"""`audiocnn train`: features -> bundle, by Ray Train and DDP."""

import os
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from torch.nn.parallel import DistributedDataParallel

import audiocnn
from audiocnn import metrics, outputs, report, storage
from audiocnn.batches import Batch, Batches, MemoryBatches, StreamedBatches, fewest_batches
from audiocnn.bundle import Bundle
from audiocnn.config import content_fingerprint, to_json
from audiocnn.errors import MismatchError
from audiocnn.featureset import FeatureSet, Rows
from audiocnn.model import AudioCNN
from audiocnn.predictor import Predictor
from audiocnn.report import FoldResult
from audiocnn.training import Trainer
from pipelines import display, session
from pipelines.options import Train
from pipelines.progress import Channel, Listener
from pipelines.tensorboard import Log

Kept = dict[str, Any]
"""The best epoch on the validation fold: epoch, accuracy, loss, confusion, weights."""

_OWNED = (
    "checkpoints/*",
    "tensorboard/events.out.tfevents.*",
    "model.safetensors",
    "predictions.parquet",
    "job.json",
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank is given."""

    options: Train
    features: FeatureSet
    train_folds: list[int]
    to: str

    @property
    def streams(self) -> bool:
        """Whether the features are streamed, for they are too large for memory."""
        if self.options.data == "auto":
            return self.features.bytes_of(self.train_folds) > self.options.memory_gb * 1e9
        return self.options.data == "stream"

    @property
    def content(self) -> dict[str, Any]:
        """What decides the weights of a run on one kind of machine."""
        return {
            "features": self.features.fingerprint,
            "model": to_json(self.options.model),
            "training": to_json(self.options.training),
            "test_fold": self.options.test_fold,
            "validation_fold": self.options.validation_fold,
            "workers": self.options.workers,
            "streams": self.streams,
            "versions": {"audiocnn": audiocnn.__version__, "torch": torch.__version__},
        }

    def differs_from(self, before: dict[str, Any]) -> str:
        """What of the content an earlier run had otherwise, for an error message."""
        return ", ".join(k for k, value in self.content.items() if before.get(k) != value)


def plan(options: Train) -> Job:
    """The job of some options, checked against the features before anything is started.

    Raises AudioCNNError: features that cannot be used or were made by another front end, folds
    that are not there, or too few windows for a batch.
    """
    features = FeatureSet.read(options.features)
    features.require_config(options.feature, f"recipe {options.recipe!r} with these options")
    held_out = [f for f in (options.test_fold, options.validation_fold) if f is not None]
    features.require_folds(held_out)
    folds = sorted(set(features.folds) - set(held_out))
    job = Job(options=options, features=features, train_folds=folds, to=options.to)
    windows = sum(features.part_rows(folds).values())
    batch = options.training.batch_size
    if windows < batch:
        raise MismatchError(f"--batch-size {batch}: there are {windows} windows to train on")
    if job.streams and fewest_batches(features, folds, options.training, options.workers) < 1:
        raise MismatchError(
            f"--data stream: {len(features.parts)} parts with {windows} windows are too few to "
            f"share out to {options.workers} workers in batches of {batch}"
        )
    return job


def train(options: Train) -> Bundle:
    """Run the job; returns the bundle that it wrote.

    Raises AudioCNNError as `plan` does, and for more workers than the cluster has, a bundle that
    is there already, or an unfinished run with other options.
    """
    storage.configure(options.storage_options)
    to = outputs.claim(options.to, "bundle.json", overwrite=options.overwrite)
    job = replace(plan(options), to=to)
    _refuse_other_run(job)
    display.step(_headline(options, job.features, job.train_folds))
    session.connect().require(options.workers, gpu=options.gpu)
    if options.overwrite:
        outputs.clear(to, "bundle.json", _OWNED)
    storage.write_json(storage.join(to, "job.json"), job.content)
    with Listener(options.training.epochs) as listener:
        _fit(job, listener.channel)
    storage.remove(storage.join(to, "checkpoints"))
    bundle = Bundle.read(to)
    test = bundle.metrics.get("test")
    if test:
        display.say(f"fold {test['fold']}, never seen: {100 * test['accuracy']:.1f} % of its clips")
    display.say(f"bundle {bundle.fingerprint} -> {display.short(to)}")
    return bundle


def _refuse_other_run(job: Job) -> None:
    """Raise MismatchError where checkpoints of a run with other options would be gone on from."""
    note, checkpoints = storage.join(job.to, "job.json"), storage.join(job.to, "checkpoints")
    if job.options.overwrite or not (storage.exists(note) and storage.exists(checkpoints)):
        return
    differ = job.differs_from(storage.read_json(note))
    if differ:
        raise MismatchError(
            f"--to {job.to}: an unfinished run is there with another {differ}; "
            "give its options to go on with it, or --overwrite to begin anew"
        )


def _headline(options: Train, features: FeatureSet, folds: list[int]) -> str:
    clips = sum(sum(features.folds[fold].values()) for fold in folds)
    tested = "" if options.test_fold is None else f", fold {options.test_fold} kept for the test"
    where = "GPU" if options.gpu else "CPU"
    return (
        f"train {options.recipe}: {clips} clips, {options.training.epochs} epochs, "
        f"{options.workers} {where} worker{'s' * (options.workers > 1)}{tested}"
    )


def _fit(job: Job, channel: Channel) -> None:
    files, path = storage.arrow_filesystem(storage.join(job.to, "checkpoints"))
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "channel": channel},
        scaling_config=ScalingConfig(num_workers=job.options.workers, use_gpu=job.options.gpu),
        run_config=RunConfig(
            name=content_fingerprint(job.content),
            storage_path=path,
            storage_filesystem=files,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    with session.user_errors():
        trainer.fit()


def train_worker(config: dict[str, Any]) -> None:
    """One rank: train for the epochs, report each, and on rank 0 write the bundle."""
    job: Job = config["job"]
    channel: Channel = config["channel"]
    storage.configure(job.options.storage_options)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    trainer = _trainer(job, rank, world)
    epochs, steps = job.options.training.epochs, trainer.batches.steps
    first, kept = _restore(trainer)
    validation = _Validation(job, rank, world)
    log = Log(storage.join(job.to, "tensorboard"), first) if rank == 0 else None
    for epoch in range(first, epochs):
        begun = time.monotonic()
        on_step = channel.steps(epoch, steps) if log else None
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": trainer.train_epoch(epoch, on_step)}
        row["windows_per_s"] = steps * job.options.training.batch_size / (time.monotonic() - begun)
        row["lr"] = trainer.schedule.get_last_lr()[0]
        kept = validation.epoch(trainer, row, kept)
        if log is None:
            ray.train.report(row)
            continue
        log.epoch(row)
        channel.epoch(row)
        _report(row, trainer, kept)
    if log is not None:
        _write_bundle(job, trainer, kept, log)


def _trainer(job: Job, rank: int, world: int) -> Trainer:
    settings, features = job.options.training, job.features
    batches: Batches
    if job.streams:
        batches = StreamedBatches(features, job.train_folds, settings, rank=rank, world=world)
    else:
        rows = features.load(job.train_folds)
        batches = MemoryBatches(*_tensors(rows, features), settings, rank=rank, world=world)
    torch.manual_seed(settings.seed)
    model = AudioCNN(job.options.model, features.config.n_mels, len(features.classes))
    mean, std = features.mean_std(job.train_folds)
    model.mean.copy_(torch.from_numpy(mean))
    model.std.copy_(torch.from_numpy(std))
    return Trainer(
        model,
        settings,
        batches,
        rank=rank,
        device=ray.train.torch.get_device(),
        wrap=DistributedDataParallel if world > 1 else lambda model: model,
    )


def _tensors(rows: Rows, features: FeatureSet) -> Batch:
    return torch.from_numpy(rows.logmel), torch.from_numpy(features.label_indices(rows.labels))


class _Validation:
    """The validation fold's share of a rank, where one was named."""

    def __init__(self, job: Job, rank: int, world: int) -> None:
        self.batches: list[Batch] = []
        self.named = job.options.validation_fold is not None
        if job.options.validation_fold is not None:
            rows = job.features.load([job.options.validation_fold])
            logmel, labels = _tensors(rows.take(np.arange(rank, len(rows), world)), job.features)
            self.batches = list(zip(torch.split(logmel, 64), torch.split(labels, 64), strict=True))

    def epoch(self, trainer: Trainer, row: dict[str, Any], kept: Kept | None) -> Kept | None:
        """Add the validation's figures to an epoch's; returns the epoch to keep, old or new."""
        if not self.named:
            return None
        found = trainer.evaluate((logmel.float(), labels) for logmel, labels in self.batches)
        row |= {"validation_loss": found.loss, "accuracy": found.accuracy}
        if kept and (kept["accuracy"], -kept["loss"]) >= (found.accuracy, -found.loss):
            return kept
        weights = {name: value.clone() for name, value in trainer.best.state_dict().items()}
        return {
            "epoch": row["epoch"],
            "accuracy": found.accuracy,
            "loss": found.loss,
            "confusion": found.confusion.tolist(),
            "weights": weights,
        }


def _report(row: dict[str, Any], trainer: Trainer, kept: Kept | None) -> None:
    state = {"epoch": row["epoch"], "trainer": trainer.state_dict(), "kept": kept}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, os.path.join(folder, "state.pt"))
        ray.train.report(row, checkpoint=Checkpoint.from_directory(folder))


def _restore(trainer: Trainer) -> tuple[int, Kept | None]:
    """Go on from the run's last checkpoint, where it has one: epochs done, epoch kept so far."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, None
    with checkpoint.as_directory() as folder:
        path = os.path.join(folder, "state.pt")
        state = torch.load(path, map_location=trainer.device, weights_only=True)
    trainer.load_state_dict(state["trainer"])
    return state["epoch"], state["kept"]


def _write_bundle(job: Job, trainer: Trainer, kept: Kept | None, log: Log) -> None:
    """Write the kept epoch as a bundle, tested once on the test fold where there is one."""
    options, features = job.options, job.features
    model = trainer.best
    if kept is not None:
        model.load_state_dict(kept["weights"])
    made = {"epochs": options.training.epochs, "kept_epoch": kept["epoch"] if kept else "last"}
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
    if kept is not None:
        confusion = np.array(kept["confusion"])
        figure = report.confusion_figure(confusion, features.classes)
        log.figure("confusion/validation", figure, kept["epoch"])
        made["validation"] = {k: kept[k] for k in ("accuracy", "loss")}
    if options.test_fold is not None:
        result = _test(bundle, features, options.test_fold, trainer.device)
        confusion = result.confusion(features.classes)
        log.figure(
            "confusion/test",
            report.confusion_figure(confusion, features.classes),
            options.training.epochs,
        )
        accuracy = metrics.accuracy(confusion)
        table = result.table()
        made["test"] = {
            "fold": options.test_fold,
            "accuracy": accuracy,
            "predictions_sha256": report.predictions_sha256(table),
        }
        log.epoch({"epoch": options.training.epochs, "test_accuracy": accuracy})
        storage.write_parquet(storage.join(job.to, "predictions.parquet"), table)
    bundle.write(job.to)


def _test(bundle: Bundle, features: FeatureSet, fold: int, device: torch.device) -> FoldResult:
    rows = features.load([fold])
    scores = Predictor(bundle, device).scores(rows.logmel)
    clip_ids, by_clip = metrics.clip_scores(rows.clip_ids, rows.duration_s, scores)
    place = {name: index for index, name in reversed(list(enumerate(rows.clip_ids)))}
    first = [place[name] for name in clip_ids]
    return FoldResult(
        fold=fold,
        bundle="",
        clip_ids=clip_ids,
        uris=[rows.uris[i] for i in first],
        labels=[rows.labels[i] for i in first],
        scores=by_clip,
    )
