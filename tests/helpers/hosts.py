"""Hosts on this machine, each with its own address and disk: network and mount namespaces.

They need root and `ip`. Each host sees the code, which an image would contain on a real host. No
host sees the files that another host writes.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.seaweed import SeaweedFS
from helpers.asking import PATIENCE_S, read_json, status, wait_until
from helpers.cluster import PATIENT
from helpers.common import AUDIOCNN, BIN, count_cluster

TOKEN = "0123456789abcdef" * 2
_OWN = "/tmp/ray"
_INSIDE = """
mkdir -p {own} {home} && mount -t tmpfs tmpfs {own} && mount -t tmpfs tmpfs {home} \
  && cd {home} && exec "$@"
"""


def require_namespaces() -> None:
    """Skip the test if this process cannot make namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    probe = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no namespaces can be made here")


class Network:
    """A bridge with a host behind each of its ports. It exists while the block runs."""

    def __init__(self, hosts: int) -> None:
        mine = uuid.uuid4()
        self._name = f"ac{mine.hex[:6]}"
        net = f"10.{64 + mine.bytes[0] % 64}.{mine.bytes[1]}"  # random: a killed test may leave one
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

    def start(self, number: int, *command: object, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command on a host. The disk of the host has only the code."""
        home = self._home
        here = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"}
        script = _INSIDE.format(own=_OWN, home=home)
        process = subprocess.Popen(
            [
                "ip", "netns", "exec", f"{self._name}-{number}", "unshare", "-m",
                "bash", "-c", script, "bash", *map(str, command),
            ],
            env={**here, "PATH": f"{BIN}:{here['PATH']}", "TMPDIR": home, "HOME": home,
                 **environment},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._processes.setdefault(number, []).append(process)
        return process

    def kill(self, number: int) -> None:
        """Send SIGKILL to all processes of a host, as if its power failed."""
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
    """A server at the bridge's address that connects hosts to a port of this machine's loopback."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._pass_on, address, 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def close(self) -> None:
        """Close the server and all its connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._loop.stop()

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
    """More options of `ray start` on the head."""

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
        process = self.network.start(number, *start, **self.environment)

        def is_there() -> bool:
            nonlocal process
            if process.poll() is not None:  # on a slow machine `ray start` gives up
                process = self.network.start(number, *start, **self.environment)
            return mine in self.nodes()

        wait_until(is_there)

    def lose(self, number: int) -> None:
        """Kill all processes of a host, and wait until the head knows that it is lost."""
        node = self._node(number)
        self.network.kill(number)
        wait_until(lambda: self._is_gone(node))

    def replace(self, number: int) -> None:
        """Lose a host, and start another one at the same address."""
        self.lose(number)
        self.add(number)

    def drain(self, number: int, seconds: int) -> None:
        """Announce, as spot markets do, that a host ends in so many seconds. Wait until then."""
        node = self._node(number)
        self.run(
            "ray", "drain-node", f"--address={self.head}:6379", f"--node-id={node}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot",
            f"--deadline-remaining-seconds={seconds}",
        )  # fmt: skip
        deadline = time.time() + seconds
        wait_until(lambda: time.time() > deadline or self._is_gone(node))

    def _node(self, number: int) -> str | None:
        """The node id of a host; None if it has ended by itself, as a drained host may."""
        there = dict[str, str]()
        wait_until(lambda: there or there.update(self.nodes()))
        return there.get(self.network.addresses[number])

    def _is_gone(self, node: str | None) -> bool:
        there = self.nodes()
        return bool(there) and node not in there.values()

    def run(self, *command: object) -> None:
        """Run a command of this installation on this machine, with the cluster's token."""
        first, *rest = map(str, command)
        done = subprocess.run(
            [BIN / first, *rest],
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **self.environment},
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def nodes(self) -> dict[str, str]:
        """The node ids of the hosts that are alive, by address.

        If two have the same address, it is the id of the host that started later. The result is
        empty while the head does not answer.
        """
        try:
            found = self._said_by("/api/v0/nodes?detail=1")["data"]["result"]["result"]
        except (OSError, KeyError, TypeError):
            return {}
        found.sort(key=lambda node: node["start_time_ms"])
        return {node["node_ip"]: node["node_id"] for node in found if node["state"] == "ALIVE"}

    def replicas(self) -> int:
        """Number of replicas of the endpoint that run on hosts that are alive."""
        try:
            found = self._said_by("/api/serve/applications/")["applications"]["audiocnn"]
            copies = found["deployments"]["Endpoint"]["replicas"]
        except (OSError, KeyError):  # it is not there yet
            return 0
        alive = set(self.nodes().values())
        return sum(one["state"] == "RUNNING" and one["node_id"] in alive for one in copies)

    def ask(self, key: str = "", host: int = 0) -> int:
        """The HTTP status of /v1/model on a host; 0 if it does not answer."""
        url = f"http://{self.network.addresses[host]}:8000/v1/model"
        return status(url, **({"x-api-key": key} if key else {}))

    def _said_by(self, path: str) -> Any:
        return read_json(f"{self.dashboard}{path}", Authorization=f"Bearer {TOKEN}")

    def submit(self, *command: object, meanwhile: Callable[["Said"], None] | None = None) -> str:
        """Run a verb as a job, and call `meanwhile` while it runs. Return the job's output."""
        running = subprocess.Popen(
            [AUDIOCNN, "submit", f"--address={self.dashboard}", *map(str, command)],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        said = Said(running)
        try:
            if meanwhile is not None:
                meanwhile(said)
            out = said.to_the_end()
        finally:
            running.kill()
        assert running.returncode == 0, out
        return out


class Said:
    """The output of a command, which can be read while the command runs."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running, self._lines = running, list[str]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def count(self, text: str) -> int:
        """Number of lines that contain a text."""
        return sum(text in line for line in self._lines)

    def until(self, happened: Callable[[], object]) -> None:
        """Wait until something happens. Raises AssertionError if the command ends before."""

        def happened_or_over() -> bool:
            over = self._running.poll() is not None
            if happened():
                return True
            assert not over, "".join(self._lines)
            return False

        wait_until(happened_or_over, lambda: "".join(self._lines))

    def to_the_end(self) -> str:
        """Wait until the command ends, and return its whole output."""
        try:
            self._running.wait(timeout=PATIENCE_S)
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
    """A head and two hosts that reach a bucket. With `redis`, a fourth keeps the head's state."""
    require_namespaces()
    with Network(4) as network, closing(Relay(network.gateway, s3.ports["s3"])) as relay:
        given = {
            **s3.environment,
            "AWS_ENDPOINT_URL": f"http://{network.gateway}:{relay.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray counts a host as lost after five failed checks: check often.
            "RAY_health_check_period_ms": "500",
            **PATIENT,
            **environment,
        }
        of_head: tuple[str, ...] = ()
        if redis:
            options = ["--protected-mode", "no", "--requirepass", TOKEN, "--dir", _OWN]
            network.start(3, "redis-server", *options)
            of_head = (f"--redis-password={TOKEN}",)
            # These are KubeRay's settings: nodes wait for the next head.
            given["RAY_REDIS_ADDRESS"] = f"{network.addresses[3]}:6379"
            given["RAY_external_storage_namespace"] = "audiocnn"
            given["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"
        running = Cluster(network, given, of_head)
        count_cluster()
        for number in range(3):
            running.add(number)
        yield running
