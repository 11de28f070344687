"""Turn recordings into log-mels in a separate process, so that no recording can end a job.

If a file makes the decoder crash, hang or use too much memory, only this file fails: the process
is killed, a new process continues without the file, and the file is listed in the failures. The
process writes a part of features, or sends the windows of recordings back.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiocnn.audio.recording import Recording
from audiocnn.audio.sandbox import Died, Sandbox
from audiocnn.config import AudioLimits, FeatureConfig
from audiocnn.errors import AudioError, InstallationError, UnreadableError
from audiocnn.features.part import FeatureLedger, Item

_ATTEMPTS = 2
"""Number of processes that a recording may kill before it fails."""
_SILENCE_S = 120.0
"""Longest time without a beat, in seconds; after it, a recording counts as hung."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A part to write."""

    path: str
    """Local file to write; it must not exist yet."""
    items: list[Item]
    condemned: dict[int, AudioError]
    """Errors of clips that must not be tried again, by their index in `items`."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Recordings to decode and send as windows, from index `first` on."""

    recordings: list[Recording]
    first: int
    condemned: dict[int, AudioError]


@dataclass(frozen=True, kw_only=True)
class WindowFeatures:
    """Consecutive windows of a recording; arrays are [windows, ...].

    `at` is the index of the recording. `attempt` rises by one each time its windows are sent again,
    because a process died.
    """

    at: int
    attempt: int
    start_s: np.ndarray
    duration_s: np.ndarray
    level_dbfs: np.ndarray
    channel: np.ndarray
    """`start_s` to `channel` are as in `audio.windows.Window`."""
    logmel: np.ndarray
    """[windows, n_mels, n_frames] float16 decibels."""


FOUND = ("start_s", "duration_s", "level_dbfs", "channel", "logmel")
"""Names of the arrays that the process sends for windows."""


@dataclass(frozen=True, kw_only=True)
class RecordingEnd:
    """The end of a recording: all its windows were sent, or it failed with `error`."""

    at: int
    attempt: int
    error: AudioError | UnreadableError | None


class Extractor:
    """A front end in a separate process, which the constructor starts.

    >>> with Extractor(FeatureConfig(), AudioLimits()) as extractor:
    ...     ledger = extractor.part(items, "part.parquet")
    """

    def __init__(
        self,
        feature: FeatureConfig,
        limits: AudioLimits,
        storage_options: dict[str, Any] | None = None,
        *,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self.cpu_s = 0.0
        """CPU time that the process spent on `windows`, in seconds."""
        self._silence_s = silence_s
        settings = (feature, limits, storage_options or {})
        self._child = Sandbox("audiocnn.features.extractor_child", "front end", settings)

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process."""
        self._child.close()

    def part(self, items: list[Item], path: str) -> FeatureLedger:
        """Write the part of these clips to a local file; return its ledger.

        A recording that kills or hangs the process twice fails with reason `crashed`. Raises
        AudioCNNError if the store cannot be reached or the file cannot be written, and
        InstallationError if the process cannot be started.
        """
        condemned: dict[int, AudioError] = {}
        deaths: Counter[int] = Counter()
        while True:
            try:
                self._send(Task(path=path, items=items, condemned=condemned), 0)
                ledger: FeatureLedger = self._receive()[1]
                return ledger
            except Died as death:
                at = self._child.progress.at
                if at == len(items) and deaths[at] + 1 == _ATTEMPTS:
                    self.close()
                    raise InstallationError(f"the process that wrote {path} {death}") from death
                self._begin_again(death, at, deaths, condemned)

    def _begin_again(
        self, death: Died, at: int, deaths: Counter[int], condemned: dict[int, AudioError]
    ) -> None:
        """Start another process; it skips the recording at `at` after `_ATTEMPTS` deaths.

        Raises InstallationError if the process dies there again although it skips the recording.
        """
        deaths[at] += 1
        if deaths[at] > _ATTEMPTS:
            self.close()
            raise InstallationError(f"the process that decodes {death}") from death
        if deaths[at] == _ATTEMPTS:
            condemned[at] = AudioError("crashed", f"the process that decoded it {death}")
        self._child.restart()

    def windows(
        self, recordings: list[Recording]
    ) -> Generator[WindowFeatures | RecordingEnd, None, None]:
        """Yield the windows of recordings, in order, and a RecordingEnd after each recording.

        The process reads and decodes ahead of the caller. If it dies, the windows of the first
        recording without an end are sent again, or this recording fails as in `part`. Raises the
        errors of `part`.
        """
        whole = False
        try:
            yield from self._windows(recordings)
            whole = True
        finally:
            if not whole:  # else the next call would receive the rest of these windows
                self._child.restart()

    def _windows(self, recordings: list[Recording]) -> Iterator[WindowFeatures | RecordingEnd]:
        condemned: dict[int, AudioError] = {}
        deaths: Counter[int] = Counter()
        first = 0
        while first < len(recordings):
            stream = Stream(recordings=recordings, first=first, condemned=condemned)
            try:
                for kind, content in self._stream(stream):
                    if kind == "windows":
                        yield WindowFeatures(attempt=deaths[content["at"]], **content)
                    else:
                        at, error = content
                        first = at + 1
                        yield RecordingEnd(at=at, attempt=deaths[at], error=error)
            except Died as death:
                self._begin_again(death, first, deaths, condemned)

    def _stream(self, stream: Stream) -> Iterator[tuple[str, Any]]:
        self._send(stream, stream.first)
        while True:
            kind, content = self._receive()
            if kind == "done":
                self.cpu_s += content
                return
            yield kind, content

    def _send(self, task: Task | Stream, first: int) -> None:
        """Send a task that begins at index `first`."""
        self._child.wait_until_ready()
        self._child.progress.begin(first)
        self._child.send(task)

    def _receive(self) -> tuple[str, Any]:
        """Return the next message about a task. Raises Died, and the error that ends the task."""
        kind, content = self._child.receive(self._silence_s)
        if kind == "fatal":
            raise content
        return kind, content
