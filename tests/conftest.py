"""Parts that tests share: sounds on disk, features of them, one Ray cluster, real recordings."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from audiocnn import storage, synthetic
from benchmarks.seaweed import SeaweedFS
from helpers.common import SHARED

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by folder, so that `-m "not integration"` and the like work."""
    for item in items:
        item.add_marker(Path(item.path).relative_to(Path(__file__).parent).parts[0])


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic corpus at ten clips a class."""
    folder = tmp_path_factory.mktemp("corpus") / "sounds"
    synthetic.write_corpus(str(folder), clips_per_class=10)
    return folder


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A quiet local cluster, shared by a module's tests."""
    import ray

    from pipelines import session

    session.connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> Iterator[SeaweedFS]:
    """A real S3 server, and AWS_* variables by which this process and its children reach it."""
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
    """Each test resolves its own, and leaves none to the next."""
    storage.configure({})
    yield
    storage.configure({})


@pytest.fixture
def bucket(s3: SeaweedFS) -> str:
    """The URI of a bucket of this test's own."""
    return s3.bucket()


@pytest.fixture
def tone() -> Callable[..., np.ndarray]:
    """A function that makes [frames, channels] sines, another frequency in each channel."""

    def make(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
        t = np.arange(round(seconds * rate)) / rate
        waves = [0.5 * np.sin(2 * np.pi * 440 * (c + 1) * t) for c in range(channels)]
        return np.stack(waves, axis=1).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; absent ones skip a test, or fail it where they must be."""
    if not SHARED.is_dir():
        if os.environ.get("AUDIOCNN_REQUIRE_RECORDINGS"):
            pytest.fail(f"{SHARED} is not there, and AUDIOCNN_REQUIRE_RECORDINGS is set")
        pytest.skip(f"no real recordings at {SHARED}")
    return SHARED
