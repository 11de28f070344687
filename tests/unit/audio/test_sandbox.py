"""A child process of the sandbox fails without harm to the next request."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiocnn.audio.sandbox import Died, Sandbox
from audiocnn.errors import InstallationError

_ECHO = """
from audiocnn.audio.sandbox import accept

def main():
    connection, progress, hello = accept(1 << 30)
    connection.send(None)
    while True:
        connection.send((hello, connection.recv()))
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A child process that sends back each message."""
    (tmp_path / "echoing.py").write_text(_ECHO)
    monkeypatch.syspath_prepend(str(tmp_path))
    child = Sandbox("echoing", "echo", "hello")
    yield child
    child.close()


def asked(child: Sandbox, message: object) -> object:
    child.wait_until_ready()
    child.send(message)
    return child.receive(600.0)


def test_no_answer_is_taken_for_that_of_another_request(
    echo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(echo, "first") == ("hello", "first")
    pid = echo.pid

    def short(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(type(echo._connection), "recv", short)
        with pytest.raises(MemoryError):
            asked(echo, "large")
    assert asked(echo, "next") == ("hello", "next")  # by another process
    assert echo.pid != pid


def test_a_machine_without_room_for_a_process_is_one_error_and_tried_again(
    echo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", full)
        with pytest.raises(InstallationError, match="echo's process does not start: Resource"):
            echo.restart()
    assert asked(echo, 1) == ("hello", 1)


def test_a_late_answer_is_told_from_a_death(echo: Sandbox) -> None:
    echo.wait_until_ready()
    with pytest.raises(Died) as late:
        echo.receive(0.01)
    assert late.value.late
    echo._process.kill()
    with pytest.raises(Died, match="died of signal 9") as killed:
        echo.receive(600.0)
    assert (killed.value.signal, killed.value.late) == (9, False)
    echo.restart()
    assert asked(echo, 2) == ("hello", 2)
