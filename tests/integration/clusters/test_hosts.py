"""All verbs on hosts with their own addresses and disks, which are drained and killed.

The results in the bucket are those of an undisturbed run. Jobs wait at a gate while their hosts are
disturbed, so that no job ends before.
"""

import random
import re
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml

from audiocnn import storage
from audiocnn.corpus import synthetic
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels import label_set
from audiocnn.model.bundle import read_summary
from audiocnn.training import checkpoint
from benchmarks.seaweed import SeaweedFS
from helpers.asking import clients, wait_until
from helpers.common import ROOT, make_bundle
from helpers.gate import Gate
from helpers.hosts import Cluster, Said, running_cluster
from pipelines.ingest.job import ingest
from pipelines.options import Ingest
from pipelines.recipes import demo

pytestmark = pytest.mark.slow

KEY = "a-key-that-nobody-would-guess"
MANIFEST = ROOT / "cluster" / "kuberay" / "base" / "rayservice.yaml"
REDIS = shutil.which("redis-server") is not None
CLIPS = 100


@pytest.fixture(scope="module")
def bucket(s3: SeaweedFS) -> str:
    uri = s3.bucket()
    synthetic.write_corpus(f"{uri}/corpus", clips_per_class=CLIPS // 10)
    return uri


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A gate that is open, except while a host is disturbed."""
    gate = Gate(tmp_path_factory.mktemp("hosts") / "gate")
    gate.open()
    return gate


@pytest.fixture(scope="module")
def cluster(s3: SeaweedFS, gate: Gate) -> Iterator[Cluster]:
    environment = {"AUDIOCNN_API_KEYS": KEY, **gate.environment}
    with running_cluster(s3, redis=REDIS, **environment) as running:
        yield running


def parts(uri: str) -> int:
    found = storage.filesystem(uri)[0].glob(f"{uri}/parts/part-*")
    return len(found)


@pytest.fixture(scope="module")
def features(cluster: Cluster, gate: Gate, bucket: str) -> str:
    """Features that are ingested while one host is drained and lost."""

    def drain(said: Said) -> None:
        said.until(lambda: parts(f"{bucket}/features") == 3)
        gate.let(gate.passed + 3)
        cluster.drain(2, 2)
        cluster.replace(2)
        gate.open()

    gate.let(gate.passed + 3)
    out = cluster.submit(
        "ingest", f"{bucket}/corpus", "--to", f"{bucket}/features", "--recipe", "demo",
        meanwhile=drain,
    )  # fmt: skip
    assert f"{CLIPS} listed = {CLIPS} ingested + 0 failed" in out
    return f"{bucket}/features"


@pytest.mark.usefixtures("ray_cluster")
def test_ingested_where_a_host_was_drained_is_ingested_here(
    features: str, bucket: str, tmp_path: Path
) -> None:
    here = ingest(Ingest(corpus=f"{bucket}/corpus", to=str(tmp_path), feature=demo().feature))
    assert FeatureSet.read(features).fingerprint == here.fingerprint


EPOCHS = 12
TRAIN = ["--recipe", "demo", "--epochs", EPOCHS, "--workers", "3", "--checkpoint-s", "0"]


@pytest.fixture(scope="module")
def model(cluster: Cluster, features: str, bucket: str) -> str:
    """A bundle, trained by three workers on two hosts without a disturbance."""
    cluster.submit("train", features, "--to", f"{bucket}/model", *TRAIN)
    return f"{bucket}/model"


@pytest.mark.usefixtures("model")
def test_a_job_that_loses_its_hosts_gives_what_it_would_have_given(
    cluster: Cluster, gate: Gate, bucket: str, chance: random.Random, thorough: bool
) -> None:
    """A run tries one of two kinds of job, drawn by chance; `make test-all` tries both."""
    jobs = [train_on_lost_hosts, label_on_lost_hosts]
    for job in jobs if thorough else [chance.choice(jobs)]:
        print(job.__name__)
        job(cluster, gate, bucket)


def train_on_lost_hosts(cluster: Cluster, gate: Gate, bucket: str) -> None:
    """Each host is lost once, and the weights are the same."""
    to = f"{bucket}/disturbed"

    def disturb(said: Said) -> None:
        # No checkpoint is written while the previous one is still being uploaded.
        for epoch in count(1):
            gate.let(epoch)
            said.until(lambda n=epoch: said.count(f"epoch {n:>2}/"))
            state = checkpoint.read(f"{to}/checkpoint.pt", torch.device("cpu"))
            if state is not None and state["position"]["epoch"] > 0:
                break
        assert epoch < EPOCHS
        cluster.replace(2)
        said.until(lambda: said.count("continuing after epoch") == 1)
        cluster.drain(1, 2)
        cluster.replace(1)
        said.until(lambda: said.count("continuing after epoch") == 2)
        gate.open()

    gate.let(0)
    out = cluster.submit("train", f"{bucket}/features", "--to", to, *TRAIN, meanwhile=disturb)
    assert "was lost" in out
    assert out.count("continuing after epoch") == 2
    again = read_summary(to)["weights_sha256"]
    assert again == read_summary(f"{bucket}/model")["weights_sha256"]


def label_on_lost_hosts(cluster: Cluster, gate: Gate, bucket: str) -> None:
    """One host is drained, one is lost for good, and the labels are complete."""

    def disturb(said: Said) -> None:
        said.until(lambda: parts(f"{bucket}/labels") == 1)
        cluster.drain(2, 2)
        cluster.replace(2)
        cluster.lose(1)
        gate.open()

    gate.let(gate.passed + 1)
    out = cluster.submit(
        "label", f"{bucket}/corpus", "--bundle", f"{bucket}/model", "--to", f"{bucket}/labels",
        "--workers", "4", meanwhile=disturb,
    )  # fmt: skip
    cluster.add(1)
    assert f"{CLIPS} listed = {CLIPS} labelled + 0 skipped + 0 failed" in out
    uris = label_set.read_labels(f"{bucket}/labels")["uri"].to_pylist()
    assert len(set(uris)) == len(uris) == CLIPS  # each has one window


@pytest.fixture
def served(cluster: Cluster, model: str) -> Iterator[None]:
    """Serve a model by a job. Stop the job and Serve after the test."""
    out = cluster.submit(
        "--env", "AUDIOCNN_API_KEYS", "--detach",
        "serve", model, "--host", "0.0.0.0", "--replicas", "3",
    )  # fmt: skip
    job = re.search(r"serve is job (\S+) of", out)
    assert job is not None, out
    wait_until(lambda: cluster.replicas() == 3)
    yield
    cluster.run("ray", "job", "stop", f"--address={cluster.dashboard}", job[1])
    wait_until(lambda: cluster.replicas() == 0)
    cluster.run("serve", "shutdown", "--yes", f"--address={cluster.dashboard}")


@pytest.mark.usefixtures("served")
def test_the_endpoint_answers_while_each_host_is_lost(cluster: Cluster) -> None:
    assert cluster.ask() == 401
    with clients(*[partial(cluster.ask, KEY)] * 4) as statuses:
        cluster.drain(1, 5)
        cluster.replace(1)
        wait_until(lambda: cluster.replicas() == 3)
        cluster.replace(2)
        wait_until(lambda: cluster.replicas() == 3)
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 100)
    # Only requests that a lost host was answering fail: four clients, and two hosts.
    assert len(statuses) - statuses.count(200) <= 8, statuses
    assert statuses[before:].count(200) == len(statuses) - before


@pytest.mark.skipif(not REDIS, reason="redis is not installed")
def test_copies_answer_while_the_head_is_lost(
    cluster: Cluster, s3: SeaweedFS, tmp_path: Path
) -> None:
    """The replicas of the manifest's endpoint go on answering, and the next head has them."""
    make_bundle(tmp_path / "bundle")
    service = next(yaml.safe_load_all(MANIFEST.read_text()))
    config = service["spec"]["serveConfigV2"].replace(
        "s3://bucket/model", s3.upload(tmp_path / "bundle")
    )
    (tmp_path / "serve.yaml").write_text(config)
    cluster.run("serve", "deploy", f"--address={cluster.dashboard}", tmp_path / "serve.yaml")
    wait_until(lambda: cluster.replicas() == 4)
    wait_until(lambda: cluster.ask(KEY, host=1) == cluster.ask(KEY, host=2) == 200)
    with clients(partial(cluster.ask, KEY, 1), partial(cluster.ask, KEY, 2)) as statuses:
        cluster.network.kill(0)
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 100)
        assert cluster.ask(KEY, host=0) == 0
        cluster.add(0)
        wait_until(lambda: cluster.replicas() == 4)
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 100)
    assert set(statuses) == {200}
