"""Several trainings side by side, each by one thread, without Ray."""

import threading
import time
from contextlib import contextmanager
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from pipelines import train


@contextmanager
def no_listener(_: dict[str, int]) -> Any:
    yield SimpleNamespace(channel=lambda name: name)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Jobs that nothing is done for."""
    monkeypatch.setattr(train, "Listener", no_listener)
    monkeypatch.setattr(train, "meters", lambda _: SimpleNamespace(now=dict, over=dict))
    epochs = SimpleNamespace(training=SimpleNamespace(epochs=1), overwrite=False)
    return {str(number): SimpleNamespace(options=epochs) for number in range(5)}


def in_step(frame: FrameType, _event: str, _argument: Any) -> Any:
    """Have the threads of `train.py` wait at each line, so that they are at the same one."""
    if frame.f_code.co_filename != train.__file__:
        return None
    time.sleep(0.05)
    return in_step


def test_each_job_is_trained_once_however_threads_meet(
    jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    fell: list[Any] = []
    monkeypatch.setattr(train, "_fit", lambda job, channel: trained.append(channel))
    monkeypatch.setattr(threading, "excepthook", fell.append)
    threading.settrace(in_step)
    try:
        train.fit(jobs, side_by_side=8)
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    assert sorted(trained) == sorted(jobs)
    assert fell == []


def test_where_one_fails_no_other_is_begun(
    jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def fail(_: Any, channel: str) -> None:
        begun.append(channel)
        raise KeyError(channel)

    monkeypatch.setattr(train, "_fit", fail)
    with pytest.raises(KeyError):
        train.fit(jobs)
    assert begun == ["0"]
