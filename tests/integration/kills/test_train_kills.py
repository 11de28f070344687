"""Training killed for real: workers, its controller, a node, the whole job; then bit for bit."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch

from audiocnn import checkpoint, storage
from audiocnn.bundle import read_summary
from benchmarks.seaweed import SeaweedFS
from helpers.common import AUDIOCNN, SMALL_FLAGS, descendants

pytestmark = pytest.mark.slow

EPOCHS = 80
HANGS_S = 900
"""Nothing here takes so long, however slow and busy the machine."""
OPTIONS = [
    *SMALL_FLAGS, "--channels", "8", "--batch-size", "16", "--test-fold", "1", "--ema-decay", "0.9",
    "--epochs", str(EPOCHS), "--checkpoint-s", "0.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def features(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("kills") / "features"
    subprocess.run(
        [AUDIOCNN, "ingest", corpus, "--to", to, *SMALL_FLAGS], check=True, capture_output=True
    )
    return to


@pytest.fixture(scope="module")
def whole(features: Path) -> str:
    """The weights of a run that nobody disturbs."""
    return finish(start(features, features.parent / "whole"), features.parent / "whole")


def start(features: Path, to: Path, *more: str) -> subprocess.Popen[str]:
    return popen([AUDIOCNN, "train", features, "--to", to, *OPTIONS, *more])


def popen(command: list[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(map(str, command)), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(run: subprocess.Popen[str], to: Path) -> str:
    told, _ = run.communicate(timeout=HANGS_S)
    assert run.returncode == 0, told
    assert not (to / "checkpoint.pt").exists()
    return str(read_summary(str(to))["weights_sha256"])


def wait_for_epoch(run: subprocess.Popen[str], epoch: int) -> None:
    assert run.stdout is not None
    for line in run.stdout:
        found = re.search(r"epoch +(\d+)/", line)
        if found and int(found[1]) >= epoch:
            return
    raise AssertionError("it ended before it could be killed")


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_workers_are_replaced_and_change_nothing(
    features: Path, whole: str, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    run = start(features, tmp_path / "b")
    for epoch in (chance.randint(2, 12), chance.randint(25, 35)):
        wait_for_epoch(run, epoch)
        time.sleep(chance.random() * 0.3)
        chance.choice(descendants(run.pid, "RayTrainWorker")).kill()
    assert finish(run, tmp_path / "b") == whole


def test_a_job_stopped_in_every_way_goes_on_each_time(
    features: Path, whole: str, tmp_path: Path
) -> None:
    chance = random.Random(3)
    for epoch, stop in ((5, kill_all), (15, kill_controller), (25, kill_all), (35, press_ctrl_c)):
        run = start(features, tmp_path / "b")
        wait_for_epoch(run, epoch)
        time.sleep(chance.random() * 0.3)
        stop(run)
        assert (tmp_path / "b" / "checkpoint.pt").exists()
        assert not (tmp_path / "b" / "bundle.json").exists()
    other = start(features, tmp_path / "b", "--max-lr", "0.5")
    assert "unfinished run is there with another training" in other.communicate()[0]
    assert other.returncode == 2
    assert finish(start(features, tmp_path / "b"), tmp_path / "b") == whole


def kill_all(run: subprocess.Popen[str]) -> None:
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    time.sleep(5)  # its workers are stopped by Ray a moment later


def kill_controller(run: subprocess.Popen[str]) -> None:
    descendants(run.pid, "TrainController")[0].kill()
    told, _ = run.communicate(timeout=HANGS_S)
    assert run.returncode == 2
    assert "audiocnn: the process that led the training was lost; the same command" in told
    assert "Traceback" not in told


def press_ctrl_c(run: subprocess.Popen[str]) -> None:
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the whole group
    told, _ = run.communicate(timeout=HANGS_S)
    assert run.returncode == 130
    assert "Traceback" not in told
    assert "stopped; the same command goes on from the last checkpoint" in told


def test_a_worker_that_dies_again_and_again_ends_the_job_in_one_line(
    features: Path, tmp_path: Path
) -> None:
    run = start(features, tmp_path / "b", "--max-failures", "1")
    for epoch in (3, 20):
        wait_for_epoch(run, epoch)
        descendants(run.pid, "RayTrainWorker")[1].kill()
    told, _ = run.communicate(timeout=HANGS_S)
    assert run.returncode == 2
    assert "audiocnn: a worker was lost" in told or re.search(r"audiocnn: worker .* lost", told)
    assert "goes on from the last checkpoint" in told
    assert "Traceback" not in told
    assert (tmp_path / "b" / "checkpoint.pt").exists()


def test_a_loss_that_is_no_number_ends_the_job_at_once(features: Path, tmp_path: Path) -> None:
    run = start(features, tmp_path / "b", "--max-lr", "1e30", "--warmup", "0.01")
    told, _ = run.communicate(timeout=HANGS_S)
    assert run.returncode == 2
    assert re.search(r"audiocnn: the (loss is nan in epoch \d+|weights are not finite)", told)
    assert "--max-lr" in told
    assert "going on" not in told  # a mistake is not tried again
    assert "Traceback" not in told


def test_a_run_in_a_bucket_is_killed_and_then_its_bucket_goes_away(
    features: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SeaweedFS()) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket()
        for path in features.rglob("*.*"):
            with storage.placed(f"{bucket}/features/{path.relative_to(features)}") as copy:
                shutil.copy(path, copy)
        command = [AUDIOCNN, "train", f"{bucket}/features", "--to", f"{bucket}/b", *OPTIONS]
        run = popen(command)
        wait_for_epoch(run, 5)
        kill_all(run)
        assert storage.exists(f"{bucket}/b/checkpoint.pt")
        assert not storage.exists(f"{bucket}/b/bundle.json")
        run = popen(command)
        wait_for_epoch(run, 20)
        server.kill()
        told, _ = run.communicate(timeout=HANGS_S)
        assert run.returncode == 2, told
        assert re.search(r"audiocnn: .*(s3://|http)", told)
        assert "Traceback" not in told
        server.start()
        told, _ = popen(command).communicate(timeout=HANGS_S)
        assert "going on after epoch" in told
        storage.configure({})
        assert read_summary(f"{bucket}/b")["weights_sha256"] == whole
        assert not storage.exists(f"{bucket}/b/checkpoint.pt")
    monkeypatch.undo()
    storage.configure({})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root's rights")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_job_in_one_line_and_it_goes_on(
    features: Path, whole: str, small_disk: Path
) -> None:
    run = start(features, small_disk / "b")
    wait_for_epoch(run, 10)
    full = small_disk / "full"
    with suppress(OSError), full.open("wb") as file:
        while True:
            file.write(b"x" * 4_096)
            file.flush()
    told, _ = run.communicate(timeout=HANGS_S)
    assert run.returncode == 2, told
    assert re.search(r"audiocnn: .*No space left", told)
    assert "Traceback" not in told
    assert checkpoint.read(str(small_disk / "b" / "checkpoint.pt"), torch.device("cpu"))
    full.unlink()
    assert finish(start(features, small_disk / "b"), small_disk / "b") == whole


NODES = """
import os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from pipelines.cli import parse
from pipelines.train import train

