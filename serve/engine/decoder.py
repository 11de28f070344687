"""Untrusted recordings -> samples.

16-bit WAV is read by numpy alone. Any other format goes through libsndfile, in child processes.
Their memory is limited, and they are killed when they take too long.
"""

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from time import monotonic
from typing import Any, cast

import numpy as np

from audiocnn.audio.decode import AudioInfo, AudioLimits, Samples, needs_libsndfile, read
from audiocnn.errors import AudioError, InstallationError, StorageError
from serve.engine.decoder_child import SegmentRequest, Slow

_CHILD = "from serve.engine.decoder_child import main; main()"
"""Code of the child process. Not `-m`: that would name the module `__main__`, and the objects that
are sent are pickled by the module's real name."""
_START_S = 120.0
"""Seconds that the process may take to import its modules, also on a busy machine."""
_QUICK_S = 0.25
"""CPU seconds for which a recording may keep others waiting; a minute of FLAC takes less."""


class Decoder:
    """Decode recordings; each attempt may take `timeout_s` seconds.

    A recording that takes long starts again in a second process, the slow lane. Only other slow
    recordings wait there, so that many slow ones do not delay the quick ones.
    """

    def __init__(self, limits: AudioLimits, *, timeout_s: float = 15.0) -> None:
        self.limits, self.timeout_s = limits, timeout_s
        self._plain = ThreadPoolExecutor(1, "decode")
        self._quick, self._slow = Lane(), Lane()

    def close(self) -> None:
        """Kill the processes. Nothing may be decoded afterwards."""
        self._plain.shutdown(wait=True, cancel_futures=True)
        self._quick.close()
        self._slow.close()

    async def decode(self, body: bytes, sample_rate: int) -> tuple[AudioInfo, Samples]:
        """Return the header's contents and mono float32 samples [n] at `sample_rate` Hz.

        Raises AudioError, and InstallationError if the child process cannot start.
        """
        loop = asyncio.get_running_loop()
        plain = await loop.run_in_executor(self._plain, self._read_plain, body, sample_rate)
        if plain is not None:
            return plain
        what = sample_rate, self.limits
        try:
            info, samples = await self._quick.ask((*what, _QUICK_S), body, self.timeout_s)
        except Slow:
            info, samples = await self._slow.ask((*what, None), body, self.timeout_s)
        return cast(AudioInfo, info), samples

    def _read_plain(self, body: bytes, sample_rate: int) -> tuple[AudioInfo, Samples] | None:
        """Decode a recording that needs no process; None for any other one. Raises AudioError."""
        return None if needs_libsndfile(body) else read(body, sample_rate, self.limits)


class Lane:
    """A process that decodes one recording after another, in the order of their arrival."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "decode")
        self._process = _Process()

    def close(self) -> None:
        """Kill the process. Nothing may be decoded afterwards."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._process.close()

    async def cut_out(self, cut: SegmentRequest, timeout_s: float) -> Samples:
        """Return a segment of a recording in storage, [n]. Raises AudioError, StorageError."""
        _, samples = await self.ask(cut, None, timeout_s)
        return samples

    async def ask(
        self, what: Any, body: bytes | None, timeout_s: float
    ) -> tuple[AudioInfo | None, Samples]:
        """Return the child's answer to `what` and `body`. Raises AudioError, StorageError, Slow."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._ask, what, body, timeout_s)

    def _ask(
        self, what: Any, body: bytes | None, timeout_s: float
    ) -> tuple[AudioInfo | None, Samples]:
        try:
            return self._process.ask(what, body, timeout_s)
        finally:
            if self._process.failed:
                self._process.close()
                self._process = _Process()


class _Process:
    """A process that decodes. It starts at once; the first request waits until it is ready."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        # multiprocessing's own way to start a process would import the main module, which is Ray's.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _CHILD, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
        )
        theirs.close()
        self._ready = False
        self.failed = False
        """Whether the process can no longer be used."""

    def close(self) -> None:
        """Kill the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def ask(
        self, what: Any, body: bytes | None, timeout_s: float
    ) -> tuple[AudioInfo | None, Samples]:
        """Return the child's answer, or raise the AudioError, StorageError or Slow that it sends.

        Also raises AudioError `crashed` if the process dies or takes too long, InstallationError if
        it cannot start, and Slow if its own timer of CPU time (SIGPROF) killed it.
        """
        try:
            if not self._ready:
                self._wait(monotonic() + _START_S)
                self._connection.recv()
                self._ready = True
            deadline = monotonic() + timeout_s
            self._connection.send(what)
            if body is not None:
                self._connection.send_bytes(body)
            self._wait(deadline)
            answer = self._connection.recv()
            if isinstance(answer, AudioError | StorageError | Slow):
                raise answer
            self._wait(deadline)
            return answer, np.frombuffer(self._connection.recv_bytes(), np.float32)
        except (EOFError, OSError) as error:
            self.failed = True
            code = self._process.wait()
            if code == -signal.SIGPROF:
                raise Slow from error
            how = f"died of signal {-code}" if code < 0 else f"ended with code {code}"
            if not self._ready and code > 0:
                raise InstallationError(f"the decoder's process {how} as it started") from error
            raise AudioError("crashed", f"the process that decoded it {how}") from error

    def _wait(self, deadline: float) -> None:
        if not self._connection.poll(max(0.0, deadline - monotonic())):
            self.failed = True
            raise AudioError("crashed", "the process that decoded it took too long")
