"""Ingest on three hosts with addresses and disks of their own, one of them drained and gone.

What is in the bucket is what one machine makes. Kills of nodes are in the tests of kills.
"""

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import BIN, Network, Relay, require_namespaces

from audiocnn import storage, synthetic
from audiocnn.featureset import FeatureSet
from benchmarks.seaweed import SeaweedFS
from pipelines.ingest import ingest
from pipelines.options import Ingest
from pipelines.recipes import demo

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef" * 2
CLIPS = 30
"""A class."""


@dataclass
class Cluster:
    """A head that runs no work, and two hosts with two CPUs each."""

    network: Network
    environment: dict[str, str]

    @property
    def dashboard(self) -> str:
        return f"http://{self.network.addresses[0]}:8265"

    def add(self, number: int) -> None:
        head, mine = self.network.addresses[0], self.network.addresses[number]
        start = [BIN / "ray", "start", "--block", f"--node-ip-address={mine}"]
        if number == 0:
            start += ["--head", "--num-cpus=0", "--dashboard-host=0.0.0.0"]
        else:
            start += [f"--address={head}:6379", "--num-cpus=2"]
        self.network.start(number, *start, **self.environment)

    def nodes(self) -> dict[str, str]:
        """Ids of the hosts that are alive, by address."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                found = json.loads(response.read())["data"]["result"]["result"]
        except (OSError, KeyError, TypeError):
            return {}
        return {node["node_ip"]: node["node_id"] for node in found if node["state"] == "ALIVE"}

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.nodes()) != count:
            assert time.monotonic() < deadline, self.nodes()
            time.sleep(1)

    def submit(self, *command: object, meanwhile: Callable[[], None] | None = None) -> str:
        """Run a verb as a job; returns what it said."""
        running = subprocess.Popen(
            [BIN / "audiocnn", "submit", f"--address={self.dashboard}", *map(str, command)],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        if meanwhile is not None:
            threading.Thread(target=meanwhile, daemon=True).start()
        out, _ = running.communicate(timeout=150)
        assert running.returncode == 0, out
        return out


@pytest.fixture(scope="module")
def bucket(s3: SeaweedFS) -> str:
    uri = s3.bucket()
    synthetic.write_corpus(f"{uri}/corpus", clips_per_class=CLIPS)
    return uri


@pytest.fixture(scope="module")
def cluster(s3: SeaweedFS) -> Iterator[Cluster]:
    require_namespaces()
    with Network(3) as network:
        relay = Relay(network.gateway, s3.ports["s3"])
        environment = {
            **s3.environment,
            "AWS_ENDPOINT_URL": f"http://{network.gateway}:{relay.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        running = Cluster(network, environment)
        running.add(0)
        running.wait_for(1)
        running.add(1)
        running.add(2)
        running.wait_for(3)
        yield running
        relay.close()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)


def parts(uri: str) -> int:
    found = storage.filesystem(uri)[0].glob(f"{uri}/parts/part-*")
    return len(found)


def test_ingest_goes_on_where_a_host_is_drained(
    cluster: Cluster, bucket: str, tmp_path: Path
) -> None:
    def drain() -> None:
        wait_until(lambda: parts(f"{bucket}/features") > 2)
        node = cluster.nodes()[cluster.network.addresses[2]]
        subprocess.run(
            [BIN / "ray", "drain-node", f"--address={cluster.network.addresses[0]}:6379",
             f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION",
             "--reason-message=spot", "--deadline-remaining-seconds=20"],
            env={**os.environ, **cluster.environment}, check=True, capture_output=True,
        )  # fmt: skip
        time.sleep(20)
        cluster.network.kill(2)

    out = cluster.submit(
        "ingest", f"{bucket}/corpus", "--to", f"{bucket}/features", "--recipe", "demo",
        meanwhile=drain,
    )  # fmt: skip
    total = 10 * CLIPS
    assert f"{total} listed = {total} ingested + 0 failed" in out
    here = ingest(Ingest(corpus=f"{bucket}/corpus", to=str(tmp_path), feature=demo().feature))
    assert FeatureSet.read(f"{bucket}/features").fingerprint == here.fingerprint
