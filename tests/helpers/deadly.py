"""Recordings that kill the process that decodes them, as a bug in a decoder could.

The samples of a WAV contain a mark. Python runs `sitecustomize` when it starts. Ours adds the bug
to the processes that decode, and to no others. The product has no code for this.
"""

from pathlib import Path

from audiocnn.audio.encode import encode

MARKS = {"segfault": b"MARK-SEGFAULT", "hang": b"MARK-HANG", "memory": b"MARK-MEMORY"}

_HOLE = f"""
import sys

CHILDREN = "audiocnn.features.extractor_child", "serve.engine.decoder_child"
if any(child in word for child in CHILDREN for word in sys.orig_argv):
    import os, signal, time
    import audiocnn.audio.decode

    plain, plain_read = audiocnn.audio.decode.windows, audiocnn.audio.decode.read

    def suffer(source):
        if {MARKS["segfault"]!r} in source:
            os.kill(os.getpid(), signal.SIGSEGV)
        if {MARKS["hang"]!r} in source:
            time.sleep(3600)
        if {MARKS["memory"]!r} in source:
            bytearray(64 << 30)

    def windows(source, *more):
        suffer(source)
        yield from plain(source, *more)

    def read(source, *more):
        suffer(source)
        return plain_read(source, *more)

    audiocnn.audio.decode.windows, audiocnn.audio.decode.read = windows, read
"""


def hole(folder: Path) -> str:
    """Write a folder for PYTHONPATH that adds the bug to processes that decode; return its path."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOLE)
    return str(folder)


def wav(kind: str, codec: str = "PCM_16") -> bytes:
    """A recording of a second that kills a process with the bug, in the way of `MARKS`."""
    import numpy as np

    data = bytearray(encode(np.zeros(16_000), 16_000, codec=codec))
    data[100 : 100 + len(MARKS[kind])] = MARKS[kind]
    return bytes(data)
