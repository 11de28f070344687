"""A running `audiocnn serve`."""

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Outcome, closed_loop
from benchmarks.processes import free_ports
from helpers.common import AUDIOCNN, descendants


class Endpoint:
    """The command, from when it answers to when it is closed."""

    def __init__(self, bundle: Path, *options: str, **environment: str) -> None:
        self.port, self.metrics_port = free_ports(2)
        ports = ["--port", str(self.port), "--metrics-port", str(self.metrics_port)]
        self.process = subprocess.Popen(
            [AUDIOCNN, "serve", str(bundle), *ports, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        began = time.monotonic()
        while not self.saw("answers;"):
            assert self.process.poll() is None, self.said
            assert time.monotonic() - began < 120, self.said
            time.sleep(0.1)

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(self.process.stdout)

    def saw(self, text: str) -> bool:
        return any(text in line for line in self.said)

    def close(self) -> float:
        """Interrupt it as Ctrl-C would; returns the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self._reader.join(10)
        return time.monotonic() - began

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(
        self, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(self.url(path), body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def load(self, request: bytes, clients: int, seconds: float) -> Outcome:
        return asyncio.run(closed_loop(self.port, request, clients, seconds))

    def replicas(self) -> list[psutil.Process]:
        return descendants(self.process.pid, "ray::ServeReplica:audiocnn:Endpoint")
