"""Train a model on one rank, without Ray; the caller may wrap the model in DDP."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from audiocnn.config import TrainConfig
from audiocnn.errors import TrainingError
from audiocnn.model.backbone import Backbone
from audiocnn.training.augment import augment, mixup
from audiocnn.training.batches import Batch, Batches
from audiocnn.training.ema import MovingAverage

__all__ = ["Evaluation", "OnStep", "TrainConfig", "Trainer"]

Item = TypeVar("Item")

_BATCHES_TRIED = 16
"""Most training batches that `Trainer.fit` predicts."""

OnStep = Callable[[int, torch.Tensor], None]
"""Called with the number of steps done in the epoch and the sum of this rank's losses so far."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results over all ranks' windows: mean loss, and counts `confusion[true, predicted]`."""

    loss: float
    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """Fraction of windows with the right prediction."""
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))


class Trainer:
    """A model and everything that changes while it is trained.

    `wrap` wraps the model in DDP if there are several ranks. All random numbers come from torch's
    global generators, which are seeded again for each (seed, epoch, step, rank). So the position
    in the run determines their state, and a resumed run draws the same numbers as an
    uninterrupted run.
    """

    def __init__(
        self,
        model: Backbone,
        config: TrainConfig,
        batches: Batches,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
        wrap: Callable[[Backbone], nn.Module] = lambda model: model,
    ) -> None:
        self.model, self.config, self.batches = model, config, batches
        self.rank, self.world = rank, world
        self.device = device or torch.device("cpu")
        self.bfloat16 = in_bfloat16(config, self.device)
        if self.device.type == "cuda":
            allow_tf32(config)
        self.wrapped = wrap(model.to(self.device))
        self.ema = MovingAverage(model, config.ema_decay) if config.ema_decay else None
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.max_lr, weight_decay=config.weight_decay, fused=True
        )
        self.schedule = one_cycle(self.optimizer, config, config.epochs * batches.steps)
        # The compiled module shares its parameters with `model`, which is the one that is saved.
        self.forward = torch.compile(self.wrapped) if config.compile else self.wrapped

    @property
    def average(self) -> Backbone:
        """The moving average of the model, which is evaluated; without one, the trained model."""
        return self.model if self.ema is None else self.ema.model

    def train_epoch(
        self, epoch: int, on_step: OnStep | None = None, *, first: int = 0, losses: float = 0.0
    ) -> float:
        """Train on every batch of this rank; return the mean loss over all steps and ranks.

        The first `first` steps are done already, and `losses` is the sum of their losses. A resumed
        run passes rank 0's sum on every rank: it stands for those of all ranks. Raises
        TrainingError if the loss is not finite. Nothing in the loop waits for the device.
        """
        self.wrapped.train()
        total = torch.full((), losses, device=self.device)
        for step, (logmel, labels) in enumerate(self.batches.epoch(epoch, first), first):
            torch.manual_seed(_seed(self.config.seed, epoch, step, self.rank))
            total += self._train_step(
                logmel.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )
            if on_step is not None:
                on_step(step + 1, total)
        loss = float(_over_ranks(total, mean=True)) / self.batches.steps
        require_finite(loss, epoch)
        return loss

    def _train_step(self, logmel: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logmel = augment(logmel, self.model.mean, self.config.augment)
        classes = self.model.n_classes
        logmel, targets = mixup(logmel, labels, classes, self.config.augment)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.forward(logmel)
        smoothing = self.config.label_smoothing
        loss = functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        # DDP averages over ranks, so weight this rank by its number of windows in the batch.
        share = len(labels) * self.world / self.config.batch_size
        self.optimizer.zero_grad(set_to_none=True)
        (loss * share).backward()
        self.optimizer.step()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.model)
        return loss.detach() * share

    @torch.inference_mode()
    def evaluate(self, batches: Iterator[Batch]) -> Evaluation:
        """Return the loss and confusion of `average` over the batches of all ranks together."""
        self.average.eval()
        _same_buffers(self.average)
        classes = self.model.n_classes
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        confusion = torch.zeros(classes * classes, dtype=torch.int64, device=self.device)
        for logmel, labels in batches:
            labels = labels.to(self.device)
            logits = self.average(logmel.to(self.device))
            loss += functional.cross_entropy(logits, labels, reduction="sum")
            cells = labels * classes + logits.argmax(1)
            confusion += torch.bincount(cells, minlength=classes * classes)
        counts = _over_ranks(confusion).reshape(classes, classes).cpu().numpy()
        return Evaluation(loss=float(_over_ranks(loss)) / max(1, counts.sum()), confusion=counts)

    def saved_model(self, weights: dict[str, torch.Tensor] | None = None) -> Backbone:
        """Return `average` for evaluation, equal on every rank, with `weights` or its last ones."""
        if weights is not None:
            self.average.load_state_dict(weights)
        _same_buffers(self.average)
        return self.average.eval()

    @torch.inference_mode()
    def fit(self) -> dict[str, float]:
        """Return the accuracy on the last training batches of this rank, 0 to 1, of two models.

        `training` is the trained model with the last weights, normalised by the statistics of each
        batch, without augmentation and dropout. `kept` is `average` in evaluation mode.
        """
        last = copy.deepcopy(self.model).train()
        for module in last.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        models = {"training": last, "kept": self.average.eval()}
        right, windows = dict.fromkeys(models, 0), 0
        first = max(0, self.batches.steps - _BATCHES_TRIED)
        for logmel, labels in self.batches.epoch(self.config.epochs - 1, first):
            logmel, labels = logmel.to(self.device), labels.to(self.device)
            for name, model in models.items():
                right[name] += int((model(logmel).argmax(1) == labels).sum())
            windows += len(labels)
        return {name: count / windows for name, count in right.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that training changes, for `load_state_dict`; tensors are not copied."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` of this version or an earlier one returned."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            # Earlier versions did not count updates; there is one update per step.
            self.ema.load_state_dict({"updates": state["schedule"]["last_epoch"], **state["ema"]})
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def one_cycle(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return the OneCycle schedule of the learning rate for a run of `steps` steps."""
    total = steps + 1  # the schedule also steps after the last batch
    warmup = config.warmup
    if warmup * total == 1:  # a warm-up of 0 steps: torch would divide by 0
        warmup *= 1 - 1e-6
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.max_lr, total_steps=total, pct_start=warmup
    )


