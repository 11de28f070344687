"""Jobs that wait at gates, and a disk that is soon full."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of sixteen megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root's rights")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def fill(small_disk: Path) -> Callable[[], None]:
    """A function that writes to the small disk's file `full` until there is no room left."""

    def write() -> None:
        with suppress(OSError), (small_disk / "full").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4_096))

    return write
