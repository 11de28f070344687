"""Asking an endpoint, once or again and again, and waiting for things to happen."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, TypeVar

Answer = TypeVar("Answer")
PATIENCE_S = 600
"""Nothing that is waited for takes so long, however slow and busy the machine."""


def wait_until(happened: Callable[[], Answer], told: Callable[[], object] = lambda: "") -> Answer:
    """Ask until the answer is true and return it.

    Raises AssertionError with what is `told` after a long time.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        began = time.monotonic()
        if answer := happened():
            return answer
        assert time.monotonic() < deadline, told()
        # A look that takes long is repeated seldom: what is waited for needs the machine. But a
        # look may also wait, for an answer for instance, and that says nothing of its cost.
        time.sleep(min(1, max(0.05, 10 * (time.monotonic() - began))))


def status(url: str, body: bytes | None = None, **headers: str) -> int:
    """The status of an answer, however late it comes; 0 for none."""
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return 0


def read(url: str, **headers: str) -> bytes:
    """An answer. Raises OSError where none comes soon: ask again."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            found: bytes = response.read()
            return found
    except HTTPException as error:  # who answered was killed
        raise OSError(f"{url}: {error!r}") from error


def read_json(url: str, **headers: str) -> Any:
    """As `read`, of an answer that is JSON."""
    return json.loads(read(url, **headers))


@contextmanager
def clients(*asks: Callable[[], int]) -> Iterator[list[int]]:
    """Each asks as fast as it is answered, with a pause; the statuses while the block runs."""
    statuses, over = list[int](), threading.Event()

    def client(ask: Callable[[], int]) -> None:
        while not over.wait(0.05):
            statuses.append(ask())

    threads = [threading.Thread(target=client, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()
