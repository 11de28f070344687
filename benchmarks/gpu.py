"""Check training on one GPU, without Ray, and measure its speed.

Features are on the device, and augmentation runs there in batches. The benchmark checks that
nothing in the inner loop waits for the device. "Model's step alone" repeats one batch: forward,
backward and optimizer, in the same precision.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch.nn import functional

from audiocnn.config import TrainConfig
from audiocnn.features.logmel import LogMel
from audiocnn.features.torch_logmel import TorchLogMel
from audiocnn.model.resnet import AudioCNN
from audiocnn.training.batches import MemoryBatches
from audiocnn.training.trainer import Trainer, allow_tf32
from benchmarks.harness import Report
from pipelines.recipes import RECIPES

_CLASSES = 50
_ESC50_CLIPS = 1_600


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checks and timings of training on one GPU."""

    device: str = "cuda"
    """Device to train on; `cpu` tries this script without a GPU."""
    recipe: str = "esc50"
    """Recipe of the model and the training."""
    windows: int = 3_200
    """Number of random windows in an epoch."""
    rounds: int = 3
    """Timed epochs of each variant, after one warm-up epoch."""
    compile: bool = True
    """Whether to time torch.compile too."""
    out: Path | None = None
    """Path of the JSON; by default benchmarks/results/gpu.json."""


class Bench:
    """Random features on the device, and measurements of training on them."""

    def __init__(self, options: Options) -> None:
        self.options, self.recipe = options, RECIPES[options.recipe]()
        self.device = torch.device(options.device)
        feature = self.recipe.feature
        self.shape = (feature.n_mels, feature.n_frames)
        generator = torch.Generator().manual_seed(0)
        logmel = torch.randn(options.windows, *self.shape, generator=generator) * 15 - 40
        labels = torch.randint(0, _CLASSES, (options.windows,), generator=generator)
        self.logmel, self.labels = logmel.half().to(self.device), labels.to(self.device)

    def model(self) -> AudioCNN:
        """Return the recipe's model, always with the same weights."""
        torch.manual_seed(0)
        model = AudioCNN(self.recipe.model, self.shape[0], _CLASSES)
        model.mean += -40
        model.std *= 15
        return model

    def trainer(self, **change: Any) -> Trainer:
        """Return a trainer with the recipe's options; `change` replaces some of them."""
        config: TrainConfig = replace(
            self.recipe.training, epochs=self.options.rounds + 2, **change
        )
        batches = MemoryBatches(self.logmel, self.labels, config)
        return Trainer(self.model(), config, batches, device=self.device)

    def log_mel_difference(self) -> float:
        """Return the largest difference, in dB, between log-mels of the device and of the CPU."""
        config = self.recipe.feature
        samples = torch.randn(8, config.window_samples, generator=torch.Generator().manual_seed(1))
        here = TorchLogMel(config).to(self.device)(samples.to(self.device)).cpu().numpy()
        return float(np.abs(here - LogMel(config)(samples.numpy())).max())

    def waits(self) -> bool:
        """Return whether a step of an epoch makes the host wait for the device."""
        trainer = self.trainer()
        cuda = self.device.type == "cuda"

        def on_step(step: int, _total: torch.Tensor) -> None:
            if cuda and step in (1, trainer.batches.steps):  # the end of an epoch may wait
                torch.cuda.set_sync_debug_mode("error" if step == 1 else "default")

        try:
            trainer.train_epoch(0, on_step)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            print(f"a step waits for the device: {error}")
            return True
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
        return False

    def rates(self, **change: Any) -> list[float]:
        """Return the windows/s of each round; a round is a whole epoch."""
        trainer = self.trainer(**change)
        trainer.train_epoch(0)
        rates = []
        for epoch in range(1, self.options.rounds + 1):
            began = time.perf_counter()
            trainer.train_epoch(epoch)  # returns the loss, so the device is done
            windows = trainer.batches.steps * trainer.config.batch_size
            rates.append(windows / (time.perf_counter() - began))
        return rates

    def bare_rates(self, precision: str) -> list[float]:
        """Return the windows/s of each round with the model's step alone."""
        allow_tf32(replace(self.recipe.training, precision=precision))  # type: ignore[arg-type]
        size, model = self.recipe.training.batch_size, self.model().to(self.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        logmel, labels = self.logmel[:size].float(), self.labels[:size]
        rates = []
        for _ in range(self.options.rounds + 1):
            began = time.perf_counter()
            for _ in range(self.options.windows // size):
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=precision == "bfloat16"
                ):
                    logits = model(logmel)
                optimizer.zero_grad()
                loss = functional.cross_entropy(logits.float(), labels)
                loss.backward()
                optimizer.step()
            loss.item()
            rates.append(self.options.windows // size * size / (time.perf_counter() - began))
        return rates[1:]


def main(options: Options) -> None:
    """Check and time, and print and write the results."""
    bench, report = Bench(options), Report(name="gpu")
    report.settings = {"device": options.device, "recipe": options.recipe}
    report.settings |= {"batch_size": bench.recipe.training.batch_size}
    report.add(
        "log-mel, device against CPU", "dB, largest difference", [bench.log_mel_difference()]
    )
    report.add("steps that wait for the device", "0 or 1", [bench.waits()])
    variants: dict[str, dict[str, Any]] = {
        "float32": {"precision": "float32"},
        "bfloat16": {"precision": "bfloat16"},
    }
    if options.compile:
        variants["bfloat16, compiled"] = {"precision": "bfloat16", "compile": True}
    rates = {name: bench.rates(**change) for name, change in variants.items()}
    for name, values in rates.items():
        report.add(f"training, {name}", "windows/s", values)
        cost = [100 * _ESC50_CLIPS / value for value in values]
        report.add(f"100 epochs of 1,600 clips, {name}", "s", cost)
    for precision in ("float32", "bfloat16"):
        bare = bench.bare_rates(precision)
        report.add(f"model's step alone, {precision}", "windows/s", bare)
        report.ratio(f"training_vs_model_alone_{precision}", rates[precision], bare)
    report.ratio("bfloat16_vs_float32", rates["bfloat16"], rates["float32"])
    if options.compile:
        report.ratio("compiled_vs_not", rates["bfloat16, compiled"], rates["bfloat16"])
    report.show()
    print(report.write(options.out))


if __name__ == "__main__":
    main(tyro.cli(Options))
