"""The process in which a recording is decoded; it may be killed at any time.

Started by `serve.decoder.Decoder` and by nothing else. Over the socket of its argument come
recordings from the network, or where in storage one is; back goes the sound of each, or what is
wrong with it.
"""

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from audiocnn import storage
from audiocnn.audio import AudioInfo, AudioLimits, Samples, decode, read
from audiocnn.errors import AudioError, StorageError
from audiocnn.recordings import Recording, closing, open_recording

MOST_MEMORY = 768 << 20
"""Bytes that this process may allocate: far more than any recording within the limits takes."""


@dataclass(frozen=True, kw_only=True)
class Cut:
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
            except (AudioError, StorageError) as error:
                connection.send(error)
                continue
            except Exception as error:
                # Ours to mend, but not at the cost of every other recording.
                connection.send(AudioError("crashed", f"{type(error).__name__}: {error}"))
                continue
            connection.send(info)
            connection.send_bytes(samples.data)


def _answer(connection: Connection) -> tuple[AudioInfo | None, Samples]:
    """What the next message asks for. Raises AudioError, StorageError, EOFError."""
    asked = connection.recv()
    if isinstance(asked, Cut):
        return None, _cut_out(asked)
    return read(connection.recv_bytes(), *asked)


def _cut_out(asked: Cut) -> Samples:
    storage.configure(asked.storage_options)
    recording, limits = asked.recording, asked.limits
    with closing(open_recording(recording, limits.max_bytes)) as source:
        blocks = decode(source, asked.sample_rate, limits, recording.segment)
        return np.concatenate(list(blocks))
