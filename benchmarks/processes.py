"""Run commands on chosen cores, and measure the memory of all their processes."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import ROOT

CORES = sorted(os.sched_getaffinity(0))
HALF = CORES[: len(CORES) // 2]
"""The job's cores while the S3 server uses the other cores."""
_SAMPLE_S = 0.2
_LONGEST_S = 900.0


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Run on these cores within a block; processes started there stay on them afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(kw_only=True)
class Memory:
    """Memory of a job's processes in MiB of PSS, which divides shared pages among processes."""

    peaks: dict[int, float] = field(default_factory=dict)
    """Peak of each process, by its id."""
    together: float = 0.0
    """The largest sum over all processes at one moment."""
    workers: set[int] = field(default_factory=set)
    """Ids of Ray's workers."""

    @property
    def sum_of_peaks(self) -> float:
        """Sum of the peaks of all processes."""
        return sum(self.peaks.values())

    @property
    def largest_worker(self) -> float:
        """The largest peak of a Ray worker."""
        return max((self.peaks[pid] for pid in self.workers), default=0.0)

    def sample(self, root: int) -> None:
        """Measure a process and all its descendants once."""
        sizes = {pid: size for pid in descendants(root) if (size := _pss_mib(pid)) is not None}
        self.together = max(self.together, sum(sizes.values()))
        for pid, size in sizes.items():
            self.peaks[pid] = max(self.peaks.get(pid, 0.0), size)
            if _command(pid).startswith("ray::"):
                self.workers.add(pid)


def run(
    command: list[str],
    environment: dict[str, str],
    cores: set[int],
    memory: Memory | None = None,
) -> float:
    """Run a command until it ends; return its wall time in seconds.

    Raises RuntimeError with its output if it fails, and TimeoutExpired after 15 minutes.
    """
    started = time.perf_counter()
    with on_cores(cores):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=whole_environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, memory, ended))
    if memory is not None:
        watcher.start()
    try:
        output, _ = process.communicate(timeout=_LONGEST_S)
    finally:
        ended.set()
        process.kill()
    wall_s = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\nended with code {process.returncode}:\n{output}")
    return wall_s


def whole_environment(more: dict[str, str]) -> dict[str, str]:
    """Return our environment and `more`, with one OpenMP thread and no existing Ray cluster."""
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    return {**os.environ, **ours, **more}


def free_ports(count: int) -> list[int]:
    """Return ports on which no process listens."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [s.getsockname()[1] for s in sockets]


def script(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def _watch(root: int, memory: Memory, ended: threading.Event) -> None:
    while not ended.wait(_SAMPLE_S):
        memory.sample(root)


def descendants(root: int) -> list[int]:
    """Return the ids of a process and of all its descendants, from the parents in /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := _text(folder / "stat")):
            parent = int(stat.rpartition(")")[2].split()[1])  # a name may contain brackets
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _pss_mib(pid: int) -> float | None:
    for line in _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return None


def _command(pid: int) -> str:
    return _text(Path(f"/proc/{pid}/cmdline"))


def _text(path: Path) -> str:
    """Return the text of a file in /proc, or an empty text if its process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
