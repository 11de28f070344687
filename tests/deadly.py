"""Recordings that kill the process that decodes them, as a hole in a decoder would.

The mark lies in a WAV's samples. `sitecustomize`, which Python runs as it starts, puts the hole
into the front end's process and into no other; the product knows nothing of it.
"""

from pathlib import Path

from audiocnn.synthetic import encode

MARKS = {"segfault": b"MARK-SEGFAULT", "hang": b"MARK-HANG", "memory": b"MARK-MEMORY"}

_HOLE = f"""
import sys

if "audiocnn.extracting" in sys.orig_argv:
    import os, signal, time
    import audiocnn.audio

    plain = audiocnn.audio.windows

    def windows(source, config, limits=None):
        if {MARKS["segfault"]!r} in source:
            os.kill(os.getpid(), signal.SIGSEGV)
        if {MARKS["hang"]!r} in source:
            time.sleep(3600)
        if {MARKS["memory"]!r} in source:
            bytearray(64 << 30)
        yield from plain(source, config, limits)

    audiocnn.audio.windows = windows
"""


def hole(folder: Path) -> str:
    """A folder for PYTHONPATH that makes the front end's process vulnerable."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOLE)
    return str(folder)


def wav(kind: str) -> bytes:
    """A recording of a second that is deadly where there is a hole."""
    import numpy as np

    data = bytearray(encode(np.zeros(16_000), 16_000))
    data[100 : 100 + len(MARKS[kind])] = MARKS[kind]
    return bytes(data)
