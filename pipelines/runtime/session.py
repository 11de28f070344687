"""Join a Ray cluster or start one on this machine, without Ray's messages."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.exceptions
import ray.train
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.experimental.internal_kv import _internal_kv_get

from audiocnn.config import Variable
from audiocnn.errors import ConfigError
from audiocnn.storage import machine
from pipelines.runtime.auth import write_token
from pipelines.runtime.quiet import quiet_ray
from pipelines.runtime.reachable import require_shared, require_whole

_FEWEST_CPUS = 2
"""Fewest CPUs that a cluster of one node declares, so that all workers of a job have room."""
_API_SERVER, _NOBODY = "RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """CPUs and GPUs that a cluster has now, and the most that it may have with its autoscaler."""

    cpus: int
    gpus: int
    most_cpus: int
    most_gpus: int
    grows: bool = False
    """Whether an autoscaler may add more than that: AUDIOCNN_CLUSTER_MAX sets no limit."""

    def require(self, workers: int, *, gpu: bool) -> None:
        """Raise ConfigError if the cluster can never have room for so many workers."""
        most, what = (self.most_gpus, "GPU") if gpu else (self.most_cpus, "CPU")
        if workers > most and not self.grows:
            raise ConfigError(
                f"--workers {workers}: the cluster has {most} {what}s at most, one for each worker"
            )

    def groups(self, workers: int, *, gpu: bool) -> int:
        """Return how many groups of `workers` workers may have room at once, at least 1."""
        return max(1, (self.most_gpus if gpu else self.most_cpus) // workers)

    def workers(self, worth: int) -> int:
        """Return a number of workers: one for each CPU, and up to `worth` if CPUs may be added."""
        return max(1, self.cpus, min(worth, self.most_cpus))


def connect(metrics_port: int | None = None) -> Cluster:
    """Join the cluster of RAY_ADDRESS (`ray job submit` sets it), or start one on this machine.

    A started cluster exports metrics at `metrics_port`, or at any free port if that is None. Raises
    ConfigError if Ray cannot be joined or started.
    """
    if not ray.is_initialized():
        # Ray Train polls for the end of its workers at this interval. Its default of 2 s would
        # delay the end of every job.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
        quiet_ray()
        address = Variable.RAY_ADDRESS.get()
        if address:
            _join(address)
        else:
            write_token()
            _start(metrics_port)
    data = ray.data.DataContext.get_current()
    data.enable_progress_bars = False
    data.raise_original_map_exception = True
    # The default ends a job in which no shard is completed within half an hour. A job that waits
    # for a node, or has recordings that last days, may need longer.
    data.execution_no_progress_timeout_s = -1
    there = ray.cluster_resources()
    ever, grows = _most(), _grows()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    return Cluster(
        cpus=cpus,
        gpus=gpus,
        most_cpus=max(cpus, int(ever.get("CPU", 0))),
        most_gpus=max(gpus, int(ever.get("GPU", 0))),
        grows=grows and not ever,
    )


def require_reach(options: Any) -> None:
    """Raise ConfigError if options name a path that some node of the cluster may not have."""
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 or _most() or _grows():
        several = f"the cluster has {nodes} nodes" if nodes > 1 else "the cluster may add nodes"
        require_shared(options, several)
    elif RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ:
        require_whole(options)


def job_id() -> str | None:
    """Return the id of the Ray job that runs this process; None if no job was submitted."""
    config = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}")
    found: str | None = config.get("metadata", {}).get("job_submission_id")
    return found


def _most() -> dict[str, int]:
    """Read AUDIOCNN_CLUSTER_MAX; empty if it is not set. Raises ConfigError."""
    given = Variable.CLUSTER_MAX.get()
    if not given:
        return {}
    try:
        return {name.strip(): int(most) for name, most in (p.split("=") for p in given.split(","))}
    except ValueError:
        raise ConfigError(
            f"{Variable.CLUSTER_MAX}={given}: expected something like CPU=32,GPU=4"
        ) from None


def _grows() -> bool:
    """Return whether the cluster has an autoscaler. Without one, each node's type is its own id."""
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    types = status.get("autoscaler_report", {}).get("node_type_mapping") or {}
    return any(kind != f"node_{node}" for node, kind in types.items())


def _start(metrics_port: int | None) -> None:
    """Start a cluster of one node on this machine. Raises ConfigError if Ray does not start."""
    try:
        with _without_api_server():
            # Listen on loopback only: no other machine needs to reach this cluster.
            ray.init(
                address="local",
                num_cpus=max(_FEWEST_CPUS, machine.cpus()),
                include_dashboard=False,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
                _metrics_export_port=metrics_port,
            )
    # Ray 2.60 raises a plain Exception if the node is not up after 30 s; no setting changes that.
    except Exception as error:
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        raise ConfigError(
            f"Ray does not start on this machine ({_reason(error)}): its logs are below "
            f"{folder}/ray (RAY_TMPDIR sets another folder); on a slow or busy machine, try again"
        ) from error


@contextmanager
def _without_api_server() -> Iterator[None]:
    """Let processes that start within the block find out at once that there is no API server.

    The API server is part of the dashboard. Ray Train asks it whether a training still runs. If
    there is none, Ray looks for it for 40 s, which delayed the end of each training by 12 s. If
    RAY_API_SERVER_ADDRESS names another cluster, Ray Train would ask that one. That cluster does
    not know this training, so Ray Train would consider it dead.
    """
    before = os.environ.get(_API_SERVER)
    os.environ[_API_SERVER] = _NOBODY
    try:
        yield
    finally:
        if before is None:
            del os.environ[_API_SERVER]
        else:
            os.environ[_API_SERVER] = before


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"RAY_ADDRESS {address}: {_reason(error)} (no cluster there, another version of Ray, "
            "or a token is needed: RAY_AUTH_MODE=token); unset RAY_ADDRESS to use only this machine"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of Ray's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
