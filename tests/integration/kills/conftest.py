"""Fixtures of tests that kill jobs: jobs that wait at a gate, and a small disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.disk import Disk, small_disk
from helpers.gate import Job, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a command at its own closed gate. It is killed after the test."""
    jobs: list[Job] = []

    def begin(*command: object, **environment: str) -> Job:
        jobs.append(Job(tmp_path / f"job-{len(jobs)}", *command, **environment))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk that the test can fill, or a folder if no disk can be mounted."""
    with small_disk(tmp_path / "disk") as disk:
        yield disk
