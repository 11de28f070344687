"""AudioCNN: a residual CNN over log-mels."""

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn

from audiocnn.config import ModelConfig
from audiocnn.model.backbone import Backbone

__all__ = ["AudioCNN", "ModelConfig"]


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class ResidualBlock(nn.Module):
    """The basic block of He et al. 2016: relu(conv(x) + shortcut(x)).

    forward: [batch, inputs, bands, frames] -> [batch, outputs, bands/stride, frames/stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv3x3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            _conv3x3(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute relu(conv(x) + shortcut(x)); shapes are those of the class."""
        # A 1x1 convolution with a stride reads only these positions. It is not used itself: its
        # gradient writes past its buffer if the map is channels-last, large and has few channels
        # (oneDNN of torch 2.13, AVX-512).
        seen = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        out: torch.Tensor = self.relu(self.conv(x) + self.shortcut(seen))
        return out


class AudioCNN(Backbone):
    """A residual CNN: conv1, layer1 to layer4, pooling, dropout, linear head.

    forward: [batch, n_mels, n_frames] decibels -> [batch, n_classes] logits.
    """

    layers = ("conv1", "layer1", "layer2", "layer3", "layer4")
    cam_layer = "layer4"

    def __init__(self, config: ModelConfig, n_mels: int, n_classes: int) -> None:
        super().__init__(n_mels)
        self.config = config
        self.embedding_size, self.n_classes = 8 * config.channels, n_classes
        width = config.channels
        self.conv1 = nn.Sequential(
            nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.layer1 = _layer(width, width, config.stages[0], 1)
        self.layer2 = _layer(width, 2 * width, config.stages[1], 2)
        self.layer3 = _layer(2 * width, 4 * width, config.stages[2], 2)
        self.layer4 = _layer(4 * width, 8 * width, config.stages[3], 2)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(self.embedding_size, n_classes)
        self.map_names = (*self.layers, *_inside(config.stages))
        # Convolutions are faster in this memory format, on CPUs and GPUs; shapes do not change.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Convert pooled features, [batch, 8 * channels], to [batch, n_classes] logits."""
        logits: torch.Tensor = self.fc(self.dropout(embedding))
        return logits

    def embed(self, logmel: torch.Tensor) -> torch.Tensor:
        """Convert [batch, n_mels, n_frames] decibels to pooled features, [batch, 8 * channels]."""
        x: torch.Tensor = self.normalised(logmel).unsqueeze(1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        x = x.mean(2)
        if self.config.pooling == "mean":
            return x.mean(2)
        return x.mean(2) + x.amax(2)


def _layer(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    named: OrderedDict[str, nn.Module] = OrderedDict(
        (
            f"block{i}",
            ResidualBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1),
        )
        for i in range(blocks)
    )
    return nn.Sequential(named)


def _inside(stages: tuple[int, ...]) -> Iterator[str]:
    """Yield the names of the modules inside the layers whose maps can be shown."""
    for layer, blocks in enumerate(stages, 1):
        for block in range(blocks):
            yield f"layer{layer}.block{block}.conv"
            yield f"layer{layer}.block{block}.relu"
