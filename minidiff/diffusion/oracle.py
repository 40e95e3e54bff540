"""Models that are exact: data whose best prediction has a closed form. For lessons and tests, never trained.

    model = Gaussian(schedule, std=0.5)     # data N(0, 0.5^2)
    model = Mixture(schedule, points)       # data = a finite set, each point as likely: a network that learnt it by heart
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff.diffusion.predict import Prediction, batch_t, signal_noise
from minidiff.diffusion.schedule import Schedule
from minidiff.errors import require

__all__ = ["Gaussian", "Mixture"]


class Gaussian:
    """Every dimension is N(mean, std^2): x0 = E[x_0 | x_t] is a straight line in x_t."""

    def __init__(self, schedule: Schedule, *, mean: float | Tensor = 0.0, std: float = 1.0) -> None:
        require(std > 0, "std", std, "a positive number")
        self.schedule, self.mean, self.std = schedule, mean, std

    def __call__(self, x: Tensor, t: int | float | Tensor, cond: object = None) -> Prediction:
        """x_t ~ N(a m, a^2 s^2 + 1 - a^2), a = sqrt(abar); x0 = m + a s^2 / (a^2 s^2 + 1 - a^2) (x - a m)."""
        a, b = signal_noise(self.schedule, t, x)
        centred = (x - a * self.mean) / (a**2 * self.std**2 + b**2)
        return Prediction(self.mean + a * self.std**2 * centred, b * centred)

    def variance(self, t: int | Tensor, t_prev: int | Tensor) -> Tensor:
        """The best reverse variance, var + c1^2 Var(x_0 | x_t) (Bao et al. 2022, theorem 1): with it the bound is tight."""
        abar = self.schedule.at(t)
        c1, _, var = self.schedule.posterior(t, t_prev)
        return var + c1**2 * self.std**2 * (1 - abar) / (abar * self.std**2 + 1 - abar)

    def entropy(self) -> float:
        """Nats per dimension: half the log of 2 pi e std^2."""
        return 0.5 * math.log(2 * math.pi * math.e * self.std**2)

    def flow(self, x: Tensor, t: int, t_prev: int) -> Tensor:
        """Where the probability flow ODE takes x from t to t_prev: it only shifts and scales."""
        here, there = (self.schedule.at(i) for i in (t, t_prev))
        width = [float((a * self.std**2 + 1 - a).sqrt()) for a in (here, there)]
        return (x - float(here.sqrt()) * self.mean) * (width[1] / width[0]) + float(there.sqrt()) * self.mean


class Mixture:
    """Equal Gaussians of one std around points (N, D) or (N, C, H, W); std = 0 is the finite set itself."""

    def __init__(self, schedule: Schedule, points: Tensor, *, std: float = 0.0) -> None:
        require(points.ndim >= 2 and len(points) > 0, "points", f"shape {tuple(points.shape)}", "shape (N, D) or (N, C, H, W)")
        require(std >= 0, "std", std, "zero or more")
        self.schedule, self.points, self.std = schedule, points, std

    def weights(self, x: Tensor, t: int | float | Tensor) -> Tensor:
        """(B, N): how likely each point is the one x came from."""
        a, b = (r.flatten(1) for r in signal_noise(self.schedule, t, x))
        flat = self.points.to(x).flatten(1)
        far = a**2 * flat.square().sum(1) - 2 * a * (x.flatten(1) @ flat.T)  # |x - a m|^2, less what all points share
        return torch.softmax(-far / (2 * (a**2 * self.std**2 + b**2)), dim=1)

    def __call__(self, x: Tensor, t: int | float | Tensor, cond: object = None) -> Prediction:
        """x0 = E[x_0 | x_t] = sum_n w_n (m_n + a s^2 / (a^2 s^2 + 1 - a^2) (x - a m_n))."""
        t = batch_t(t, x)
        a, b = signal_noise(self.schedule, t, x)
        centre = torch.einsum("bn,n...->b...", self.weights(x, t), self.points.to(x))
        x0 = centre + a * self.std**2 / (a**2 * self.std**2 + b**2) * (x - a * centre)
        return Prediction(x0, (x - a * x0) / b)
