"""The process in which a recording from the network is decoded; it may be killed at any time.

`python -m serve.decoding FD`, started by `serve.decoder.Decoder` and by nothing else. Over the
socket come recordings; back goes the sound of each, or what is wrong with it.
"""

import resource
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from audiocnn.audio import read
from audiocnn.errors import AudioError

MOST_MEMORY = 768 << 20
"""Bytes that this process may allocate: far more than any recording within the limits takes."""


def main() -> None:
    """Decode until the other end is gone."""
    connection = Connection(int(sys.argv[1]))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(EOFError, OSError):
        connection.send("ready")
        while True:
            sample_rate, limits = connection.recv()
            body = connection.recv_bytes()
            try:
                info, samples = read(body, sample_rate, limits)
            except AudioError as error:
                connection.send(error)
                continue
            except Exception as error:
                # Ours to mend, but not at the cost of every other recording.
                connection.send(AudioError("crashed", f"{type(error).__name__}: {error}"))
                continue
            connection.send(info)
            connection.send_bytes(samples.data)


if __name__ == "__main__":
    main()
