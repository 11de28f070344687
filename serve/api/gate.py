"""The gate before every route: it checks keys and origins, and limits sizes, rates and times."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from hmac import compare_digest
from time import monotonic
from typing import Any

from serve.api.keys import known
from serve.engine.metrics import EndpointMetrics
from serve.options import Serve
from serve.problems import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROBLEM_KEY = "audiocnn.problem"
"""Key in the ASGI scope for the name of a problem that the application answered with."""
TOKEN_HEADER = b"x-audiocnn-endpoint"
"""Header with the token that an endpoint's own HAProxy adds to each request it passes on."""
_OPEN_PATHS = ("/healthz", "/readyz", "/docs", "/openapi.json", "/problems", "/_next/", "/samples")
"""Paths open to everyone: they reveal no data. For load balancers, people and the dashboard."""
_BASE64_PATHS = ("/inference",)
_MOST_HELD = 512 << 20
"""Most bytes of all request bodies that one replica holds at once."""
_MOST_DRAINED_BYTES = 1 << 20
"""Largest body of a refused request that is still read, in bytes. Most clients read no answer
before they have sent the whole body."""
_DRAIN_S = 5.0
_CLOSE_ON_ERROR = 1011
"""Close code of a stream that ends because of an error of this endpoint."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
_LOG = logging.getLogger("audiocnn.serve")


class Admission:
    """A limit on how many requests of a kind run at once; the next one is refused."""

    def __init__(self, most: int, kind: str) -> None:
        self.most, self.kind, self.count = most, kind, 0

    def check(self) -> None:
        """Raise Problem `busy` if the limit is reached."""
        if self.count >= self.most:
            raise Problem(
                "busy",
                f"{self.kind}: {self.count}, the limit of this replica is {self.most}",
                headers={"retry-after": "1"},
            )

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place until the `with` block ends. Raises Problem `busy`."""
        self.check()
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class Rate:
    """A limit for each key: `per_s` requests per second, and a burst of twice as many."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._shares: dict[str, tuple[float, float]] = {}
        """For each key: how many requests it may send now, and the time of that count."""

    def take(self, key: str) -> None:
        """Count one request. Raises Problem `rate` if it is one too many."""
        if self.per_s == 0:
            return
        now, burst = monotonic(), max(1.0, 2 * self.per_s)
        share, since = self._shares.get(key, (burst, now))
        share = min(burst, share + (now - since) * self.per_s)
        if share < 1:
            wait = math.ceil((1 - share) / self.per_s)
            raise Problem(
                "rate",
                f"the limit is {self.per_s:g} requests a second",
                headers={"retry-after": str(wait)},
            )
        self._shares[key] = (share - 1, now)


class Gate:
    """An ASGI application around another one.

    Requests for the paths in `_OPEN_PATHS` are passed on; only the proxy's token is checked. A
    stream is admitted and then passed on. Every other request is passed on after it was admitted
    and its whole body has arrived.
    """

    def __init__(
        self,
        app: App,
        options: Serve,
        keys: tuple[str, ...],
        metrics: EndpointMetrics | None = None,
        token: str | None = None,
    ) -> None:
        self.app, self.options, self.keys = app, options, keys
        self._token = token.encode() if token else b""
        self.admission = Admission(options.queue, "requests in progress")
        # Streams have their own limit: they are mostly idle, and would keep requests out otherwise.
        self.streams = Admission(options.streams, "live streams")
        self.rate = Rate(options.rate)
        self.metrics = metrics or EndpointMetrics()
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or answer it with a problem."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        began = monotonic()
        try:
            await self._pass(exchange)
        except Problem as problem:
            await exchange.refuse(problem)
        except asyncio.CancelledError:
            exchange.status = exchange.status or 499  # the client disconnected
            raise
        except Exception:
            _LOG.exception("a request failed with an unexpected error")
            await exchange.refuse(Problem("internal", "see the server's log"))
        finally:
            # There is a name if the gate refused the request or the application answered a problem.
            if name := exchange.problem or exchange.scope.get(PROBLEM_KEY):
                self.metrics.failure(name)
            route = getattr(exchange.scope.get("route"), "path", "other")
            self.metrics.request(route, exchange.status, monotonic() - began)

    async def _pass(self, exchange: "_Exchange") -> None:
        scope = exchange.scope
        if self._token and not compare_digest(exchange.header(TOKEN_HEADER).encode(), self._token):
            raise Problem(
                "misdirected", "the request did not come through this endpoint's own proxy"
            )
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "/" or path.startswith(_OPEN_PATHS):
            await self.app(scope, exchange.receive, exchange.send)
            return
        _check_origin(exchange, self.options, has_keys=bool(self.keys))
        self.rate.take(self._key(exchange))
        if scope["type"] == "websocket":
            with self.streams.enter():
                await self.app(scope, exchange.receive, exchange.send)
            return
        body = b""
        if scope["method"] == "POST":
            self.admission.check()
            body = await self._body(exchange, path)
        self._held += len(body)
        try:
            with self.admission.enter():
                await self._answer(exchange, body)
        finally:
            self._held -= len(body)

    async def _answer(self, exchange: "_Exchange", body: bytes) -> None:
        replayed = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return replayed.pop() if replayed else await exchange.receive()

        try:
            async with asyncio.timeout(self.options.timeout_s):
                await self.app(exchange.scope, receive, exchange.send)
        except TimeoutError as error:
            limit = f"the limit is {self.options.timeout_s:g} s"
            raise Problem("slow-answer", limit, headers={"retry-after": "5"}) from error

    def _key(self, exchange: "_Exchange") -> str:
        """Return the digest of the request's key, "" if there are no keys. Raises Problem `key`."""
        if not self.keys:
            return ""
        scheme, _, given = exchange.header(b"authorization").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else exchange.header(b"x-api-key")
        found = known(key, self.keys)
        if found is None:
            needed = "a key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            detail = "this key is not known" if key else needed
            raise Problem("key", detail, headers={"www-authenticate": "Bearer"})
        return found

    async def _body(self, exchange: "_Exchange", path: str) -> bytes:
        """Return the whole body.

        Raises Problem: too-large, slow-upload, not-audio, busy, malformed.
        """
        encoding = exchange.header(b"content-encoding")
        if encoding not in ("", "identity"):
            raise Problem("not-audio", f"a body with Content-Encoding {encoding} is not accepted")
        most = self.options.limits.max_bytes
        if path.startswith(_BASE64_PATHS):
            most = most * 4 // 3
        most += 64 << 10  # room for the parts of a form around its file
        declared = exchange.header(b"content-length")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self.options.upload_timeout_s):
                async for chunk in exchange.chunks():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._held += len(chunk)
                    if size > most:
                        raise _too_large(most)
                    if self._held > _MOST_HELD:
                        raise Problem(
                            "busy", "too many bytes are arriving at once", {"retry-after": "1"}
                        )
        except TimeoutError as error:
            limit = f"only {size} bytes came in {self.options.upload_timeout_s:g} s"
            raise Problem("slow-upload", limit, headers={"connection": "close"}) from error
        finally:
            self._held -= size
        return b"".join(chunks)


