"""Recordings -> log-mels in a process of their own, so that no recording can end a job.

A file that makes a decoder crash, hang or eat the memory costs itself alone: the process is
killed, a new one goes on behind the file, and the file is named in the failures.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

import numpy as np

from audiocnn.config import AudioLimits, FeatureConfig
from audiocnn.errors import AudioCNNError, AudioError, InstallationError
from audiocnn.recordings import Recording

_AHEAD = 16
"""Recordings that are asked for before the first of them is answered."""
_ATTEMPTS = 2
_SILENCE_S = 120.0
"""Seconds without an answer after which a recording is taken to hang."""
_START_S = 300.0
"""Seconds in which it must have imported what it needs, on a busy machine or a slow disk too."""
_IN_MEMORY = 32 << 20

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc gives arrays of a few hundred kB back to the kernel and faults them in again.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


@dataclass(kw_only=True)
class Windows:
    """A recording's windows; beyond 32 MB their log-mels are in a temporary file.

    `total` and `squares` are [windows, n_mels] sums over frames, of decibels and their squares.
    """

    start_s: list[float] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    total: list[np.ndarray] = field(default_factory=list)
    squares: list[np.ndarray] = field(default_factory=list)
    _shape: tuple[int, ...] = ()
    _logmels: IO[bytes] = field(
        default_factory=lambda: tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    )

    def __len__(self) -> int:
        return len(self.start_s)

    def append(self, group: dict[str, np.ndarray]) -> None:
        """Add what the process sent."""
        self.start_s += group["start_s"].tolist()
        self.duration_s += group["duration_s"].tolist()
        self.total += list(group["total"])
        self.squares += list(group["squares"])
        self._shape = group["logmel"].shape[1:]
        self._logmels.write(group["logmel"].data)

    def logmels(self) -> Iterator[np.ndarray]:
        """Each window's, [n_mels, n_frames] float16."""
        self._logmels.seek(0)
        size = 2 * int(np.prod(self._shape))
        for _ in self.start_s:
            yield np.frombuffer(self._logmels.read(size), np.float16).reshape(self._shape)

    def close(self) -> None:
        """Let the temporary file go."""
        self._logmels.close()


class _Died(Exception):
    """The process is gone, or does not answer."""


class Extractor:
    """A front end in a process of its own, started when it is first needed.

    >>> with Extractor(FeatureConfig(), AudioLimits()) as extractor:
    ...     for recording, found in extractor.extract([Recording(uri="dog.wav")]):
    ...         print(recording.uri, found)
    """

    def __init__(
        self,
        feature: FeatureConfig,
        limits: AudioLimits,
        storage_options: dict[str, Any] | None = None,
        *,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._configs = (feature, limits, storage_options or {})
        self._silence_s = silence_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def extract(
        self, recordings: Iterable[Recording]
    ) -> Iterator[tuple[Recording, "Windows | AudioCNNError"]]:
        """Each recording in order, with its windows or why it failed: AudioError, UnreadableError.

        Windows can be read until the next recording is asked for.
        A recording that twice kills the process, or leaves it silent, failed: `crashed`. Raises
        any other AudioCNNError, and InstallationError where the process cannot be started.
        """
        coming, asked = iter(recordings), deque[Recording]()
        attempts: Counter[str] = Counter()
        found = Windows()
        self._begin(asked)
        while True:
            try:
                while len(asked) < _AHEAD and (recording := next(coming, None)) is not None:
                    asked.append(recording)
                    self._send(recording)
                if not asked:
                    return
                kind, content = self._receive(self._silence_s)
            except _Died as death:
                found.close()
                found = Windows()
                guilty = asked[0]
                attempts[guilty.uri] += 1
                if attempts[guilty.uri] == _ATTEMPTS:
                    yield asked.popleft(), AudioError("crashed", str(death))
                self._begin(asked)
                continue
            if kind == "windows":
                found.append(content)
                continue
            if kind == "fatal":
                raise content
            yield asked.popleft(), found if kind == "done" else content
            found.close()
            found = Windows()

    def _begin(self, asked: Iterable[Recording]) -> None:
        """A process that answers, and was asked for all of these."""
        if self._process is None:
            self._start()
        for recording in asked:
            self._send(recording)

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        # Not multiprocessing's own start: it would import the main module, which is Ray's.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "audiocnn.extracting", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                **_ENVIRONMENT,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
        )
        theirs.close()
        self._connection.send(self._configs)
        try:
            kind, content = self._receive(_START_S)
        except _Died as death:
            raise InstallationError(f"the front end's process did not start: {death}") from death
        if kind == "fatal":
            self.close()
            raise content

    def _send(self, recording: Recording) -> None:
        if self._connection is None:
            raise _Died("it is gone")
        with suppress(OSError):  # it died; receiving says how
            self._connection.send(recording)

    def _receive(self, seconds: float) -> tuple[str, Any]:
        """The next message. Raises _Died, and leaves no process behind."""
        if self._process is None or self._connection is None:
            raise _Died("it is gone")
        try:
            if self._connection.poll(seconds):
                message: tuple[str, Any] = self._connection.recv()
                return message
            reason = f"gave no answer in {seconds:g} s"
        except (EOFError, OSError):
            code = self._process.wait()
            reason = f"died of signal {-code}" if code < 0 else f"ended with code {code}"
        self.close()
        raise _Died(f"the process that decoded it {reason}")
