"""An exponential moving average of a model's weights."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class MovingAverage(Generic[Model]):
    """An exponential moving average of a model's weights and batch-norm statistics.

    After n updates, the next update keeps min(decay, n / (9 + n)) of the average and takes the
    rest from the model. So the average covers at most about the last tenth of the steps, also in a
    short run. (TensorFlow's ExponentialMovingAverage has a similar warm-up.) torch's AveragedModel
    is not used because it waits for a GPU in every step.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Update the average with the model after a step; the first update copies the model."""
        mine, theirs = list(self.model.state_dict().values()), list(model.state_dict().values())
        averaged = [index for index, value in enumerate(mine) if value.is_floating_point()]
        share = 1 - min(self.decay, self.updates / (9 + self.updates))
        torch._foreach_lerp_([mine[i] for i in averaged], [theirs[i] for i in averaged], share)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates, for `load_state_dict`."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
