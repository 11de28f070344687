"""Temporary folders are removed even if their process was killed; other folders stay."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.model.predictor import Predictor
from audiocnn.storage import scratch
from audiocnn.storage.scratch import Scratch
from helpers.common import make_bundle
from helpers.small_labels import label_bucket

LEFT = """
import os, signal, sys
from audiocnn.review.label_index import Browser
browser = Browser(sys.argv[1])
browser.refresh(wait=True)
assert browser.state.parts_read == 1
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, for a process that has not created any yet."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    scratch._remove_left.cache_clear()
    yield folder
    scratch._remove_left.cache_clear()


def test_a_folder_goes_with_its_block(here: Path) -> None:
    with Scratch() as name:
        Path(name, "file").write_bytes(b"x")
        assert list(here.iterdir()) == [Path(name)]
    assert list(here.iterdir()) == []


def test_what_a_killed_process_copied_of_labels_is_removed_by_the_next(
    here: Path, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    sound = encode(synthetic.sound("bell", 1, 1.0, 16_000), 16_000)
    (tmp_path / "bucket" / "a.wav").write_bytes(sound)
    labels, bundle = str(tmp_path / "labels"), str(tmp_path / "bundle")
    predictor = Predictor(make_bundle(tmp_path / "bundle"))
    label_bucket(labels, str(tmp_path / "bucket"), predictor, bundle)
    ended = subprocess.run([sys.executable, "-c", LEFT, labels], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = here.iterdir()
    assert (left / "labels.duckdb").exists()
    with Scratch() as mine:
        assert list(here.iterdir()) == [Path(mine)]


def test_what_others_have_there_stays(here: Path) -> None:
    for name in ("audiocnn-results", "audiocnn-abcd1234", "mine"):
        (here / name).mkdir()
        (here / name / "file").write_bytes(b"x")
    (here / "audiocnn-file").write_bytes(b"x")
    (here / "audiocnn-link").symlink_to(here / "mine")
    before = sorted(here.rglob("*"))
    with Scratch() as held:
        scratch._remove_left.cache_clear()  # another process has an empty cache
        with Scratch():
            assert Path(held).is_dir()
    assert sorted(here.rglob("*")) == before
