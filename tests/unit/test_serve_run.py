"""How `audiocnn serve` ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

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
