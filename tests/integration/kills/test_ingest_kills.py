"""Ingest killed for real: its driver, its workers, a node; afterwards every clip is there once."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn.featureset import FeatureSet
from audiocnn.synthetic import encode
from helpers.common import AUDIOCNN, descendants

pytestmark = pytest.mark.slow

CLIPS = 480
OPTIONS = ["--recipe", "demo", "--folds", "4"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 15 s in FLAC, so that the work takes long enough to be hit; 24 files, many names."""
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
    """What a run that nobody disturbs gives."""
    return finish(corpus, corpus.parent / "whole")


def start(corpus: Path, to: Path) -> subprocess.Popen[str]:
    command = [str(AUDIOCNN), "ingest", str(corpus), "--to", str(to), *OPTIONS]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(corpus: Path, to: Path) -> FeatureSet:
    run = start(corpus, to)
    told, _ = run.communicate()
    assert run.returncode == 0, told
    return FeatureSet.read(str(to))


def parts(to: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in to.glob("parts/*.parquet")}


def wait_for_parts(to: Path, count: int, run: subprocess.Popen[str]) -> None:
    while len(parts(to)) < count:
        assert run.poll() is None, f"it ended before it could be killed: {run.communicate()[0]}"
        time.sleep(0.02)


def check_whole(features: FeatureSet, whole: FeatureSet) -> None:
    """Every clip once in what any reader finds; and what is named is what is there."""
    folder = Path(features.uri) / "parts"
    rows = [
        (row["clip_id"], row["start_s"])
        for path in folder.iterdir()
        for row in pq.read_table(path, columns=["clip_id", "start_s"]).to_pylist()
    ]
    assert len(rows) == len(set(rows)) == features.counts["windows"]
    assert len({clip for clip, _ in rows}) == CLIPS
    assert (features.fingerprint, features.counts) == (whole.fingerprint, whole.counts)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_driver(corpus: Path, whole: FeatureSet, tmp_path: Path, seed: int) -> None:
    to = tmp_path / "features"
    moment = random.Random(seed).randint(1, len(whole.parts) // 2)
    victim = start(corpus, to)
    wait_for_parts(to, moment, victim)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not (to / "features.json").exists()
    before = parts(to)  # its workers may still write: only what is there now must stay
    assert moment <= len(before) < len(whole.parts)
    check_whole(finish(corpus, to), whole)
    assert before.items() <= parts(to).items()


def test_killed_workers_and_front_ends(corpus: Path, whole: FeatureSet, tmp_path: Path) -> None:
    to = tmp_path / "features"
    run = start(corpus, to)
    killed = 0
    for moment in (1, 4, 7):
        wait_for_parts(to, moment, run)
        for text in ("audiocnn.extracting", "MapWorker"):
            for process in descendants(run.pid, text)[:1]:
                process.kill()
                killed += 1
    told, _ = run.communicate()
    assert run.returncode == 0, told
    assert killed >= 4
    check_whole(FeatureSet.read(str(to)), whole)


NODES = """
import os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from pipelines.cli import parse
from pipelines.ingest import ingest

to = Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)

def cut() -> None:
    while len(list(to.glob("parts/*.parquet"))) < 4:
        time.sleep(0.02)
    cluster.remove_node(second, allow_graceful=False)
    print("removed after", len(list(to.glob("parts/*.parquet"))), flush=True)

thread = threading.Thread(target=cut, daemon=True)
thread.start()
ingest(parse(["ingest", sys.argv[1], "--to", str(to), *sys.argv[3:]]))
thread.join()
ray.shutdown()
cluster.shutdown()
print("ended", flush=True)
os._exit(0)  # Ray's own exit handlers ask for the node that is gone
"""


def test_a_lost_node(corpus: Path, whole: FeatureSet, tmp_path: Path) -> None:
    to = tmp_path / "features"
    command = [sys.executable, "-c", NODES, str(corpus), str(to), *OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "removed after" in done.stdout
    assert "ended" in done.stdout
    check_whole(FeatureSet.read(str(to)), whole)
