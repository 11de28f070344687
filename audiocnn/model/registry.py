"""All networks, by name.

To add a network, write a `Backbone` and a class of its options, and add both to `BACKBONES`.
"""

from collections.abc import Callable
from typing import Any

from audiocnn.config import ModelConfig, from_json, to_json, unknown_error
from audiocnn.model.backbone import Backbone
from audiocnn.model.resnet import AudioCNN
from audiocnn.storage.json_note import Note

_FIRST = "resnet"
"""The only network of the first versions: their files do not name it, and neither do later ones."""
BACKBONES: dict[str, tuple[type[ModelConfig], Callable[[Any, int, int], Backbone]]] = {
    _FIRST: (ModelConfig, AudioCNN),
}
"""The class of the options and the network, by name; no two networks share a class of options."""


def build(config: ModelConfig, n_mels: int, n_classes: int) -> Backbone:
    """Return a network with random weights for log-mels with `n_mels` bands."""
    _, network = BACKBONES[_name_of(config)]
    return network(config, n_mels, n_classes)


def model_json(config: ModelConfig) -> dict[str, Any]:
    """Return the options of a network as JSON values, with its name unless it is the first."""
    name = _name_of(config)
    return to_json(config) | ({} if name == _FIRST else {"architecture": name})


def model_config(plain: Note) -> ModelConfig:
    """Return the options that `model_json` wrote.

    Raises FormatError for a network or an option that this version does not know, ConfigError.
    """
    name = plain.get("architecture", _FIRST)
    if name not in BACKBONES:
        raise unknown_error(plain, f"its architecture is {name!r}")
    return from_json(BACKBONES[name][0], plain.without(["architecture"]))


def _name_of(config: ModelConfig) -> str:
    return next(name for name, (options, _) in BACKBONES.items() if type(config) is options)
