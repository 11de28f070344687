"""The start and the end of `audiocnn serve`, and of its HAProxy."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from audiocnn.errors import ConfigError
from helpers.asking import wait_until
from serve.deploy import haproxy as proxy, run
from serve.options import Serve

SERVING = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from serve.options import Serve
from serve.deploy.run import rolls
events = rolls(Serve(bundle="b"), ())
try:
    next(events)
except KeyboardInterrupt:
    print("ended")
"""


CONFIG = """\
defaults
    mode http
    errorfile 503 /ray/500.http
frontend stats
    bind *:8404
frontend http_frontend
    bind 127.0.0.1:8000
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
listen more
    bind 127.0.0.1:9000
"""


def test_haproxys_settings_are_mended_before_it_starts(tmp_path: Path) -> None:
    binary = proxy.install(tmp_path, "/bin/echo", "[::1]:8000", "secret")
    (tmp_path / "a.cfg").write_text(CONFIG)
    command = ["sh", binary, "-f", tmp_path / "a.cfg"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"-f {tmp_path}/a.cfg\n"
    mended = (tmp_path / "a.cfg").read_text()
    assert "bind 127.0.0.1:8404" in mended
    assert "bind [::1]:8000\n    http-request set-header x-audiocnn-endpoint secret\n" in mended
    assert "bind 127.0.0.1:9000\n" in mended
    assert mended.count("x-audiocnn-endpoint") == 1
    assert "defaults\n    timeout http-request 30s\n    errorfile 400 " in mended
    assert "/ray/500.http" not in mended
    assert "    http-request return status 503 default-errorfiles\n" in mended
    answer = (tmp_path / "503.http").read_bytes()
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"content-type: application/problem+json\r\n" in answer


KILLED = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, even if its parent has not read its exit code yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_haproxy_does_not_start_where_who_started_it_is_gone(tmp_path: Path) -> None:
    """The parent may be killed before `setpriv` arranges that HAProxy ends with it."""
    binary = proxy.install(tmp_path, "/bin/sleep", "127.0.0.1:8000", "secret")
    begun, gate, late = tmp_path / "begun", tmp_path / "gate", tmp_path / "bin" / "setpriv"
    late.parent.mkdir()
    late.write_text(
        f"#!/bin/sh\ntouch {begun}\nwhile [ ! -e {gate} ]; do sleep 0.05; done\n"
        f'exec {shutil.which("setpriv")} "$@"\n'
    )
    late.chmod(0o700)
    path = f"{late.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, begun, binary, "1000"],
        env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    haproxy = psutil.Process(int(done.stdout))
    try:
        gate.touch()
        wait_until(lambda: has_ended(haproxy))
    finally:
        with suppress(psutil.NoSuchProcess):
            haproxy.kill()


def test_what_runs_from_a_folder_still_is_ended_by_its_own_process_id(tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(CONFIG)
    proxy.end(tmp_path)  # nothing was started
    binary = proxy.install(tmp_path, "/usr/bin/tail", "127.0.0.1:8000", "secret")
    command = [binary, "-f", tmp_path / "haproxy.cfg"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as started:
        wait_until(lambda: psutil.Process(started.pid).name() == "tail")
        with (tmp_path / "haproxy.pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")  # as if the id were now another process's
        proxy.end(tmp_path)
        assert started.wait() == -signal.SIGTERM


PREPARED = """
import os, signal, sys
from serve.deploy import haproxy
haproxy.prepare("127.0.0.1:8000")
print(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], flush=True)
if sys.argv[1:]:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_endpoint_is_removed_by_the_next() -> None:
    killed, ended = (
        subprocess.run(
            [sys.executable, "-c", PREPARED, *how], stdout=subprocess.PIPE, text=True, check=False
        )
        for how in (["killed"], [])
    )
    assert (killed.returncode, ended.returncode) == (-signal.SIGKILL, 0)
    for done in (killed, ended):
        folder = Path(done.stdout.strip()).parent
        assert folder.name.startswith("audiocnn-")
        assert not folder.exists()


def test_copies_are_as_many_as_fit_on_each_gpu() -> None:
    assert run.size_replicas(Serve(bundle="b", gpu=0.4), 8, 2).replicas == (4, 4)
    assert run.size_replicas(Serve(bundle="b"), 8, 2).replicas == (8, 8)
    with pytest.raises(ConfigError, match="--replicas 5: the cluster has 8 CPUs and 2 GPUs"):
        run.size_replicas(Serve(bundle="b", gpu=0.4, replicas=5), 8, 2)


def catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def test_sigterm_ends_it_where_a_shell_lets_it_ignore_sigint() -> None:
    command = [sys.executable, "-c", SERVING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not catches(process.pid, signal.SIGTERM):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 0
