"""The function of a training worker: each rank trains its share, and rank 0 writes all files."""

import time
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch.nn.parallel import DistributedDataParallel

from audiocnn import storage
from audiocnn.errors import MismatchError
from audiocnn.evaluation.held_out import HeldOut
from audiocnn.evaluation.predictions import Predictions
from audiocnn.model.backbone import Backbone
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.model.registry import build
from audiocnn.training import checkpoint
from audiocnn.training.batches import Batches, MemoryBatches, StreamedBatches
from audiocnn.training.trainer import OnStep, Trainer, from_all_ranks, require_finite
from pipelines.runtime import errors
from pipelines.runtime.metrics import job_metrics
from pipelines.train.plan import TrainPlan, log_suffix
from pipelines.train.progress import Channel

_MEND = (
    "lower --batch-size, keep the features out of the GPU's memory with --data stream, or share "
    "each batch among more --workers"
)
BestEpoch = dict[str, Any]
"""The best epoch on the validation fold: epoch, accuracy, loss, confusion and weights."""


def train_rank(config: dict[str, Any]) -> None:
    """Train until the last epoch, from the checkpoint if there is one; rank 0 writes the bundle.

    Raises AudioCNNError.
    """
    job: TrainPlan = config["job"]
    storage.configure(job.options.storage_options)
    with errors.gpu_memory(_MEND):
        _train(job, config["channel"])


def _train(job: TrainPlan, channel: Channel) -> None:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    trainer = _trainer(job, rank, world)
    at = _restore(job, trainer)
    held_out = _held_out(job, rank, world)
    validation = held_out.get(job.options.validation_fold)
    rank_zero = _RankZero(job, trainer, at, channel, world) if rank == 0 else None
    for epoch in range(at.epoch, job.options.training.epochs):
        on_step = rank_zero.begin(epoch) if rank_zero else None
        loss = trainer.train_epoch(epoch, on_step, first=at.step, losses=at.losses)
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": loss}
        kept = _validated(trainer, validation, row, at.kept) if validation else None
        at = Position(epoch=epoch + 1, kept=kept)
        if rank_zero:
            rank_zero.end(row, at)
    model = trainer.saved_model(at.kept and at.kept["weights"])
    found = _predictions(job, model, held_out, trainer.device)
    if rank_zero:
        rank_zero.finish(at.kept, found)


@dataclass(frozen=True, kw_only=True)
class Position:
    """Position in a run: epochs done, steps done in the next epoch, and the best epoch so far.

    `losses` is the sum of rank 0's losses over these steps. After a resume, it stands for the
    losses of every rank in these steps.
    """

    epoch: int = 0
    step: int = 0
    losses: float = 0.0
    kept: BestEpoch | None = None


def _trainer(job: TrainPlan, rank: int, world: int) -> Trainer:
    settings, features = job.options.training, job.features
    device = ray.train.torch.get_device()
    batches: Batches
    if job.streams:
        batches = StreamedBatches(features, job.train_folds, settings, rank=rank, world=world)
        # The number of workers may change during a run, but the schedule's length must not.
        batches.steps = job.streamed_steps
    else:
        rows = features.load(job.train_folds)
        batches = MemoryBatches(
            torch.from_numpy(rows.logmel).to(device),
            torch.from_numpy(features.label_indices(rows.labels)).to(device),
            settings, rank=rank, world=world,
        )  # fmt: skip
    torch.manual_seed(settings.seed)
    model = build(job.options.model, features.config.n_mels, len(features.classes))
    model.normalise_by(*features.mean_std(job.train_folds))
    return Trainer(
        model, settings, batches, rank=rank, world=world, device=device,
        wrap=parallel if world > 1 else lambda model: model,
    )  # fmt: skip


def parallel(model: Backbone) -> DistributedDataParallel:
    """Wrap a model in DDP so that a resumed run equals an uninterrupted one bit for bit.

    DDP rearranges its gradient buckets after its first backward pass. With three ranks or more, the
    rounding of a gradient's sum depends on its place in a bucket. So the first backward pass is
    done here, on zeros, and its gradients are discarded.
    """
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    wrapped.eval()
    zeros = torch.zeros(1, len(model.mean), 64, device=model.mean.device)
    wrapped(zeros).sum().backward()
    wrapped.zero_grad(set_to_none=True)
    return wrapped


def _restore(job: TrainPlan, trainer: Trainer) -> Position:
    """Load the checkpoint and return its position; without a checkpoint, return the start.

    Raises MismatchError for a checkpoint of a run with other options.
    """
    state = checkpoint.read(job.checkpoint, trainer.device)
    if state is None:
        return Position()
    if state["job"] != job.fingerprint:
        raise MismatchError(f"{job.checkpoint}: this checkpoint is of a run with other options")
    trainer.load_state_dict(state["trainer"])
    return Position(**state["position"])


def _held_out(job: TrainPlan, rank: int, world: int) -> dict[int | None, HeldOut]:
    """Return this rank's share of each fold that is kept out of training."""
    options, hold = job.options, not job.streams
    folds = [f for f in (options.validation_fold, options.test_fold) if f is not None]
    return {f: HeldOut(job.features, f, rank=rank, world=world, hold=hold) for f in folds}


