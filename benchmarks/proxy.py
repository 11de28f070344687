"""A store that is further away: a proxy on loopback that delays every answer and notes it.

In a process of its own, `python -m benchmarks.proxy PORT DELAY_S LOG`. What goes through is
copied byte by byte, the Host header with it, so signatures stay valid; each connection of a
client has one of its own to the server, so keep-alive and concurrency are theirs. The first byte
of an answer leaves that much after the last byte of its request came. Requests are taken not to
be pipelined, which no S3 client does.
"""

import asyncio
import subprocess
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.harness import ROOT

_CHUNK = 1 << 18
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and its answer."""

    at: float
    """When the answer's last byte came, as time.time() has it."""
    method: str
    path: str
    """Unquoted, with the bucket, without the query."""
    size: int
    """Bytes of the answer's body; its chunks' heads count."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy that runs."""

    endpoint: str
    log: Path

    def exchanges(self) -> list[Exchange]:
        """What went through on connections that have been closed, or asked for more since."""
        found = []
        for line in self.log.read_text().splitlines():
            at, method, size, path = line.split(" ", 3)
            found.append(Exchange(at=float(at), method=method, size=int(size), path=path))
        return found


@contextmanager
def proxy(server: str, delay_s: float, log: Path) -> Iterator[Proxy]:
    """A proxy before the server at an endpoint, for as long as the block lasts."""
    log.touch()
    command = [sys.executable, "-m", "benchmarks.proxy", str(urlsplit(server).port)]
    process = subprocess.Popen(
        [*command, str(delay_s), str(log)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None  # noqa: S101
        port = int(process.stdout.readline())
        yield Proxy(endpoint=f"http://127.0.0.1:{port}", log=log)
    finally:
        process.kill()
        process.communicate()


class _Connection:
    """A client's connection and the one to the server that answers it."""

    def __init__(self, delay_s: float, log: Path) -> None:
        self.delay_s, self.log = delay_s, log
        self.head = b""
        """The first bytes of the request that is being answered."""
        self.asked = self.answered_at = 0.0
        self.answered, self.size = True, 0

    async def ask(self, client: StreamReader, server: StreamWriter) -> None:
        """Copy requests."""
        while data := await client.read(_CHUNK):
            if self.answered:
                self.note()
                self.head, self.answered, self.size = data[:4096], False, 0
            self.asked = time.monotonic()
            server.write(data)
            await server.drain()
        server.write_eof()

    async def answer(self, server: StreamReader, client: StreamWriter) -> None:
        """Copy answers, each late."""
        while data := await server.read(_CHUNK):
            body = len(data)
            if not self.answered:
                await asyncio.sleep(self.asked + self.delay_s - time.monotonic())
                # After "100 Continue" the request goes on.
                self.answered = not data.startswith(b"HTTP/1.1 100")
                body -= data.find(_HEAD_END) + len(_HEAD_END)
            self.size += body
            self.answered_at = time.time()
            client.write(data)
            await client.drain()

    def note(self) -> None:
        """Write down the exchange that has ended."""
        if not self.head:
            return
        method, target, *_ = self.head.split(b" ", 2)
        path = unquote(urlsplit(target.decode()).path)
        with self.log.open("a") as file:
            file.write(f"{self.answered_at} {method.decode()} {self.size} {path}\n")
        self.head = b""


async def _serve(port: int, delay_s: float, log: Path) -> None:
    async def connected(reader: StreamReader, writer: StreamWriter) -> None:
        connection = _Connection(delay_s, log)
        upstream, to_server = await asyncio.open_connection("127.0.0.1", port, limit=_CHUNK)
        tasks = [
            asyncio.ensure_future(connection.ask(reader, to_server)),
            asyncio.ensure_future(connection.answer(upstream, writer)),
        ]
        with suppress(OSError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        connection.note()
        to_server.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_CHUNK, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])))
