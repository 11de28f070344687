"""The networks that there are, by the kind of their options."""

from collections.abc import Callable

from audiocnn.config import ModelConfig
from audiocnn.model.backbone import Backbone
from audiocnn.model.resnet import AudioCNN

BACKBONES: dict[type[ModelConfig], Callable[[ModelConfig, int, int], Backbone]] = {
    ModelConfig: AudioCNN
}
"""To add a network, write a `Backbone` and its options, and name both here."""


def build(config: ModelConfig, n_mels: int, n_classes: int) -> Backbone:
    """A network with fresh weights for log-mels of `n_mels` bands."""
    return BACKBONES[type(config)](config, n_mels, n_classes)
