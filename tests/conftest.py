"""Options, hooks and fixtures of all tests: sounds, a Ray cluster, an S3 server, recordings."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiocnn import storage
from audiocnn.corpus import synthetic
from benchmarks.seaweed import SeaweedFS
from helpers.cluster import PATIENT
from helpers.common import CLUSTERS, SHARED, clusters_started
from helpers.costs import TABLE, Cost, read_table
from helpers.gate import wrap_services

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="kill more often and run every benchmark, as `make test-all` does",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of the test runner a folder for the Ray clusters that its tests start."""
    # A shell makes processes in the background, and their children, ignore Ctrl-C. Undo that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="ac", dir="/tmp")  # short: Ray makes sockets below it
    os.environ["RAY_TMPDIR"] = folder
    # By default Ray's workers have a low priority: a busy machine would stop them.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    # By default Ray starts a worker for each CPU at once, even if no test ever uses it.
    os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112
    os.environ.update(PATIENT)
    config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with the name of its first folder, and run the slowest files first.

    The marks are for options like `-m "not integration"`. With this order, no process of
    the runner has a long file to run at the end.
    """
    costs = read_table(TABLE.read_text())
    seconds: dict[str, float] = {}
    for item in items:
        path = item.path.relative_to(config.rootpath / "tests")
        item.add_marker(path.parts[0])
        seconds[item.nodeid] = costs.get(path.as_posix(), Cost()).seconds
    items.sort(key=lambda item: -seconds[item.nodeid])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[CLUSTERS] = clusters_started()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Record how many Ray clusters a test and its fixtures started, for the JUnit file."""
    try:
        return (yield)
    finally:
        item.user_properties.append(("clusters", clusters_started() - item.stash[CLUSTERS]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the command that repeats each test that drew a seed."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == "repeat" and report.when == "call":
                    terminalreporter.write_line(f"{outcome}: {value}")


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether pytest runs with --thorough, as `make test-all` does."""
    return bool(request.config.getoption("thorough"))


@pytest.fixture
def chance(request: pytest.FixtureRequest, record_property: Callable[..., None]) -> random.Random:
    """A random generator with a new seed in each run. The command that repeats it is printed."""
    seed = int(os.environ.get("AUDIOCNN_SEED") or random.SystemRandom().randrange(1_000_000))
    flag = " --thorough" if request.config.getoption("thorough") else ""
    repeat = f"AUDIOCNN_SEED={seed} .venv/bin/pytest -m ''{flag} '{request.node.nodeid}'"
    print(f"to repeat: {repeat}")
    record_property("repeat", repeat)
    return random.Random(seed)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a synthetic corpus with ten clips in each class."""
    folder = tmp_path_factory.mktemp("corpus") / "sounds"
    synthetic.write_corpus(str(folder), clips_per_class=10)
    return folder


@pytest.fixture(scope="session")
def _last_ray() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="module")
def ray_cluster(s3: SeaweedFS, _last_ray: None) -> None:
    """The Ray cluster that all tests of a process share. It is started again if a module ended it.

    The S3 server starts first, so that the cluster's processes inherit its variables.
    """
    from ray._private import services

    from pipelines.runtime import session

    known = services.get_node
    wrap_services(services)
    try:
        session.connect()
    finally:
        services.get_node = known


@pytest.fixture(scope="session")
def s3() -> Iterator[SeaweedFS]:
    """A real S3 server. AWS_* variables are set so that this process and its children reach it."""
    server = SeaweedFS()
    reach = {
        **server.environment,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before.keys() - {"AWS_CA_BUNDLE"}:
        del os.environ[name]
    os.environ.update(reach)
    storage.configure({})
    yield server
    for name in reach:
        del os.environ[name]
    os.environ.update(before)
    storage.configure({})
    server.close()


@pytest.fixture
def connections(s3: SeaweedFS) -> Iterator[None]:
    """Drop the storage options and connections of this process before and after a test."""
    storage.configure({})
    yield
    storage.configure({})


@pytest.fixture
def bucket(s3: SeaweedFS) -> str:
    """The URI of a new bucket that only this test uses."""
    return s3.bucket()


@pytest.fixture
def tone() -> Callable[..., np.ndarray]:
    """A function that returns sines, [frames, channels], with another frequency in each channel."""

    def make(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
        t = np.arange(round(seconds * rate)) / rate
        waves = [0.5 * np.sin(2 * np.pi * 440 * (c + 1) * t) for c in range(channels)]
        return np.stack(waves, axis=1).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings.

    If it is missing, the test is skipped, or fails if AUDIOCNN_REQUIRE_RECORDINGS is set.
    """
    if not SHARED.is_dir():
        if os.environ.get("AUDIOCNN_REQUIRE_RECORDINGS"):
            pytest.fail(f"{SHARED} is not there, and AUDIOCNN_REQUIRE_RECORDINGS is set")
        pytest.skip(f"no real recordings at {SHARED}")
    return SHARED
