"""Two endpoints on one machine: each only answers its own requests, at any address."""

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from helpers.asking import PATIENCE_S, status, wait_until
from helpers.common import descendants, make_bundle
from helpers.endpoint import Endpoint
from helpers.hostile import sound

pytestmark = pytest.mark.slow

KEYS = {"first": "the-first-endpoints-key", "second": "the-second-endpoints-key"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """The folder and the fingerprint of two bundles."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: (folder / name, make_bundle(folder / name, seed).fingerprint)
        for seed, name in enumerate(KEYS)
    }


class Six(Endpoint):
    def url(self, path: str) -> str:
        return f"http://[::1]:{self.port}{path}"


@pytest.fixture(scope="module")
def neighbours(bundles: dict[str, tuple[Path, str]]) -> Iterator[dict[str, Endpoint]]:
    """An endpoint at an IPv6 address with one replica, and one that starts without replicas."""
    given = {
        "first": (Six, ["--host", "::1", "--replicas", "1", "--streams", "1"]),
        "second": (Endpoint, ["--replicas", "0", "1"]),
    }
    found: dict[str, Endpoint] = {}
    try:
        for name, (kind, options) in given.items():
            found[name] = kind(bundles[name][0], *options, AUDIOCNN_API_KEYS=KEYS[name])
        yield found
    finally:
        for endpoint in found.values():
            endpoint.interrupt()
        for endpoint in found.values():
            endpoint.wait()


def asked(endpoint: Endpoint, key: str) -> tuple[int, str]:
    """Send a request. Return the status and the bundle that answers, or an empty string."""
    request = urllib.request.Request(
        endpoint.url("/v1/predict?spectrogram=false"), sound("wav"), {"x-api-key": key}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.loads(response.read())["bundle"]
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def test_nobody_answers_in_the_place_of_a_neighbour_without_copies(
    neighbours: dict[str, Endpoint], bundles: dict[str, tuple[Path, str]]
) -> None:
    first, second = neighbours["first"], neighbours["second"]
    outcomes: Counter[tuple[str, int, str]] = Counter()

    def ask_the_second(times: int) -> bool:
        """Return whether it answers. Count the status and the bundle of each answer, by key."""
        for _ in range(times):
            for name, key in KEYS.items():
                outcomes[(name, *asked(second, key))] += 1
        return asked(second, KEYS["second"]) == (200, bundles["second"][1])

    assert asked(first, KEYS["first"]) == (200, bundles["first"][1])
    assert second.replicas() == []
    ask_the_second(5)
    wait_until(lambda: ask_the_second(1), lambda: outcomes)  # requests start a replica
    for _ in range(2):
        for replica in second.replicas():
            replica.kill()
        ask_the_second(5)
        wait_until(lambda: ask_the_second(1), lambda: outcomes)
    answered = {(name, bundle) for name, code, bundle in outcomes if code == 200}
    assert answered == {("second", bundles["second"][1])}, outcomes
    assert {code for name, code, _ in outcomes if name == "first"} <= {0, 401, 502, 503}, outcomes
    assert asked(first, KEYS["first"]) == (200, bundles["first"][1])
    for replica in [*first.replicas(), *second.replicas()]:  # they only answer their HAProxy
        ports = [
            connection.laddr.port
            for connection in replica.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
            and status(f"http://127.0.0.1:{connection.laddr.port}/-/healthz") == 200
        ]
        assert [status(f"http://127.0.0.1:{port}/healthz") for port in ports] == [421]


def test_it_listens_at_an_ipv6_address_and_nowhere_else(
    neighbours: dict[str, Endpoint], bundles: dict[str, tuple[Path, str]]
) -> None:
    endpoint, key = neighbours["first"], {"x-api-key": KEYS["first"]}
    assert endpoint.saw(endpoint.url("/v1/predict"))
    code, answer = endpoint.ask("/v1/predict", sound("wav"), **key)
    assert (code, answer["bundle"]) == (200, bundles["first"][1])
    head = urllib.request.Request(endpoint.url("/healthz"), method="HEAD")
    with urllib.request.urlopen(head, timeout=60) as response:
        assert (response.status, response.read()) == (200, b"")
    code, problem = endpoint.ask(f"/{'x' * 20_000}", **key)
    assert (code, problem["type"]) == (404, "/problems/not-found")
    live = endpoint.url("/v1/stream?sample_rate=16000").replace("http", "ws", 1)
    patient: Any = {"additional_headers": key, "open_timeout": PATIENCE_S, "ping_timeout": None}
    with connect(live, **patient), pytest.raises(InvalidStatus) as refused:
        connect(live, **patient)
    assert refused.value.response.status_code == 503
    assert json.loads(refused.value.response.body)["type"] == "/problems/busy"
    code, _ = endpoint.ask("/v1/predict", sound("wav"), **key)
    assert code == 200
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for name in ("haproxy", "ray::ServeReplica", "ray::ProxyActor")
        for process in descendants(endpoint.process.pid, name)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ("::1", endpoint.port) in listening
    http = {
        (ip, port)
        for ip, port in listening
        if status(f"http://127.0.0.1:{port}/-/healthz") or port == endpoint.port
    }
    assert {ip for ip, _ in http} == {"::1", "127.0.0.1"}
