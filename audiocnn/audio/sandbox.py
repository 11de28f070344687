"""A child process for untrusted recordings: it may be killed at any time, and starts again.

The parent makes a `Sandbox` of a module. The module's `main` begins with `accept`, then sends None
when it can take requests, or an AudioCNNError if it never will.
"""

import mmap
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, TypeVar

from audiocnn.errors import InstallationError
from audiocnn.storage.machine import MALLOC

_STARTS = 5
"""Highest number of starts in a row if the process is killed while it starts."""
_START_S = 300.0
"""Longest start of the process, in seconds; a busy machine or a slow disk may need minutes."""
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # NumPy multiplies matrices with it
}
_Message = TypeVar("_Message")


class Died(Exception):
    """The child process ended (its message says how), or it did not answer in time (`late`)."""

    def __init__(self, reason: str, *, signal: int | None = None, late: bool = False) -> None:
        super().__init__(reason)
        self.signal, self.late = signal, late


class Progress:
    """Two numbers in a file that both processes map: the index of the current item, and a beat."""

    def __init__(self, descriptor: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, 16)).cast("q")

    @property
    def at(self) -> int:
        """Index of the item that the child is working on."""
        return self._numbers[0]

    @property
    def beats(self) -> int:
        """Counter that rises with every step of the work."""
        return self._numbers[1]

    def begin(self, at: int) -> None:
        """Set the index of the current item, and beat."""
        self._numbers[0] = at
        self.beat()

    def beat(self) -> None:
        """Raise the counter, which shows that the process is not hung."""
        self._numbers[1] += 1


class Sandbox:
    """A child process that runs the `main` of a module; the constructor starts it.

    The child gets `hello` from `accept`. `name` is used in errors, such as "front end".
    """

    def __init__(self, module: str, name: str, hello: object = None) -> None:
        self._name, self._hello = name, hello
        # Not `-m`: it would name the module `__main__`, and pickled objects have its real name.
        self._command = [sys.executable, "-c", f"from {module} import main; main()"]
        self._shared = tempfile.TemporaryFile()  # noqa: SIM115
        self._shared.truncate(16)
        self.progress = Progress(self._shared.fileno())
        self._start()

    @property
    def pid(self) -> int:
        """Identifier of the process."""
        return self._process.pid

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill the process and start another one. Raises InstallationError."""
        self.close()
        self._start()

    def _start(self) -> None:
        self._ready = self._failed = False
        self._connection, theirs = Pipe()
        descriptors = theirs.fileno(), self._shared.fileno()
        path = os.pathsep.join(path for path in sys.path if path)
        try:
            # multiprocessing would import the main module, which is Ray's, so use subprocess.
            self._process = subprocess.Popen(  # noqa: S603
                [*self._command, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env={**MALLOC, **os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
            )
        except OSError as error:  # no memory or no process is left
            self._failed = True
            reason = f"the {self._name}'s process does not start: {error.strerror}"
            raise InstallationError(reason) from error
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Wait until the process can take requests.

        Raises InstallationError if it cannot start, and the AudioCNNError that it sends; the next
        call starts another one.
        """
        if self._failed:
            self.restart()
        starts = 1
        while not self._ready:
            try:
                self.send(self._hello)
                error = self.receive(_START_S)
            except Died as death:
                # A killed process may mean that memory was short for a moment: start another one.
                if death.signal is None or starts == _STARTS:
                    self.close()
                    self._failed = True
                    raise InstallationError(
                        f"the {self._name}'s process {death} as it started"
                    ) from death
                starts += 1
                self.restart()
                continue
            if error is not None:
                self._failed = True
                raise error
            self._ready = True

    def send(self, message: object, body: bytes | None = None) -> None:
        """Send a message, then bytes if there are any. If the process died, `receive` raises."""
        with suppress(OSError):
            self._connection.send(message)
            if body is not None:
                self._connection.send_bytes(body)

    def receive(self, seconds: float) -> Any:
        """Return the next message.

        Raises Died if the process ends, or if for `seconds` no message comes and the counter does
        not rise.
        """
        message: object = self._receive(seconds, self._connection.recv)
        return message

    def receive_bytes(self, seconds: float) -> bytes:
        """Return the bytes that follow a message. Raises Died as `receive` does."""
        return self._receive(seconds, self._connection.recv_bytes)

    def _receive(self, seconds: float, receive: Callable[[], _Message]) -> _Message:
        beats, since = self.progress.beats, monotonic()
        try:
            while not self._connection.poll(max(0.0, seconds / 8)):
                if self.progress.beats != beats:
                    beats, since = self.progress.beats, monotonic()
                elif monotonic() - since > seconds:
                    raise Died(f"gave no answer in {seconds:g} s", late=True)
            return receive()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            if code < 0:
                raise Died(f"died of signal {-code}", signal=-code) from error
            raise Died(f"ended with code {code}") from error
        except MemoryError:
            self._failed = True  # half of a message may be left: the next one must not follow it
            raise


def accept(most_memory: int) -> tuple[Connection, Progress, Any]:
    """Return this child's connection to its parent, its progress, and the parent's `hello`.

    From here on the process may allocate at most `most_memory` bytes, and it leaves no core dump.
    It exits if the parent is gone.
    """
    connection, progress = Connection(int(sys.argv[1])), Progress(int(sys.argv[2]))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (most_memory, most_memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        return connection, progress, connection.recv()
    except (EOFError, OSError):
        raise SystemExit from None
