"""HTTP load from one event loop: a closed loop, where clients wait for answers, or an open loop."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

_LONGEST_S = 600.0
"""Longest wait for an answer, in seconds, even on a slow machine; then the request is lost."""


@dataclass(kw_only=True)
class Outcome:
    """The results of the requests of one run."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    """Latencies in seconds by status; status 0 if there was no answer."""
    wall_s: float = 0.0
    bodies: dict[int, bytes] = field(default_factory=dict)
    """The last body of each status."""
    answers: list[int] = field(default_factory=list)
    """Number of finished requests of each client of a closed loop."""

    @property
    def counts(self) -> Counter[int]:
        """Number of requests by status; another thread may read it during a run."""
        return Counter({status: len(found) for status, found in list(self.seconds.items())})

    @property
    def per_s(self) -> float:
        """Answers with status 200 per second."""
        return self.counts[200] / self.wall_s

    def milliseconds(self, percentile: float, status: int = 200) -> float:
        """Return a percentile of the latencies with this status, in milliseconds."""
        return float(np.percentile(self.seconds.get(status, [float("nan")]), percentile) * 1e3)

    def add(self, status: int, seconds: float, body: bytes = b"") -> None:
        """Count a finished request."""
        self.seconds.setdefault(status, []).append(seconds)
        self.bodies[status] = body


def post(port: int, path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a whole request."""
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Connection:
    """A connection that is kept open, and opened again after either side closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer, or status 0 without one."""
        try:
            async with asyncio.timeout(_LONGEST_S):
                return await self._ask(request)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        body = await self._body(reader, head)
        if b"connection: close" in head:
            self.close()
        return status, body

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        at = head.find(b"content-length:")
        if at >= 0:
            return await reader.readexactly(int(head[at + 15 : head.find(b"\r\n", at)]))
        chunks = []
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            chunks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(chunks)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(
    port: int,
    request: bytes,
    clients: int,
    seconds: float,
    *,
    until: Callable[[], bool] = lambda: False,
    outcome: Outcome | None = None,
) -> Outcome:
    """Run clients that send a request, wait for its answer and send the next one.

    They stop after `seconds`, or when `until` returns true. The caller may pass an `outcome` to
    read it during the run.
    """
    outcome = outcome or Outcome()
    outcome.answers = [0] * clients
    began = perf_counter()

    async def client(number: int) -> None:
        connection = Connection(port)
        while perf_counter() - began < seconds and not until():
            asked = perf_counter()
            status, body = await connection.ask(request)
            outcome.add(status, perf_counter() - asked, body)
            outcome.answers[number] += 1
            if status == 0:
                await asyncio.sleep(0.05)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    outcome.wall_s = perf_counter() - began
    return outcome


async def open_loop(port: int, request: bytes, per_s: float, seconds: float) -> Outcome:
    """Send requests at random times (Poisson), whether or not earlier ones have been answered."""
    outcome, idle = Outcome(), list[Connection]()
    rng = random.Random(0)  # noqa: S311
    tasks = []

    async def one() -> None:
        connection = idle.pop() if idle else Connection(port)
        asked = perf_counter()
        status, body = await connection.ask(request)
        outcome.add(status, perf_counter() - asked, body)
        idle.append(connection)

    began = due = perf_counter()
    while due - began < seconds:
        await asyncio.sleep(max(0.0, due - perf_counter()))
        tasks.append(asyncio.create_task(one()))
        due += rng.expovariate(per_s)
    await asyncio.gather(*tasks)
    outcome.wall_s = perf_counter() - began
    for connection in idle:
        connection.close()
    return outcome
