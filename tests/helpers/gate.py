"""A gate that a job stops at until the test opens it: it cannot end before it is killed.

`sitecustomize`, which Python runs as it starts, wraps two functions in the processes of the job:
the one that puts a finished part in its place, and the one that trains an epoch. The product does
not know of it.
"""

from pathlib import Path

_HOLE = """
import importlib.abc
import importlib.util
import os
import sys

FOLDER = os.environ.get("AUDIOCNN_GATE")


def limit():
    with open(os.path.join(FOLDER, "limit")) as file:
        return int(file.read() or 0)


def pass_one():
    import fcntl, time

    while True:
        with open(os.path.join(FOLDER, "passed"), "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.tell() < limit():
                file.write(b"x")
                return
        time.sleep(0.02)


def wrap_storage(module):
    import contextlib

    plain = module.placed

    @contextlib.contextmanager
    def placed(uri):
        with plain(uri) as path:
            yield path
            if "/parts/" in uri:
                pass_one()

    module.placed = placed


def wrap_training(module):
    import time

    plain = module.Trainer.train_epoch

    def train_epoch(self, epoch, *more, **options):
        while epoch >= limit():
            time.sleep(0.02)
        return plain(self, epoch, *more, **options)

    module.Trainer.train_epoch = train_epoch


WRAP = {"audiocnn.storage": wrap_storage, "audiocnn.training": wrap_training}


class Loader(importlib.abc.Loader):
    def __init__(self, plain):
        self.plain = plain

    def create_module(self, spec):
        return self.plain.create_module(spec)

    def exec_module(self, module):
        self.plain.exec_module(module)
        WRAP[module.__name__](module)


class Finder(importlib.abc.MetaPathFinder):
    busy = False

    def find_spec(self, name, path=None, target=None):
        if name not in WRAP or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        spec.loader = Loader(spec.loader)
        return spec


if FOLDER:
    sys.meta_path.insert(0, Finder())
"""


class Gate:
    """Closed when made. `environment` is for the job; the processes it starts inherit it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_HOLE)
        self._limit, self._passed = folder / "limit", folder / "passed"
        self.environment = {"PYTHONPATH": str(folder), "AUDIOCNN_GATE": str(folder)}
        self.let(0)

    def let(self, count: int) -> None:
        """Let so many parts pass in all, or train so many epochs."""
        new = self._limit.with_suffix(".new")
        new.write_text(str(count))
        new.replace(self._limit)

    def open(self) -> None:
        """Let everything pass from now on."""
        self.let(1 << 40)

    @property
    def passed(self) -> int:
        """How many parts have passed so far, counting every run of the job."""
        return self._passed.stat().st_size if self._passed.exists() else 0
