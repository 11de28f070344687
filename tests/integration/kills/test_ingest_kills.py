"""Ingest after its driver, workers or a node were killed: each clip is there exactly once."""

import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn.audio.encode import encode
from audiocnn.features.feature_set import FeatureSet
from helpers.common import AUDIOCNN
from helpers.gate import FRONT_END, NODES, WORKER, Job, Start

pytestmark = pytest.mark.slow

CLIPS = 96
"""With two workers, these are 16 parts of six clips."""
OPTIONS = ["--recipe", "demo", "--folds", "4", "--workers", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLAC clips of 15 s, so that a kill can hit a part; 24 files with 96 names (hard links)."""
    folder = tmp_path_factory.mktemp("kills") / "corpus"
    rng = np.random.default_rng(0)
    for index in range(24):
        sound = encode(0.1 * rng.standard_normal(15 * 44_100), 44_100, "flac")
        label = folder / "abc"[index % 3]
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{index} 0.flac").write_bytes(sound)
        for copy in range(1, CLIPS // 24):
            os.link(label / f"{index} 0.flac", label / f"{index} {copy}.flac")
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path) -> FeatureSet:
    """The features of an undisturbed run."""
    to = corpus.parent / "whole"
    command = [AUDIOCNN, "ingest", corpus, "--to", to, *OPTIONS]
    features = finish(Job(corpus.parent / "job", *command), to)
    assert len(features.parts) == 16
    return features


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def ingest(start: Start, corpus: Path, to: Path) -> Callable[..., Job]:
    """A function that starts `ingest`, optionally by another command."""
    return partial(start_verb, start, corpus, to)


def start_verb(start: Start, corpus: Path, to: Path, *by: object) -> Job:
    return start(*(by or [AUDIOCNN]), "ingest", corpus, "--to", to, *OPTIONS)


def finish(job: Job, to: Path) -> FeatureSet:
    job.gate.open()
    assert job.end() == 0, job.told
    return FeatureSet.read(str(to))


def parts(to: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in to.glob("parts/*.parquet")}


def check_whole(features: FeatureSet, whole: FeatureSet) -> None:
    """Check that the files in parts/ contain each clip once, and that the result equals `whole`."""
    folder = Path(features.uri) / "parts"
    rows = [
        (row["clip_id"], row["start_s"])
        for path in folder.iterdir()
        for row in pq.read_table(path, columns=["clip_id", "start_s"]).to_pylist()
    ]
    assert len(rows) == len(set(rows)) == features.counts["windows"]
    assert len({clip for clip, _ in rows}) == CLIPS
    assert (features.fingerprint, features.counts) == (whole.fingerprint, whole.counts)


def kill_after(more: int, job: Job, to: Path, chance: random.Random) -> None:
    """Kill a driver once there are so many more parts, or up to two more than that."""
    goal = len(parts(to)) + more
    job.gate.let(more + chance.randint(0, 2))
    job.wait_until(lambda: len(parts(to)) >= goal)
    time.sleep(chance.uniform(0.0, 0.3))
    job.kill()
    job.wait_until_gone()
    assert goal <= len(parts(to))


def test_a_killed_driver(
    ingest: Callable[..., Job], whole: FeatureSet, to: Path, chance: random.Random, thorough: bool
) -> None:
    kills = 3 if thorough else 1
    kept: dict[str, int] = {}
    for _ in range(kills):
        more = chance.randint(1, len(whole.parts) // (2 * kills))
        kill_after(more, ingest(), to, chance)
        assert not (to / "features.json").exists()
        kept |= parts(to)
        assert len(kept) < len(whole.parts)
    check_whole(finish(ingest(), to), whole)
    assert kept.items() <= parts(to).items()  # these parts were not written again


def test_killed_workers_and_front_ends(
    ingest: Callable[..., Job], whole: FeatureSet, to: Path, chance: random.Random, thorough: bool
) -> None:
    job = ingest()
    kinds = chance.sample([FRONT_END, WORKER], 2)
    for kill in range(6 if thorough else 3):
        moment = 2 * kill + chance.randint(1, 2)
        job.gate.let(2 * kill + 2)
        job.wait_until(lambda moment=moment: job.gate.passed >= moment)
        time.sleep(chance.uniform(0.0, 0.3))
        job.kill_one(kinds[kill % 2], chance)
    check_whole(finish(job, to), whole)


@pytest.mark.thorough
def test_a_lost_node(
    ingest: Callable[..., Job], whole: FeatureSet, to: Path, chance: random.Random
) -> None:
    job = ingest(sys.executable, "-c", NODES)
    moment = chance.randint(1, 8)
    job.gate.let(moment + chance.randint(0, 2))
    job.wait_until(lambda: job.gate.passed >= moment)
    job.tell("remove")
    check_whole(finish(job, to), whole)
