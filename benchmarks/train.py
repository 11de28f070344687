"""How fast `audiocnn train` is: against a plain PyTorch loop, and against the tutorial's.

Every contender trains the same model on the same features as a whole job in a process of its
own, on the same cores, one after the other, round by round, each process with one thread.
Windows/s are taken after the first epoch, over everything that an epoch costs. The streamed set
is ten times larger than the memory that it is allowed.
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
    """`audiocnn train` against a plain PyTorch loop, and against the tutorial's."""

    corpus: str = str(RECORDINGS / "esc10")
    """Recordings to use over and over: a corpus on this machine."""
    recipe: str = "esc10"
    """Whose features, model and training."""
    clips: int = 4_000
    """Clips of the corpus that is trained on."""
    epochs: int = 2
    """Epochs of each contender; the first one is not counted."""
    rounds: int = 2
    """Rounds; every contender has its turn in each."""
    quick: bool = False
    """A smoke run: 400 clips, one round."""
    out: Path | None = None
    """Where the JSON goes; benchmarks/results/train.json when not given."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One contender's round."""

    windows_per_s: float
    first_step_s: float
    """Seconds from starting the process to the first step's end."""
    between_s: float | None
    """Seconds from an epoch's last step to the next one's first, the step itself left out."""
    memory: Memory


class Bench:
    """The corpus, the features, and a folder to work in."""

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
        """A loop of `benchmarks.loops`."""
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
        """`audiocnn train`, timed by its own TensorBoard log."""
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
    """Run all rounds, write the results and show them."""
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
    """Rows and ratios of all contenders."""
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
