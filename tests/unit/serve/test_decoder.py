"""Recordings that take long to decode do not delay other recordings."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiocnn.audio.decode import read
from audiocnn.errors import AudioError
from helpers.hostile import sound, wav
from serve.engine.decoder import Decoder, Lane
from serve.engine.decoder_child import Slow
from serve.options import LIMITS

_SPINS = """
import sys

if any("serve.engine.decoder_child" in a for a in sys.orig_argv):
    import audiocnn.audio.decode

    plain = audiocnn.audio.decode.read

    def read(source, *more):
        while b"MARK-SPIN" in source:  # as native code that does not come back
            pass
        return plain(source, *more)

    audiocnn.audio.decode.read = read
"""


def float_wav(mark: bytes = b"") -> bytes:
    """Return a recording that a child process must decode, with a mark among its samples."""
    body = bytearray(wav(np.zeros(16_000, "<f4").tobytes(), codec=3, bits=32))
    body[1_000 : 1_000 + len(mark)] = mark
    return bytes(body)


def test_twenty_slow_recordings_keep_only_one_another_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body, others = sound("flac"), (sound("mp3"), sound("ogg"), float_wav(), wav())
    decoder, waiting = Decoder(LIMITS, timeout_s=600.0), 0

    async def run() -> None:
        free, begun = asyncio.Event(), decoder._slow.ask

        async def held(*asked: Any) -> Any:
            nonlocal waiting
            waiting += 1
            await free.wait()
            return await begun(*asked)

        monkeypatch.setattr(decoder._slow, "ask", held)
        monkeypatch.setattr("serve.engine.decoder._QUICK_S", 0.0)  # every recording is slow
        slow = [asyncio.create_task(decoder.decode(body, 16_000)) for _ in range(20)]
        while waiting < 20:
            await asyncio.sleep(0.01)
        monkeypatch.setattr("serve.engine.decoder._QUICK_S", 600.0)
        for other in others:
            _, samples = await decoder.decode(other, 16_000)
            np.testing.assert_array_equal(samples, read(other, 16_000)[1])
        assert not any(task.done() for task in slow)
        free.set()
        for info, samples in await asyncio.gather(*slow):
            assert info.container == "flac"
            np.testing.assert_array_equal(samples, read(body, 16_000)[1])

    asyncio.run(run())
    decoder.close()


def test_a_decoder_gives_up_what_takes_too_long_here_and_goes_on() -> None:
    lane = Lane()
    pid = lane._child.pid

    async def run() -> None:
        with pytest.raises(Slow):
            await lane.ask((16_000, LIMITS, 0.0), sound("flac"), 600.0)
        for most_s in (None, 600.0):
            _, samples = await lane.ask((16_000, LIMITS, most_s), sound("flac"), 600.0)
            assert len(samples) == 32_000

    asyncio.run(run())
    assert lane._child.pid == pid  # the process did not fail
    lane.close()


def test_one_that_never_ends_is_killed_soon_where_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_SPINS)
    monkeypatch.syspath_prepend(str(tmp_path))
    lane = Lane()

    async def run() -> None:
        with pytest.raises(Slow):
            await lane.ask((16_000, LIMITS, 0.1), float_wav(b"MARK-SPIN"), 600.0)
        _, samples = await lane.ask((16_000, LIMITS, None), sound("flac"), 600.0)
        assert len(samples) == 32_000
        with pytest.raises(AudioError, match="took too long"):
            await lane.ask((16_000, LIMITS, None), float_wav(b"MARK-SPIN"), 1.0)
        _, samples = await lane.ask((16_000, LIMITS, None), sound("flac"), 600.0)
        assert len(samples) == 32_000

    asyncio.run(run())
    lane.close()
