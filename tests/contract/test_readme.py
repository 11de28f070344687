"""The README is true: its commands parse, its files and links exist, and its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from audiocnn.audio.encode import encode
from audiocnn.config import ModelConfig
from audiocnn.corpus import synthetic
from audiocnn.model.bundle import Bundle
from audiocnn.model.resnet import AudioCNN
from helpers.common import ROOT, SMALL
from pipelines.cli import parse

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (?:\.venv/bin/)?audiocnn (.+)$", README, re.MULTILINE)


def test_the_first_screen_is_the_three_commands() -> None:
    first = README.splitlines()[:25]
    made = [line.split("#")[0].strip() for line in first if line.startswith("    make ")]
    assert made == ["make demo", "make demo CORPUS=../shared/data/esc10", "make test"]


def test_every_verb_is_shown() -> None:
    verbs = {command.split()[0] for command in COMMANDS}
    assert verbs >= {"ingest", "train", "evaluate", "label", "serve"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    parse(shlex.split(command))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_make_targets_links_and_paths_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z0-9-]+)", text, re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert ((ROOT / name).parent / link).exists(), link
    for path in re.findall(
        r"`((?:audiocnn|pipelines|serve|cluster|tests|docs|benchmarks)/[^`*]*)`", text
    ):
        assert (ROOT / path).exists(), path


def test_the_front_door_is_short() -> None:
    assert README.count("\n") <= 120


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = AudioCNN(ModelConfig(stages=(1, 1, 1, 1), channels=4), SMALL.n_mels, 2)
    Bundle(model=model.eval(), feature=SMALL, classes=("dog", "rain")).write("demo/bundle")
    Path("siren.wav").write_bytes(encode(synthetic.sound("bell", 1), 22_050))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3  # integration/endpoint/test_serve.py runs the endpoint's client
    blocks = [block for block in blocks if "requests" not in block]
    for block in blocks:
        exec(block, {})
    out = capsys.readouterr().out
    assert out.startswith(("dog", "rain"))
    assert "layer4.block0.relu" in out
