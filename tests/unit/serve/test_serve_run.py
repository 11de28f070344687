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


CONFIG = """
frontend stats
    bind *:8404
frontend http
    bind 0.0.0.0:8000
defaults
    mode http
"""


def test_haproxys_settings_are_mended_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "haproxy").write_text(proxy.script("/bin/echo"))
    (tmp_path / "a.cfg").write_text(CONFIG)
    command = ["sh", tmp_path / "haproxy", "-f", tmp_path / "a.cfg"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    mended = (tmp_path / "a.cfg").read_text()
    assert "bind 127.0.0.1:8404" in mended
    assert "bind 0.0.0.0:8000" in mended
    assert "defaults\n    timeout http-request 30s\n    mode http" in mended


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
