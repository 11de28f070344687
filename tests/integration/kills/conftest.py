"""Jobs that wait at gates, and a disk that is soon full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.disk import Disk, small_disk
from helpers.gate import Job, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a command at a closed gate of its own; none outlives the test."""
    jobs: list[Job] = []

    def begin(*command: object, **environment: str) -> Job:
        jobs.append(Job(tmp_path / f"job-{len(jobs)}", *command, **environment))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A folder of the test's own on a disk that it can fill, where that can be made."""
    with small_disk(tmp_path / "disk") as disk:
        yield disk
