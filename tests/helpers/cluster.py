"""A Ray cluster with a token: one node, started with `ray start --head`, and commands on it."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import free_ports
from helpers.asking import PATIENCE_S, read, read_json, wait_until
from helpers.common import BIN

PATIENT = {
    "RAY_worker_register_timeout_seconds": str(PATIENCE_S),
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(PATIENCE_S),
}
"""Variables for Ray. By default it ends a job whose workers start slowly on a busy machine."""


class Reach:
    """How a shell reaches a cluster: its addresses, and an environment with its token."""

    def __init__(self, address: str, dashboard: str, environment: dict[str, str]) -> None:
        self.address, self.dashboard, self.environment = address, dashboard, environment

    def run(
        self, *command: object, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this installation until it ends."""
        with self.running(*command, cwd=cwd, **environment) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @contextmanager
    def running(
        self, *command: object, cwd: Path | None = None, **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a command of this installation. If it still runs after the block, it is killed."""
        first, *rest = map(str, command)
        process = subprocess.Popen(
            [BIN / first, *rest],
            cwd=cwd, env={**self.environment, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as the head describes them; empty while it does not answer."""
        url = f"{self.dashboard}/api/v0/nodes?detail=1"
        try:
            found = read_json(url, **self._token)["data"]["result"]["result"]
        except (OSError, KeyError, TypeError):
            return []
        return [node for node in found if node["state"] == "ALIVE"]

    @property
    def _token(self) -> dict[str, str]:
        """The HTTP header with the token."""
        return {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}


class Head(Reach):
    """A cluster that runs while the block runs."""

    def __init__(self, *options: str, **environment: str) -> None:
        port, dashboard, client, agent, autoscaler_metrics, dashboard_metrics = free_ports(6)
        given = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",  # jobs inherit it
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
            # Another cluster of this machine may use the default ports.
            "AUTOSCALER_METRIC_PORT": str(autoscaler_metrics),
            "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
            # End at once: by default it waits half a minute for actors to end.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            **PATIENT,
            **environment,
        }
        super().__init__(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", given)
        self._agent = f"http://127.0.0.1:{agent}"
        self._command = [
            BIN / "ray", "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
            # All clusters of a machine have the same default port, and no job starts without it.
            f"--dashboard-agent-listen-port={agent}", *options,
        ]  # fmt: skip
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command, env=self.environment, start_new_session=True,
            stdout=self._said, stderr=self._said,
        )  # fmt: skip

    def _told(self) -> bytes:
        self._said.seek(0)
        return self._said.read()[-2_000:]

    def __enter__(self) -> "Head":
        try:
            wait_until(self._is_up, self._told)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=PATIENCE_S)
        self._said.close()

    def _is_up(self) -> bool:
        if self.process.poll() is not None:  # on a slow machine `ray start` gives up
            self._start()
        try:
            read(f"{self.dashboard}/api/jobs/", **self._token)
            read(f"{self._agent}/api/local_raylet_healthz", **self._token)
        except OSError:
            return False
        return True
