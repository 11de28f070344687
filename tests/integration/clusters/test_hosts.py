"""The whole line on hosts with addresses and disks of their own, which are drained and killed.

What is in the bucket in the end is what an undisturbed run puts there.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from audiocnn import labelset, storage, synthetic
from audiocnn.bundle import read_summary
from audiocnn.featureset import FeatureSet
from benchmarks.seaweed import SeaweedFS
from helpers.asking import clients, wait_until
from helpers.hosts import Cluster, Said, running_cluster
from pipelines.ingest import ingest
from pipelines.options import Ingest
from pipelines.recipes import demo

pytestmark = pytest.mark.slow

KEY = "a-key-that-nobody-would-guess"
CLIPS = 300


@pytest.fixture(scope="module")
def bucket(s3: SeaweedFS) -> str:
    uri = s3.bucket()
    synthetic.write_corpus(f"{uri}/corpus", clips_per_class=CLIPS // 10)
    return uri


@pytest.fixture(scope="module")
def cluster(s3: SeaweedFS) -> Iterator[Cluster]:
    with running_cluster(s3, AUDIOCNN_API_KEYS=KEY) as running:
        yield running


def parts(uri: str) -> int:
    found = storage.filesystem(uri)[0].glob(f"{uri}/parts/part-*")
    return len(found)


@pytest.fixture(scope="module")
def features(cluster: Cluster, bucket: str) -> str:
    """Ingested while one host is drained and gone."""

    def drain(_: Said) -> None:
        wait_until(lambda: parts(f"{bucket}/features") > 2)
        cluster.drain(2, 5)
        cluster.replace(2)

    out = cluster.submit(
        "ingest", f"{bucket}/corpus", "--to", f"{bucket}/features", "--recipe", "demo",
        meanwhile=drain,
    )  # fmt: skip
    assert f"{CLIPS} listed = {CLIPS} ingested + 0 failed" in out
    return f"{bucket}/features"


def test_ingested_where_a_host_was_drained_is_ingested_here(
    features: str, bucket: str, tmp_path: Path
) -> None:
    here = ingest(Ingest(corpus=f"{bucket}/corpus", to=str(tmp_path), feature=demo().feature))
    assert FeatureSet.read(features).fingerprint == here.fingerprint


TRAIN = ["--recipe", "demo", "--epochs", "60", "--workers", "3", "--checkpoint-s", "1"]


@pytest.fixture(scope="module")
def model(cluster: Cluster, features: str, bucket: str) -> str:
    """A bundle of three workers on two hosts that nobody disturbed."""
    cluster.submit("train", features, "--to", f"{bucket}/model", *TRAIN)
    return f"{bucket}/model"


def test_training_loses_each_host_once_and_ends_with_the_same_weights(
    cluster: Cluster, features: str, model: str, bucket: str
) -> None:
    def disturb(said: Said) -> None:
        wait_until(lambda: "epoch  8/" in said)
        cluster.replace(2)
        wait_until(lambda: "going on after epoch" in said)
        cluster.drain(1, 5)
        cluster.replace(1)

    out = cluster.submit(
        "train", features, "--to", f"{bucket}/disturbed", *TRAIN, meanwhile=disturb
    )
    assert "was lost" in out
    assert out.count("going on after epoch") == 2
    again = read_summary(f"{bucket}/disturbed")["weights_sha256"]
    assert again == read_summary(model)["weights_sha256"]


def test_labels_are_whole_where_one_host_is_drained_and_one_lost_for_good(
    cluster: Cluster, model: str, bucket: str
) -> None:
    def disturb(_: Said) -> None:
        wait_until(lambda: parts(f"{bucket}/labels") > 0)
        cluster.drain(2, 3)
        cluster.replace(2)
        cluster.network.kill(1)

    out = cluster.submit(
        "label", f"{bucket}/corpus", "--bundle", model, "--to", f"{bucket}/labels",
        "--workers", "4", meanwhile=disturb,
    )  # fmt: skip
    cluster.add(1)
    assert f"{CLIPS} listed = {CLIPS} labelled + 0 skipped + 0 failed" in out
    uris = labelset.read_labels(f"{bucket}/labels")["uri"].to_pylist()
    assert len(set(uris)) == len(uris) == CLIPS  # a window each


def test_the_endpoint_answers_while_each_host_is_lost(cluster: Cluster, model: str) -> None:
    cluster.submit(
        "--env", "AUDIOCNN_API_KEYS", "--detach",
        "serve", model, "--host", "0.0.0.0", "--replicas", "3",
    )  # fmt: skip
    wait_until(lambda: cluster.replicas() == 3)
    assert cluster.ask() == 401
    with clients(*[partial(cluster.ask, KEY)] * 4) as statuses:
        cluster.drain(1, 10)
        cluster.replace(1)
        wait_until(lambda: cluster.replicas() == 3)
        cluster.replace(2)
        wait_until(lambda: cluster.replicas() == 3)
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 100)
    # What a host was answering when its plug was pulled, and no more: a client each time.
    assert len(statuses) - statuses.count(200) <= 8, statuses
    assert statuses[before:].count(200) == len(statuses) - before
