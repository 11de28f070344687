"""Send requests to an endpoint, once or repeatedly, and wait for a state."""

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
"""Longest time of a wait. No state takes this long, even on a slow and busy machine."""


def wait_until(happened: Callable[[], Answer], told: Callable[[], object] = lambda: "") -> Answer:
    """Call `happened` until its result is true, and return the result.

    Raises AssertionError with the result of `told` after PATIENCE_S.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        began = time.monotonic()
        if answer := happened():
            return answer
        assert time.monotonic() < deadline, told()
        # Repeat a slow check less often, because it takes CPU time from the job. But pause for 1 s
        # at most: a check may only be slow because it waits for an answer.
        time.sleep(min(1, max(0.05, 10 * (time.monotonic() - began))))


def status(url: str, body: bytes | None = None, **headers: str) -> int:
    """The HTTP status of the answer to a request; 0 if there is none within PATIENCE_S."""
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return 0


def read(url: str, **headers: str) -> bytes:
    """The body of an answer. Raises OSError if none comes within 5 s; the caller may retry."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            found: bytes = response.read()
            return found
    except HTTPException as error:  # the server was killed
        raise OSError(f"{url}: {error!r}") from error


def read_json(url: str, **headers: str) -> Any:
    """The JSON document that `read` returns."""
    return json.loads(read(url, **headers))


@contextmanager
def clients(*asks: Callable[[], int]) -> Iterator[list[int]]:
    """Call each function repeatedly in its own thread while the block runs; yield the statuses."""
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
