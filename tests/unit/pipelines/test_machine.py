"""The CPUs and GPUs of a machine that a process may use."""

import os
from pathlib import Path

import pytest

from audiocnn.storage.machine import copies, cpus


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the machine has sixteen CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def groups(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write control groups and the file with the groups of a process; return both paths."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "own").write_text(own)
    return folder / "cgroup", folder / "own"


V1 = "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n2:cpuset:/docker/a\n0::/docker/a\n"


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),  # half a CPU does not count
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        ("0::/a.slice/b.service\n", {"a.slice/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "600000 100000\n"}, 3),
        ("0::/docker/a\n", {"cpu.max": "500000 100000\n"}, 5),  # in a container: its host's path
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        (V1, {"cpu/cpu.cfs_quota_us": "700000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 7),
        ("no such line", {"cpu.max": "nonsense"}, 16),
    ],
)
def test_a_quota_of_a_control_group_is_heeded(
    own: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert cpus(*groups(tmp_path, own, files)) == expected


def test_an_affinity_is_heeded(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpus(tmp_path / "none", tmp_path / "none") == 1
        assert cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("gpus", "share", "expected"),
    [
        (2, 0.4, 4), (1, 0.4, 2), (2, 0.5, 4), (3, 0.6, 3), (1, 0.01, 100), (2, 0.3, 6),
        (1, 0.1, 10), (1, 0.3333, 3), (1, 0.334, 2), (1, 0.07, 14), (4, 1, 4), (5, 2, 2),
        (1, 2, 0), (0, 0.5, 0), (0, 1, 0),
    ],
)  # fmt: skip
def test_a_share_is_of_one_gpu(gpus: int, share: float, expected: int) -> None:
    assert copies(gpus, share) == expected
