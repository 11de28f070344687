"""The command line answers fast. A mistake ends in one line and exit code 2."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from audiocnn import __version__
from audiocnn.corpus.synthetic import write_corpus
from audiocnn.errors import ConfigError
from audiocnn.labels.export.run import FORMATS
from helpers.common import AUDIOCNN
from helpers.forked import Forked
from pipelines import options
from pipelines.cli import VERBS, parse
from pipelines.recipes import RECIPES

HEAVY = {"torch", "ray", "torchaudio"}


@pytest.fixture(scope="module")
def light() -> Iterator[Forked]:
    """Commands in a process that has only imported the command line."""
    with Forked() as commands:
        yield commands


@pytest.fixture(scope="module")
def loaded() -> Iterator[Forked]:
    """Commands in a process that has already imported the libraries of jobs."""
    with Forked("ray.data", "ray.serve", "ray.train.torch", "pipelines.train.job") as commands:
        yield commands


@pytest.mark.parametrize("arguments", [["--help"], *[[verb, "--help"] for verb in VERBS]])
def test_help_answers_without_torch_and_ray(
    light: Forked, arguments: list[str], tmp_path: Path
) -> None:
    done = light.run(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert not done.loaded & HEAVY
    for verb in VERBS if arguments == ["--help"] else arguments[:1]:
        assert verb in done.stdout


def test_it_says_its_version() -> None:
    """This runs the installed command."""
    done = subprocess.run([AUDIOCNN, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"audiocnn {__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["--version"], ["ingest", ".", "--to", "x"]]
)
def test_a_reader_that_has_gone_is_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    """This is `audiocnn train --help | head` if `head` ends before anything is printed."""
    if arguments[0] == "ingest":
        write_corpus(str(tmp_path), clips_per_class=2)
        arguments = [*arguments, "--dry-run"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end) as deserted:
        done = subprocess.run(
            [AUDIOCNN, *arguments],
            cwd=tmp_path, stdout=deserted, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "one of {ingest, train, evaluate, label, similar, review, serve, submit, demo, doctor}",
        ),
        (["nothing"], "nothing"),
        (["ingest"], "--to"),
        (["ingest", "corpus", "--to", "x", "--n-mels", "many"], "--n-mels"),
        (["ingest", "corpus", "--to", "x", "--n-mels", "2"], "n_mels must be within"),
        (["train", "f", "--to", "b", "--recipe", "esc99"], "invalid choice 'esc99'"),
        (["train", "f", "--to", "b", "--workers", "0"], "workers must be at least 1"),
        (
            ["train", "f", "--to", "b", "--workers", "17"],
            "--batch-size 32 leaves each of --workers 17 less than two windows, too few for batch "
            "norm: raise it to 34, or take 16 workers",
        ),
        (["train", "f", "--to", "b", "--test-fold", "1", "--validation-fold", "1"], "different"),
        (["evaluate", "f", "--to", "r", "--folds", "1", "2", "1"], "folds names a fold twice"),
        (["label", "b", "--bundle", "x"], "--to"),
        (["label", "b", "--bundle", "x", "--to", "y", "--top-k", "0"], "top_k"),
        (["similar", "l", "--to-clip", "x", "--to", "x.txt"], "to must end in .csv"),
        (["review", "l", "--to", "x", "--count", "0"], "count must be within 1 and 9999"),
        (["serve", "b", "--queue", "0"], "queue must be at least 1"),
        (["serve", "b", "--replicas", "3", "2"], "MIN not above MAX"),
        (["serve", "b", "--cors", "*"], "not an origin like https://example.org"),
        (["ingest", "c", "--to", "f", "--storage-options", "{no"], "parsing --storage-options"),
        (["train", "f", "--to", "b", "--storage-options", "[]"], "an object is needed"),
    ],
)
def test_usage_errors_name_the_flag_and_load_nothing(
    light: Forked, arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = light.run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not done.loaded & HEAVY
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "no/corpus", "--to", "x"], "no/corpus: not found"),
        (["ingest", ".", "--to", "x"], "not a corpus"),
        (["train", "no/features", "--to", "x"], "no features there"),
        (["evaluate", "no/features", "--to", "x"], "no features there"),
        (["label", ".", "--bundle", "no/bundle", "--to", "x"], "no bundle there"),
        (["similar", "no/labels", "--to-clip", "x.wav"], "no labels there"),
        (["review", "no/labels", "--to", "x"], "no labels there"),
        (["serve", "no/bundle"], "no bundle there"),
        (["serve", "b", "--host", "0.0.0.0"], "needs API keys: set AUDIOCNN_API_KEYS"),
        (["serve", "b", "--host", "192.0.2.7", "--keys", "none"], "--keys none: No such file"),
        (["ingest", ".", "--to", "x", "--storage-options", '{"s4": {}}'], "no protocol 's4'"),
        (["evaluate", "f", "--to", "x", "--storage-options", '{"s3": 1}'], "not of the form"),
    ],
)
def test_what_is_not_there_is_one_line_and_no_ray_is_started(
    loaded: Forked, arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = loaded.run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    line = done.stderr.strip()
    assert line.startswith("audiocnn: ")
    assert "\n" not in line
    assert message in line
    assert not list(tmp_path.iterdir())


def test_the_choices_of_options_are_those_that_exist() -> None:
    assert get_args(options.Recipe) == tuple(RECIPES)
    assert {*get_args(options.Format), "parquet"} == set(FORMATS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_the_default_of_every_option_and_flags_change_one(recipe: str) -> None:
    made = RECIPES[recipe]()
    options = parse(["train", "f", "--to", "b", "--recipe", recipe, "--epochs", "7"])
    assert options.feature == made.feature
    assert options.model == made.model
    assert options.training.epochs == 7
    assert options.training.max_lr == made.training.max_lr
    assert parse(["ingest", "c", "--to", "f", f"--recipe={recipe}"]).feature == made.feature


def test_the_last_recipe_counts() -> None:
    options = parse(["train", "f", "--to", "b", "--recipe", "esc50", "--recipe=demo"])
    assert options.recipe == "demo"
    assert options.training == RECIPES["demo"]().training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--to", "."], "not empty, and not of an earlier demo"),
        (["demo", "--to", "s3://bucket/demo"], "writes to this machine"),
        (["demo", "new/corpus", "--to", "new"], "the corpus is in this folder"),
    ],
)
def test_the_demo_refuses_a_folder_where_something_might_be_lost(
    loaded: Forked, arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "precious.wav").write_bytes(b"x")
    done = loaded.run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["bucket", "precious.wav"]


def test_doctor_names_what_does_not_fit(tmp_path: Path) -> None:
    """This runs the installed command in a process of its own."""
    done = subprocess.run(
        [AUDIOCNN, "doctor", "no/such/bucket"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        # From Ray 2.61 on, every cluster has this setting.
        env={**os.environ, "HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "token"},
    )  # fmt: skip
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("✗")] == [
        line for line in lines if line.startswith("✗ storage")
    ]
    assert "→ check the URI and its credentials" in done.stdout
    for name in (
        "python", "torch", "torchaudio", "ray", "audio fit", "devices", "ray cluster", "ray token",
    ):  # fmt: skip
        assert any(line.startswith(f"✓ {name} ") for line in lines), name
    # The cluster that it started made this user's first token. Only the user can read it.
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_options_of_a_library_call_are_checked_like_flags() -> None:
    with pytest.raises(ConfigError):
        parse(["train", "f", "--to", "b", "--mixup-probability", "2"])


def test_where_nothing_can_be_printed_to_the_work_is_done(tmp_path: Path) -> None:
    write_corpus(str(tmp_path), clips_per_class=2)
    command = f"{AUDIOCNN} ingest . --to x --dry-run >&-"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
