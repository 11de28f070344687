"""`serve deploy` of a config file on a cluster: two deployments, GPUs that are only counted."""

import asyncio
import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from audiocnn.predictor import Predictor
from benchmarks.load import Connection, Outcome, closed_loop, post
from benchmarks.processes import free_ports
from helpers.cluster import Head
from helpers.common import make_bundle
from helpers.hostile import sound

pytestmark = pytest.mark.slow

KEY = "a-key-that-nobody-would-guess"


class Deployed:
    """An application of a config file that can be changed."""

    def __init__(self, head: Head, folder: Path, port: int, metrics: int) -> None:
        self.head, self.port, self.metrics = head, port, f"http://127.0.0.1:{metrics}/metrics"
        self.file = folder / "app.json"
        self.config: dict[str, Any] = json.loads(self.file.read_text())

    def deploy(self, bundle: Path) -> None:
        for deployment in self.config["applications"][0]["deployments"]:
            deployment["user_config"]["bundle"] = str(bundle)
        self.file.write_text(json.dumps(self.config))
        done = self.head.run("serve", "deploy", self.file, "-a", self.head.dashboard)
        assert done.returncode == 0, done.stdout + done.stderr

    def request(self, path: str = "/v1/predict?spectrogram=false", key: str = KEY) -> bytes:
        return post(self.port, path, sound("wav"), {"X-API-Key": key})

    def ask(self, path: str = "/v1/predict", key: str = KEY) -> tuple[int, dict[str, Any]]:
        status, body = asyncio.run(Connection(self.port).ask(self.request(path, key)))
        return status, json.loads(body) if body[:1] == b"{" else {}

    def until(self, fingerprint: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while self.ask()[1].get("bundle") != fingerprint:
            assert time.monotonic() < deadline, self.head.run(
                "serve", "status", "-a", self.head.dashboard
            ).stdout
            time.sleep(0.5)

    def under_load(self, clients: int, seconds: float, change: Any) -> Outcome:
        found: list[Outcome] = []

        def load() -> None:
            found.append(asyncio.run(closed_loop(self.port, self.request(), clients, seconds)))

        thread = threading.Thread(target=load)
        thread.start()
        change()
        thread.join()
        return found[0]

    def replicas(self, name: str) -> set[int]:
        family = psutil.Process(self.head.process.pid).children(recursive=True)
        return {p.pid for p in family if f"audiocnn:{name}" in " ".join(p.cmdline())}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Two bundles and a broken one: folders and fingerprints."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {
        name: (folder / name, make_bundle(folder / name, seed).fingerprint)
        for seed, name in enumerate(("old", "new", "broken"))
    }
    weights = found["broken"][0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return found


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, tuple[Path, str]]
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("config")
    port, metrics, stats, exported = free_ports(4)
    environment = {
        "AUDIOCNN_API_KEYS": KEY,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
    }
    export = f"--metrics-export-port={exported}"
    with Head("--num-cpus=4", "--num-gpus=1", export, **environment) as head:
        done = head.run(
            "audiocnn", "serve", bundles["old"][0], "--gpu", "0.5", "--replicas", "1", "2",
            "--queue", "8", "--port", port, "--config", folder / "app.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        deployed = Deployed(head, folder, port, exported)
        deployed.deploy(bundles["old"][0])
        deployed.until(bundles["old"][1])
        yield deployed


def test_two_deployments_answer_as_one(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    assert len(deployed.replicas("Model")) == len(deployed.replicas("Endpoint")) == 1
    assert deployed.ask(key="wrong")[0] == 401
    status, answer = deployed.ask("/v1/predict?maps=blocks&explain=dog&sound=true")
    assert status == 200
    expected = Predictor.load(bundles["old"][0], "cpu").predict(sound("wav"))
    mine = {one["class"]: one["score"] for one in answer["predictions"]}
    assert mine == pytest.approx(dict(expected.top_k), abs=1e-6)
    assert {"maps", "evidence", "input", "waveform"} <= set(answer)
    assert KEY not in deployed.file.read_text()


def test_a_model_on_a_gpu_is_measured_too(deployed: Deployed) -> None:
    wanted = {
        f"ray_audiocnn_{name}" for name in ("batch_windows", "queue_seconds", "model_seconds")
    }
    deadline = time.monotonic() + 60
    while missing := wanted - set(re.findall(r"^(\w+)_count\{", read(deployed.metrics), re.M)):
        assert time.monotonic() < deadline, missing
        deployed.ask()
        time.sleep(2)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read(), "utf-8")


def test_a_command_that_means_another_address_is_told_so(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    """Without keys it would have taken the place of an application that has some, or ended it."""
    (port,) = free_ports(1)
    address = {"RAY_ADDRESS": deployed.head.address, "AUDIOCNN_API_KEYS": ""}
    refused = deployed.head.run("audiocnn", "serve", bundles["old"][0], "--port", port, **address)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert f"listens at 127.0.0.1:{deployed.port} already" in refused.stderr
    assert deployed.ask(key="wrong")[0] == 401


def test_another_bundle_rolls_in_without_a_failure_or_a_new_process(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    before = deployed.replicas("Endpoint"), deployed.replicas("Model")

    def roll() -> None:
        deployed.deploy(bundles["new"][0])
        deployed.until(bundles["new"][1])

    # With the one of `until` three at once: the fourth is where another copy is made (queue / 2).
    outcome = deployed.under_load(2, 15, roll)
    assert set(outcome.counts) == {200}
    assert outcome.counts[200] > 50
    assert (deployed.replicas("Endpoint"), deployed.replicas("Model")) == before


def test_one_that_does_not_load_changes_nothing(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    outcome = deployed.under_load(3, 10, lambda: deployed.deploy(bundles["broken"][0]))
    assert set(outcome.counts) == {200}
    assert json.loads(outcome.bodies[200])["bundle"] == bundles["new"][1]
    deployed.deploy(bundles["new"][0])


def test_load_brings_another_copy_and_too_much_is_refused_at_once(deployed: Deployed) -> None:
    copies = 1
    statuses: set[int] = set()

    def watch() -> None:
        nonlocal copies
        for _ in range(12):
            time.sleep(1)
            copies = max(copies, len(deployed.replicas("Model")))

    for _ in range(8):
        outcome = deployed.under_load(24, 12, watch)
        statuses |= set(outcome.counts)
        if 503 in outcome.counts:
            assert outcome.milliseconds(99, 503) < 1_000
        if copies == 2:
            break
    assert copies == 2
    assert statuses == {200, 503}
