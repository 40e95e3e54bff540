"""The moving average of the weights: what is shown, shipped and scored."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["Ema"]


class Ema:
    """Exponential moving average of a network's weights, kept as a second network in ``.model`` (eval mode, no gradient).

    decay: share of the old average that survives one step, in [0, 1). Early on the average would remember the random
    first weights, so step s uses min(decay, s / (s + 9)): the first step copies a tenth of the old, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates)``. Buffers (running statistics) are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._mean = list(self.model.parameters())
        self._buffers = list(self.model.buffers())

    def decay_at(self, step: int) -> float:
        """Decay of step number ``step``, counted from 1."""
        return min(self.decay, step / (step + 9))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number ``step`` (from 1); a handful of kernels whatever the number of tensors."""
        if self._mean:
            torch._foreach_lerp_(self._mean, list(model.parameters()), 1 - self.decay_at(step))
        if self._buffers:
            torch._foreach_copy_(self._buffers, list(model.buffers()))
