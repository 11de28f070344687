"""`serve deploy` of a config file with two deployments, on a cluster that only counts GPUs."""

import asyncio
import csv
import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from audiocnn.model.predictor import Predictor
from benchmarks.load import Connection, Outcome, post
from benchmarks.processes import free_ports
from helpers.asking import PATIENCE_S, wait_until
from helpers.cluster import Head
from helpers.common import descendants, make_bundle
from helpers.endpoint import PATIENT, haproxy_ends, load, wait_for_more
from helpers.hostile import sound

pytestmark = pytest.mark.slow

KEY = "a-key-that-nobody-would-guess"


class Deployed:
    """A deployed application. Its config file can be changed."""

    def __init__(self, head: Head, folder: Path, port: int, metrics: int, stats: int) -> None:
        self.head, self.port, self.metrics = head, port, f"http://127.0.0.1:{metrics}/metrics"
        self.stats = f"http://127.0.0.1:{stats}/stats;csv"
        self.file = folder / "app.json"
        self.config: dict[str, Any] = json.loads(self.file.read_text())

    @property
    def deployments(self) -> list[dict[str, Any]]:
        """The config of each deployment."""
        found: list[dict[str, Any]] = self.config["applications"][0]["deployments"]
        return found

    def deploy(self) -> None:
        """Deploy the file with Ray's command."""
        done = self.head.run("serve", "deploy", self.file, "-a", self.head.dashboard)
        assert done.returncode == 0, done.stdout + done.stderr

    def change(self, bundle: Path) -> None:
        """Deploy the config with another bundle and its other changes, by that command's API."""
        for deployment in self.deployments:
            deployment["user_config"]["bundle"] = str(bundle)
        data = json.dumps(self.config).encode()
        urllib.request.urlopen(self._api(data, "PUT"), timeout=PATIENCE_S).close()

    def status(self) -> dict[str, Any]:
        """The state of the application, as Ray reports it."""
        with urllib.request.urlopen(self._api(None, "GET"), timeout=PATIENCE_S) as answer:
            found: dict[str, Any] = json.load(answer)["applications"]["audiocnn"]
        return found

    def _api(self, data: bytes | None, method: str) -> urllib.request.Request:
        headers = {
            "Authorization": f"Bearer {self.head.environment['RAY_AUTH_TOKEN']}",
            "Content-Type": "application/json",
        }
        url = f"{self.head.dashboard}/api/serve/applications/"
        return urllib.request.Request(url, data, headers, method=method)

    def request(self, path: str = "/v1/predict?spectrogram=false", key: str = KEY) -> bytes:
        return post(self.port, path, sound("wav"), {"X-API-Key": key})

    def ask(self, path: str = "/v1/predict", key: str = KEY) -> tuple[int, dict[str, Any]]:
        status, body = asyncio.run(Connection(self.port).ask(self.request(path, key)))
        return status, json.loads(body) if body[:1] == b"{" else {}

    def until(self, fingerprint: str) -> None:
        """Wait until this bundle answers."""
        wait_until(lambda: self.ask()[1].get("bundle") == fingerprint, self.status)

    def load(self, clients: int, **what: str) -> AbstractContextManager[Outcome]:
        return load(self.port, self.request(**what), clients)

    def running(self, name: str) -> int:
        """Number of replicas of a deployment that run, as Ray reports it."""
        copies = self.status()["deployments"].get(name, {}).get("replicas", [])
        return sum(one["state"] == "RUNNING" for one in copies)

    def fewest(self, name: str) -> int:
        """The fewest replicas of a deployment that Ray keeps, by its current config."""
        deployment = self.status()["deployments"].get(name)
        config = deployment and deployment["deployment_config"]["autoscaling_config"]
        return int(config["min_replicas"]) if config else 0

    def reached(self) -> int:
        """Number of replicas that HAProxy passes requests on to."""
        with urllib.request.urlopen(self.stats, timeout=PATIENCE_S) as answer:
            rows = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
        return sum(
            row["pxname"].startswith("http-") and row["svname"] not in ("FRONTEND", "BACKEND")
            and row["act"] == "1" and not row["status"].startswith(("DOWN", "MAINT", "DRAIN"))
            for row in rows
        )  # fmt: skip

    def replicas(self, name: str) -> set[int]:
        return {p.pid for p in descendants(self.head.process.pid, f"audiocnn:{name}")}

    def logged(self, text: str) -> int:
        """Number of replicas' logs that contain a text."""
        logs = Path(os.environ["RAY_TMPDIR"]).glob("ray/session_[!l]*/logs/serve/replica_*.log")
        return sum(text in log.read_text() for log in logs)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """The folder and the fingerprint of two bundles and of a damaged one."""
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
    port, metrics, stats, exported, fallback, fallback_grpc = free_ports(6)
    environment = {
        **PATIENT,
        "AUDIOCNN_API_KEYS": KEY,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
    }
    export = f"--metrics-export-port={exported}"
    with (
        haproxy_ends(folder) as haproxy,
        Head("--num-cpus=2", "--num-gpus=1", export, **environment, **haproxy) as head,
    ):
        done = head.run(
            "audiocnn", "serve", bundles["old"][0], "--gpu", "0.5", "--replicas", "1", "2",
            "--queue", "8", "--timeout-s", PATIENCE_S, "--port", port,
            "--config", folder / "app.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        deployed = Deployed(head, folder, port, exported, stats)
        deployed.deploy()
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
    assert deployed.ask()[0] == 200

    def missing() -> set[str]:
        with urllib.request.urlopen(deployed.metrics, timeout=PATIENCE_S) as answer:
            return wanted - set(re.findall(r"^(\w+)_count\{", answer.read().decode(), re.M))

    wait_until(lambda: not missing(), missing)


def test_a_command_that_means_another_address_is_told_so(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    """A command without keys must not replace or end an application that has keys."""
    (port,) = free_ports(1)
    address = {"RAY_ADDRESS": deployed.head.address, "AUDIOCNN_API_KEYS": ""}
    refused = deployed.head.run("audiocnn", "serve", bundles["old"][0], "--port", port, **address)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert f"already listens at 127.0.0.1:{deployed.port}" in refused.stderr
    assert deployed.ask(key="wrong")[0] == 401


def test_another_bundle_rolls_in_without_a_failure_or_a_new_process(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    before = deployed.replicas("Endpoint"), deployed.replicas("Model")
    # With `until` these are three requests at once; from four on, Ray adds a replica (queue / 2).
    with deployed.load(2) as outcome:
        wait_for_more(outcome, 25)
        deployed.change(bundles["new"][0])
        deployed.until(bundles["new"][1])
        wait_for_more(outcome, 25)
    assert set(outcome.counts) == {200}, outcome.bodies
    assert (deployed.replicas("Endpoint"), deployed.replicas("Model")) == before


def test_one_that_does_not_load_changes_nothing(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    broken = bundles["broken"][0]
    with deployed.load(3) as outcome:
        wait_for_more(outcome, 25)
        deployed.change(broken)
        wait_until(lambda: deployed.logged(f"{broken} does not load") >= 2, deployed.status)
        wait_for_more(outcome, 25)
    assert set(outcome.counts) == {200}, outcome.bodies
    assert json.loads(outcome.bodies[200])["bundle"] == bundles["new"][1]
    deployed.change(bundles["new"][0])


def test_load_brings_another_copy_and_too_much_is_refused(deployed: Deployed) -> None:
    # The model takes long for this path, so that requests wait for the model.
    path = "/v1/predict?spectrogram=false&explain=dog&sound=true"
    with deployed.load(24, path=path) as outcome:
        wait_until(
            lambda: 503 in outcome.counts and len(deployed.replicas("Model")) == 2, deployed.status
        )
    assert set(outcome.counts) == {200, 503}


def test_a_replica_killed_under_load_costs_at_most_what_it_was_at(
    deployed: Deployed, bundles: dict[str, tuple[Path, str]]
) -> None:
    (endpoint,) = (one for one in deployed.deployments if one["name"] == "Endpoint")
    endpoint["autoscaling_config"] = {"min_replicas": 2, "max_replicas": 2}
    deployed.change(bundles["new"][0])
    # A replica of the earlier load may be stopping, and HAProxy may not reach a new one yet.
    wait_until(
        lambda: (
            deployed.fewest("Endpoint") == deployed.reached() == 2
            and len(deployed.replicas("Endpoint")) == deployed.running("Endpoint") == 2
        ),
        lambda: (deployed.reached(), deployed.status()),
    )
    with deployed.load(8) as outcome:
        wait_for_more(outcome, 50)
        killed, survivor = deployed.replicas("Endpoint")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(deployed.replicas("Endpoint") - {killed}) == 2, deployed.status)
        wait_for_more(outcome, 50)
    counts = outcome.counts
    failed = sum(counts.values()) - counts[200]
    print(f"{failed} of {sum(counts.values())} requests failed: {dict(counts)}")
    assert failed <= 8
    after = deployed.replicas("Endpoint")
    assert len(after) == 2
    assert killed not in after
    assert survivor in after
