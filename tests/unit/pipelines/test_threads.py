"""Threads take each item once, in order, and a failure stops the remaining items."""

import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from pipelines.train.job import in_threads


@pytest.fixture
def slow_lines() -> Iterator[None]:
    """Let other threads run between any two lines of a thread."""

    def tracer(frame: FrameType, event: str, argument: Any) -> Any:
        time.sleep(0.01)
        return tracer

    threading.settrace(tracer)
    yield
    threading.settrace(None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("slow_lines")
def test_the_last_one_is_taken_once() -> None:
    done: list[int] = []
    in_threads(done.append, range(1), 4)
    assert done == [0]


def test_one_thread_keeps_their_order() -> None:
    done: list[int] = []
    in_threads(done.append, range(5), 1)
    assert done == [0, 1, 2, 3, 4]


def test_a_failure_ends_the_rest_and_is_raised() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(f"of {item}")

    with pytest.raises(ValueError, match="of 0"):
        in_threads(work, range(5), 1)
    assert begun == [0]