def in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Return whether the forward pass is in bfloat16; auto: if the device has hardware for it."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def allow_tf32(config: TrainConfig) -> None:
    """Let cuDNN round the inputs of convolutions to TF32, unless the precision is float32.

    TF32 is torch's default. The setting applies to the whole process.
    """
    torch.backends.cudnn.allow_tf32 = config.precision != "float32"


def require_finite(loss: float, epoch: int) -> None:
    """Raise TrainingError if an epoch's loss is NaN or infinite."""
    if not np.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {epoch + 1}: lower --max-lr (or --weight-decay), name "
            "another --to, and look at the features' mean and std in features.json"
        )


def _seed(*position: int) -> int:
    """Return a seed for a position in the run, unrelated to the seeds of other positions."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> 1)


def _same_buffers(model: nn.Module) -> None:
    """Copy the first rank's batch-norm statistics, which the run saves, to every rank."""
    if dist.is_available() and dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def from_all_ranks(mine: list[Item]) -> list[Item]:
    """Return the lists of all ranks, concatenated, on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    found: list[list[Item]] = [[]] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return [item for of_rank in found for item in of_rank]


def _over_ranks(value: torch.Tensor, *, mean: bool = False) -> torch.Tensor:
    """Return the sum, or the mean, of a tensor over all ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
        if mean:
            value = value / dist.get_world_size()
    return value
