"""The cost of float16 features: train on ESC-10 in float32 and in float16, all else the same.

For each fold, three models are trained on the other folds: on float32, on float16, and on float32
with another seed. The third one shows how much an accuracy changes by chance. A smaller difference
between float16 and float32 means nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from audiocnn.audio.decode import windows
from audiocnn.config import FeatureConfig, TrainConfig
from audiocnn.corpus.clips import Clip
from audiocnn.corpus.read import read_corpus
from audiocnn.features.band_sums import BandSums
from audiocnn.features.logmel import LogMel
from audiocnn.model.backbone import Backbone
from audiocnn.model.clip_scores import clip_scores
from audiocnn.model.registry import build
from audiocnn.training.batches import MemoryBatches
from audiocnn.training.trainer import Trainer
from benchmarks.harness import RECORDINGS, Report
from pipelines.recipes import Recipe, esc10


@dataclass(frozen=True, kw_only=True)
class Options:
    """Accuracy and scores of models trained on float32 and on float16 features."""

    corpus: Annotated[str, tyro.conf.arg(metavar="CORPUS")] = str(RECORDINGS / "esc10")
    """A corpus with folds."""
    folds: tuple[int, ...] = (1, 5)
    """Folds to test, each with models that are trained on all other folds."""
    epochs: int = 30
    """Epochs of each training; the recipe esc10 has 312."""
    out: Path | None = None
    """Path of the JSON; by default benchmarks/results/float16.json."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """All windows of a corpus; `logmel` is [windows, n_mels, n_frames] float32 or float16."""

    logmel: torch.Tensor
    labels: torch.Tensor
    folds: np.ndarray
    clip_ids: np.ndarray
    durations_s: np.ndarray


def main(options: Options) -> None:
    """Train, compare, and print and write the results."""
    torch.set_num_threads(1)
    recipe = esc10()
    training = replace(recipe.training, epochs=options.epochs)
    corpus = read_corpus(options.corpus)
    data = extract(list(corpus.clips), corpus.classes, recipe.feature)
    halves = replace(data, logmel=data.logmel.half())
    other = replace(training, seed=training.seed + 1)
    accuracies: dict[str, list[float]] = {"float32": [], "float16": [], "float32, other seed": []}
    changes = []
    for fold in options.folds:
        models = {
            "float32": train(recipe, training, data, fold),
            "float16": train(recipe, training, halves, fold),
            "float32, other seed": train(recipe, other, data, fold),
        }
        for name, model in models.items():
            given = halves if name == "float16" else data
            accuracies[name].append(accuracy(scores(model, given, fold), given, fold))
            print(f"fold {fold}, {name}: {accuracies[name][-1]:.1f} %", flush=True)
        model = models["float16"]
        changes.append(float(np.abs(scores(model, data, fold) - scores(model, halves, fold)).max()))
    report = Report(name="float16", settings={"recipe": "esc10", **_settings(options)})
    for name, values in accuracies.items():
        report.add(name, "% of clips, a value a fold", values)
    note = "a model trained on float16 gets float32: largest change of the score of a window"
    report.add("score change", "softmax score, a value a fold", changes, note)
    error = (data.logmel - halves.logmel.float()).abs().max()
    report.add("rounding", "dB, largest of a cell", [float(error)])
    report.ratio("float16_vs_float32_accuracy", accuracies["float16"], accuracies["float32"])
    report.show()
    print(report.write(options.out))


def _settings(options: Options) -> dict[str, object]:
    return {"folds": list(options.folds), "epochs": options.epochs}


def extract(clips: list[Clip], classes: tuple[str, ...], feature: FeatureConfig) -> Windows:
    """Return the windows of all clips, as float32."""
    logmel = LogMel(feature)
    found = [(c, list(windows(Path(c.uri).read_bytes(), feature))) for c in clips]
    rows = [(clip, window) for clip, group in found for window in group]
    return Windows(
        logmel=torch.from_numpy(
            np.concatenate([logmel([w.samples for w in group]) for _, group in found])
        ),
        labels=torch.tensor([classes.index(clip.label) for clip, _ in rows]),
        folds=np.array([clip.fold for clip, _ in rows]),
        clip_ids=np.array([clip.clip_id for clip, _ in rows]),
        durations_s=np.array([window.duration_s for _, window in rows]),
    )


def train(recipe: Recipe, training: TrainConfig, data: Windows, fold: int) -> Backbone:
    """Train a model on all folds but one, as `audiocnn train --workers 1` does."""
    chosen = torch.from_numpy(data.folds != fold)
    torch.manual_seed(training.seed)
    model = build(recipe.model, recipe.feature.n_mels, int(data.labels.max()) + 1)
    model.normalise_by(*BandSums.of(data.logmel[chosen].numpy()).mean_std())
    batches = MemoryBatches(data.logmel[chosen], data.labels[chosen], training)
    trainer = Trainer(model, training, batches)
    for epoch in range(training.epochs):
        trainer.train_epoch(epoch)
    return trainer.average.eval()


@torch.inference_mode()
def scores(model: Backbone, data: Windows, fold: int) -> np.ndarray:
    """Return softmax scores of a fold's windows, [windows, classes]."""
    logits = model(data.logmel[torch.from_numpy(data.folds == fold)].float())
    found: np.ndarray = logits.softmax(1).numpy()
    return found


def accuracy(window_scores: np.ndarray, data: Windows, fold: int) -> float:
    """Return the percentage of a fold's clips with the right prediction."""
    chosen = data.folds == fold
    ids = data.clip_ids[chosen].tolist()
    truth = dict(zip(ids, data.labels[torch.from_numpy(chosen)].tolist(), strict=True))
    names, clips = clip_scores(ids, data.durations_s[chosen], window_scores)
    hits = [truth[name] == best for name, best in zip(names, clips.argmax(1), strict=True)]
    return 100 * float(np.mean(hits))


if __name__ == "__main__":
    main(tyro.cli(Options))
