"""An exponential moving average of a model's weights."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class MovingAverage(Generic[Model]):
    """An exponential moving average of a model's weights and batch-norm statistics.

    It takes in n / (9 + n) of itself in the update after n others, until that is the decay: so it
    is an average of about the last tenth of the steps, and of a short run no more either. (Warm-up
    as in TensorFlow's ExponentialMovingAverage.) torch's AveragedModel waits for a GPU in every
    step.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take in the model after another step; the first time, as it is."""
        mine, theirs = list(self.model.state_dict().values()), list(model.state_dict().values())
        averaged = [index for index, value in enumerate(mine) if value.is_floating_point()]
        share = 1 - min(self.decay, self.updates / (9 + self.updates))
        torch._foreach_lerp_([mine[i] for i in averaged], [theirs[i] for i in averaged], share)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """For `load_state_dict`."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
