"""A Ray cluster of one node with a token, as `ray start --head` makes it."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.processes import free_ports
from helpers.common import BIN


class Head:
    """The cluster, for as long as the block lasts."""

    def __init__(self, *options: str, **environment: str) -> None:
        port, dashboard, client, agent, autoscaler_metrics, dashboard_metrics = free_ports(6)
        self.address, self.dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        self._agent = f"http://127.0.0.1:{agent}"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",  # jobs run with the cluster's
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
            # Another cluster of this machine has the defaults.
            "AUTOSCALER_METRIC_PORT": str(autoscaler_metrics),
            "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
            **environment,
        }
        self.process = subprocess.Popen(
            [
                BIN / "ray", "start", "--head", "--block", "--disable-usage-stats",
                "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
                f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
                # The default is one for all clusters of a machine, and no job starts without it.
                f"--dashboard-agent-listen-port={agent}", *options,
            ],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> "Head":
        for _ in range(240):
            if self._answers(f"{self.dashboard}/api/jobs/") and self._answers(
                f"{self._agent}/api/local_raylet_healthz"
            ):
                return self
            time.sleep(0.5)
        self.__exit__()
        raise AssertionError("the dashboard or the agent that starts jobs does not answer")

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=600)

    def _answers(self, url: str) -> bool:
        token = self.environment["RAY_AUTH_TOKEN"]
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except OSError:
            return False

    def run(
        self, *command: object, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this installation with the cluster's token."""
        first, *rest = map(str, command)
        return subprocess.run(
            [BIN / first, *rest],
            cwd=cwd, env={**self.environment, **environment},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
