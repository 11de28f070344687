"""The process that turns recordings into log-mels; it may be killed at any time.

Only `Extractor` starts it. It receives the configs, then parts to write or recordings to stream. It
sends the ledger of each part, the windows of recordings, or an error that ends the job.
"""

import errno
import logging
import os
import queue
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Thread
from time import process_time
from typing import Any

import numpy as np

from audiocnn import storage
from audiocnn.audio.decode import AudioLimits, Segment, Source, Window, batched, windows
from audiocnn.audio.recording import Recording, begin_to_read, closing_source
from audiocnn.audio.sandbox import Progress, accept
from audiocnn.config import FeatureConfig
from audiocnn.errors import AudioCNNError, AudioError, StorageError, UnreadableError
from audiocnn.features.extractor import FOUND, Stream, Task
from audiocnn.features.logmel import LogMel
from audiocnn.features.part import FeatureLedger, recording_of
from audiocnn.features.part_writer import CollectedWindows, PartWriter

_WINDOWS_AT_ONCE = 16
_READERS = 8
_AHEAD = 16
"""Number of clips that are read ahead of decoding."""
_MOST_MEMORY = 4 << 30
"""Most memory that this process may allocate, in bytes; a recording that needs more fails."""

_Read = Callable[[], Source]


def main() -> None:
    """Write parts and stream recordings until the parent process closes the socket."""
    connection, progress, (feature, limits, storage_options) = accept(_MOST_MEMORY)
    try:
        storage.configure(storage_options)
        front_end = _FrontEnd(feature, limits, progress)
    except AudioCNNError as error:
        connection.send(error)
        return
    connection.send(None)
    tasks: queue.Queue[Task | Stream] = queue.Queue()
    Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    while True:
        with suppress(OSError):
            connection.send(_answer(front_end, tasks.get(), connection))


def _answer(
    front_end: "_FrontEnd", task: Task | Stream, connection: Connection
) -> tuple[str, FeatureLedger | float | AudioCNNError]:
    """Do a task; return the last message about it."""
    try:
        if isinstance(task, Task):
            return "done", front_end.part(task)
        began = process_time()
        for message in front_end.windows(task):
            connection.send(message)
        return "done", process_time() - began
    except AudioCNNError as error:
        return "fatal", error
    except OSError as error:
        path = task.path if isinstance(task, Task) else tempfile.gettempdir()
        return "fatal", StorageError(f"{path}: {error.strerror or error}")


def _listen(connection: Connection, tasks: "queue.Queue[Task | Stream]") -> None:
    """Put received tasks in the queue; exit at once when the socket closes, even during a task."""
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


class _FrontEnd:
    """The work of this process: recordings to parts, or to windows."""

    def __init__(self, feature: FeatureConfig, limits: AudioLimits, progress: Progress) -> None:
        self.logmel, self.limits, self.progress = LogMel(feature), limits, progress
        self.readers = ThreadPoolExecutor(_READERS)

    def part(self, task: Task) -> FeatureLedger:
        """Write a part; return its ledger.

        Raises AudioCNNError or OSError if the store cannot be read or the part cannot be written.
        """
        with PartWriter(task.path, self.logmel.config) as part:
            recordings = [recording_of(item) for item in task.items]
            for at, read in self._read_ahead(recordings):
                self.progress.begin(at)
                item = task.items[at]
                try:
                    if at in task.condemned:
                        raise task.condemned[at]
                    with CollectedWindows() as found:
                        for features in self._groups(read, recordings[at].segment):
                            found.append(**features)
                        part.add(item, found)
                except (AudioError, UnreadableError) as error:
                    part.fail(item, error)
            self.progress.begin(len(task.items))
            return part.finish()

    def windows(self, task: Stream) -> Iterator[tuple[str, Any]]:
        """Yield messages of windows, and one message at the end of each recording.

        Raises AudioCNNError if the store cannot be read.
        """
        for at, read in self._read_ahead(task.recordings, task.first):
            self.progress.begin(at)
            try:
                if at in task.condemned:
                    raise task.condemned[at]
                for features in self._groups(read, task.recordings[at].segment):
                    found = {name: features[name] for name in FOUND}
                    yield "windows", {"at": at, **found}
            except (AudioError, UnreadableError) as error:
                yield "ended", (at, error)
            else:
                yield "ended", (at, None)

    def _read_ahead(
        self, recordings: list[Recording], first: int = 0
    ) -> Iterator[tuple[int, _Read]]:
        """Yield each recording's index and a function that returns its bytes; reading has begun."""
        reads: deque[_Read] = deque()
        for at in range(first, len(recordings)):
            for ahead in range(at + len(reads), min(at + _AHEAD, len(recordings))):
                reads.append(begin_to_read(recordings[ahead], self.limits.max_bytes, self.readers))
            yield at, reads.popleft()

    def _groups(self, read: _Read, segment: Segment | None) -> Iterator[dict[str, np.ndarray]]:
        """Yield the arrays of a recording's windows, some at a time. Raises AudioCNNError."""
        try:
            with closing_source(read()) as source:
                cut = windows(source, self.logmel.config, self.limits, segment)
                for group in batched(cut, _WINDOWS_AT_ONCE):
                    yield self._features(group)
                    self.progress.beat()
        except AudioCNNError:
            raise
        except OSError as error:
            if error.errno == errno.ENOSPC:  # the disk is full: the next recording would fail too
                raise StorageError(f"{tempfile.gettempdir()}: {error.strerror}") from error
            raise AudioError("decode", str(error)) from error
        except MemoryError as error:
            most = f"it needs more than {_MOST_MEMORY >> 30} GB of memory"
            raise AudioError("crashed", most) from error
        except Exception as error:
            # This is a bug in audiocnn. It fails this recording only, not all the others.
            logging.getLogger(__name__).exception("a recording failed with an unexpected error")
            raise AudioError("crashed", f"{type(error).__name__}: {error}") from error

    def _features(self, group: list[Window]) -> dict[str, np.ndarray]:
        """Return arrays [windows, ...]: times, level, channel, float16 log-mels, band sums."""
        half = self.logmel([window.samples for window in group]).astype(np.float16)
        stored = half.astype(np.float32)
        return {
            "start_s": np.array([window.start_s for window in group]),
            "duration_s": np.array([window.duration_s for window in group]),
            "level_dbfs": np.array([window.level_dbfs for window in group], np.float32),
            "channel": np.array([window.channel for window in group], np.int32),
            "logmel": half,
            "total": stored.sum(axis=2),
            "squares": np.square(stored, out=stored).sum(axis=2),
        }