def _validated(
    trainer: Trainer, fold: HeldOut, row: dict[str, Any], kept: BestEpoch | None
) -> BestEpoch | None:
    """Evaluate the validation fold, add its figures to `row`; return the best epoch so far."""
    found = trainer.evaluate(fold.batches())
    row |= {"validation_loss": found.loss, "accuracy": found.accuracy}
    if kept and (kept["accuracy"], -kept["loss"]) >= (found.accuracy, -found.loss):
        return kept
    return {
        "epoch": row["epoch"],
        "accuracy": found.accuracy,
        "loss": found.loss,
        "confusion": found.confusion.tolist(),
        "weights": {name: value.clone() for name, value in trainer.average.state_dict().items()},
    }


def _predictions(
    job: TrainPlan, model: Backbone, held_out: dict[int | None, HeldOut], device: torch.device
) -> dict[int, Predictions]:
    """Return the uncalibrated predictions for each held-out fold; the ranks share the work."""
    if not held_out:
        return {}
    made = Bundle(model=model, feature=job.features.config, classes=job.features.classes)
    predictor, seed = Predictor(made, device), job.options.training.seed
    shares = [fold.predictions(predictor, seed) for fold in held_out.values()]
    merged = [Predictions.merge(from_all_ranks(share)) for share in shares]
    return {found.fold: found for found in merged}


class _RankZero:
    """Output of rank 0: progress, TensorBoard logs, checkpoints and the bundle.

    Checkpoints are written, and logs uploaded, in the background of the training.
    """

    def __init__(
        self, job: TrainPlan, trainer: Trainer, at: Position, channel: Channel, world: int
    ) -> None:
        from pipelines.train.tensorboard import Log

        self.job, self.trainer, self.at, self.channel = job, trainer, at, channel
        self.log = Log(job.tensorboard, log_suffix(job.fingerprint), at.epoch)
        self.checkpoint_writer = checkpoint.BackgroundWriter()
        self.metrics = job_metrics("train")
        self.last_checkpoint_at = self.started_at = self.epoch_started_at = time.monotonic()
        self.first = at.epoch + at.step / trainer.batches.steps
        self.world = world
        self.last_step_at = self.first_step_at = self.started_at
        self.waited: float | None = None
        channel.started(at.epoch, world)

    def begin(self, epoch: int) -> OnStep:
        """Start an epoch; return the function to call after each of its steps."""
        self.epoch_started_at = time.monotonic()
        steps = self.trainer.batches.steps

        def on_step(step: int, losses: torch.Tensor) -> None:
            if step == self.at.step + 1:
                self._first_step(epoch)
            now = time.monotonic()
            self.metrics.step("step", now - self.last_step_at)
            self.last_step_at = now
            self.channel.step(epoch, step, steps)
            if step < steps and self._due():
                sum_of_losses = losses.item()
                require_finite(sum_of_losses, epoch)
                self._checkpoint(
                    Position(epoch=epoch, step=step, losses=sum_of_losses, kept=self.at.kept)
                )

        return on_step

    def end(self, row: dict[str, Any], at: Position) -> None:
        """Log and report a finished epoch, and write a checkpoint if one is due."""
        now = time.monotonic()
        steps = self.trainer.batches.steps - self.at.step
        row["windows_per_s"] = (
            steps * self.trainer.config.batch_size / (now - self.epoch_started_at)
        )
        if self.waited is not None and steps > 1:
            pace = (self.last_step_at - self.first_step_at) / (steps - 1)
            row["seconds_between_epochs"] = max(0.0, self.waited - pace)
        row["lr"] = self.trainer.schedule.get_last_lr()[0]
        self.metrics.windows(steps * self.trainer.config.batch_size)
        self.metrics.step("epoch", now - self.epoch_started_at)
        figures = ("epoch", "loss", "validation_loss", "accuracy", "windows_per_s")
        self.metrics.now(**{name: row[name] for name in figures if name in row})
        self.log.epoch(row)
        epoch_s = (now - self.started_at) / (at.epoch - self.first)
        left_s = epoch_s * (self.trainer.config.epochs - at.epoch)
        self.channel.epoch({**row, "left_s": left_s})
        self.at = at
        if self._due():
            self._checkpoint(at)

    def _first_step(self, epoch: int) -> None:
        now = time.monotonic()
        if epoch + self.at.step / self.trainer.batches.steps == self.first:
            self.log.workers(self.world, epoch + 1)
        else:
            self.waited = now - self.last_step_at
        self.first_step_at = now

    def finish(self, kept: BestEpoch | None, found: dict[int, Predictions]) -> None:
        """Wait for the last checkpoint and write the bundle; then no checkpoint is needed."""
        from pipelines.train.finish import write_bundle

        self.checkpoint_writer.wait()
        write_bundle(self.job, self.trainer, kept, found, self.log)

    def _due(self) -> bool:
        waited = time.monotonic() - self.last_checkpoint_at
        return waited >= self.job.options.checkpoint_s and not self.checkpoint_writer.busy

    def _checkpoint(self, at: Position) -> None:
        state = checkpoint.snapshot(
            {
                "job": self.job.fingerprint,
                "position": vars(at),
                "trainer": self.trainer.state_dict(),
            }
        )

        def write() -> None:
            checkpoint.write(self.job.checkpoint, state)
            self.log.upload()

        self.checkpoint_writer.start(write)
        self.last_checkpoint_at = time.monotonic()
