"""Helpers of most tests: paths, a fast front end, a bundle, the processes of a command."""

import os
import sys
import uuid
from pathlib import Path

import psutil
import pytest
import torch

from audiocnn.config import FeatureConfig, ModelConfig
from audiocnn.model.bundle import Bundle
from audiocnn.model.resnet import AudioCNN

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
BIN = Path(sys.executable).parent
AUDIOCNN = BIN / "audiocnn"

SMALL = FeatureConfig(
    sample_rate=16_000, window_s=1.0, hop_s=1.0, n_mels=32, n_fft=512, hop_length=256
)
"""A front end that is fast to compute."""
SMALL_FLAGS = ["--recipe", "demo", "--n-mels", "32", "--window-s", "1", "--hop-s", "1"]
"""Options of `ingest` and `train` that are fast to compute."""

CLUSTERS = pytest.StashKey[int]()
"""Number of Ray clusters that this process had started when a test began."""


def clusters_started() -> int:
    """Number of Ray clusters that this process has started: Ray makes a folder for each."""
    return len(list(Path(os.environ["RAY_TMPDIR"]).glob("ray/session_[!l]*")))


def count_cluster() -> None:
    """Count a cluster that has its folder elsewhere: make a folder for it in RAY_TMPDIR."""
    (Path(os.environ["RAY_TMPDIR"]) / "ray" / f"session_{uuid.uuid4().hex}").mkdir(parents=True)


def descendants(pid: int, text: str) -> list[psutil.Process]:
    """The descendants of a process that have a text in their command line."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if text in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def make_bundle(folder: Path, seed: int = 0) -> Bundle:
    """Write an untrained bundle of three classes to a folder, and return it."""
    torch.manual_seed(seed)
    model = AudioCNN(ModelConfig(stages=(1, 1, 1, 1), channels=8), SMALL.n_mels, 3).eval()
    return Bundle(model=model, feature=SMALL, classes=("bell", "dog", "rain")).write(str(folder))
