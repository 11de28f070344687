"""TensorBoard logs beside a bundle, wherever it is."""

import os
import tempfile
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from audiocnn import storage


class Log:
    """Event files at a URI; written to a local folder first where the URI is not local."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.folder = uri if storage.is_local(uri) else tempfile.mkdtemp(prefix="audiocnn-")
        self.writer = SummaryWriter(self.folder)

    def epoch(self, row: dict[str, Any]) -> None:
        """The figures of an epoch as scalars."""
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, row["epoch"])
        self._flush()

    def figure(self, name: str, figure: Figure, epoch: int) -> None:
        """A picture, drawn by matplotlib."""
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.writer.add_image(
            name, np.asarray(canvas.buffer_rgba())[:, :, :3], epoch, dataformats="HWC"
        )
        self._flush()

    def _flush(self) -> None:
        self.writer.flush()
        if not storage.is_local(self.uri):
            for name in os.listdir(self.folder):
                with open(os.path.join(self.folder, name), "rb") as file:
                    storage.write_bytes(storage.join(self.uri, name), file.read())
