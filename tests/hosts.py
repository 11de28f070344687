"""Hosts with addresses and disks of their own, on this machine: network and mount namespaces.

They need root and `ip`; each sees the code, which an image would bring, and none of what another
one writes.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
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
        self._loop.call_soon(self._loop.stop)

    async def _pass_on(self, inward: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
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
