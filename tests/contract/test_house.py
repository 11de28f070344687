"""Rules of this project that no linter checks: layers, lengths, imports without effects."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from audiocnn.config import Variable
from helpers.common import ROOT

BEFORE = {
    "audiocnn": {
        "errors": "",
        "config": "errors",
        "storage": "errors config",
        "audio": "errors config storage",
        "corpus": "errors config storage audio",
        "features": "errors config storage audio corpus",
        "model": "errors config storage audio corpus features",
        "training": "errors config storage audio corpus features model",
        "evaluation": "errors config storage audio corpus features model training",
        "labels": "errors config storage audio corpus features model",
        "review": "errors config storage audio corpus features model labels",
    },
    "pipelines": {
        "recipes": "",
        "options": "recipes",
        "runtime": "options",
        "ingest": "options recipes runtime",
        "train": "options recipes runtime",
        "evaluate": "options recipes runtime train",
        "label": "options recipes runtime",
        "similar": "options runtime",
        "review": "options runtime",
        "tools": "options recipes runtime ingest train evaluate label review",
        "cli": "options recipes runtime ingest train evaluate label similar review tools",
    },
    "serve": {
        "options": "",
        "problems": "options",
        "engine": "options problems",
        "api": "options problems engine",
        "deploy": "options problems engine api",
        "app": "deploy",
    },
}
"""The stages of each package, and the stages that each may import. No stage has import cycles."""

PACKAGES = [ROOT / name for name in BEFORE]
FOLDERS = sorted(
    path
    for package in PACKAGES
    for path in (package, *package.rglob("*"))
    if (path / "__init__.py").exists()
)
SOURCES = sorted(
    path
    for name in ("audiocnn", "pipelines", "serve", "benchmarks")
    for path in ROOT.glob(f"{name}/**/*.py")
)


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def entries(folder: Path) -> list[Path]:
    """The paths in a folder, without hidden ones and __pycache__."""
    return [path for path in folder.iterdir() if path.name[0] != "." and path.name != "__pycache__"]


def modules(folder: Path) -> dict[str, list[Path]]:
    """The sources of each module or folder in a folder, by its name."""
    found = {p.stem: [p] for p in folder.glob("*.py") if p.stem != "__init__"}
    within = {p.parent.name: sorted(p.parent.rglob("*.py")) for p in folder.glob("*/__init__.py")}
    return found | within


def siblings(path: Path, folder: Path) -> set[str]:
    """The modules and folders of a folder that a file imports."""
    start = ".".join(folder.relative_to(ROOT).parts) + "."
    names = (name.removeprefix(start) for name in imported(path) if name.startswith(start))
    return {name.split(".")[0] for name in names} & modules(folder).keys()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_stages_import_only_what_is_before_them(package: Path) -> None:
    before = BEFORE[package.name]
    assert modules(package).keys() == before.keys()
    for name, files in modules(package).items():
        for file in files:
            assert siblings(file, package) - {name} <= set(before[name].split()), file


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_has_at_most_twelve_entries(folder: Path) -> None:
    assert len(entries(folder)) <= 12


@pytest.mark.parametrize(
    "folder", [*FOLDERS, ROOT / "benchmarks"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_imports_in_a_folder_have_no_circles(folder: Path) -> None:
    found = modules(folder)
    graph = {name: set().union(*(siblings(f, folder) for f in files)) - {name}
             for name, files in found.items()}  # fmt: skip
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_import_only_what_they_may(path: Path) -> None:
    package, stage, *_ = (*path.relative_to(ROOT).with_suffix("").parts, "")
    tops = {name.split(".")[0] for name in imported(path)}
    assert package == "benchmarks" or "benchmarks" not in tops
    if package == "audiocnn":
        assert not tops & {"ray", "fastapi", "pipelines", "serve", "tyro"}
    if package == "pipelines" and stage != "cli":
        assert "serve" not in tops
    if package == "serve":
        assert "pipelines" not in tops
        assert "ray" not in tops or stage == "deploy"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_classes_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            most = 150 if isinstance(node, ast.ClassDef) else 60
            assert length <= most, f"{node.name} has {length} lines"


def test_environment_variables_are_named_in_one_place() -> None:
    """Only messages and documents may repeat a name; code uses `audiocnn.config.Variable`."""
    name = re.compile("|".join(["AUDIOCNN_[A-Z_]+", *Variable]))
    for path in SOURCES:
        if path == ROOT / "audiocnn" / "config.py" or path.is_relative_to(ROOT / "benchmarks"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not name.fullmatch(node.value), f"{path}:{node.lineno}: {node.value}"


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


def dotted(package: str) -> list[str]:
    """The names of a package's modules."""
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


def test_importing_the_library_does_nothing_and_loads_nothing(tmp_path: Path) -> None:
    assert run(INERT.format(names=["audiocnn"], allowed="-"), tmp_path) == ""


def test_importing_every_module_does_nothing(tmp_path: Path) -> None:
    library = dotted("audiocnn")
    assert "ray" not in run(INERT.format(names=library, allowed="-"), tmp_path).split(",")
    jobs = dotted("pipelines") + dotted("serve")
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
