"""Turn failures that end a job into errors that a user can act on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import ray.train

from audiocnn.errors import AudioCNNError, ConfigError

_PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL")
_IS_FULL = re.compile(
    # messages of torch's allocator, of CUDA and its driver, and of NCCL
    r"CUDA[\w ]*:? out of memory|Cuda failure .*out of memory"
    # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    r"|\bCU[A-Z]+_\w*(?<!HOST_)ALLOC(ATION)?_FAILED"
)
"""Pattern of the message that a GPU's memory is full, whichever library asked for more."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise the AudioCNNError of a worker itself, instead of the Ray error that wraps it."""
    try:
        yield
    except ray.train.WorkerGroupError as error:
        for cause in error.worker_failures.values():
            if isinstance(cause, AudioCNNError):
                raise cause from None
        raise
    except ray.exceptions.RayTaskError as error:
        found: BaseException = error
        # A worker that called a model wraps the model's error a second time.
        while isinstance(found, ray.exceptions.RayTaskError):
            found = found.cause
        if isinstance(found, AudioCNNError):
            message = str(found).split("\nFailed to apply UDF")[0]
            kind = next(k for k in type(found).__mro__ if k.__module__ == "audiocnn.errors")
            raise kind(message) from None
        raise


@contextmanager
def gpu_memory(mend: str) -> Iterator[None]:
    """Raise ConfigError if a GPU's memory is full; `mend` tells the user how to fix that."""
    try:
        yield
    except RuntimeError as error:
        line = next(filter(_IS_FULL.search, str(error).splitlines()), None)
        if line is None:
            raise
        what = ". ".join(line.split(". ")[:2])  # the rest of the line is many figures
        raise ConfigError(f"{what}: {mend}") from error


def lost_worker(error: BaseException) -> str | None:
    """Say in a few words which worker a training lost; None if the training itself failed."""
    if not isinstance(error, ray.train.WorkerGroupError):
        return None
    failures = error.worker_failures
    gone = sorted(r for r, e in failures.items() if type(e).__module__.startswith("ray."))
    if gone:
        return f"worker {', '.join(map(str, gone))} was lost"
    # The other ranks may notice before Ray does that a rank is gone.
    if all(any(word in str(e) for word in _PEER_IS_GONE) for e in failures.values()):
        return "a worker was lost"
    return None
