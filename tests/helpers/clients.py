"""Helpers of the endpoint's tests: a key, a type of clients, counted metrics, checks."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serve.api.keys import read_keys
from serve.engine.metrics import EndpointMetrics
from serve.problems import KINDS

KEY = "a key that nobody would guess".replace(" ", "-")

Client = Callable[..., TestClient]
"""Type of the fixture `client` of tests/unit/serve, which makes a client of an endpoint."""


class Counted(EndpointMetrics):
    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.failures: list[str] = []
        self.batches: list[int] = []
        self.count = 0

    def request(self, route: str, status: int, seconds: float) -> None:
        self.requests.append((route, status))

    def failure(self, reason: str) -> None:
        self.failures.append(reason)

    def windows(self, count: int) -> None:
        self.count += count

    def batch(self, size: int, queued_s: float, computed_s: float) -> None:
        self.batches.append(size)


def problem(response: Any, status: int, name: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"/problems/{name}"
    assert body["status"] == status == KINDS[name].status
    assert body["title"] == KINDS[name].title
    return body


def read_keys_of(*keys: str) -> tuple[str, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDIOCNN_API_KEYS", ",".join(keys))
        return read_keys(None)


def expand(plain: dict[str, Any]) -> np.ndarray:
    """Decode what `compact` returned to a float32 array."""
    data = base64.b64decode(plain["data"])
    if plain["dtype"] == "float16":
        values = np.frombuffer(data, "<f2").astype(np.float32)
    else:
        span = plain["max"] - plain["min"]
        values = np.frombuffer(data, np.uint8).astype(np.float32) * np.float32(span / 255)
        values += np.float32(plain["min"])
    return values.reshape(plain["shape"])
