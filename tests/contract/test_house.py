"""The rules of the house that no linter knows: layers, lengths, and nothing on import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.common import ROOT

LIBRARY = [
    "errors", "wording", "machine", "notes", "cells", "config", "local", "rangefile", "scratch",
    "parquet", "s3answers", "s3", "otherstores", "storage", "listing", "outputs", "filelist",
    "tars", "tags", "mp3", "ogg", "flac", "wav", "containers", "frames", "channels", "windowing",
    "audio", "recordings", "corpus", "failures", "webdataset", "folders", "layouts", "download",
    "synthetic", "features", "parts", "extractor", "extracting", "metrics", "calibration",
    "featureset", "leaks", "predictions", "batches", "torch_features", "augment", "model",
    "training", "checkpoint", "bundle", "predictor", "heldout", "explain", "figures", "report",
    "manifest", "labels", "labelset", "changes", "labeller", "events", "exports", "labelled",
    "shortlist", "similar", "picking", "reviewpage", "sounds", "review", "revision", "browse",
]  # fmt: skip
"""The library's modules; each imports only from those before it."""

PIPELINES = [
    "recipes", "options", "display", "reach", "auth", "session", "meters", "progress",
    "tensorboard", "shards", "survey", "ingest", "job", "result", "rank", "gloo", "train",
    "evaluate", "models", "labelling", "label", "prospect", "similar", "review", "submit", "demo",
    "doctor", "cli",
]  # fmt: skip
"""The jobs' modules, likewise."""

SERVE = [
    "options", "problems", "keys", "arrays", "encoding", "meters", "decoding", "decoder", "model",
    "service", "results", "schemas", "stream", "gate", "docs", "pages", "http", "configfile",
    "proxy", "kept", "app", "run",
]  # fmt: skip
"""The endpoint's modules, likewise; Ray is known to `kept`, `app` and `run` alone."""

ORDER = {"audiocnn": LIBRARY, "pipelines": PIPELINES, "serve": SERVE}
SOURCES = sorted(
    path
    for name in ("audiocnn", "pipelines", "serve", "benchmarks")
    for path in ROOT.glob(f"{name}/**/*.py")
)


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_order_lists_every_module() -> None:
    for package, order in ORDER.items():
        there = {p.stem for p in (ROOT / package).glob("*.py")} - {"__init__"}
        assert there == set(order)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_import_only_what_lies_before_them(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = set(imported(path))
    tops = {name.split(".")[0] for name in names}
    assert package == "benchmarks" or "benchmarks" not in tops
    if package == "audiocnn":
        assert not tops & {"ray", "fastapi", "pipelines", "serve", "tyro"}
    if package == "pipelines" and path.stem != "cli":
        assert "serve" not in tops
    if package == "serve":
        assert "pipelines" not in tops
        assert "ray" not in tops or path.stem in ("kept", "app", "run")
    order = ORDER.get(package, [])
    if path.stem in order:
        before = set(order[: order.index(path.stem)])
        siblings = {n.split(".")[1] for n in names if n.startswith(f"{package}.")} & set(order)
        assert siblings <= before


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


def test_files_of_tests_stay_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text().count("\n")
        for path in ROOT.glob("tests/**/*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}


INERT = """
import importlib, logging, os, sys, threading

def state():
    return set(os.listdir()), threading.active_count(), list(logging.root.handlers)

environment, before = os.environ.copy(), state()
for name in {names!r}:
    importlib.import_module(name)
assert state() == before, "files were made, threads started or logging set up"
changed = {{key for key, value in os.environ.items() if environment.get(key) != value}}
assert all(key.startswith({allowed!r}) for key in changed), changed
if "ray" in sys.modules:
    assert not sys.modules["ray"].is_initialized()
print(",".join(m for m in ("torch", "ray", "torchaudio", "matplotlib") if m in sys.modules))
"""


def run(script: str, tmp_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_library_does_nothing_and_loads_nothing(tmp_path: Path) -> None:
    assert run(INERT.format(names=["audiocnn"], allowed="-"), tmp_path) == ""


def test_importing_every_module_does_nothing(tmp_path: Path) -> None:
    library = [f"audiocnn.{name}" for name in LIBRARY]
    assert "ray" not in run(INERT.format(names=library, allowed="-"), tmp_path).split(",")
    jobs = [f"pipelines.{name}" for name in PIPELINES]
    jobs += [f"serve.{name}" for name in SERVE]
    # Ray and torch set variables of their own when they are imported.
    run(INERT.format(names=jobs, allowed=("RAY_", "KMP_", "TORCH", "TF_", "PYTHON")), tmp_path)


def test_the_command_line_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    assert run(INERT.format(names=["pipelines.cli"], allowed="-"), tmp_path) == ""


def test_the_public_surface_is_pinned() -> None:
    import audiocnn

    assert audiocnn.__all__ == [
        "AudioCNN", "AudioCNNError", "AudioError", "AudioLimits", "Bundle", "Clip", "Corpus",
        "FeatureConfig", "FeatureSet", "LogMel", "ModelConfig", "Prediction", "Predictor", "Taps",
        "TrainConfig", "read_corpus",
    ]  # fmt: skip
    for name in audiocnn.__all__:
        assert getattr(audiocnn, name).__name__ == name
    assert set(dir(audiocnn)) >= set(audiocnn.__all__)
    with pytest.raises(AttributeError):
        audiocnn.nothing  # noqa: B018
