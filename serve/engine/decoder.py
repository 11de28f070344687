"""Untrusted recordings -> samples.

16-bit WAV is read by numpy alone. Any other format goes through libsndfile, in child processes.
Their memory is limited, and they are killed when they take too long.
"""

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, cast

import numpy as np

from audiocnn.audio.decode import AudioInfo, AudioLimits, Samples, needs_libsndfile, read
from audiocnn.audio.sandbox import Died, Sandbox
from audiocnn.errors import AudioError, InstallationError, StorageError
from serve.engine.decoder_child import SegmentRequest, Slow

_LOG = logging.getLogger("audiocnn.serve")
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
        self._child = Sandbox("serve.engine.decoder_child", "decoder")

    def close(self) -> None:
        """Kill the process. Nothing may be decoded afterwards."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._child.close()

    async def cut_out(self, cut: SegmentRequest, timeout_s: float) -> Samples:
        """Return a segment of a recording in storage, [n]. Raises AudioError, StorageError."""
        _, samples = await self.ask(cut, None, timeout_s)
        return samples

    async def ask(
        self, what: Any, body: bytes | None, timeout_s: float
    ) -> tuple[AudioInfo | None, Samples]:
        """Return the child's answer to `what` and `body`.

        Raises the AudioError, StorageError or Slow that it sends, AudioError `crashed` if it dies
        or takes too long, Slow if its own timer of CPU time (SIGPROF) killed it, and
        InstallationError if it cannot start.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._ask, what, body, timeout_s)

    def _ask(
        self, what: Any, body: bytes | None, timeout_s: float
    ) -> tuple[AudioInfo | None, Samples]:
        try:
            self._child.wait_until_ready()
        except InstallationError as error:
            _LOG.error(str(error))
            raise
        deadline = monotonic() + timeout_s
        self._child.send(what, body)
        try:
            answer = self._child.receive(timeout_s)
            if isinstance(answer, AudioError | StorageError | Slow):
                raise answer
            samples = self._child.receive_bytes(deadline - monotonic())
            return answer, np.frombuffer(samples, np.float32)
        except Died as death:
            self._child.restart()
            if death.signal == signal.SIGPROF:
                raise Slow from death
            how = "took too long" if death.late else str(death)
            raise AudioError("crashed", f"the process that decoded it {how}") from death
