"""Recordings -> samples, without trusting a byte of them.

16-bit WAV is read by numpy alone. Anything else goes through libsndfile, in a process that is
killed when it takes too long, and whose memory is bounded.
"""

import asyncio
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from time import monotonic
from typing import Any, cast

import numpy as np

from audiocnn.audio import AudioInfo, AudioLimits, Samples, needs_libsndfile, read
from audiocnn.errors import AudioError, InstallationError, StorageError
from serve.decoding import Cut

_CHILD = "from serve.decoding import main; main()"
"""Not `-m`: what is sent is unpickled as that module's."""
_START_S = 120.0
"""Seconds in which the process must have imported what it needs, on a busy machine too."""


class Decoder:
    """Decodes recordings, `processes` at once, each within `timeout_s` seconds."""

    def __init__(self, limits: AudioLimits, *, processes: int = 1, timeout_s: float = 15.0) -> None:
        self.limits, self.timeout_s = limits, timeout_s
        self._threads = ThreadPoolExecutor(processes, "decode")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(_Process())

    def close(self) -> None:
        """Kill the processes. Nothing may be decoded any more."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    async def decode(self, body: bytes, sample_rate: int) -> tuple[AudioInfo, Samples]:
        """What the header says, and mono float32 samples at a rate. Raises AudioError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._decode, body, sample_rate)

    async def cut_out(self, cut: Cut) -> Samples:
        """A segment of a recording in storage. Raises AudioError, StorageError."""
        loop = asyncio.get_running_loop()
        _, samples = await loop.run_in_executor(self._threads, self._ask, cut, None)
        return samples

    def _decode(self, body: bytes, sample_rate: int) -> tuple[AudioInfo, Samples]:
        if not needs_libsndfile(body):
            return read(body, sample_rate, self.limits)
        info, samples = self._ask((sample_rate, self.limits), body)
        return cast(AudioInfo, info), samples

    def _ask(self, what: Any, body: bytes | None) -> tuple[AudioInfo | None, Samples]:
        process = self._idle.get()
        try:
            return process.ask(what, body, self.timeout_s)
        except (AudioError, InstallationError) as error:
            if not isinstance(error, AudioError) or error.reason == "crashed":
                process.close()
                process = _Process()
            raise
        finally:
            self._idle.put(process)


class _Process:
    """A process that decodes; it starts at once, and is waited for when it is first needed."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        # Not multiprocessing's own start: it would import the main module, which is Ray's.
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

    def close(self) -> None:
        """Kill it."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def ask(
        self, what: Any, body: bytes | None, timeout_s: float
    ) -> tuple[AudioInfo | None, Samples]:
        """What `serve.decoding` answers; `crashed` where the process dies or takes too long."""
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
            if isinstance(answer, AudioError | StorageError):
                raise answer
            self._wait(deadline)
            return answer, np.frombuffer(self._connection.recv_bytes(), np.float32)
        except (EOFError, OSError) as error:
            code = self._process.wait()
            how = f"died of signal {-code}" if code < 0 else f"ended with code {code}"
            if not self._ready and code > 0:
                raise InstallationError(f"the decoder's process {how} as it started") from error
            raise AudioError("crashed", f"the process that decoded it {how}") from error

    def _wait(self, deadline: float) -> None:
        if not self._connection.poll(max(0.0, deadline - monotonic())):
            raise AudioError("crashed", "the process that decoded it took too long")
