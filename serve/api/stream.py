"""Live sound: PCM comes in over a WebSocket, and a prediction goes out for every hop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace

import numpy as np
import orjson
import soxr
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from audiocnn.audio.decode import Samples, Window
from audiocnn.audio.windows import Splitter
from audiocnn.config import FeatureConfig
from audiocnn.errors import ConfigError
from serve.engine.model import Inspect
from serve.engine.service import Service
from serve.options import MOST_OVERLAP
from serve.problems import Problem

_IDLE_S = 30.0
"""Seconds in which the next window must be full; twice a window's length if that is longer."""
_MOST_MESSAGE = 1 << 20
_MOST_AHEAD = 16 << 20
"""Most bytes that may wait in the inbox. Ray itself keeps receiving, however much is waiting."""
_REFUSED = 1008
_BAD_DATA = 1007
_ANOTHER_BUNDLE = 1012


class StreamOptions(BaseModel):
    """The query parameters of `WS /v1/stream`."""

    model_config = ConfigDict(extra="forbid")

    sample_rate: int = Field(ge=4_000, le=192_000)
    format: str = Field("s16le", pattern="^(s16le|f32le)$")
    hop_s: float | None = Field(None, gt=0, le=600, allow_inf_nan=False)
    top_k: int = Field(3, ge=1, le=1_000)


@dataclass
class _Refused(Exception):
    code: int
    reason: str


class _Inbox:
    """A queue of received messages that have not been read yet."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._held = 0

    async def fill(self, socket: WebSocket) -> None:
        """Receive messages without end. Raises _Refused, WebSocketDisconnect."""
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            data = message.get("bytes")
            if data is None or len(data) > _MOST_MESSAGE:
                raise _Refused(_BAD_DATA, f"send binary messages of at most {_MOST_MESSAGE} bytes")
            self._messages.put_nowait(data)
            self._held += len(data)
            if self._held > _MOST_AHEAD:
                raise _Refused(_REFUSED, "the sound arrives faster than it can be answered")

    async def take(self) -> bytes:
        """Wait for the next message and return it."""
        data = await self._messages.get()
        self._held -= len(data)
        return data


async def stream(socket: WebSocket, current: Callable[[], Service]) -> None:
    """Answer each window with a text message; mono PCM comes in binary messages of up to 1 MiB.

    Windows are cut as `audiocnn label` cuts them. The first one is answered when it is full, and
    each next one a hop later. Closes with 1008 for bad options, for 30 s (or the length of two
    windows) without a full window, and for sound that comes faster than it can be answered. Closes
    with 1007 for bad messages or samples, and with 1012 when another bundle has rolled in. Raises
    Problem if there is no bundle; the stream is not accepted yet then.
    """
    service = current()
    await socket.accept()
    inbox = _Inbox()
    try:
        await _both(inbox.fill(socket), _answer(socket, inbox, service, current))
    except _Refused as refused:
        await socket.close(refused.code, refused.reason[:100])
    except WebSocketDisconnect:
        return
    except Problem as problem:
        await socket.close(_REFUSED, problem.detail[:100])


async def _both(*endless: Coroutine[None, None, None]) -> None:
    """Run both coroutines until one fails, then cancel the other. Raises the error of the first."""
    tasks = [asyncio.create_task(one) for one in endless]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _answer(
    socket: WebSocket, inbox: _Inbox, service: Service, current: Callable[[], Service]
) -> None:
    """Send an answer for every window, without end. Raises _Refused, Problem."""
    try:
        options = StreamOptions.model_validate(dict(socket.query_params))
        config = _windowing(service, options)
    except (ValidationError, ConfigError) as error:
        raise _Refused(_REFUSED, _first_line(error)) from error
    windows = _windows(_blocks(inbox, options), options.sample_rate, config)
    idle_s = max(_IDLE_S, 2 * config.window_s)
    while True:
        try:
            async with asyncio.timeout(idle_s):
                window = await anext(windows)
        except TimeoutError as error:
            raise _Refused(_REFUSED, f"no window was full within {idle_s:g} s") from error
        if current() is not service:
            raise _Refused(_ANOTHER_BUNDLE, "another bundle answers now: connect again")
        inferred = await service.model.infer(window.samples, Inspect())
        answer = service.answer(window, inferred, options.top_k)
        await socket.send_text(orjson.dumps(answer).decode())


def _windowing(service: Service, options: StreamOptions) -> FeatureConfig:
    """Return how the stream is cut into windows. Raises ConfigError.

    The smallest hop is window_s / MOST_OVERLAP, or the bundle's own hop if that is smaller.
    """
    feature = service.bundle.feature
    hop_s = options.hop_s or feature.hop_s
    least = min(feature.hop_s, feature.window_s / MOST_OVERLAP)
    if hop_s < least:
        raise ConfigError(f"hop_s {hop_s:g}: must be at least {least:g}")
    return replace(feature, hop_s=hop_s)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


async def _blocks(inbox: _Inbox, options: StreamOptions) -> AsyncIterator[Samples]:
    """Yield blocks of float32 samples [n], full scale ±1, as they arrive. Raises _Refused."""
    dtype = np.dtype("<i2" if options.format == "s16le" else "<f4")
    left = b""
    while True:
        data = left + await inbox.take()
        whole = len(data) - len(data) % dtype.itemsize
        left = data[whole:]
        samples = np.frombuffer(data[:whole], dtype)
        block = samples.astype(np.float32)
        if dtype.kind == "i":
            block *= np.float32(1 / 32_768)
        elif not np.isfinite(block).all() or np.abs(block).max(initial=0) > 1e6:
            raise _Refused(_BAD_DATA, "NaN, infinite or absurdly large samples")
        yield block


async def _windows(
    blocks: AsyncIterator[Samples], rate: int, config: FeatureConfig
) -> AsyncIterator[Window]:
    """Yield each full window as soon as its samples have arrived. Blocks are at `rate` Hz."""
    resampler = soxr.ResampleStream(rate, config.sample_rate, 1, dtype="float32")
    splitter = Splitter(config)
    async for block in blocks:
        if rate != config.sample_rate:
            block = resampler.resample_chunk(block)
        for window in splitter.push(block):
            yield window
