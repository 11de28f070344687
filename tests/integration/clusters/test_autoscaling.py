"""A cluster with an autoscaler: nodes start when a job needs them, and end when it is done.

The provider is Ray's own fake one. It starts raylets on this machine that declare the resources of
the requested nodes. So no GPU is real.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.services import get_node_ip_address

from helpers.asking import PATIENCE_S, wait_until
from helpers.cluster import Head
from helpers.common import SMALL_FLAGS, make_bundle
from helpers.gate import Gate

pytestmark = pytest.mark.slow

NODES = {
    "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0},
    "cpu": {"resources": {"CPU": 2}, "min_workers": 0, "max_workers": 2},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "min_workers": 0, "max_workers": 1},
}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A gate where a job waits until the test has seen its nodes."""
    return Gate(tmp_path_factory.mktemp("growing") / "gate")


@pytest.fixture(scope="module")
def head(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    config = {
        "cluster_name": "growing",
        "max_workers": 3,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "head_node_id": "f" * 56,
        },
        "available_node_types": {name: {"node_config": {}, **NODES[name]} for name in NODES},
        "head_node_type": "ray.head.default",
        "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [],
        "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
        "worker_setup_commands": [], "head_start_ray_commands": [],
        "worker_start_ray_commands": [], "file_mounts_sync_continuously": False,
        "rsync_exclude": [], "rsync_filter": [],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("autoscaler") / "cluster.json"
    path.write_text(json.dumps(config))
    fake = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    # The nodes of the fake provider look for their head only at this address.
    ip = get_node_ip_address()
    there = ("--port=6379", f"--node-ip-address={ip}")
    options = ("--num-cpus=0", f"--autoscaling-config={path}", *there)
    with Head(*options, **fake, **gate.environment) as running:
        running.address = f"{ip}:6379"
        yield running


def kinds(head: Head) -> Counter[str]:
    """Number of nodes of each kind."""
    told = [node["resources_total"] for node in head.nodes()]
    return Counter("gpu" if n.get("GPU") else "cpu" if n.get("CPU") else "head" for n in told)


def run(head: Head, gate: Gate, kind: str, *command: object) -> tuple[str, Counter[str]]:
    """Run a command, and wait for a node of a kind. Return its output, and the nodes seen."""
    gate.let(gate.passed)
    shared = {"RAY_ADDRESS": head.address, "AUDIOCNN_SHARED_DISK": "1"}
    with head.running("audiocnn", *command, **shared) as job:
        wait_until(lambda: kinds(head)[kind] or job.poll() is not None, lambda: kinds(head))
        found = kinds(head)
        gate.open()
        out, err = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, out + err
    return out, found | kinds(head)


def wait_until_idle(head: Head) -> None:
    wait_until(lambda: kinds(head) == {"head": 1}, lambda: kinds(head))


def test_nodes_come_for_a_job_and_go_when_it_is_done(
    head: Head, gate: Gate, corpus: Path, tmp_path: Path
) -> None:
    wait_until_idle(head)
    command = ["ingest", corpus, "--to", tmp_path / "features", *SMALL_FLAGS]
    out, there = run(head, gate, "cpu", *command)
    assert "100 listed = 100 ingested + 0 failed" in out
    assert there["cpu"] >= 1
    assert "gpu" not in there
    wait_until_idle(head)


def test_a_gpu_node_comes_for_a_model(head: Head, gate: Gate, corpus: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    label = ["label", corpus, "--bundle", tmp_path / "bundle", "--to", tmp_path / "labels"]
    out, there = run(head, gate, "gpu", *label, "--gpu", "--workers", 2)
    assert "100 listed = 100 labelled + 0 skipped + 0 failed" in out
    assert there["gpu"] == 1
    wait_until_idle(head)
