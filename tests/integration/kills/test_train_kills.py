"""Training after workers, its controller, a node or the job were killed: the same weights."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from audiocnn import storage
from audiocnn.model.bundle import read_summary
from audiocnn.training import checkpoint
from benchmarks.seaweed import SeaweedFS
from helpers.common import AUDIOCNN, SMALL_FLAGS, descendants
from helpers.disk import Disk
from helpers.gate import NODES, Job, Start

pytestmark = pytest.mark.slow

EPOCHS = 30
RANK = "RayTrainWorker"
OPTIONS = [
    *SMALL_FLAGS, "--channels", "8", "--batch-size", "16", "--test-fold", "1", "--ema-decay", "0.9",
    "--epochs", str(EPOCHS), "--checkpoint-s", "0",
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
    """SHA-256 of the weights of an undisturbed run."""
    to = features.parent / "whole"
    return finish(Job(features.parent / "job", *verb(features, to)), to)


@pytest.fixture
def to(disk: Disk) -> Path:
    return disk.path / "b"


@pytest.fixture
def train(start: Start, features: Path, to: Path) -> Callable[..., Job]:
    """A function that starts `train`, optionally with more options."""
    return partial(start, *verb(features, to))


@pytest.fixture
def train_on_nodes(start: Start, features: Path, to: Path) -> Callable[..., Job]:
    """A function that starts `train` on two nodes."""
    return partial(start, *verb(features, to, sys.executable, "-c", NODES))


def verb(features: object, to: object, *by: object) -> list[object]:
    return [*(by or [AUDIOCNN]), "train", features, "--to", to, *OPTIONS]


def finish(job: Job, to: Path) -> str:
    job.gate.open()
    assert job.end() == 0, job.told
    assert not (to / "checkpoint.pt").exists()
    return str(read_summary(str(to))["weights_sha256"])


def train_until(job: Job, epoch: int, there: Callable[[], bool], more: int = 0) -> None:
    """Wait until an epoch is over and there is a checkpoint. Let so many more be trained."""
    job.gate.let(epoch + more)
    job.wait_until(
        lambda: any(int(told) >= epoch for told in re.findall(r"epoch +(\d+)/", job.out))
    )
    job.wait_until(there)


def further(job: Job, trained: int, to: Path, chance: random.Random) -> int:
    """Train one or two more epochs, and for up to 0.3 s more, into one of the next two epochs.

    Return the number of epochs that it can have trained by then.
    """
    epoch, more = trained + chance.randint(1, 2), chance.randint(1, 2)
    train_until(job, epoch, (to / "checkpoint.pt").exists, more)
    time.sleep(chance.uniform(0.0, 0.3))
    return epoch + more


def test_a_stopped_job_goes_on_to_the_same_weights(
    train: Callable[..., Job], whole: str, disk: Disk, chance: random.Random, thorough: bool
) -> None:
    """A run tries one of four ways, drawn by chance; `make test-all` tries all of them, twice."""
    to, ways = disk.path / "b", [lose_workers, kill_all, kill_controller, press_ctrl_c]
    for _ in range(2 if thorough else 1):
        trained = 0
        for stop in chance.sample(ways, len(ways) if thorough else 1):
            print(stop.__name__)
            job = train("--max-failures", "1")
            trained = stop(job, further(job, trained, to, chance), to, chance)
            assert (to / "checkpoint.pt").exists()
            assert not (to / "bundle.json").exists()
            assert "Traceback" not in job.told
        if disk.small:
            fill_disk(train(), trained, disk)
        other = train("--max-lr", "0.5")
        assert other.end() == 2
        assert "unfinished run there differs in training" in other.told
        assert finish(train(), to) == whole
        shutil.rmtree(to)


def lose_workers(job: Job, trained: int, to: Path, chance: random.Random) -> int:
    """Kill a worker, which is replaced. Later kill one more than `--max-failures` allows."""
    job.kill_one(RANK, chance)
    job.wait_until(lambda: "was lost: continuing from the last checkpoint" in job.out)
    trained = further(job, trained, to, chance)
    job.kill_one(RANK, chance)
    assert job.end() == 2
    assert re.search(r"audiocnn: (a worker was lost|worker .* lost)", job.told)
    assert "to continue from the last checkpoint" in job.told
    return trained


def kill_all(job: Job, trained: int, to: Path, chance: random.Random) -> int:
    job.kill()
    job.wait_until_gone()
    return trained


def kill_controller(job: Job, trained: int, to: Path, chance: random.Random) -> int:
    descendants(job.process.pid, "TrainController")[0].kill()
    assert job.end() == 2
    assert "audiocnn: Ray Train's controller process was lost; run the same" in job.told
    return trained


def press_ctrl_c(job: Job, trained: int, to: Path, chance: random.Random) -> int:
    job.signal(signal.SIGINT)
    assert job.end() == 130
    assert "stopped; run the same command again to continue from the last" in job.told
    return trained


def fill_disk(job: Job, trained: int, disk: Disk) -> None:
    kept = disk.path / "b" / "checkpoint.pt"
    train_until(job, trained + 1, kept.exists)
    disk.fill()
    job.gate.open()
    # Fill it repeatedly: a new checkpoint frees the space of the previous one.
    assert job.end(meanwhile=disk.fill) == 2, job.told
    assert re.search(r"audiocnn: .*No space left", job.told)
    assert "Traceback" not in job.told
    assert checkpoint.read(str(kept), torch.device("cpu"))
    disk.clear()


def test_a_loss_that_is_no_number_ends_the_job_at_once(train: Callable[..., Job]) -> None:
    job = train("--max-lr", "1e30", "--warmup", "0.01")
    job.gate.open()
    assert job.end() == 2
    told = job.told
    assert re.search(r"audiocnn: the (loss is nan in epoch \d+|weights are not finite)", told)
    assert "--max-lr" in told
    assert "continuing" not in told  # a mistake is not retried
    assert "Traceback" not in told


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    """A store that only this test uses, and may kill."""
    with closing(SeaweedFS()) as server, monkeypatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        storage.configure({})
        yield server
    storage.configure({})


@pytest.mark.thorough
def test_a_run_in_a_bucket_is_killed_and_then_its_bucket_goes_away(
    start: Start, features: Path, whole: str, server: SeaweedFS, chance: random.Random
) -> None:
    bucket = server.bucket()
    for path in features.rglob("*.*"):
        with storage.atomic_path(f"{bucket}/features/{path.relative_to(features)}") as copy:
            shutil.copy(path, copy)
    train = partial(start, *verb(f"{bucket}/features", f"{bucket}/b"))
    there = partial(storage.exists, f"{bucket}/b/checkpoint.pt")
    job = train()
    train_until(job, chance.randint(1, 4), there, 2)
    job.kill()
    job.wait_until_gone()
    assert there()
    assert not storage.exists(f"{bucket}/b/bundle.json")
    job = train()
    train_until(job, chance.randint(8, 12), there, 2)
    server.kill()
    job.gate.open()
    assert job.end() == 2, job.told
    assert re.search(r"audiocnn: .*(s3://|http)", job.told)
    assert "Traceback" not in job.told
    server.start()
    job = train()
    job.gate.open()
    assert job.end() == 0, job.told
    assert "continuing after epoch" in job.told
    storage.configure({})
    assert read_summary(f"{bucket}/b")["weights_sha256"] == whole
    assert not there()


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["replaced", "elastic"])
def test_a_lost_node(
    train_on_nodes: Callable[..., Job], whole: str, to: Path, chance: random.Random, how: str
) -> None:
    job = train_on_nodes(*(["--workers", "1", "2"] if how == "elastic" else []))
    further(job, chance.randint(0, 7), to, chance)
    job.tell("remove")
    job.wait_until(lambda: "was lost: continuing from the last checkpoint" in job.out)
    if how == "replaced":
        job.tell("add")
    weights = finish(job, to)
    metrics = read_summary(str(to))["metrics"]
    assert metrics["epochs"] == EPOCHS
    if how == "replaced":
        assert weights == whole
    else:
        assert metrics["test"]["accuracy"] > 0.5
