"""The child process in which recordings are decoded; it may be killed at any time.

Only `serve.engine.decoder` starts it. It receives recordings from the network, or requests for
segments of recordings in storage. It sends back the samples of each, or the error.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import process_time
from typing import Any

import numpy as np

from audiocnn import storage
from audiocnn.audio.decode import AudioInfo, AudioLimits, Samples, decode, read
from audiocnn.audio.recording import Recording, closing_source, open_recording
from audiocnn.audio.sandbox import accept
from audiocnn.errors import AudioError, StorageError

MOST_MEMORY = 768 << 20
"""Bytes that this process may allocate: far more than any recording within the limits needs."""


class Slow(Exception):
    """Decoding was stopped because it took more CPU time than this request allows."""


@dataclass(frozen=True, kw_only=True)
class SegmentRequest:
    """A request for a segment of a recording in storage, as mono samples at `sample_rate` Hz."""

    recording: Recording
    """The recording, with the `segment` to decode; without a segment all of it is decoded."""
    sample_rate: int
    limits: AudioLimits
    storage_options: dict[str, dict[str, Any]]


def main() -> None:
    """Decode recordings until the other end closes the socket."""
    connection, _, _ = accept(MOST_MEMORY)
    with suppress(EOFError, OSError):
        connection.send(None)
        while True:
            try:
                info, samples = _answer(connection)
            except (AudioError, StorageError, Slow) as error:
                connection.send(error)
                continue
            except Exception as error:
                # A bug of ours. The process goes on, so that it can decode the other recordings.
                connection.send(AudioError("crashed", f"{type(error).__name__}: {error}"))
                continue
            connection.send(info)
            connection.send_bytes(samples.data)


def _answer(connection: Connection) -> tuple[AudioInfo | None, Samples]:
    """Return the answer to the next message. Raises AudioError, StorageError, Slow, EOFError."""
    request = connection.recv()
    if isinstance(request, SegmentRequest):
        return None, _cut_out(request)
    sample_rate, limits, most_s = request
    body = connection.recv_bytes()
    with _within(most_s) as check:
        return read(body, sample_rate, limits, check)


@contextmanager
def _within(most_s: float | None) -> Iterator[Callable[[], None]]:
    """Yield a function that raises Slow once this process has used `most_s` more CPU seconds.

    None: no limit. Native code that does not return never calls the function. So a signal, SIGPROF,
    kills the process after twice that time.
    """
    until = process_time() + most_s if most_s is not None else float("inf")

    def check() -> None:
        if process_time() > until:
            raise Slow

    signal.setitimer(signal.ITIMER_PROF, 2 * most_s if most_s is not None else 0)
    try:
        yield check
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _cut_out(request: SegmentRequest) -> Samples:
    storage.configure(request.storage_options)
    recording, limits = request.recording, request.limits
    with closing_source(open_recording(recording, limits.max_bytes)) as source:
        blocks = decode(source, request.sample_rate, limits, recording.segment)
        return np.concatenate(list(blocks))