def _check_origin(exchange: "_Exchange", options: Serve, *, has_keys: bool) -> None:
    """Refuse requests that a page of another site sends through a visitor's browser.

    Raises Problem `origin`.
    """
    host = exchange.header(b"host")
    if options.is_local and not has_keys:
        name = host.rpartition(":")[0] if host[-1:].isdigit() and ":" in host else host
        # With DNS rebinding a foreign name points to this machine; such a name is refused.
        if name not in (*_THIS_MACHINE, options.host):
            raise Problem("origin", f"host {host!r} is not a name of this machine")
    origin = exchange.header(b"origin")
    # A page of another site can open a WebSocket, or send a POST, without asking this endpoint
    # first (CORS preflight). If there are keys, it must ask before a POST, because of the key's
    # header.
    may_act = exchange.scope["type"] == "websocket" or (
        not has_keys and exchange.scope["method"] not in ("GET", "OPTIONS")
    )
    if may_act and origin:
        scheme, _, name = origin.partition("://")
        port = {"http": ":80", "https": ":443"}.get(scheme, "")
        if name not in (host, host.removesuffix(port)) and origin not in options.cors:
            raise Problem("origin", f"{origin!r} is not an allowed origin")


def _too_large(most: int) -> Problem:
    return Problem("too-large", f"the limit is {most} bytes", headers={"connection": "close"})


class _Exchange:
    """A request and the state of its answer.

    The application sees a HEAD request as GET; the answer is sent without a body.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._head = scope.get("method") == "HEAD"
        self.scope = {**scope, "method": "GET"} if self._head else scope
        self._receive, self._send = receive, send
        self._headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            self._headers.setdefault(name, value)
        self.status = 0
        self.problem: str | None = None
        self._whole = scope["type"] != "http" or self.scope["method"] in ("GET", "OPTIONS")

    def header(self, name: bytes) -> str:
        """Return the first value of a header, or ""."""
        return self._headers.get(name, b"").decode("latin-1").strip()

    async def receive(self) -> Message:
        """Return the next message of the client."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._whole = not message.get("more_body", False)
        return message

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in chunks as they arrive. Raises Problem if the client disconnects."""
        while not self._whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Problem("malformed", "the client disconnected before the end of the body")
            yield message.get("body", b"")

    async def send(self, message: Message) -> None:
        """Send a message, with the headers that every answer has.

        A stream that is closed before it was accepted gets the problem `not-found`.
        """
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            secure = (b"x-content-type-options", b"nosniff")
            message["headers"] = [*message.get("headers", ()), secure]
        elif message["type"] == "websocket.accept":
            self.status = 101
        elif message["type"] == "websocket.close" and not self.status:
            await self.refuse(Problem("not-found", f"no stream at {self.scope['path']}"))
            return
        elif self._head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem if no answer has begun; close a stream that was accepted."""
        self.problem = problem.name
        if self.status:
            if self.status == 101:
                with suppress(RuntimeError):  # the stream is closed already
                    await self._send({"type": "websocket.close", "code": _CLOSE_ON_ERROR})
            return
        if "connection" not in problem.headers and not await self._drained():
            problem.headers["connection"] = "close"
        await problem.response()(self.scope, self._receive, self.send)

    async def _drained(self) -> bool:
        """Read the rest of a small body. Return whether the whole body has been read."""
        declared = self.header(b"content-length")
        if not declared.isdigit() or int(declared) > _MOST_DRAINED_BYTES:
            return self._whole
        with suppress(TimeoutError, Problem):
            async with asyncio.timeout(_DRAIN_S):
                async for _ in self.chunks():
                    pass
        return self._whole
