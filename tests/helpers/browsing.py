"""Fixtures of browser tests: a model of real recordings, a bucket that it labelled, a page."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from audiocnn.config import ModelConfig, TrainConfig
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from helpers.asking import PATIENCE_S
from helpers.endpoint import Endpoint
from helpers.small_labels import label_bucket
from pipelines.ingest.job import ingest
from pipelines.options import Ingest, Train
from pipelines.recipes import esc10
from pipelines.train.job import train

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def bundle(
    recordings: Path, tmp_path_factory: pytest.TempPathFactory, s3: object, _last_ray: None
) -> Path:
    """A small model, trained on the first fold of ESC-10, on the cluster of `ray_cluster`."""
    from pipelines.runtime import session

    folder, recipe = tmp_path_factory.mktemp("browser"), esc10()
    shutil.copytree(recordings / "esc10", folder / "corpus", ignore=_later_folds)
    session.connect()
    features = ingest(
        Ingest(corpus=str(folder / "corpus"), to=str(folder / "features"), feature=recipe.feature)
    )
    train(
        Train(
            features=features.uri,
            to=str(folder / "bundle"),
            workers=1,
            test_fold=2,
            feature=recipe.feature,
            model=ModelConfig(stages=(1, 1, 1, 1), channels=16, dropout=0.0),
            training=TrainConfig(
                epochs=16, batch_size=16, max_lr=4e-3, augment=recipe.training.augment
            ),
        )
    )
    return folder / "bundle"


def _later_folds(_: str, names: list[str]) -> list[str]:
    """The recordings that are in neither of the first two folds."""
    return [name for name in names if name.endswith(".ogg") and not name.startswith(("1-", "2-"))]


@pytest.fixture(scope="session")
def other_bundle(bundle: Path) -> Bundle:
    """A bundle with the same weights and four times the temperature: its scores are lower."""
    plain = Bundle.read(str(bundle))
    calibration = replace(plain.calibration, temperature=4 * plain.calibration.temperature)
    return replace(plain, calibration=calibration).write(str(bundle.with_name("other")))


@pytest.fixture(scope="session")
def labelled(
    bundle: Path, recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A bucket of real recordings, and its labels. One recording is half a minute long."""
    folder = tmp_path_factory.mktemp("labelled")
    bucket, labels = folder / "bucket", folder / "labels"
    (bucket / "day").mkdir(parents=True)
    clips = sorted((recordings / "esc10").rglob("2-*.ogg"))[::2]
    for path in clips:
        shutil.copy(path, bucket / "day" / path.name)
    sounds = [soundfile.read(path, dtype="float32")[0] for path in clips[:6]]
    soundfile.write(bucket / "long <i>walk<|i>.flac", np.concatenate(sounds), 44_100)
    label_bucket(str(labels), str(bucket), Predictor.load(str(bundle)), str(bundle))
    return bucket, labels


@pytest.fixture(scope="session")
def endpoint(bundle: Path, other_bundle: Bundle, labelled: tuple[Path, Path]) -> Iterator[Endpoint]:
    other = str(bundle.with_name("other"))
    options = ["--beside", other, "--labels", str(labelled[1]), "--timeout-s", str(PATIENCE_S)]
    running = Endpoint(bundle, *options)
    yield running
    running.close()


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import expect, sync_playwright

    from helpers.chromium import CHROMIUM, FLAGS

    expect.set_options(timeout=1_000 * PATIENCE_S)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, timeout=1_000 * PATIENCE_S
        )
        yield running
        running.close()


@pytest.fixture
def page(browser: "Browser", endpoint: Endpoint) -> Iterator["Page"]:
    """A page with the dashboard. Any error that the page reports fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(1_000 * PATIENCE_S)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    opened.goto(endpoint.url("/"))
    # Before its script runs, the page handles no clicks and no files.
    opened.get_by_text(re.compile(r"classes, bundle \w{16}")).wait_for()
    yield opened
    context.close()
    # Tests make requests fail on purpose. A violation of the content security policy is an error.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


@pytest.fixture(scope="session")
def clip(recordings: Path) -> Path:
    """A recording of a rooster from the fold that the model was trained on."""
    return next(path for path in sorted((recordings / "esc10").rglob("*")) if _is_rooster(path))


def _is_rooster(path: Path) -> bool:
    return "Rooster" in path.parent.name and path.name.startswith("1-")
