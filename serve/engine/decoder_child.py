"""The process in which a recording is decoded; it may be killed at any time.

Started by `serve.engine.decoder.Decoder` and by nothing else. Over the socket of its argument come
recordings from the network, or where in storage one is; back goes the sound of each, or what is
wrong with it.
"""

import resource
import signal
import sys
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
from audiocnn.errors import AudioError, StorageError

MOST_MEMORY = 768 << 20
"""Bytes that this process may allocate: far more than any recording within the limits takes."""


class Slow(Exception):
    """A recording that was given up because it takes longer than it may here."""


@dataclass(frozen=True, kw_only=True)
class SegmentRequest:
    """A segment of a recording in storage, as mono samples at a rate."""

    recording: Recording
    """With the `segment` that is wanted; all of it without one."""
    sample_rate: int
    limits: AudioLimits
    storage_options: dict[str, dict[str, Any]]


def main() -> None:
    """Decode until the other end is gone."""
    connection = Connection(int(sys.argv[1]))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(EOFError, OSError):
        connection.send("ready")
        while True:
            try:
                info, samples = _answer(connection)
            except (AudioError, StorageError, Slow) as error:
                connection.send(error)
                continue
            except Exception as error:
                # Ours to mend, but not at the cost of every other recording.
                connection.send(AudioError("crashed", f"{type(error).__name__}: {error}"))
                continue
            connection.send(info)
            connection.send_bytes(samples.data)


def _answer(connection: Connection) -> tuple[AudioInfo | None, Samples]:
    """What the next message asks for. Raises AudioError, StorageError, Slow, EOFError."""
    asked = connection.recv()
    if isinstance(asked, SegmentRequest):
        return None, _cut_out(asked)
    sample_rate, limits, most_s = asked
    body = connection.recv_bytes()
    with _within(most_s) as check:
        return read(body, sample_rate, limits, check)


@contextmanager
def _within(most_s: float | None) -> Iterator[Callable[[], None]]:
    """A function that raises Slow once this process has computed for so many seconds more.

    Where nobody calls it, in native code that does not come back, twice as long ends the process.
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


def _cut_out(asked: SegmentRequest) -> Samples:
    storage.configure(asked.storage_options)
    recording, limits = asked.recording, asked.limits
    with closing_source(open_recording(recording, limits.max_bytes)) as source:
        blocks = decode(source, asked.sample_rate, limits, recording.segment)
        return np.concatenate(list(blocks))
