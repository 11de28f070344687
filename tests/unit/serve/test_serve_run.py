"""How `audiocnn serve` begins and ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audiocnn.errors import ConfigError
from serve import proxy, run
from serve.options import Serve

SERVING = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from serve.options import Serve
from serve.run import rolls
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


def test_copies_are_as_many_as_fit_on_each_gpu() -> None:
    assert run.fit(Serve(bundle="b", gpu=0.4), 8, 2).replicas == (4, 4)
    assert run.fit(Serve(bundle="b"), 8, 2).replicas == (8, 8)
    with pytest.raises(ConfigError, match="--replicas 5: the cluster has 8 CPUs and 2 GPUs"):
        run.fit(Serve(bundle="b", gpu=0.4, replicas=5), 8, 2)


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
