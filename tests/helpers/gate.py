"""A gate where a job waits until the test opens it, so that it does not end before it is killed.

Python runs `sitecustomize` when it starts. Ours wraps two functions in the processes of the job:
one moves a finished part to its place, the other trains an epoch. It also makes Ray wait for its
own node for 600 s instead of 30 s. The product has no code for this.
"""

import inspect
import os
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from helpers.asking import wait_until
from helpers.common import descendants


def wrap_services(module: object) -> None:
    """Make Ray wait for its own node for 600 s instead of 30 s. This is a part of `_HOLE` too."""
    import time

    plain = module.get_node

    def get_node(*more: object) -> object:
        deadline = time.monotonic() + 600
        while True:
            try:
                return plain(*more)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    module.get_node = get_node


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
            # Not tell(): that is where the file ended when it was opened.
            if os.fstat(file.fileno()).st_size < limit():
                file.write(b"x")
                return
        time.sleep(0.02)


def wrap_storage(module):
    import contextlib

    plain = module.atomic_path

    @contextlib.contextmanager
    def placed(uri):
        with plain(uri) as path:
            yield path
            if "/parts/" in uri:
                pass_one()

    module.atomic_path = placed


def wrap_training(module):
    import time

    plain = module.Trainer.train_epoch

    def train_epoch(self, epoch, *more, **options):
        while epoch >= limit():
            time.sleep(0.02)
        return plain(self, epoch, *more, **options)

    module.Trainer.train_epoch = train_epoch


def wrap_s3(module):
    module.PATIENCE_S = float(os.environ.get("AUDIOCNN_PATIENCE_S", module.PATIENCE_S))


"""
_HOLE += inspect.getsource(wrap_services)
_HOLE += """

WRAP = {
    "audiocnn.storage.files": wrap_storage,
    "audiocnn.training.trainer": wrap_training,
    "audiocnn.storage.stores.s3": wrap_s3,
    "ray._private.services": wrap_services,
}


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
    """A gate, closed at first. `environment` is for the job; its child processes inherit it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_HOLE)
        self._limit, self._passed = folder / "limit", folder / "passed"
        self.environment = {"PYTHONPATH": str(folder), "AUDIOCNN_GATE": str(folder)}
        self.let(0)

    def let(self, count: int) -> None:
        """Let this many parts pass in total, or this many epochs be trained."""
        new = self._limit.with_suffix(".new")
        new.write_text(str(count))
        new.replace(self._limit)

    def open(self) -> None:
        """Let all parts and epochs pass from now on."""
        self.let(1 << 40)

    @property
    def passed(self) -> int:
        """Number of parts that have passed so far, in all runs of the job."""
        return self._passed.stat().st_size if self._passed.exists() else 0


FRONT_END, WORKER = "audiocnn.features.extractor_child", "MapWorker"
"""Texts in the command lines of the processes of `ingest` and `label`."""


class Job:
    """A command that waits at its own gate. Its output is written to files.

    AUDIOCNN_PATIENCE_S is the time in seconds that it waits for a store that does not answer.
    """

    def __init__(self, folder: Path, *command: object, **environment: str) -> None:
        self.gate = Gate(folder)
        self._said = folder / "out", folder / "err"
        self._started: list[psutil.Process] = []
        self._bereft: set[int] = set()
        with self._said[0].open("wb") as out, self._said[1].open("wb") as err:
            self.process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=out, stderr=err, text=True,
                start_new_session=True,
                env={**os.environ, **self.gate.environment, **environment},
            )  # fmt: skip

    @property
    def out(self) -> str:
        """The standard output so far."""
        return self._said[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        """The standard error so far."""
        return self._said[1].read_text(errors="replace")

    @property
    def told(self) -> str:
        """The standard output and the standard error so far."""
        return self.out + self.err

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Wait until something happens. Raises AssertionError if the job ends before."""
        wait_until(lambda: happened() or self.process.poll() is not None, lambda: self.told)
        assert self.process.poll() is None, f"{self.process.returncode}: {self.told}"

    def end(self, meanwhile: Callable[[], object] = lambda: None) -> int:
        """Wait until it ends by itself, and return its exit code. Call `meanwhile` repeatedly."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        wait_until(lambda: (meanwhile(), self.process.poll())[1] is not None, lambda: self.told)
        return self.process.returncode

    def tell(self, text: str) -> None:
        """Write a line to its standard input, and wait until it prints that this is done."""
        assert self.process.stdin is not None
        done = f"done: {text}\n"
        before = self.out.count(done)
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        self.wait_until(lambda: self.out.count(done) > before)

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group, as a terminal does."""
        self._started = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill the whole process group. Other processes that it started end a moment later."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def wait_until_gone(self) -> None:
        """Wait until all processes that it had started before a signal have ended."""
        wait_until(lambda: not any(map(_runs, self._started)))

    def kill_one(self, kind: str, chance: random.Random) -> None:
        """Wait until the job has processes of this kind, and kill one of them.

        A worker loses at most one front end: if two end at the same recording, the job counts the
        recording as failed.
        """
        self.wait_until(lambda: self._struck(kind, chance))

    def _struck(self, kind: str, chance: random.Random) -> bool:
        with suppress(psutil.NoSuchProcess):
            there = descendants(self.process.pid, kind)
            there = [one for one in there if one.ppid() not in self._bereft]
            if there:
                victim = chance.choice(there)
                owner = victim.ppid()
                victim.kill()
                if kind == FRONT_END:
                    self._bereft.add(owner)
                return True
        return False

    def close(self) -> None:
        """Kill the job and the processes that it started."""
        if self.process.poll() is None:
            self.kill()
        for process in self._started:
            with suppress(psutil.NoSuchProcess):
                process.kill()


Start = Callable[..., Job]
"""Type of the fixture `start` of tests/integration/kills, which starts a job."""


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


NODES = """
import os, sys, threading
import ray
from ray.cluster_utils import Cluster
from pipelines.cli import VERBS, parse

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.25"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
node = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
options, ended = parse(sys.argv[1:]), []

def run() -> None:
    verb = next(verb for kind, verb in VERBS.values() if isinstance(options, kind))
    ended.append(verb(options))

job = threading.Thread(target=run, daemon=True)  # nodes come and go by the main thread alone
job.start()
for line in sys.stdin:
    if line.strip() == "remove":
        cluster.remove_node(node, allow_graceful=False)
    else:
        node = cluster.add_node(num_cpus=1)
    print("done:", line.strip(), flush=True)
job.join()
sys.stdout.flush()
os._exit(0 if ended else 1)  # Ray's own exit handlers ask for nodes that are gone
"""
"""A program that runs a verb on two nodes.

The line `remove` on its standard input kills the second node. The line `add` starts another one.
"""
