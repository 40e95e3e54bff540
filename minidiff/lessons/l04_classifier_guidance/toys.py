"""Lesson 04's world with a known truth: two modes on a line, the exact classifier, and guided samples of both samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.diffusion import Mixture, ddim_step, linear, timesteps
from minidiff.diffusion.guide import eps_shift, guided_mean, log_prob_gradient
from minidiff.errors import check_choice
from minidiff.rng import normal

__all__ = ["MODES", "RIGHT", "TABLE", "guided_ddim", "guided_ddpm", "posterior_gradient"]

TABLE = linear(1000)
MODES = Mixture(TABLE, torch.tensor([[-1.0], [1.0]], dtype=torch.float64), std=0.3)
RIGHT = Mixture(TABLE, torch.tensor([[1.0]], dtype=torch.float64), std=0.3)


def posterior_gradient(x: Tensor, t: int) -> Tensor:
    """d/dx log p(right mode | x_t = x), exact; x (B, 1)."""
    return log_prob_gradient(lambda y: MODES.weights(y, t)[:, 1].log(), x)


def guided_ddim(scale: float, n: int = 2000, *, steps: int = 100, seed: int = 0) -> Tensor:
    """(n, 1) samples by DDIM with the shift of eps."""
    x, way = normal((n, 1), "two modes", seed, dtype=torch.float64), [int(t) for t in timesteps(1000, steps)]
    for t, t_prev in zip(way, [*way[1:], -1], strict=True):
        abar = float(TABLE.at(t))
        eps = eps_shift(MODES(x, t).eps, abar, posterior_gradient(x, t), scale)
        x = ddim_step((x - (1 - abar) ** 0.5 * eps) / abar**0.5, eps, float(TABLE.at(t_prev)))
    return x


def guided_ddpm(scale: float, n: int = 2000, *, steps: int = 250, seed: int = 0, gradient_at: str = "x") -> Tensor:
    """(n, 1) samples by DDPM with the shift of the mean.

    gradient_at: "x", at x_t, told t (the released code); "mu", at the mean, told the time of the mean (the derivation).
    """
    check_choice("gradient_at", gradient_at, ("x", "mu"))
    x, way = normal((n, 1), "two modes", seed, dtype=torch.float64), [int(t) for t in timesteps(1000, steps)]
    for t, t_prev in zip(way, [*way[1:], -1], strict=True):
        c1, c2, var = (float(v) for v in TABLE.posterior(t, t_prev))
        mean = c1 * MODES(x, t).x0 + c2 * x
        place = (x, t) if gradient_at == "x" else (mean, max(t_prev, 0))
        x = guided_mean(mean, var, posterior_gradient(*place), scale)
        x = x + var**0.5 * normal((n, 1), "two modes step", seed, t, dtype=torch.float64)
    return x
