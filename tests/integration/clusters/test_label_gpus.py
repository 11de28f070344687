"""Labelling with models on GPUs: on shares of one, on too few, and on nodes that are lost.

Ray only counts the GPUs; the models run on CPUs. Labelling waits at a gate while a model is lost,
so that some recordings are not scored yet.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.node import Node
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from audiocnn import storage
from audiocnn.audio.encode import encode
from audiocnn.config import Variable
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError
from audiocnn.labels import shard_list
from audiocnn.labels.label_set import find_parts
from helpers.asking import wait_until
from helpers.common import descendants, make_bundle
from helpers.gate import Gate
from pipelines.label.job import label
from pipelines.options import Label

pytestmark = pytest.mark.slow

Rows = dict[tuple[str, float], tuple[str, float]]
RECORDINGS, A_PART = 200, 8
SCORED_AHEAD = 6
"""Parts that may be scored and wait at the gate: two workers process three each."""


@dataclass(kw_only=True)
class Work:
    """A bucket to label, a bundle, and the cluster."""

    bucket: Path
    bundle: Path
    cluster: Cluster
    gate: Gate

    def options(self, to: Path, **others: Any) -> Label:
        return Label(bucket=str(self.bucket), bundle=str(self.bundle), to=str(to), **others)

    def gpu_nodes(self, count: int) -> list[Node]:
        """Add or remove nodes until there are so many, each with one GPU; return them."""
        there = list(self.cluster.worker_nodes)
        for node in there[count:]:
            self.cluster.remove_node(node, allow_graceful=False)
        for _ in range(len(there), count):
            self.add_gpu_node()
        wait_until(lambda: ray.cluster_resources().get("GPU", 0) == count)
        return list(self.cluster.worker_nodes)

    def add_gpu_node(self) -> None:
        self.cluster.add_node(wait=False, num_cpus=0, num_gpus=1)

    @contextmanager
    def labelling(self, to: Path, models: int) -> Iterator["Running"]:
        """Label with so many models. The block runs once a part is done; then the job ends."""
        options, before = self.options(to, gpu=True, models=models), self.gate.passed
        self.gate.let(before + 1)
        with ThreadPoolExecutor() as pool:
            running = Running(pool.submit(label, options), to, self.gate, before)
            try:
                running.wait(1)
                yield running
            finally:
                self.gate.open()
            running.job.result()


@dataclass
class Running:
    """A running job of `label`."""

    job: Future[Any]
    to: Path
    gate: Gate
    before: int
    """Number of parts of earlier jobs that passed the gate."""

    @property
    def parts(self) -> int:
        return len(find_parts(str(self.to)))

    @property
    def is_far_from_over(self) -> bool:
        """Whether there are parts that no worker has begun."""
        return self.parts + SCORED_AHEAD < RECORDINGS / A_PART

    def let(self, parts: int) -> None:
        """Let so many parts of this job pass the gate."""
        self.gate.let(self.before + parts)

    def wait(self, parts: int) -> None:
        """Wait until so many parts are done."""
        self.until(lambda: self.parts == parts)

    def until(self, happened: Callable[[], object]) -> None:
        """Wait until something happens. Raises AssertionError if the job ends before."""
        wait_until(lambda: happened() or self.job.done())
        assert not self.job.done(), self.job.result()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 200 recordings of ten seconds, of ten different sounds."""
    folder = tmp_path_factory.mktemp("bucket")
    for index, name in enumerate(synthetic.SOUNDS):
        samples = synthetic.sound(name, index, 10.0, 16_000)
        (folder / f"{index}.flac").write_bytes(encode(samples, 16_000, "flac"))
    for index in range(10, RECORDINGS):
        os.link(folder / f"{index % 10}.flac", folder / f"{index}.flac")
    return folder


@pytest.fixture(scope="module")
def work(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """A cluster whose head has no GPU. It replaces the cluster that other tests share."""
    folder = tmp_path_factory.mktemp("gpus")
    make_bundle(folder / "bundle")
    gate = Gate(folder / "gate")
    gate.open()
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shard_list, "_RECORDINGS", (A_PART, 4_096))
        for name, value in gate.environment.items():
            patched.setenv(name, value)
        of_head = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=of_head)
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            yield Work(bucket=bucket, bundle=folder / "bundle", cluster=cluster, gate=gate)
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module")
def rows(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of an undisturbed run without GPUs."""
    to = tmp_path_factory.mktemp("cpu") / "labels"
    label(work.options(to))
    return rows_of(to)


def rows_of(to: Path) -> Rows:
    """Label and score by recording and time. Fails if a window is there twice."""
    found: Rows = {}
    for part in find_parts(str(to)):
        for row in storage.read_parquet(part.uri).to_pylist():
            assert (row["uri"], row["start_s"]) not in found
            found[row["uri"], row["start_s"]] = row["label"], pytest.approx(row["score"], abs=1e-5)
    return found


def test_models_are_refused_where_there_is_no_gpu(work: Work, tmp_path: Path) -> None:
    work.gpu_nodes(0)
    with pytest.raises(ConfigError, match=r"1 models of 1 GPU each, but the cluster has 0 GPUs"):
        label(work.options(tmp_path / "none", gpu=True))
    assert not (tmp_path / "none").exists()


def test_models_on_shares_of_a_gpu_give_the_same(work: Work, rows: Rows, tmp_path: Path) -> None:
    work.gpu_nodes(1)
    label(work.options(tmp_path, embeddings=True, gpu=True, gpus_per_model=0.5))
    assert rows_of(tmp_path) == rows


def test_a_model_of_a_drained_node_is_taken_back(work: Work, rows: Rows, tmp_path: Path) -> None:
    """The node of the only model is drained and lost, as a spot node; another node comes."""
    (node,) = work.gpu_nodes(1)
    with work.labelling(tmp_path, models=1) as running:
        gcs = ray._raylet.GcsClient(address=work.cluster.address)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = time.time() + 1
        assert gcs.drain_node(node.node_id, reason, "a test", int(deadline * 1_000))[0]
        running.let(8)
        running.until(lambda: time.time() > deadline)
        work.cluster.remove_node(node, allow_graceful=False)
        running.until(lambda: node.node_id not in [n["NodeID"] for n in ray.nodes() if n["Alive"]])
        assert running.is_far_from_over
        work.add_gpu_node()
    assert rows_of(tmp_path) == rows


def test_models_that_have_no_gpu_or_lose_it_are_left_alone(
    work: Work,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One of three models never gets a GPU, one loses its node, and one loses its process."""
    monkeypatch.setenv(Variable.CLUSTER_MAX, "CPU=2,GPU=3")
    node, _ = work.gpu_nodes(2)

    def models() -> list[psutil.Process]:
        return descendants(os.getpid(), "ray::GpuModel")

    with work.labelling(tmp_path, models=3) as running:
        running.let(12)
        work.cluster.remove_node(node, allow_graceful=False)
        running.wait(12)  # more than were scored before: the other model goes on
        running.until(lambda: len(models()) == 1)
        running.let(14)
        models()[0].kill()
        running.wait(14)
        assert running.is_far_from_over
    said = capsys.readouterr().out
    assert re.search("[12] of 3 models are loaded; the others join when they are", said), said
    assert rows_of(tmp_path) == rows
