"""A proxy on loopback that simulates a distant store: it delays every answer and logs it.

It is its own process, `python -m benchmarks.proxy PORT DELAY_S LOG`. It forwards all bytes without
change, including the Host header, so signatures stay valid. Each connection of a client has its
own connection to the server, so the clients decide on keep-alive and concurrency. The first byte
of an answer is sent DELAY_S after the last byte of its request arrived. Clients must not pipeline
requests; no S3 client does.
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
    """Time of the answer's last byte, in seconds since 1970."""
    method: str
    path: str
    """Unquoted path with the bucket, without the query."""
    size: int
    """Bytes of the answer's body, including the headers of its chunks."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A running proxy."""

    endpoint: str
    log: Path

    def exchanges(self) -> list[Exchange]:
        """Return the logged exchanges; the last one of an open connection is not logged yet."""
        found = []
        for line in self.log.read_text().splitlines():
            at, method, size, path = line.split(" ", 3)
            found.append(Exchange(at=float(at), method=method, size=int(size), path=path))
        return found


@contextmanager
def proxy(server: str, delay_s: float, log: Path) -> Iterator[Proxy]:
    """Run a proxy for the server at an endpoint within a block."""
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
    """A client's connection and its connection to the server."""

    def __init__(self, delay_s: float, log: Path) -> None:
        self.delay_s, self.log = delay_s, log
        self.head = b""
        """The first bytes of the current request."""
        self.asked = self.answered_at = 0.0
        self.answered, self.size = True, 0

    async def ask(self, client: StreamReader, server: StreamWriter) -> None:
        """Forward requests to the server."""
        while data := await client.read(_CHUNK):
            if self.answered:
                self.note()
                self.head, self.answered, self.size = data[:4096], False, 0
            self.asked = time.monotonic()
            server.write(data)
            await server.drain()
        server.write_eof()

    async def answer(self, server: StreamReader, client: StreamWriter) -> None:
        """Forward answers to the client, each after the delay."""
        while data := await server.read(_CHUNK):
            body = len(data)
            if not self.answered:
                await asyncio.sleep(self.asked + self.delay_s - time.monotonic())
                # After "100 Continue", the client sends the rest of the request.
                self.answered = not data.startswith(b"HTTP/1.1 100")
                body -= data.find(_HEAD_END) + len(_HEAD_END)
            self.size += body
            self.answered_at = time.time()
            client.write(data)
            await client.drain()

    def note(self) -> None:
        """Log the exchange that has ended, if there is one."""
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
