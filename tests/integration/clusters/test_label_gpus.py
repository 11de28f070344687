"""Models on GPUs that Ray counts, here CPUs: several of them, too few of them, lost ones."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audiocnn import storage, synthetic
from audiocnn.errors import ConfigError
from audiocnn.labelset import find_parts
from helpers.common import make_bundle
from pipelines.label import label
from pipelines.options import Label
from pipelines.session import MOST

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

Rows = dict[tuple[str, float], tuple[str, float]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred recordings of ten seconds, of ten sounds."""
    folder = tmp_path_factory.mktemp("bucket")
    for index, name in enumerate(synthetic.SOUNDS):
        samples = synthetic.sound(name, index, 10.0, 16_000)
        (folder / f"{index}.flac").write_bytes(synthetic.encode(samples, 16_000, "flac"))
    for index in range(10, 600):
        os.link(folder / f"{index % 10}.flac", folder / f"{index}.flac")
    return folder


@pytest.fixture(scope="module")
def rows(bucket: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What CPUs say of it, undisturbed."""
    to = tmp_path_factory.mktemp("cpu")
    label(Label(bucket=str(bucket), bundle=str(bundle), to=str(to / "labels")))
    return rows_of(to / "labels")


def rows_of(to: Path) -> Rows:
    """Label and score by recording and time; fails where a window is there twice."""
    found: Rows = {}
    for part in find_parts(str(to)):
        for row in storage.read_parquet(part.uri).to_pylist():
            assert (row["uri"], row["start_s"]) not in found
            found[row["uri"], row["start_s"]] = row["label"], pytest.approx(row["score"], abs=1e-5)
    return found


def run(script: str, *arguments: Any, **environment: str) -> str:
    """What a script prints; it has a Ray of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SHARES = """
import sys
import ray
from pipelines.cli import parse
from pipelines.label import label

ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
label(parse(["label", *sys.argv[1:], "--gpu", "--gpus-per-model", "0.5"]))
"""


def test_models_on_shares_of_a_gpu_give_the_same(
    bucket: Path, bundle: Path, rows: Rows, tmp_path: Path
) -> None:
    to = tmp_path / "gpu"
    run(SHARES, bucket, "--bundle", bundle, "--to", to, "--embeddings")
    assert rows_of(to) == rows
    with pytest.raises(ConfigError, match=r"1 models of 1 GPU each, but the cluster has 0 GPUs"):
        label(Label(bucket=str(bucket), bundle=str(bundle), to=str(tmp_path / "none"), gpu=True))
    assert not (tmp_path / "none").exists()


LABEL = """
import os, sys, threading, time
import psutil, ray
from ray.cluster_utils import Cluster
from audiocnn.labelset import find_parts
from pipelines.cli import parse
from pipelines.label import label

bucket, bundle, to, gpus, models = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
nodes = [cluster.add_node(num_cpus=0, num_gpus=1) for _ in range(int(gpus))]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
arguments = ["label", bucket, "--bundle", bundle, "--to", to, "--gpu", "--models", models]
ended = []
thread = threading.Thread(target=lambda: ended.append(label(parse(arguments))))
thread.start()

def wait_for_more() -> None:
    goal = len(find_parts(to)) + 3
    while len(find_parts(to)) < goal:
        assert thread.is_alive()
        time.sleep(0.05)

wait_for_more()
{disturb}
thread.join()
print("ended" if ended else "failed", flush=True)
os._exit(0)  # Ray's own exit handlers ask for nodes that are gone
"""
LOSE = """
cluster.remove_node(nodes[0], allow_graceful=False)
print("a node lost at", len(find_parts(to)), flush=True)
wait_for_more()
models = [p for p in psutil.process_iter() if p.name().startswith("ray::GpuModel")]
mine = [p for p in models if os.getpid() in [parent.pid for parent in p.parents()]]
for model in mine:
    model.kill()
print(len(mine), "models lost at", len(find_parts(to)), flush=True)
"""
DRAIN = """
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
deadline_ms = int((time.time() + 1) * 1_000)
gcs = ray._raylet.GcsClient(address=cluster.address)
assert gcs.drain_node(nodes[0].node_id, reason, "a test", deadline_ms)[0]
time.sleep(0.5)
cluster.remove_node(nodes[0], allow_graceful=False)
time.sleep(5)
print("the only node drained at", len(find_parts(to)), flush=True)
cluster.add_node(num_cpus=0, num_gpus=1)
"""


def test_models_that_have_no_gpu_or_lose_it_are_left_alone(
    bucket: Path, bundle: Path, rows: Rows, tmp_path: Path
) -> None:
    """Of three models one never gets a GPU, one loses its node, one its process."""
    to = tmp_path / "labels"
    script = LABEL.replace("{disturb}", LOSE)
    said = run(script, bucket, bundle, to, 2, 3, **{MOST: "CPU=2,GPU=3"})
    assert re.search("[12] of 3 models have a GPU; the others join when they have", said), said
    assert "1 models lost at" in said
    assert said.rstrip().endswith("ended"), said
    assert rows_of(to) == rows


def test_a_model_of_a_drained_node_is_taken_back(
    bucket: Path, bundle: Path, rows: Rows, tmp_path: Path
) -> None:
    """As a spot node goes, with the only model; another node comes."""
    to = tmp_path / "labels"
    said = run(LABEL.replace("{disturb}", DRAIN), bucket, bundle, to, 1, 1)
    at = re.search(r"the only node drained at (\d+)", said)
    assert at is not None
    assert int(at[1]) < len(find_parts(str(to)))  # not over by then
    assert said.rstrip().endswith("ended"), said
    assert rows_of(to) == rows
