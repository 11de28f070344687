"""Each verb writes to a folder with other people's files: all of them are there afterwards."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from audiocnn.audio.encode import encode
from audiocnn.config import ModelConfig, TrainConfig
from audiocnn.corpus import synthetic
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels.label_set import read_labels
from audiocnn.model.bundle import Bundle
from helpers import strangers
from helpers.common import SMALL, make_bundle
from helpers.label_runs import check_sums, fill_bucket
from pipelines.evaluate import evaluate
from pipelines.ingest.job import ingest
from pipelines.label.job import label
from pipelines.options import Demo, Evaluate, Ingest, Label, Review, Train
from pipelines.recipes import RECIPES
from pipelines.review import review
from pipelines.tools.demo import demo
from pipelines.train.job import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

TINY = ModelConfig(stages=(1, 1, 1, 1), channels=8, dropout=0.0)
SHORT = TrainConfig(epochs=1, batch_size=4, max_lr=1e-2)
NAMES = tuple(name for name in strangers.NAMES if not name.startswith("parts/part-"))
"""Without names that match the pattern of parts, so that readers do not read those files."""


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two folds, each with six sounds of two classes."""
    folder = tmp_path_factory.mktemp("strangers") / "mini"
    for take in range(12):
        name = ("bell", "buzz")[take % 2]
        path = folder / name / f"{take % 4 // 2 + 1}-{take}-A.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = synthetic.sound(name, take, 1.0, 16_000)
        path.write_bytes(encode(sound, 16_000))
    return folder


@pytest.fixture(scope="module")
def features(ray_cluster: None, mini: Path) -> FeatureSet:
    return ingest(Ingest(corpus=str(mini), to=f"{mini}-f", feature=SMALL, workers=1))


@pytest.fixture(scope="module")
def bundle(mini: Path) -> Path:
    make_bundle(mini.parent / "bundle")
    return mini.parent / "bundle"


def training(features: FeatureSet, to: Path) -> dict[str, Any]:
    options = {"features": features.uri, "to": str(to), "workers": 1, "allow_leaks": True}
    return {**options, "feature": SMALL, "model": TINY, "training": SHORT}


def test_ingest_costs_nobody_a_file(
    mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = strangers.plant(tmp_path)
    for overwrite in (False, True):
        options = Ingest(corpus=str(mini), to=str(tmp_path), feature=SMALL, workers=1)
        made = ingest(Ingest(**{**vars(options), "overwrite": overwrite}))
        assert strangers.found(tmp_path) == planted
        assert len(made.load([1, 2])) == 12
        assert "2 more" not in capsys.readouterr().out
    ours = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert ours - set(planted) == {*made.parts, "features.json", "job.json", "failures.parquet"}


def test_train_and_evaluate_cost_nobody_a_file(
    features: FeatureSet, tmp_path: Path, chance: random.Random, thorough: bool
) -> None:
    """A run tries one of the two, drawn by chance; `make test-all` tries both."""
    for verb in chance.sample([train_twice, evaluate_twice], 2 if thorough else 1):
        verb(features, tmp_path / verb.__name__)


def train_twice(features: FeatureSet, to: Path) -> None:
    planted = strangers.plant(to)
    for overwrite in (False, True):
        made = train(Train(**training(features, to), test_fold=1, overwrite=overwrite))
        assert strangers.found(to) == planted
        assert Bundle.read(str(to)).fingerprint == made.fingerprint
        logs = [p.name for p in (to / "tensorboard").iterdir() if "audiocnn-" in p.name]
        assert len(logs) == 1


def evaluate_twice(features: FeatureSet, to: Path) -> None:
    planted = strangers.plant(to)
    within = strangers.plant(to / "folds" / "1", ("mine.txt", "parts/part-00000.parquet"))
    for folds, overwrite in (((1,), False), ((2,), True)):
        evaluate(Evaluate(**training(features, to), folds=folds, overwrite=overwrite))
        assert strangers.found(to) == planted
        assert strangers.found(to / "folds" / "1", tuple(within)) == within
    left = {p.name for p in (to / "folds" / "1").rglob("*") if p.is_file()}
    assert left == {"mine.txt", "part-00000.parquet"}


def test_label_and_review_cost_nobody_a_file(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = fill_bucket(tmp_path / "bucket")
    to = tmp_path / "labels"
    given = {"bucket": str(bucket), "bundle": str(bundle), "to": str(to), "workers": 1}
    planted = strangers.plant(to, NAMES)
    for formats in ((), ("raven", "audacity", "csv", "label-studio")):
        check_sums(to, label(Label(**given, formats=formats)))  # type: ignore[arg-type]
        assert strangers.found(to, NAMES) == planted
    selections = min((to / "raven").rglob("[0-9]*.selections.txt"))
    ours = selections.read_text()
    selections.write_text("boxes of my own")
    assert "is not the file that label wrote" not in capsys.readouterr().out

    check_sums(to, label(Label(**given)))  # type: ignore[arg-type]
    kept = selections.with_name(f"{selections.name}.kept-1")
    assert (selections.read_text(), kept.read_text()) == (ours, "boxes of my own")
    assert "is not the file that label wrote: it is kept as" in capsys.readouterr().out

    other = strangers.plant(to, ("parts/part-00000.parquet", "raven/mine-too.txt"))
    label(Label(**given, overwrite=True, formats=("raven",)))  # type: ignore[arg-type]
    assert "parts/part-00000.parquet in" in capsys.readouterr().out
    assert strangers.found(to, NAMES) == planted
    assert strangers.found(to, tuple(other)) == other
    assert kept.read_text() == "boxes of my own"
    assert not (to / "events.csv").exists()  # the labels before had it, unchanged
    assert len(read_labels(str(to))) > 0

    planted = strangers.plant(tmp_path / "review")
    for overwrite in (False, True):
        review(Review(labels=str(to), to=str(tmp_path / "review"), count=3, overwrite=overwrite))
        assert strangers.found(tmp_path / "review") == planted


@pytest.mark.slow
@pytest.mark.thorough
def test_the_demo_costs_nobody_a_file(mini: Path, tmp_path: Path, monkeypatch: Any) -> None:
    to = tmp_path / "demo"
    tiny = RECIPES["demo"]()
    tiny = type(tiny)(**{**vars(tiny), "feature": SMALL, "model": TINY, "training": SHORT})
    monkeypatch.setitem(RECIPES, "demo", lambda: tiny)
    corpus = shutil.copytree(mini, tmp_path / "corpus")
    asked = Demo(corpus=str(corpus), to=str(to), recipe="demo")
    demo(asked)
    folders = ("features", "bundle", "report", "labels", "bucket", "")
    beside = tuple(name for name in NAMES if not name.startswith("bundle/"))
    planted = {name: strangers.plant(to / name, beside) for name in folders}
    changed = next((to / "bucket").glob("recording-*.wav"))
    changed.write_bytes(b"mine")
    demo(asked)
    for name in folders:
        assert strangers.found(to / name, beside) == planted[name]
    assert changed.with_name(f"{changed.name}.kept-1").read_bytes() == b"mine"
    assert changed.read_bytes()[:4] == b"RIFF"
    assert json.loads((to / "labels" / "summary.json").read_text())["labelled"] == 6
