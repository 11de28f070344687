"""Training one rank's share of a model: no Ray in it, and DDP only where it was wrapped."""

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

OnStep = Callable[[int, torch.Tensor], None]
"""Called with the steps done of an epoch and the sum of this rank's losses so far."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean loss over all ranks' windows, and `confusion[true, predicted]` counts."""

    loss: float
    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """Part of the windows whose class was predicted."""
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))


class Trainer:
    """A model and all that changes while it is trained.

    `wrap` puts DDP around the model where there are several ranks. Everything random comes
    from torch's global generators, seeded anew for each (seed, epoch, step, rank): a position in
    the run is the state of every generator, and a run that goes on from a checkpoint draws what
    the uninterrupted run drew.
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
        # The compiled module shares its parameters with `model`, which is what is kept.
        self.forward = torch.compile(self.wrapped) if config.compile else self.wrapped

    @property
    def best(self) -> Backbone:
        """The model that the run keeps: the moving average, or the last weights."""
        return self.model if self.ema is None else self.ema.model

    def train_epoch(
        self, epoch: int, on_step: OnStep | None = None, *, first: int = 0, losses: float = 0.0
    ) -> float:
        """Train on every batch of this rank; returns the loss, the mean over all ranks.

        `first` steps are done already, with this sum of `losses`. Raises TrainingError where the
        loss is no number. Nothing in the loop waits for the device.
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
        # DDP takes the mean over ranks: a rank with fewer windows of the batch counts for less.
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
        """Loss and confusion of the kept model over all ranks' batches together."""
        self.best.eval()
        _same_buffers(self.best)
        classes = self.model.n_classes
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        confusion = torch.zeros(classes * classes, dtype=torch.int64, device=self.device)
        for logmel, labels in batches:
            labels = labels.to(self.device)
            logits = self.best(logmel.to(self.device))
            loss += functional.cross_entropy(logits, labels, reduction="sum")
            cells = labels * classes + logits.argmax(1)
            confusion += torch.bincount(cells, minlength=classes * classes)
        counts = _over_ranks(confusion).reshape(classes, classes).cpu().numpy()
        return Evaluation(loss=float(_over_ranks(loss)) / max(1, counts.sum()), confusion=counts)

    def kept(self, weights: dict[str, torch.Tensor] | None = None) -> Backbone:
        """The model that the run keeps, the same on every rank; at these weights, or its last."""
        if weights is not None:
            self.best.load_state_dict(weights)
        _same_buffers(self.best)
        return self.best.eval()

    @torch.inference_mode()
    def fit(self) -> dict[str, float]:
        """How well the last training batches of this rank are answered, as parts of them.

        `training`: by the last weights as they are trained, normalised by each batch's own
        statistics, but without augmentation and dropout. `kept`: by the model that the run keeps.
        """
        last = copy.deepcopy(self.model).train()
        for module in last.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        models = {"training": last, "kept": self.best.eval()}
        right, windows = dict.fromkeys(models, 0), 0
        first = max(0, self.batches.steps - _BATCHES_TRIED)
        for logmel, labels in self.batches.epoch(self.config.epochs - 1, first):
            logmel, labels = logmel.to(self.device), labels.to(self.device)
            for name, model in models.items():
                right[name] += int((model(logmel).argmax(1) == labels).sum())
            windows += len(labels)
        return {name: count / windows for name, count in right.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while training, for `load_state_dict`: not a copy of it."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, in this version or in an earlier one."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            # Earlier versions did not count updates: there was one in each step.
            self.ema.load_state_dict({"updates": state["schedule"]["last_epoch"], **state["ema"]})
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def one_cycle(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """The learning rate of a run of so many steps."""
    total = steps + 1  # it also steps after the last batch
    warmup = config.warmup
    if warmup * total == 1:  # a warm-up of no step: torch divides by its length
        warmup *= 1 - 1e-6
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.max_lr, total_steps=total, pct_start=warmup
    )


def in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether the forward pass is in bfloat16; auto: where the device computes with it itself."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def allow_tf32(config: TrainConfig) -> None:
    """Let cuDNN round the inputs of convolutions to TF32, unless float32 was asked for by name.

    It does so by torch's default; a training's process has this setting for all that it computes.
    """
    torch.backends.cudnn.allow_tf32 = config.precision != "float32"


def require_finite(loss: float, epoch: int) -> None:
    """Raise TrainingError where an epoch's loss is no number."""
    if not np.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {epoch + 1}: lower --max-lr (or --weight-decay), name "
            "another --to, and look at the features' mean and std in features.json"
        )


def _seed(*position: int) -> int:
    """A seed for a position in the run, unlike its neighbours'."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> 1)


def _same_buffers(model: nn.Module) -> None:
    """Give every rank the first one's batch-norm statistics: those are what a run keeps."""
    if dist.is_available() and dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def from_all_ranks(mine: list[Item]) -> list[Item]:
    """The lists of all ranks as one, on each of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    found: list[list[Item]] = [[]] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return [item for of_rank in found for item in of_rank]


def _over_ranks(value: torch.Tensor, *, mean: bool = False) -> torch.Tensor:
    """The sum, or the mean, of a tensor over all ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
        if mean:
            value = value / dist.get_world_size()
    return value
