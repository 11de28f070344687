"""A cluster whose nodes come when a job wants them, and go when none does: no real GPU in it.

The provider is Ray's own fake one, which starts raylets of this machine with the resources of the
nodes that it is asked for.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.services import get_node_ip_address

from helpers.cluster import Head
from helpers.common import SMALL_FLAGS, make_bundle

pytestmark = pytest.mark.slow

NODES = {
    "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0},
    "cpu": {"resources": {"CPU": 2}, "min_workers": 0, "max_workers": 2},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "min_workers": 0, "max_workers": 1},
}
COUNT = """
import collections, json, ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
kinds = collections.Counter(
    "gpu" if node["Resources"].get("GPU") else "cpu" if node["Resources"].get("CPU") else "head"
    for node in ray.nodes() if node["Alive"]
)
print(json.dumps(kinds))
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
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
    # The fake provider's nodes look for their head there and nowhere else.
    ip = get_node_ip_address()
    there = ("--port=6379", f"--node-ip-address={ip}")
    with Head("--num-cpus=0", f"--autoscaling-config={path}", *there, **fake) as running:
        running.address = f"{ip}:6379"
        yield running


def nodes(head: Head) -> dict[str, int]:
    done = head.run("python", "-c", COUNT, RAY_ADDRESS=head.address)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def run(head: Head, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    shared = {"RAY_ADDRESS": head.address, "AUDIOCNN_SHARED_DISK": "1"}
    return head.run("audiocnn", *arguments, **shared, **environment)


def wait_until_idle(head: Head) -> None:
    deadline = time.monotonic() + 120
    while (there := nodes(head)) != {"head": 1}:
        assert time.monotonic() < deadline, there
        time.sleep(3)


def test_nodes_come_for_a_job_and_go_when_it_is_done(
    head: Head, corpus: Path, tmp_path: Path
) -> None:
    assert nodes(head) == {"head": 1}
    done = run(head, "ingest", corpus, "--to", tmp_path / "features", *SMALL_FLAGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 listed = 100 ingested + 0 failed" in done.stdout
    there = nodes(head)
    assert there.get("cpu", 0) >= 1
    assert "gpu" not in there
    wait_until_idle(head)


def test_a_gpu_node_comes_for_a_model(head: Head, corpus: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    label = ["label", corpus, "--bundle", tmp_path / "bundle", "--to", tmp_path / "labels"]
    done = run(head, *label, "--gpu", "--workers", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 listed = 100 labelled + 0 skipped + 0 failed" in done.stdout
    assert nodes(head).get("gpu") == 1
    wait_until_idle(head)


def test_what_can_never_be_had_is_told_at_once(head: Head, corpus: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    label = ["label", corpus, "--bundle", tmp_path / "bundle", "--to", tmp_path / "labels"]
    for arguments, said in (
        ([*label, "--workers", 9], "--workers 9: the cluster has 5 CPUs at most"),
        ([*label, "--gpu", "--models", 2], "but the cluster has 1 GPUs at most"),
        (
            ["ingest", corpus, "--to", tmp_path / "features", *SMALL_FLAGS, "--workers", 9],
            "--workers 9: the cluster has 5 CPUs at most",
        ),
    ):
        began = time.monotonic()
        refused = run(head, *arguments, AUDIOCNN_CLUSTER_MAX="CPU=5,GPU=1")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert said in refused.stderr
        assert time.monotonic() - began < 60  # its imports, on a busy machine
    assert nodes(head) == {"head": 1}
