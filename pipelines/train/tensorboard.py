"""TensorBoard logs beside a bundle, wherever it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from audiocnn import storage
from audiocnn.storage.scratch import Scratch
from audiocnn.storage.stores import local


class Log:
    """Event files at a URI; written to a local folder first where the URI is not local.

    Their names end with `suffix`. All that writes raises StorageError.
    """

    def __init__(self, uri: str, suffix: str, epochs_done: int = 0) -> None:
        self.uri = uri
        self._temporary = Scratch()
        # All of this folder is uploaded, so it is not the one that has the mark of a Scratch.
        beside = os.path.join(self._temporary.name, "log")
        self.folder = uri if storage.is_local(uri) else beside
        # A run that goes on repeats what it had logged after its last checkpoint.
        with self._writing():
            self.writer = SummaryWriter(
                self.folder, purge_step=epochs_done + 1, filename_suffix=suffix
            )

    def epoch(self, row: dict[str, Any]) -> None:
        """The figures of an epoch as scalars."""
        with self._writing():
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"])
            self.writer.flush()

    def workers(self, count: int, epoch: int) -> None:
        """How many workers there are from the first step of an epoch on: the time of that step."""
        with self._writing():
            self.writer.add_scalar("workers", count, epoch)

    def figure(self, name: str, figure: Figure, epoch: int) -> None:
        """A picture, drawn by matplotlib."""
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
        with self._writing():
            self.writer.add_image(name, pixels, epoch, dataformats="HWC")
            self.writer.flush()

    def upload(self) -> None:
        """Bring what was logged to where it belongs, unless it is written there already."""
        if not storage.is_local(self.uri):
            for name in os.listdir(self.folder):
                with open(os.path.join(self.folder, name), "rb") as file:
                    storage.write_bytes(storage.join(self.uri, name), file.read())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise StorageError where a file cannot be written: the disk is full."""
        try:
            yield
        except OSError as error:
            raise local.explain(self.folder, error, read=False) from error
