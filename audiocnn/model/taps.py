"""Feature maps of a network's layers, by name."""

import torch
from torch import nn

from audiocnn.model.backbone import Backbone


class Taps:
    """The feature maps of one forward pass, by the names of the modules that computed them.

    >>> with Taps(model) as maps:
    ...     logits = model(logmel)
    >>> maps["layer1.block0.conv"].shape  # [batch, channels, bands, frames]

    The names are `model.map_names`: of AudioCNN conv1, layer1 to layer4, and layerN.blockM.conv
    (before the shortcut is added) and layerN.blockM.relu (after). Maps are detached. The next
    forward pass overwrites them.
    """

    def __init__(self, model: Backbone) -> None:
        self.maps: dict[str, torch.Tensor] = {}
        tapped = set(model.map_names)
        self._modules = {name: m for name, m in model.named_modules() if name in tapped}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> dict[str, torch.Tensor]:
        for name, module in self._modules.items():

            def keep(_m: nn.Module, _i: object, output: torch.Tensor, name: str = name) -> None:
                self.maps[name] = output.detach()

            self._hooks.append(module.register_forward_hook(keep))
        return self.maps

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
