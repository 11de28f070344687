"""A job that the cluster can never run is refused with one line; no Ray is started."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from audiocnn.config import Variable
from audiocnn.errors import ConfigError
from helpers.common import AUDIOCNN, make_bundle
from pipelines.cli import main
from pipelines.label.gpu_models import gpu_models
from pipelines.options import Ingest, Label
from pipelines.recipes import demo
from pipelines.runtime import quiet, session
from pipelines.runtime.session import Cluster

SMALL = Cluster(cpus=2, gpus=0, most_cpus=5, most_gpus=1)
UNTOLD = Cluster(cpus=2, gpus=0, most_cpus=2, most_gpus=0, grows=True)


@pytest.mark.parametrize(
    ("workers", "gpu", "said"),
    [
        (6, False, "--workers 6: the cluster has 5 CPUs at most, one for each worker"),
        (2, True, "--workers 2: the cluster has 1 GPUs at most, one for each worker"),
    ],
)
def test_more_workers_than_there_can_ever_be_are_refused(
    workers: int, gpu: bool, said: str
) -> None:
    SMALL.require(workers - 1, gpu=gpu)
    with pytest.raises(ConfigError) as refused:
        SMALL.require(workers, gpu=gpu)
    assert str(refused.value) == said
    UNTOLD.require(workers, gpu=gpu)


def test_more_models_than_there_can_ever_be_are_refused() -> None:
    def ask(**options: Any) -> None:
        gpu_models(Label(bucket="b", bundle="b", to="l", gpu=True, **options), "f00d", SMALL)

    with pytest.raises(ConfigError) as refused:
        ask(models=2)
    assert str(refused.value) == (
        "--gpu: 2 models of 1 GPU each, but the cluster has 1 GPUs at most, with room for 1"
    )
    with pytest.raises(ConfigError, match=r"3 models of 0\.5 GPU each, but the cluster has 1 GPUs"):
        ask(models=3, gpus_per_model=0.5)
    assert gpu_models(Label(bucket="b", bundle="b", to="l"), "f00d", SMALL) == []


def test_what_there_is_room_for() -> None:
    assert SMALL.groups(2, gpu=False) == 2
    assert SMALL.groups(2, gpu=True) == 1
    assert [SMALL.workers(worth) for worth in (0, 1, 3, 100)] == [2, 2, 3, 5]
    assert Cluster(cpus=0, gpus=0, most_cpus=0, most_gpus=0).workers(100) == 1


class Fake:
    """A fake of Ray's answers about a cluster that was joined."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resources: dict[str, float] = {"CPU": 2.0}
        self.nodes = 1
        self.kinds: dict[str, str] | None = None
        self.patched = monkeypatch
        monkeypatch.delenv(Variable.CLUSTER_MAX, raising=False)
        monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "cluster_resources", lambda: self.resources)
        monkeypatch.setattr(
            ray, "nodes", lambda: [{"Alive": False}, *[{"Alive": True}] * self.nodes]
        )
        monkeypatch.setattr(session, "_internal_kv_get", lambda _: self._status())

    def _status(self) -> bytes | None:
        if self.kinds is None:  # the head has not reported yet
            return None
        return json.dumps({"autoscaler_report": {"node_type_mapping": self.kinds}}).encode()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(monkeypatch)


