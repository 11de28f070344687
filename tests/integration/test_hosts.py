"""The whole line on hosts with addresses and disks of their own, which are drained and killed.

What is in the bucket in the end is what an undisturbed run puts there.
"""

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import BIN, Network, Relay, require_namespaces

from audiocnn import labelset, storage, synthetic
from audiocnn.bundle import read_summary
from audiocnn.featureset import FeatureSet
from benchmarks.seaweed import SeaweedFS
from pipelines.ingest import ingest
from pipelines.options import Ingest
from pipelines.recipes import demo

pytestmark = pytest.mark.slow

TOKEN, KEY = "0123456789abcdef" * 2, "a-key-that-nobody-would-guess"
CLIPS = 300
HANGS_S = 600
"""Nothing here takes so long, however slow and busy the machine."""


@dataclass
class Cluster:
    """A head that runs no work, and two hosts with two CPUs each."""

    network: Network
    environment: dict[str, str]

    @property
    def head(self) -> str:
        return self.network.addresses[0]

    @property
    def dashboard(self) -> str:
        return f"http://{self.head}:8265"

    def add(self, number: int) -> None:
        mine = self.network.addresses[number]
        start = [BIN / "ray", "start", "--block", f"--node-ip-address={mine}"]
        if number == 0:
            start += ["--head", "--num-cpus=0", "--dashboard-host=0.0.0.0"]
        else:
            start += [f"--address={self.head}:6379", "--num-cpus=2"]
        self.network.start(number, *start, **self.environment)
        wait_until(lambda: mine in self.nodes())

    def replace(self, number: int) -> None:
        """Pull a host's plug, and bring another one with its address."""
        address = self.network.addresses[number]
        gone = self.nodes().get(address)  # a drained one may have ended by itself
        self.network.kill(number)
        time.sleep(3)
        self.add(number)
        wait_until(lambda: self.nodes()[address] != gone)

    def drain(self, number: int, seconds: int) -> None:
        """Announce that a host goes, as spot markets do."""
        node = self.nodes()[self.network.addresses[number]]
        subprocess.run(
            [BIN / "ray", "drain-node", f"--address={self.head}:6379", f"--node-id={node}",
             "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot",
             f"--deadline-remaining-seconds={seconds}"],
            env={**os.environ, **self.environment}, check=True, capture_output=True,
        )  # fmt: skip
        time.sleep(seconds)

    def nodes(self) -> dict[str, str]:
        """Ids of the hosts that are alive, by address; of two with the same one the younger's."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/nodes?detail=1", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                found = json.loads(response.read())["data"]["result"]["result"]
        except (OSError, KeyError, TypeError):
            return {}
        found.sort(key=lambda node: node["start_time_ms"])
        return {node["node_ip"]: node["node_id"] for node in found if node["state"] == "ALIVE"}

    def submit(self, *command: object, meanwhile: Callable[["Said"], None] | None = None) -> str:
        """Run a verb as a job, and something beside it; returns what it said."""
        running = subprocess.Popen(
            [BIN / "audiocnn", "submit", f"--address={self.dashboard}", *map(str, command)],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        said = Said(running)
        with ThreadPoolExecutor() as pool:
            beside = pool.submit(meanwhile or (lambda _: None), said)
            out = said.to_the_end()
            beside.result()
        assert running.returncode == 0, out
        return out


class Said:
    """What a command says, while it says it."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running, self._lines = running, list[str]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self._lines)

    def to_the_end(self) -> str:
        """All of it."""
        try:
            self._running.wait(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
        self._reader.join()
        return "".join(self._lines)

    def _read(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self._lines.append(line)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS_S / 4
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def bucket(s3: SeaweedFS) -> str:
    uri = s3.bucket()
    synthetic.write_corpus(f"{uri}/corpus", clips_per_class=CLIPS // 10)
    return uri


@pytest.fixture(scope="module")
def cluster(s3: SeaweedFS) -> Iterator[Cluster]:
    require_namespaces()
    with Network(3) as network, closing(Relay(network.gateway, s3.ports["s3"])) as relay:
        environment = {
            **s3.environment,
            "AWS_ENDPOINT_URL": f"http://{network.gateway}:{relay.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "AUDIOCNN_API_KEYS": KEY,
        }
        running = Cluster(network, environment)
        for number in range(3):
            running.add(number)
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


TRAIN = ["--recipe", "demo", "--epochs", "40", "--workers", "3", "--checkpoint-s", "1"]


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
    wait_until(lambda: replicas(cluster) == 3)
    assert ask(cluster) == 401
    statuses, over = list[int](), threading.Event()

    def client() -> None:
        while not over.wait(0.05):
            statuses.append(ask(cluster, KEY))

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    cluster.drain(1, 10)
    cluster.replace(1)
    wait_until(lambda: replicas(cluster) == 3)
    cluster.replace(2)
    wait_until(lambda: replicas(cluster) == 3)
    before = len(statuses)
    wait_until(lambda: len(statuses) > before + 100)
    over.set()
    for thread in clients:
        thread.join()
    # What a host was answering when its plug was pulled, and no more: a client each time.
    assert len(statuses) - statuses.count(200) <= 2 * len(clients), statuses
    assert statuses[before:].count(200) == len(statuses) - before


def ask(cluster: Cluster, key: str = "") -> int:
    headers = {"x-api-key": key} if key else {}
    request = urllib.request.Request(f"http://{cluster.head}:8000/v1/model", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def replicas(cluster: Cluster) -> int:
    """Copies of the application that run."""
    request = urllib.request.Request(
        f"{cluster.dashboard}/api/serve/applications/",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            found = json.loads(response.read())["applications"]["audiocnn"]["deployments"]
            copies = found["Endpoint"]["replicas"]
    except (OSError, KeyError):  # it is not there yet
        return 0
    alive = set(cluster.nodes().values())
    return sum(replica["state"] == "RUNNING" and replica["node_id"] in alive for replica in copies)
