"""The checkpoint of a training: one file at any URI, written completely or not at all.

It holds the state of `Trainer.state_dict`, the position (epoch, step), and the fingerprint of its
job. The position determines the state of every random generator and of the sampler.
"""

import io
import threading
from collections.abc import Callable
from typing import Any

import torch

from audiocnn import storage
from audiocnn.errors import FormatError, TrainingError
from audiocnn.storage.json_note import Note, Origin

State = dict[str, Any]
"""Tensors, numbers and strings, and lists and dictionaries of these."""


def write(uri: str, state: State) -> None:
    """Write a state; the old file stays until the new one is complete. Raises StorageError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read(uri: str, device: torch.device) -> State | None:
    """Read the state at a URI; None if there is no file. Raises StorageError, FormatError."""
    if not storage.exists(uri):
        return None
    data = storage.read_bytes(uri)
    try:
        # weights_only: only tensors and plain values are unpickled.
        state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        return Note(state.items(), Origin(uri))
    except Exception as error:
        raise FormatError(f"{uri}: a damaged checkpoint ({type(error).__name__})") from error


def job_of(uri: str) -> str | None:
    """Read the job fingerprint in a checkpoint; None if there is none. Raises StorageError.

    A missing or damaged file has none.
    """
    try:
        state = read(uri, torch.device("cpu"))
    except FormatError:
        return None
    return state.get("job") if isinstance(state, dict) else None


def snapshot(state: Any) -> Any:
    """Copy a state to CPU memory. Raises TrainingError if a tensor has NaN or infinite values."""
    if isinstance(state, torch.Tensor):
        copied = state.detach().to("cpu", copy=True)
        if copied.is_floating_point() and not bool(torch.isfinite(copied).all()):
            raise TrainingError("the weights are not finite any more: lower --max-lr")
        return copied
    if isinstance(state, dict):
        return {name: snapshot(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value) for value in state)
    return state


class BackgroundWriter:
    """A runner of one job at a time beside the training, such as writing a checkpoint.

    The error of a job is raised by the next call, so that a full disk ends the training.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether the last job is still running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the last job, raise its error, and start a job."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the last job, and raise its error."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
