"""The speed of `audiocnn train`, compared with a plain PyTorch loop and the tutorial's loop.

Every contender trains the same model as a whole job, on the same cores; each process has one
thread. In each round, the contenders run one after the other. They train on the same features, with
two exceptions: the tutorial's loop reads at most 400 recordings, and "model alone" repeats one
random batch. Windows/s include all costs of an epoch; the first epoch is left out. The streamed
features are ten times larger than the memory allowed for them.
"""

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from audiocnn.features.feature_set import FeatureSet
from audiocnn.training.trainer import in_bfloat16
from benchmarks import corpora
from benchmarks.harness import RECORDINGS, Report
from benchmarks.processes import Memory, run, script
from pipelines.recipes import RECIPES

CORES = set(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare `audiocnn train` with a plain PyTorch loop and the tutorial's loop."""

    corpus: str = str(RECORDINGS / "esc10")
    """A corpus on this machine; its recordings are repeated."""
    recipe: str = "esc10"
    """Recipe of the features, the model and the training."""
    clips: int = 4_000
    """Number of clips to train on."""
    epochs: int = 2
    """Epochs of each contender, at least 2; the first one is not counted."""
    rounds: int = 2
    """Number of rounds; each round runs every contender once."""
    quick: bool = False
    """Run a short test: 400 clips, one round."""
    out: Path | None = None
    """Path of the JSON; by default benchmarks/results/train.json."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of a contender in one round."""

    windows_per_s: float
    first_step_s: float
    """Seconds from the start of the process to the end of the first step."""
    between_s: float | None
    """Seconds from an epoch's last step to the next epoch's first step, without that step."""
    memory: Memory


class Bench:
    """The corpora, the features, and a working folder."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self.folder = options, folder
        clips = 400 if options.quick else options.clips
        self.corpus = corpora.many(options.corpus, folder / "corpus", clips)
        self.few = corpora.many(options.corpus, folder / "few", min(clips, 400))
        self.features = folder / "features"
        run(
            [script("audiocnn"), "ingest", str(self.corpus), "--to", str(self.features),
             "--recipe", options.recipe, "--folds", "5"],
            {}, CORES,
        )  # fmt: skip
        features = FeatureSet.read(str(self.features))
        self.windows = features.counts["windows"]
        self.megabytes = features.bytes_of(list(features.folds)) / 1e6

    def loop(self, name: str) -> Result:
        """Run a loop of `benchmarks.loops`."""
        data = self.few if name == "tutorial" else self.features
        out, memory = self.folder / "loop.json", Memory()
        command = [
            sys.executable, "-m", "benchmarks.loops", "--loop", name, "--data", str(data),
            "--recipe", self.options.recipe, "--epochs", str(self.options.epochs),
            "--out", str(out),
        ]  # fmt: skip
        began = time.time()
        run(command, {}, CORES, memory)
        found = json.loads(out.read_text())
        between = found["seconds_between_epochs"]
        return Result(
            windows_per_s=found["windows_per_s"],
            first_step_s=found["first_step"] - began,
            between_s=max(0.0, sum(between) / len(between)) if between else None,
            memory=memory,
        )

    def ours(self, workers: int, data: str) -> Result:
        """Run `audiocnn train`, timed by its own TensorBoard log."""
        to, memory = self.folder / "bundle", Memory()
        command = [
            script("audiocnn"), "train", str(self.features), "--to", str(to), "--overwrite",
            "--recipe", self.options.recipe, "--epochs", str(self.options.epochs),
            "--workers", str(workers), "--data", data,
            "--memory-gb", str(self.megabytes / 1e4),
        ]  # fmt: skip
        began = time.time()
        run(command, {}, CORES, memory)
        log = EventAccumulator(str(to / "tensorboard"))
        log.Reload()
        ends = [event.wall_time for event in log.Scalars("loss")]
        between = [event.value for event in log.Scalars("seconds_between_epochs")]
        batch = json.loads((to / "bundle.json").read_text())["provenance"]["training"]["batch_size"]
        steps = self.windows // batch
        return Result(
            windows_per_s=(len(ends) - 1) * steps * batch / (ends[-1] - ends[0]),
            first_step_s=log.Scalars("workers")[0].wall_time - began,
            between_s=sum(between) / len(between),
            memory=memory,
        )


def main(options: Options) -> None:
    """Run all rounds, and print and write the results."""
    report = Report(name="train")
    with tempfile.TemporaryDirectory(prefix="audiocnn-bench-") as name:
        bench = Bench(options, Path(name))
        report.settings = {
            "recipe": options.recipe, "windows": bench.windows, "epochs": options.epochs,
            "bfloat16": in_bfloat16(
                RECIPES[options.recipe]().training, torch.device("cpu")
            ),
            "features_mb": round(bench.megabytes),
            "streamed_allowance_mb": round(bench.megabytes / 10), "threads_a_process": 1,
        }  # fmt: skip
        results: dict[str, list[Result]] = defaultdict(list)
        for _ in range(1 if options.quick else options.rounds):
            results["plain loop"].append(bench.loop("plain"))
            results["ours, 1 worker, memory"].append(bench.ours(1, "memory"))
            results["ours, 1 worker, streamed"].append(bench.ours(1, "auto"))
            results["ours, 2 workers, memory"].append(bench.ours(2, "memory"))
            results["model alone"].append(bench.loop("bare"))
            results["tutorial's loop"].append(bench.loop("tutorial"))
    fill(report, results)
    report.show()
    print(report.write(options.out))


def fill(report: Report, results: dict[str, list[Result]]) -> None:
    """Add the rows of all contenders, and the ratios."""
    rates = {name: [r.windows_per_s for r in rounds] for name, rounds in results.items()}
    for name, rounds in results.items():
        report.add(name, "windows/s", rates[name])
        first = [r.first_step_s for r in rounds]
        report.add(f"seconds_to_first_step: {name}", "s", first)
        between = [r.between_s for r in rounds if r.between_s is not None]
        if between:
            report.add(f"seconds_between_epochs: {name}", "s", between)
        report.add(f"memory: {name}", "MiB PSS, peak", [r.memory.together for r in rounds])
        if name.startswith("ours"):
            largest = [r.memory.largest_worker for r in rounds]
            report.add(f"largest worker: {name}", "MiB PSS, peak", largest)
    ours = rates["ours, 1 worker, memory"]
    report.ratio("memory_vs_plain_loop", ours, rates["plain loop"])
    report.ratio("streamed_vs_plain_loop", rates["ours, 1 worker, streamed"], rates["plain loop"])
    report.ratio("two_workers_vs_one", rates["ours, 2 workers, memory"], ours)
    report.ratio("vs_tutorial_loop", ours, rates["tutorial's loop"])
    report.ratio("plain_loop_vs_model_alone", rates["plain loop"], rates["model alone"])


if __name__ == "__main__":
    main(tyro.cli(Options))
