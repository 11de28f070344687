"""A training's checkpoint: one file at any URI, complete or not there at all.

It holds whatever `Trainer.state_dict` gives, the position (epoch, step) from which the state of
every random generator and of the sampler follows, and what names the run it belongs to.
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
"""Tensors, numbers, texts, lists and dictionaries of them."""


def write(uri: str, state: State) -> None:
    """Write a state. Raises StorageError; what was there stays until the new one is whole."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read(uri: str, device: torch.device) -> State | None:
    """The state at a URI; None where there is none. Raises StorageError, FormatError."""
    if not storage.exists(uri):
        return None
    data = storage.read_bytes(uri)
    try:
        # Tensors and plain values alone: nothing else is ever unpickled.
        state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        return Note(state.items(), Origin(uri))
    except Exception as error:
        raise FormatError(f"{uri}: a damaged checkpoint ({type(error).__name__})") from error


def job_of(uri: str) -> str | None:
    """The job that the checkpoint at a URI names; None where it is none. Raises StorageError."""
    try:
        state = read(uri, torch.device("cpu"))
    except FormatError:
        return None
    return state.get("job") if isinstance(state, dict) else None


def snapshot(state: Any) -> Any:
    """A copy of a state in this machine's memory. Raises TrainingError for weights that are NaN."""
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
    """Runs one job at a time behind the training, such as writing a checkpoint.

    What a job raised is raised by the next call, so that a full disk ends the training.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether the last job is still under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Begin a job once the last one is done."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the last job, and raise what it raised."""
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
