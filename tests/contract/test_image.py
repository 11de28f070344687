"""The image: hadolint accepts it, its versions are pinned, and it does not run as root."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from helpers.common import ROOT

FILE = ROOT / "cluster" / "Containerfile"
LOCK = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text()))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_version_is_pinned_as_the_lock_has_it() -> None:
    text = FILE.read_text()
    assert re.search(r"ARG PYTHON=3\.1[1-9]\.\d+-slim-\w+\n", text)
    assert ":latest" not in text
    installs = re.findall(r"pip install [^\n]*(?:\\\n[^\n]*)*", text)
    assert len(installs) == 3
    for install in installs:
        assert "==" in install or "requirements.lock" in install or "-r torch.txt" in install
    (boto3,) = re.findall(r"boto3==(\S+)", text)
    assert boto3 == LOCK["botocore"]
    assert {"torch", "torchaudio", "ray"} <= LOCK.keys()


def test_a_mend_of_ray_comes_as_soon_as_it_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in project["dependencies"]]
    (ray,) = (requirement for requirement in asked if requirement.name == "ray")
    for specifier in (ray.specifier, SpecifierSet(f"=={LOCK['ray']}")):
        assert [specifier.contains(f"2.{one}") for one in ("60.0", "60.1", "61.0")] == [
            True, True, False,
        ]  # fmt: skip


def test_it_runs_as_nobody_in_particular() -> None:
    last = FILE.read_text().rsplit("\nFROM ", 1)[1]
    assert re.findall(r"(?m)^USER (.*)$", last) == ["1000"]
    assert "RAY_AUTH_MODE=token" in last
    assert "COPY --from=build" in last


def test_what_it_copies_is_sent_to_the_builder_and_nothing_else() -> None:
    sent = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", FILE.read_text())
    named = {name for line in copied for name in line.split()}
    assert named == set(sent)
    assert all((ROOT / name).exists() for name in named)