def test_a_cluster_is_what_is_there_and_what_may_come(fake: Fake) -> None:
    assert session.connect() == Cluster(cpus=2, gpus=0, most_cpus=2, most_gpus=0)
    fake.kinds = {"abc": "node_abc"}  # no autoscaler
    assert not session.connect().grows
    fake.kinds = {"abc": "node_abc", "def": "gpu"}
    assert session.connect() == UNTOLD
    fake.patched.setenv(Variable.CLUSTER_MAX, "CPU=5, GPU=1")
    assert session.connect() == SMALL
    fake.resources = {"CPU": 8.0, "GPU": 3.0}
    assert session.connect() == Cluster(cpus=8, gpus=3, most_cpus=8, most_gpus=3)
    fake.patched.setenv(Variable.CLUSTER_MAX, "five CPUs")
    with pytest.raises(ConfigError, match="AUDIOCNN_CLUSTER_MAX=five CPUs: expected something"):
        session.connect()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("label {there}/corpus --bundle {there}/bundle --to {there}/new --workers 9",
         "--workers 9: the cluster has 5 CPUs at most"),
        ("label {there}/corpus --bundle {there}/bundle --to {there}/new --gpu --models 2",
         "but the cluster has 1 GPUs at most"),
        ("ingest {there}/corpus --to {there}/new --folds 2 --workers 9",
         "--workers 9: the cluster has 5 CPUs at most"),
    ],
)  # fmt: skip
def test_what_can_never_be_had_is_told_at_once(
    command: str, said: str, fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands refuse it, on a head without CPUs to which an autoscaler adds nodes."""
    make_bundle(tmp_path / "bundle")
    small_corpus(tmp_path / "corpus")
    fake.resources, fake.kinds = {}, {"abc": "head"}
    fake.patched.setenv(Variable.CLUSTER_MAX, "CPU=5,GPU=1")
    fake.patched.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    fake.patched.setenv("AUDIOCNN_SHARED_DISK", "1")
    fake.patched.setattr(quiet, "divert_native_stderr", lambda: None)
    arguments = command.format(there=tmp_path).split()
    fake.patched.setattr(sys, "argv", ["audiocnn", *arguments])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "new").glob("parts/*"))


def small_corpus(folder: Path) -> Path:
    for name in ("dog/1.wav", "dog/2.wav", "rain/1.wav", "rain/2.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_a_ray_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    """Ray does not start here because the paths of its sockets would be too long."""
    corpus, deep = small_corpus(tmp_path / "corpus"), tmp_path / ("x" * 120)
    ours = {"RAY_TMPDIR": str(deep), "RAY_AUTH_TOKEN": 64 * "0", "RAY_ADDRESS": ""}
    done = subprocess.run(
        [AUDIOCNN, "ingest", corpus, "--to", tmp_path / "new", "--folds", "2"],
        env={**os.environ, **ours}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("audiocnn: Ray does not start on this machine (")
    assert "path length" in done.stderr
    assert f"its logs are below {deep}/ray (RAY_TMPDIR sets another folder)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_ray_that_takes_too_long_to_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray waits 30 s for a node and then raises a plain Exception, as a bug might."""

    def late(**_: object) -> None:
        raise Exception(
            "The current node timed out during startup. This could happen because some of the "
            "raylet failed to startup or the GCS has become overloaded."
        )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(quiet, "divert_native_stderr", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", 64 * "0")
    small_corpus(tmp_path / "corpus")
    arguments = f"ingest {tmp_path}/corpus --to {tmp_path}/new --folds 2".split()
    monkeypatch.setattr(sys, "argv", ["audiocnn", *arguments])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("audiocnn: Ray does not start on this machine (The current node timed")
    assert err.endswith("on a slow or busy machine, try again\n")
    assert err.count("\n") == 1


def test_a_path_that_not_every_node_has_is_refused(fake: Fake) -> None:
    def options(to: str) -> Ingest:
        return Ingest(corpus="s3://a/corpus", to=to, feature=demo().feature)

    session.require_reach(options("features"))  # one node, no submitted job
    fake.patched.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    with pytest.raises(ConfigError, match="--to features: a job has its own working directory"):
        session.require_reach(options("features"))
    session.require_reach(options("/there/features"))
    fake.nodes = 2
    with pytest.raises(ConfigError, match="a path of one machine, and the cluster has 2 nodes"):
        session.require_reach(options("/there/features"))
    session.require_reach(options("s3://a/features"))
    fake.nodes = 1
    fake.patched.setenv(Variable.CLUSTER_MAX, "CPU=5")
    with pytest.raises(ConfigError, match="a path of one machine"):
        session.require_reach(options("/there/features"))
    fake.patched.setenv("AUDIOCNN_SHARED_DISK", "1")
    session.require_reach(options("/there/features"))
    with pytest.raises(ConfigError, match="a job has its own working directory"):
        session.require_reach(options("features"))
