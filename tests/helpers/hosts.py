"""Hosts with addresses and disks of their own, on this machine: network and mount namespaces.

They need root and `ip`; each sees the code, which an image would bring, and none of what another
one writes.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.seaweed import SeaweedFS
from helpers.asking import status, wait_until
from helpers.common import BIN

TOKEN = "0123456789abcdef" * 2
HANGS_S = 600
"""Nothing here takes so long, however slow and busy the machine."""
_OWN = "/tmp/ray"
_INSIDE = """
mkdir -p {own} {home} && mount -t tmpfs tmpfs {own} && mount -t tmpfs tmpfs {home} \
  && cd {home} && exec "$@"
"""


def require_namespaces() -> None:
    """Skip the test where none can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    probe = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no namespaces can be made here")


class Network:
    """A bridge, and a host behind each of its ports, for as long as the block lasts."""

    def __init__(self, hosts: int) -> None:
        mine = uuid.uuid4()
        self._name = f"ac{mine.hex[:6]}"
        net = f"10.{64 + mine.bytes[0] % 64}.{mine.bytes[1]}"  # not a killed test's
        self.gateway = f"{net}.254"
        self.addresses = [f"{net}.{number + 1}" for number in range(hosts)]
        self._home = f"/run/audiocnn-{self._name}"
        self._processes: dict[int, list[subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> "Network":
        bridge = self._name
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, address in enumerate(self.addresses):
            name, port = f"{bridge}-{number}", f"{bridge}{number}"
            _ip("netns", "add", name)
            _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", port, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(len(self.addresses)):
            self.kill(number)
            subprocess.run(["ip", "netns", "delete", f"{self._name}-{number}"], check=False)
        subprocess.run(["ip", "link", "delete", self._name], check=False)
        Path(self._home).rmdir()

    def start(self, number: int, *command: object, **environment: str) -> None:
        """Start a command on a host, whose disk is empty but for the code."""
        home = self._home
        script = _INSIDE.format(own=_OWN, home=home)
        process = subprocess.Popen(
            [
                "ip", "netns", "exec", f"{self._name}-{number}", "unshare", "-m",
                "bash", "-c", script, "bash", *map(str, command),
            ],
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": home,
                 "HOME": home, **environment},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._processes.setdefault(number, []).append(process)

    def kill(self, number: int) -> None:
        """Pull the plug of a host: SIGKILL to all that runs on it."""
        listed = subprocess.run(
            ["ip", "netns", "pids", f"{self._name}-{number}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self._processes.pop(number, []):
            process.wait()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Relay:
    """Lets hosts reach a port of this machine's loopback by the bridge's address."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._pass_on, address, 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def close(self) -> None:
        """Let nobody pass any more."""
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_later(0.1, self._loop.stop)  # when they are

    async def _pass_on(self, inward: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(_copy(inward, to_server), _copy(from_server, back))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    except ConnectionError:
        pass
    finally:
        target.close()


@dataclass
class Cluster:
    """A head that runs no work, and two hosts with two CPUs each."""

    network: Network
    environment: dict[str, str]
    of_head: tuple[str, ...] = ()
    """More that `ray start` is told there."""

    @property
    def head(self) -> str:
        return self.network.addresses[0]

    @property
    def dashboard(self) -> str:
        return f"http://{self.head}:8265"

    def add(self, number: int) -> None:
        mine = self.network.addresses[number]
        start = [BIN / "ray", "start", "--block", f"--node-ip-address={mine}"]
        if number == 0:
            start += ["--head", "--num-cpus=0", "--dashboard-host=0.0.0.0", *self.of_head]
        else:
            start += [f"--address={self.head}:6379", "--num-cpus=2"]
        self.network.start(number, *start, **self.environment)
        wait_until(lambda: mine in self.nodes())

    def replace(self, number: int) -> None:
        """Pull a host's plug, and bring another one with its address."""
        address = self.network.addresses[number]
        gone = self.nodes().get(address)  # a drained one may have ended by itself
        self.network.kill(number)
        time.sleep(3)
        self.add(number)
        wait_until(lambda: self.nodes().get(address) not in (None, gone))

    def drain(self, number: int, seconds: int) -> None:
        """Announce that a host goes, as spot markets do."""
        address = self.network.addresses[number]
        wait_until(lambda: bool(self.nodes().get(address)))
        node = self.nodes()[address]
        subprocess.run(
            [BIN / "ray", "drain-node", f"--address={self.head}:6379", f"--node-id={node}",
             "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot",
             f"--deadline-remaining-seconds={seconds}"],
            env={**os.environ, **self.environment}, check=True, capture_output=True,
        )  # fmt: skip
        time.sleep(seconds)

    def nodes(self) -> dict[str, str]:
        """Ids of the hosts that are alive, by address; of two with the same one the younger's."""
        try:
            found = self._said_by("/api/v0/nodes?detail=1")["data"]["result"]["result"]
        except (OSError, KeyError, TypeError):
            return {}
        found.sort(key=lambda node: node["start_time_ms"])
        return {node["node_ip"]: node["node_id"] for node in found if node["state"] == "ALIVE"}

    def replicas(self) -> int:
        """Copies of the endpoint that run."""
        try:
            found = self._said_by("/api/serve/applications/")["applications"]["audiocnn"]
            copies = found["deployments"]["Endpoint"]["replicas"]
        except (OSError, KeyError):  # it is not there yet
            return 0
        alive = set(self.nodes().values())
        return sum(one["state"] == "RUNNING" and one["node_id"] in alive for one in copies)

    def ask(self, key: str = "", host: int = 0) -> int:
        """The status of a host's answer about the model; 0 for none."""
        url = f"http://{self.network.addresses[host]}:8000/v1/model"
        return status(url, **({"x-api-key": key} if key else {}))

    def _said_by(self, path: str) -> Any:
        token = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{self.dashboard}{path}", headers=token)
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.loads(response.read())

    def submit(self, *command: object, meanwhile: Callable[["Said"], None] | None = None) -> str:
        """Run a verb as a job, and something beside it; returns what it said."""
        running = subprocess.Popen(
            [BIN / "audiocnn", "submit", f"--address={self.dashboard}", *map(str, command)],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        said = Said(running)
        with ThreadPoolExecutor() as pool:
            beside = pool.submit(meanwhile or (lambda _: None), said)
            out = said.to_the_end()
            beside.result()
        assert running.returncode == 0, out
        return out


class Said:
    """What a command says, while it says it."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running, self._lines = running, list[str]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self._lines)

    def to_the_end(self) -> str:
        """All of it."""
        try:
            self._running.wait(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
        self._reader.join()
        return "".join(self._lines)

    def _read(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self._lines.append(line)


@contextmanager
def running_cluster(s3: SeaweedFS, *, redis: bool = False, **environment: str) -> Iterator[Cluster]:
    """Three hosts that reach a bucket; with `redis` on a fourth, which remembers for the head."""
    require_namespaces()
    with Network(4) as network, closing(Relay(network.gateway, s3.ports["s3"])) as relay:
        given = {
            **s3.environment,
            "AWS_ENDPOINT_URL": f"http://{network.gateway}:{relay.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        of_head: tuple[str, ...] = ()
        if redis:
            network.start(
                3,
                "redis-server",
                "--protected-mode",
                "no",
                "--requirepass",
                TOKEN,
                "--dir",
                "/tmp/ray",
            )
            of_head = (f"--redis-password={TOKEN}",)
            # As KubeRay sets them: nodes wait for the next head.
            given["RAY_REDIS_ADDRESS"] = f"{network.addresses[3]}:6379"
            given["RAY_external_storage_namespace"] = "audiocnn"
            given["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"
        running = Cluster(network, given, of_head)
        for number in range(3):
            running.add(number)
        yield running
