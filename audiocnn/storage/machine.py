"""What of this machine a process may use: CPUs by its affinity and its control groups; GPUs."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SHARES = 10_000
"""Of a GPU: Ray counts its resources in these."""


def cpus(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs for whole processes: at least 1.

    Fewer than the machine has where an affinity (taskset, a cpuset) or the quota of a control group
    (a container's `--cpus`, a pod's limit, systemd's CPUQuota) says so.
    """
    try:
        there = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        there = os.cpu_count() or 1
    return max(1, int(min([there, *_quotas(groups, own)])))


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """CPUs that each control group of this process allows, where it has a quota.

    In a container the file system of the groups may begin at its own, which `own` names by its path
    on the host: every folder on that path that is there is looked into, and so is the first.
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
    """CPUs that a control group allows: by cpu.max (version 2) or cpu.cfs_quota_us (version 1)."""
    with suppress(OSError, ValueError):
        quota_us, period_us = map(int, (folder / "cpu.max").read_text().split())
        return quota_us / period_us  # "max" is no number, and no quota
    with suppress(OSError, ValueError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    return None


def copies(gpus: int, share: float) -> int:
    """How many processes of a share each have room on GPUs: a share is never of two of them."""
    if share > 1:
        return int(gpus // share)
    return gpus * (_SHARES // max(1, round(share * _SHARES)))
