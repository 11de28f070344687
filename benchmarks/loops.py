"""Training loops to compare `audiocnn train` with; each is a process that writes its figures.

`plain` is the limit: a loop that a careful engineer writes in PyTorch for one process. It has the
tensors, batches, augmentation, model, precision, optimizer and schedule of the job, and nothing
else.
`bare` is the model's share of that loop: it repeats one batch, without augmentation or average.
`tutorial` is the loop from which this project started, as its authors wrote it. Its DataLoader, in
the training process, decodes each recording and computes its log-mel again in every epoch.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import tyro
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from audiocnn.config import ModelConfig, TrainConfig
from audiocnn.corpus.read import read_corpus
from audiocnn.features.feature_set import FeatureSet
from audiocnn.features.torch_logmel import load_torchaudio
from audiocnn.model.resnet import AudioCNN
from audiocnn.training.augment import augment, mixup
from audiocnn.training.trainer import in_bfloat16
from pipelines.recipes import RECIPES

Epoch = Callable[[], Iterator[int]]
"""Function that runs an epoch; it yields the windows of each step when the step is done."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run a training loop in this process."""

    loop: str
    """plain, bare or tutorial."""
    data: str
    """Features; for `tutorial`, a corpus."""
    recipe: str = "esc10"
    """Recipe of the model and the training."""
    epochs: int = 2
    out: Path
    """Path of the JSON with the figures."""


def main(options: Options) -> None:
    """Run a loop and write its `figures` as JSON."""
    torch.set_num_threads(1)
    recipe = RECIPES[options.recipe]()
    training = replace(recipe.training, epochs=options.epochs)
    epoch = {"plain": plain, "bare": bare, "tutorial": tutorial}[options.loop](
        options.data, recipe.model, training
    )
    windows, steps = [], list[list[float]]()
    for _ in range(options.epochs):
        counts, times = zip(*((count, time.time()) for count in epoch()), strict=True)
        windows.append(sum(counts))
        steps.append(list(times))
    options.out.write_text(json.dumps(figures(windows, steps)))


def figures(windows: list[int], steps: list[list[float]]) -> dict[str, Any]:
    """Return the figures of a run.

    `windows` has the number of windows of each epoch. `steps` has the end times of its steps, in
    seconds since 1970. `windows_per_s` leaves out the first epoch. `seconds_between_epochs` leaves
    out the step itself.
    """
    paces = [(times[-1] - times[0]) / max(1, len(times) - 1) for times in steps]
    return {
        "first_step": steps[0][0],
        "windows_per_s": sum(windows[1:]) / (steps[-1][-1] - steps[0][-1]),
        "seconds_between_epochs": [
            after[0] - before[-1] - pace
            for (before, after), pace in zip(pairwise(steps), paces[1:], strict=True)
        ],
    }


def plain(uri: str, model_config: ModelConfig, config: TrainConfig) -> Epoch:
    """Return the epoch of `plain`, the limit."""
    features = FeatureSet.read(uri)
    rows = features.load(list(features.folds))
    logmel = torch.from_numpy(rows.logmel)
    labels = torch.from_numpy(features.label_indices(rows.labels))
    classes, steps = len(features.classes), len(labels) // config.batch_size
    torch.manual_seed(config.seed)
    model = AudioCNN(model_config, features.config.n_mels, classes).train()
    model.normalise_by(*features.mean_std(list(features.folds)))
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay or 0.99), use_buffers=True
    )
    optimizer, schedule = _optimizer(model, config, steps)
    forward = _in_precision(model, config)

    def epoch() -> Iterator[int]:
        for chosen in torch.randperm(len(labels))[: steps * config.batch_size].split(
            config.batch_size
        ):
            batch = augment(logmel[chosen].float(), model.mean, config.augment)
            batch, targets = mixup(batch, labels[chosen], classes, config.augment)
            loss = functional.cross_entropy(
                forward(batch), targets, label_smoothing=config.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if config.ema_decay:
                average.update_parameters(model)
            yield len(chosen)

    return epoch


def bare(uri: str, model_config: ModelConfig, config: TrainConfig) -> Epoch:
    """Return the epoch of `bare`, the model's step alone."""
    features = FeatureSet.read(uri)
    shape = (config.batch_size, features.config.n_mels, features.config.n_frames)
    logmel, labels = torch.randn(shape), torch.arange(config.batch_size) % len(features.classes)
    model = AudioCNN(model_config, features.config.n_mels, len(features.classes)).train()
    optimizer, _ = _optimizer(model, config, 1)
    forward = _in_precision(model, config)

    def epoch() -> Iterator[int]:
        for _ in range(40):
            optimizer.zero_grad()
            functional.cross_entropy(forward(logmel), labels).backward()
            optimizer.step()
            yield len(labels)

    return epoch


def tutorial(uri: str, model_config: ModelConfig, config: TrainConfig) -> Epoch:
    """Return the epoch of `tutorial`; its DataLoader computes everything again in every epoch."""
    dataset = _Recordings(uri)
    loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True, drop_last=True)
    model = AudioCNN(model_config, 128, len(dataset.classes)).train()
    optimizer, schedule = _optimizer(model, config, len(loader))

    def epoch() -> Iterator[int]:
        for logmel, labels in loader:
            if np.random.random() > 0.7:
                logmel, targets = mixup(logmel, labels, len(dataset.classes), config.augment)
                loss = functional.cross_entropy(model(logmel), targets)
            else:
                loss = functional.cross_entropy(model(logmel), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            yield len(labels)

    return epoch


class _Recordings(Dataset[tuple[torch.Tensor, int]]):
    """Log-mels of 128 bands, with masks, of the first 5 s of each recording at its own rate."""

    def __init__(self, uri: str) -> None:
        audio = load_torchaudio().transforms
        corpus = read_corpus(uri)
        self.clips, self.classes = corpus.clips, sorted({clip.label for clip in corpus.clips})
        self.transform = torch.nn.Sequential(
            audio.MelSpectrogram(
                sample_rate=22_050, n_fft=1_024, hop_length=512, n_mels=128, f_min=0, f_max=11_025
            ),
            audio.AmplitudeToDB(),
            audio.FrequencyMasking(freq_mask_param=30),
            audio.TimeMasking(time_mask_param=80),
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        samples, rate = soundfile.read(self.clips[index].uri, dtype="float32", always_2d=True)
        wave = torch.from_numpy(samples).mean(1)[: 5 * rate]
        wave = functional.pad(wave, (0, 5 * rate - len(wave)))  # some clips of ESC-10 are shorter
        return self.transform(wave), self.classes.index(self.clips[index].label)


def _in_precision(model: AudioCNN, config: TrainConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the forward pass in the precision that the job has on this machine."""
    bfloat16 = in_bfloat16(config, torch.device("cpu"))

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits: torch.Tensor = model(batch)
        return logits.float()

    return forward


def _optimizer(model: AudioCNN, config: TrainConfig, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.max_lr, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.max_lr, total_steps=config.epochs * steps + 1
    )
    return optimizer, schedule


if __name__ == "__main__":
    main(tyro.cli(Options))
