"""The manifest's endpoint, whose head is lost: its copies answer on, and the next head has them."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from benchmarks.seaweed import SeaweedFS
from helpers.asking import clients, wait_until
from helpers.common import BIN, ROOT, make_bundle
from helpers.hosts import Cluster, running_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis is not installed"),
]

KEY = "a-key-that-nobody-would-guess"
MANIFEST = ROOT / "cluster" / "kuberay" / "base" / "rayservice.yaml"


@pytest.fixture(scope="module")
def cluster(s3: SeaweedFS) -> Iterator[Cluster]:
    with running_cluster(s3, redis=True, AUDIOCNN_API_KEYS=KEY) as running:
        yield running


def test_copies_answer_while_the_head_is_lost(
    cluster: Cluster, s3: SeaweedFS, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle")
    service = next(yaml.safe_load_all(MANIFEST.read_text()))
    config = service["spec"]["serveConfigV2"].replace(
        "s3://bucket/model", s3.upload(tmp_path / "bundle")
    )
    (tmp_path / "serve.yaml").write_text(config)
    subprocess.run(
        [BIN / "serve", "deploy", f"--address={cluster.dashboard}", tmp_path / "serve.yaml"],
        check=True, capture_output=True, env=cluster.environment | {"PATH": str(BIN)},
    )  # fmt: skip
    wait_until(lambda: cluster.replicas() == 4)
    wait_until(lambda: cluster.ask(KEY, host=1) == cluster.ask(KEY, host=2) == 200)
    with clients(partial(cluster.ask, KEY, 1), partial(cluster.ask, KEY, 2)) as statuses:
        cluster.network.kill(0)
        time.sleep(10)
        assert statuses.count(200) > 50
        assert cluster.ask(KEY, host=0) == 0
        cluster.add(0)
        wait_until(lambda: cluster.replicas() == 4)
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 100)
    assert set(statuses) == {200}
