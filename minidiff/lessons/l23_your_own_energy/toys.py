"""An energy where the answer is exact: Gaussian points of the plane, tilted by a linear and by a square energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion import ddim_step, timesteps
from minidiff.diffusion.schedules import cosine
from minidiff.errors import require
from minidiff.rng import normal

__all__ = ["COVARIANCE", "GOAL", "Cloud", "follow", "guess", "left_open", "linear", "square", "tilted"]

COVARIANCE = torch.tensor([[1.0, 0.5], [0.5, 0.5]], dtype=torch.float64)
GOAL = 2.0                                     # the x_1 that the square energy asks for


class Cloud(NamedTuple):
    """A Gaussian of the plane: mean (2,) and covariance (2, 2)."""

    mean: Tensor
    covariance: Tensor


def linear(x: Tensor) -> Tensor:
    """E(x) = -x_1, of points (n, 2): to the right, without end. (n,)."""
    return -x[:, 0]


def square(x: Tensor) -> Tensor:
    """E(x) = (x_1 - GOAL)^2 / 2 of points (n, 2): (n,)."""
    return 0.5 * (x[:, 0] - GOAL) ** 2


def tilted(energy: Callable[[Tensor], Tensor], scale: float) -> Cloud:
    """The density of N(0, COVARIANCE) times exp(-scale * energy), made to integrate to one: again a Gaussian.

    linear: the mean moves by scale * S e, the covariance S stays. square: the precision grows by scale * e e^T. e = (1, 0).
    """
    require(energy in (linear, square), "energy", energy, "linear or square of this module")
    e = torch.tensor([1.0, 0.0], dtype=torch.float64)
    if energy is linear:
        return Cloud(scale * COVARIANCE @ e, COVARIANCE)
    covariance = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + scale * torch.outer(e, e))
    return Cloud(scale * GOAL * covariance @ e, covariance)


def guess(x: Tensor, abar: float) -> Tensor:
    """E[x_0 | x_t = x] of points (n, 2): sqrt(abar) S (abar S + (1 - abar) I)^-1 x."""
    return abar**0.5 * x @ torch.linalg.inv(abar * COVARIANCE + (1 - abar) * torch.eye(2).to(x)) @ COVARIANCE


def left_open(abar: float) -> Tensor:
    """Cov[x_0 | x_t] (2, 2): what the noise leaves open, the same for every x_t."""
    return torch.linalg.inv(torch.linalg.inv(COVARIANCE) + abar / (1 - abar) * torch.eye(2, dtype=torch.float64))


def follow(energy: Callable[[Tensor], Tensor], scale: float, *, n: int = 1000, steps: int = 50, known: bool = False) -> Tensor:
    """n points (n, 2) from noise to data by DDIM, the predicted noise pushed by the gradient of the energy of the guess.

    eps + scale * sqrt(1 - abar) * grad E(guess(x)): with a linear energy that is the tilted density exactly. known: the push
    of the square energy is divided by 1 + scale * Var[x_1 | x_t], which makes it exact too.
    """
    route, schedule = timesteps(1000, steps, spacing="trailing"), cosine(1000)
    x = normal((n, 2), "lesson 23 toy", 0, dtype=torch.float64)
    for t, t_prev in zip(route, [*route[1:], -1], strict=True):
        abar = float(schedule.at(t))
        leaf, b = x.detach().requires_grad_(), (1 - abar) ** 0.5
        x0 = guess(leaf, abar)
        (slope,) = torch.autograd.grad(energy(x0).sum(), leaf)
        length = scale / (1 + scale * float(left_open(abar)[0, 0])) if known else scale
        eps = (x - abar**0.5 * x0.detach()) / b + length * b * slope
        x = ddim_step((x - b * eps) / abar**0.5, eps, float(schedule.at(t_prev)))
    return x
