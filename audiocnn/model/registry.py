"""All networks, by the class of their options."""

from collections.abc import Callable

from audiocnn.config import ModelConfig
from audiocnn.model.backbone import Backbone
from audiocnn.model.resnet import AudioCNN

BACKBONES: dict[type[ModelConfig], Callable[[ModelConfig, int, int], Backbone]] = {
    ModelConfig: AudioCNN
}
"""The network for each class of options.

To add a network, write a `Backbone` and a class of its options, and add both here.
"""


def build(config: ModelConfig, n_mels: int, n_classes: int) -> Backbone:
    """Return a network with random weights for log-mels with `n_mels` bands."""
    return BACKBONES[type(config)](config, n_mels, n_classes)
