"""A small disk that a test can fill."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Disk:
    """A folder. If this process may mount file systems, it is one of 16 MB, and `small` is true."""

    path: Path
    small: bool

    def fill(self) -> None:
        """Write to the file `full` until the disk is full."""
        assert self.small
        with suppress(OSError), (self.path / "full").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4_096))

    def clear(self) -> None:
        """Delete the file `full`."""
        (self.path / "full").unlink()


@contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    """A disk at a path. It is unmounted after the block."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", path]
    small = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(path, small)
    finally:
        if small:
            subprocess.run(["umount", "--lazy", path], check=True)
