"""Turn recordings into log-mels in a separate process, so that no recording can end a job.

If a file makes the decoder crash, hang or use too much memory, only this file fails: the process
is killed, a new process continues without the file, and the file is listed in the failures. The
process writes a part of features, or sends the windows of recordings back.
"""

import mmap
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from time import monotonic
from typing import Any

import numpy as np

from audiocnn.audio.recording import Recording
from audiocnn.config import AudioLimits, FeatureConfig
from audiocnn.errors import AudioError, InstallationError, UnreadableError
from audiocnn.features.part import FeatureLedger, Item

_ATTEMPTS = 2
"""Number of processes that a recording may kill before it fails."""
_STARTS = 5
"""Highest number of starts in a row if the process is killed while it starts."""
_SILENCE_S = 120.0
"""Longest time without a beat, in seconds; after it, a recording counts as hung."""
_START_S = 300.0
"""Longest start of the process, in seconds; a busy machine or a slow disk may need minutes."""

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # NumPy multiplies matrices with it
    # By default, glibc returns arrays of a few hundred kB to the kernel and maps them again.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


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

    `at` is the index of the recording. `attempt` is higher if its windows are sent again from the
    beginning, because a process died.
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


class Progress:
    """Two numbers in a file that both processes map: the index of the current clip, and a beat."""

    def __init__(self, descriptor: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, 16)).cast("q")

    @property
    def at(self) -> int:
        """Index of the clip that is being decoded; the number of clips when all are decoded."""
        return self._numbers[0]

    @property
    def beats(self) -> int:
        """Counter that rises with every step of the work."""
        return self._numbers[1]

    def begin(self, at: int) -> None:
        """Set the index of the current clip, and beat."""
        self._numbers[0] = at
        self.beat()

    def beat(self) -> None:
        """Raise the counter, which shows that the process is not hung."""
        self._numbers[1] += 1


class _Died(Exception):
    """The process died or does not answer; `at` is the index of the clip that it was decoding."""

    def __init__(self, reason: str, at: int, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.at, self.killed = at, killed


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
        self._configs = (feature, limits, storage_options or {})
        self._silence_s = silence_s
        self._shared = tempfile.TemporaryFile()  # noqa: SIM115
        self._shared.truncate(16)
        self._progress = Progress(self._shared.fileno())
        self._start()

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

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
                return self._ask(Task(path=path, items=items, condemned=condemned))
            except _Died as death:
                if death.at == len(items) and deaths[death.at] + 1 == _ATTEMPTS:
                    self.close()
                    raise InstallationError(f"the process that wrote {path} {death}") from death
                self._begin_again(death, death.at, deaths, condemned)

    def _begin_again(
        self, death: _Died, at: int, deaths: Counter[int], condemned: dict[int, AudioError]
    ) -> None:
        """Start another process; it skips the recording at `at` after `_ATTEMPTS` deaths.

        Raises InstallationError if the process dies there again although it skips the recording.
        """
        self.close()
        deaths[at] += 1
        if deaths[at] > _ATTEMPTS:
            raise InstallationError(f"the process that decodes {death}") from death
        if deaths[at] == _ATTEMPTS:
            condemned[at] = AudioError("crashed", f"the process that decoded it {death}")
        self._start()

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
                self.close()
                self._start()

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
            except _Died as death:
                self._begin_again(death, first, deaths, condemned)

    def _stream(self, stream: Stream) -> Iterator[tuple[str, Any]]:
        self._send(stream, stream.first)
        while True:
            kind, content = self._receive(self._silence_s)
            if kind == "fatal":
                raise content
            if kind == "done":
                self.cpu_s += content
                return
            yield kind, content

    def _ask(self, task: Task) -> FeatureLedger:
        self._send(task, 0)
        kind, content = self._receive(self._silence_s)
        if kind == "fatal":
            raise content
        ledger: FeatureLedger = content
        return ledger

    def _send(self, task: Task | Stream, first: int) -> None:
        if not self._ready:
            self._wait_until_ready()
        self._progress.begin(first)
        with suppress(OSError):  # the process died; `_receive` raises the reason
            self._connection.send(task)

    def _start(self) -> None:
        self._ready = False
        self._connection, theirs = Pipe()
        descriptors = theirs.fileno(), self._shared.fileno()
        # multiprocessing would import the main module, which is Ray's, so use subprocess.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "audiocnn.features.extractor_child", *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                **_ENVIRONMENT,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
        )
        theirs.close()

    def _wait_until_ready(self) -> None:
        for start in range(1, _STARTS + 1):
            try:
                with suppress(OSError):
                    self._connection.send(self._configs)
                kind, content = self._receive(_START_S)
                break
            except _Died as death:
                # A killed process may mean that memory was short for a moment: start another one.
                if not death.killed or start == _STARTS:
                    raise InstallationError(
                        f"the front end's process {death} as it started"
                    ) from death
                self.close()
                self._start()
        if kind == "fatal":
            raise content
        self._ready = True

    def _receive(self, seconds: float) -> tuple[str, Any]:
        """Wait for a message. Raises _Died if the process ends or does not beat for `seconds`."""
        beats, since = self._progress.beats, monotonic()
        try:
            while not self._connection.poll(seconds / 8):
                if self._progress.beats != beats:
                    beats, since = self._progress.beats, monotonic()
                elif monotonic() - since > seconds:
                    raise _Died(f"gave no answer in {seconds:g} s", self._progress.at)
            message: tuple[str, Any] = self._connection.recv()
            return message
        except (EOFError, OSError) as error:
            code = self._process.wait()
            reason = f"died of signal {-code}" if code < 0 else f"ended with code {code}"
            raise _Died(reason, self._progress.at, killed=code < 0) from error
