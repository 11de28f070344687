"""`audiocnn demo`: the whole line on one machine, from a corpus to a labelled bucket."""

import os
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path

from audiocnn import storage, synthetic
from audiocnn.corpus import read_corpus, with_folds
from audiocnn.download import fetch_esc50
from audiocnn.featureset import FeatureSet
from pipelines import display
from pipelines.evaluate import print_report, report_on
from pipelines.ingest import ingest
from pipelines.label import label, read_labels
from pipelines.options import Demo, Ingest, Label, Train
from pipelines.recipes import RECIPES
from pipelines.train import train


def demo(options: Demo) -> None:
    """Run every verb once and say what was written and what to type next."""
    begun = time.monotonic()
    to = storage.absolute(options.to)
    synthetic_corpus = options.corpus == "synthetic"
    name = options.recipe or ("demo" if synthetic_corpus else "esc10")
    recipe = RECIPES[name]()
    corpus = _corpus(options.corpus, to)
    features = ingest(
        Ingest(
            corpus=corpus, to=f"{to}/features", recipe=name, feature=recipe.feature, overwrite=True
        )
    )
    fold = max(features.folds)
    train(
        Train(
            features=features.uri,
            to=f"{to}/bundle",
            recipe=name,
            test_fold=fold,
            feature=recipe.feature,
            model=recipe.model,
            training=recipe.training,
            overwrite=True,
        )
    )
    print_report(report_on({fold: f"{to}/bundle"}, features, f"{to}/report"), f"{to}/report")
    truth = _bucket(f"{to}/bucket", None if synthetic_corpus else corpus, features, fold)
    label(Label(bucket=f"{to}/bucket", bundle=f"{to}/bundle", to=f"{to}/labels", overwrite=True))
    _say_truth(f"{to}/labels", f"{to}/bucket", truth)
    _say_end(name, corpus, to, time.monotonic() - begun)


def _corpus(asked: str, to: str) -> str:
    """Where the corpus is, generated or downloaded first where it was asked for by name."""
    if asked == "synthetic":
        display.step(f"generate a corpus of {len(synthetic.SOUNDS)} classes of sounds")
        return synthetic.write_corpus(f"{to}/corpus")
    if asked == "esc50" and not os.path.exists(asked):
        display.step("download ESC-50 (600 MB, once)")
        with display.bar(0) as bar:
            folder = fetch_esc50(Path(to), told=bar.bytes)
        return str(folder)
    return storage.absolute(asked)


def _bucket(to: str, corpus: str | None, features: FeatureSet, fold: int) -> dict[str, str]:
    """Make a bucket of recordings without labels; returns what they really are, by path.

    Where the corpus is not ours to generate, they are the tested fold's clips, renamed.
    """
    if corpus is None:
        return synthetic.write_bucket(to)
    clips = [
        c for c in with_folds(read_corpus(corpus), len(features.folds)).clips if c.fold == fold
    ]
    shutil.rmtree(to, ignore_errors=True)
    truth = {}
    for index, clip in enumerate(sorted(clips, key=lambda clip: clip.uri.rsplit("/", 1)[-1])):
        path = f"recording-{index:04d}.{clip.uri.rsplit('.', 1)[-1]}"
        storage.write_bytes(storage.join(to, path), storage.read_bytes(clip.uri))
        truth[path] = clip.label
    return truth


def _say_truth(labels: str, bucket: str, truth: dict[str, str]) -> None:
    """How many recordings got their true label: here, and only here, we know it."""
    seconds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in read_labels(labels).to_pylist():
        seconds[row["uri"]][row["label"]] += row["score"] * (row["end_s"] - row["start_s"])
    right = sum(
        seconds[storage.join(bucket, path)].most_common(1)[0][0] == name
        for path, name in truth.items()
        if storage.join(bucket, path) in seconds
    )
    display.say(f"{right} of the bucket's {len(truth)} sound recordings got their true label")


def _say_end(recipe: str, corpus: str, to: str, seconds: float) -> None:
    display.step(f"done in {seconds:.0f} s")
    to, audiocnn = display.short(to), display.command()
    rows = [
        ["your labelled sounds", display.short(corpus)],
        ["audiocnn ingest wrote", f"{to}/features"],
        ["audiocnn train wrote", f"{to}/bundle"],
        ["audiocnn evaluate wrote", f"{to}/report/report.html"],
        ["your unlabelled sounds", f"{to}/bucket"],
        ["audiocnn label wrote", f"{to}/labels"],
    ]
    for what, uri in rows:
        display.say(f"{what:<25}{uri}")
    display.step("type next")
    display.say(f"{audiocnn} evaluate {to}/features --recipe {recipe} --to {to}/evaluation")
    display.say(f"{audiocnn} label YOUR_BUCKET --bundle {to}/bundle --to YOUR_LABELS")
    tensorboard = audiocnn.removesuffix("audiocnn") + "tensorboard"
    display.say(f"{tensorboard} --logdir {to}/bundle/tensorboard")
