"""The CPUs and memory of a process on this machine, and the number of processes per GPU."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SHARES = 10_000
"""Units in a GPU: Ray counts resources in units of 1/10000."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = 1 << 30, 256 << 20
"""Bytes: the size from which glibc maps an array by itself, and the free memory that it keeps.

By default glibc returns arrays of a few hundred kB to the kernel. The next ones cause page faults
again, which takes a fifth of a forward pass.
"""
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(_MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(_TRIM_THRESHOLD),
}
"""Environment of a process that is to keep freed memory."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def keep_freed_memory() -> None:
    """Make this process keep freed memory, as `MALLOC` does for a new one."""
    with suppress(OSError, AttributeError):  # a C library other than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def cpus(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of whole CPUs that this process may use, at least 1.

    It is lower than the machine's number if an affinity (taskset, a cpuset) or the quota of a
    control group (a container's `--cpus`, a pod's limit, systemd's CPUQuota) limits the process.
    """
    try:
        there = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        there = os.cpu_count() or 1
    return max(1, int(min([there, *_quotas(groups, own)])))


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """Yield the number of CPUs that each control group of this process allows, if it has a quota.

    `own` may give the group's path on the host, while in a container the folder `groups` may begin
    at the container's own group. So `groups` itself and every existing folder on that path are
    checked.
    """
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = groups / "cpu" if controllers else groups
            group = Path(path.strip("/"))
            for folder in [group, *group.parents]:
                quota = _quota(root / folder)
                if quota:
                    yield quota


def _quota(folder: Path) -> float | None:
    """Return the CPUs that a control group allows, by cpu.max (v2) or cpu.cfs_quota_us (v1)."""
    with suppress(OSError, ValueError):
        quota_us, period_us = map(int, (folder / "cpu.max").read_text().split())
        return quota_us / period_us  # "max" means no quota: int() fails
    with suppress(OSError, ValueError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    return None


def copies(gpus: int, share: float) -> int:
    """Return the number of processes that fit on `gpus` GPUs if each one needs `share` of a GPU.

    A share up to 1 must fit on one GPU.
    """
    if share > 1:
        return int(gpus // share)
    return gpus * (_SHARES // max(1, round(share * _SHARES)))
