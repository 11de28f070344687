"""The interface of every network for training, predictions, Grad-CAM and the endpoint."""

from abc import abstractmethod

import numpy as np
import torch
from torch import nn

from audiocnn.config import ModelConfig


class Backbone(nn.Module):
    """A network from log-mels to class logits, in two steps: `embed`, then `classify`.

    `mean` and `std` ([n_mels], decibels) normalise each band; they are buffers, so they are saved
    with the weights.

    >>> logits = model(logmel)  # [batch, n_mels, n_frames] decibels -> [batch, n_classes]
    """

    config: ModelConfig
    embedding_size: int
    """Number of values in an embedding."""
    n_classes: int
    layers: tuple[str, ...]
    """Names of the modules whose maps are shown by default, from input to output."""
    map_names: tuple[str, ...]
    """Names of all modules whose maps can be shown: first `layers`, then those inside them."""
    cam_layer: str
    """Name of the module that Grad-CAM explains by default."""
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("std", torch.ones(n_mels))

    def normalise_by(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Set each band's mean and deviation, [n_mels] decibels, see `FeatureSet.mean_std`."""
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def normalised(self, logmel: torch.Tensor) -> torch.Tensor:
        """Normalise each band of [batch, n_mels, n_frames] decibels with `mean` and `std`."""
        return (logmel - self.mean[:, None]) / self.std[:, None]

    @abstractmethod
    def embed(self, logmel: torch.Tensor) -> torch.Tensor:
        """Convert [batch, n_mels, n_frames] decibels to embeddings, [batch, embedding_size]."""

    @abstractmethod
    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Convert embeddings, [batch, embedding_size], to [batch, n_classes] logits."""

    def forward(self, logmel: torch.Tensor) -> torch.Tensor:
        """Convert [batch, n_mels, n_frames] decibels to [batch, n_classes] logits."""
        return self.classify(self.embed(logmel))