to, replaced = Path(sys.argv[1]), sys.argv[2] == "replaced"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.25"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)

def run() -> None:
    train(parse(["train", *sys.argv[3:]]))
    print("ended", flush=True)

training = threading.Thread(target=run, daemon=True)  # nodes come and go in the main thread
training.start()
while not (to / "checkpoint.pt").exists():
    time.sleep(0.02)
time.sleep(2)
cluster.remove_node(second, allow_graceful=False)
print("removed", flush=True)
if replaced:
    time.sleep(5)
    cluster.add_node(num_cpus=1)
    print("replaced", flush=True)
training.join()
os._exit(0)  # Ray's own exit handlers ask for the node that is gone
"""


@pytest.mark.parametrize("how", ["replaced", "elastic"])
def test_a_lost_node(features: Path, whole: str, tmp_path: Path, how: str) -> None:
    to = tmp_path / "b"
    workers = ["--workers", "1", "2"] if how == "elastic" else []
    command = [sys.executable, "-c", NODES, to, how, features, "--to", to, *OPTIONS, *workers]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=HANGS_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "removed" in done.stdout
    assert "was lost: going on from the last checkpoint" in done.stdout
    assert "ended" in done.stdout
    made = read_summary(str(to))
    assert made["metrics"]["epochs"] == EPOCHS
    if how == "replaced":
        assert made["weights_sha256"] == whole
    else:
        assert made["metrics"]["test"]["accuracy"] > 0.5
