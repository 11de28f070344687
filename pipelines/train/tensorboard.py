"""TensorBoard logs in a bundle's folder, local or in a store."""

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
    """Event files at a URI; they are written to a local folder first if the URI is not local.

    Their names end with `suffix`. All methods, and the constructor, raise StorageError.
    """

    def __init__(self, uri: str, suffix: str, epochs_done: int = 0) -> None:
        self.uri = uri
        self._temporary = Scratch()
        # All files of this folder are uploaded, so it must not contain the mark of a Scratch.
        beside = os.path.join(self._temporary.name, "log")
        self.folder = uri if storage.is_local(uri) else beside
        # A resumed run repeats the epochs after its last checkpoint: drop their old events.
        with self._writing():
            self.writer = SummaryWriter(
                self.folder, purge_step=epochs_done + 1, filename_suffix=suffix
            )

    def epoch(self, row: dict[str, Any]) -> None:
        """Log the figures of an epoch as scalars."""
        with self._writing():
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"])
            self.writer.flush()

    def workers(self, count: int, epoch: int) -> None:
        """Log the number of workers from an epoch's first step on, at the time of that step."""
        with self._writing():
            self.writer.add_scalar("workers", count, epoch)

    def figure(self, name: str, figure: Figure, epoch: int) -> None:
        """Log a picture that matplotlib draws."""
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
        with self._writing():
            self.writer.add_image(name, pixels, epoch, dataformats="HWC")
            self.writer.flush()

    def upload(self) -> None:
        """Upload the event files to the URI; do nothing if they are written there directly."""
        if not storage.is_local(self.uri):
            for name in os.listdir(self.folder):
                with open(os.path.join(self.folder, name), "rb") as file:
                    storage.write_bytes(storage.join(self.uri, name), file.read())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise StorageError if a file cannot be written, such as on a full disk."""
        try:
            yield
        except OSError as error:
            raise local.explain(self.folder, error, read=False) from error
