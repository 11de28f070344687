"""The process in which recordings become log-mels; it may be killed at any time.

`python -m audiocnn.extracting FD`, started by `audiocnn.extractor.Extractor` and by nothing else.
Over the socket FD come the configs, then recordings; back go, for each in its order, groups of
windows and then its end, or why it failed.
"""

import logging
import os
import queue
import resource
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import numpy as np
import torch

from audiocnn import storage
from audiocnn.audio import AudioLimits, Source, Window, batched, windows
from audiocnn.errors import AudioCNNError, AudioError, UnreadableError
from audiocnn.features import LogMel
from audiocnn.recordings import Recording, closing, open_recording

_WINDOWS_AT_ONCE = 16
_READERS = 8
_MOST_MEMORY = 4 << 30
"""Bytes that this process may allocate: a recording that takes more is the one that fails."""

_Read = Future[Source]


def main() -> None:
    """Answer recordings until the other end is gone."""
    connection = Connection(int(sys.argv[1]))
    torch.set_num_threads(1)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    feature, limits, storage_options = connection.recv()
    try:
        storage.configure(storage_options)
        logmel = LogMel(feature)
    except AudioCNNError as error:
        connection.send(("fatal", error))
        return
    connection.send(("ready", None))
    reads: queue.Queue[_Read] = queue.Queue()
    Thread(target=_read_ahead, args=(connection, limits, reads), daemon=True).start()
    while True:
        connection.send(_answer(connection, reads.get(), logmel, limits))


def _read_ahead(connection: Connection, limits: AudioLimits, reads: queue.Queue[_Read]) -> None:
    """Begin to read each recording as it is asked for; leave with the other end."""
    readers = ThreadPoolExecutor(_READERS)
    try:
        while True:
            recording: Recording = connection.recv()
            reads.put(readers.submit(open_recording, recording, limits.max_bytes))
    except (EOFError, OSError):
        os._exit(0)


def _answer(
    connection: Connection, read: _Read, logmel: LogMel, limits: AudioLimits
) -> tuple[str, Any]:
    """Send a recording's windows; returns how it ended."""
    try:
        with closing(read.result()) as source:
            for group in batched(windows(source, logmel.config, limits), _WINDOWS_AT_ONCE):
                connection.send(("windows", _features(logmel, group)))
    except (AudioError, UnreadableError) as error:
        return "failed", error
    except AudioCNNError as error:
        return "fatal", error
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except MemoryError:
        return "failed", AudioError("crashed", f"it takes over {_MOST_MEMORY >> 30} GB of memory")
    except Exception as error:
        # Ours to mend, but not at the cost of every other recording.
        logging.getLogger(__name__).exception("a recording failed in a way nobody thought of")
        return "failed", AudioError("crashed", f"{type(error).__name__}: {error}")
    return "done", None


def _features(logmel: LogMel, group: list[Window]) -> dict[str, np.ndarray]:
    """Arrays of a few windows: times, log-mels in float16, and sums over each one's frames."""
    samples = torch.from_numpy(np.stack([window.samples for window in group]))
    half = logmel(samples).half()  # by torch: 20 times as fast as by numpy
    stored = half.float()
    return {
        "start_s": np.array([window.start_s for window in group]),
        "duration_s": np.array([window.duration_s for window in group]),
        "logmel": half.numpy(),
        "total": stored.sum(2).numpy(),
        "squares": stored.square_().sum(2).numpy(),
    }


if __name__ == "__main__":
    main()
