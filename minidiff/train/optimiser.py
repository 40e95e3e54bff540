"""AdamW and the moving average of the weights; both kept by the names of the weights they belong to."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from minidiff.errors import require

__all__ = ["Ema", "adamw", "moments", "restore_moments", "set_lr"]


def adamw(model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float,
          graph: bool = False) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) over the weights that learn, in one fused pass.

    graph: the update is recorded in a CUDA graph, so the learning rate is a tensor on the device.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    rate = torch.tensor(lr, device=learned[0].device) if graph else lr
    return torch.optim.AdamW(learned, lr=rate, betas=betas, weight_decay=weight_decay, capturable=graph,
                             fused=bool(learned) and learned[0].device.type in ("cpu", "cuda"))


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step; in place where it is a tensor, which a recorded step reads."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def moments(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """{name of weight: {exp_avg, exp_avg_sq, step}}, for the weights that have been updated."""
    return {name: dict(optimiser.state[p]) for name, p in model.named_parameters() if p in optimiser.state}


def restore_moments(optimiser: torch.optim.Optimizer, model: nn.Module, saved: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Put back what :func:`moments` gave: on each weight's device and in its memory layout."""
    weights = dict(model.named_parameters())
    strange = sorted(saved.keys() - weights.keys())
    require(not strange, "out", f"moments of {', '.join(strange[:3])}", "moments of weights that this network has")
    fused = optimiser.param_groups[0]["fused"]
    for name, state in saved.items():
        p = weights[name]
        here = {k: torch.empty_like(p, requires_grad=False).copy_(v) for k, v in state.items() if k != "step"}
        here["step"] = state["step"].to(p.device if fused else "cpu", copy=True)
        optimiser.state[p] = here


class Ema:
    """Exponential moving average of a network's weights: what is shown, shipped and scored.

    Kept as a second network in ``.model`` (eval mode, no gradient).

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
