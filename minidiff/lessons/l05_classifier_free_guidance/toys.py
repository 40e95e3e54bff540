"""Lesson 05's world with a known truth: three round classes in the plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from minidiff.diffusion import Mixture, Prediction, Schedule, ddim, last, linear, x0_from_v
from minidiff.diffusion.guide import cfg
from minidiff.rng import normal

__all__ = ["CENTRES", "WIDTH", "GuidedMixture", "TinyNet", "draw", "tilted", "walk"]

WIDTH = 0.45
CENTRES = torch.tensor([[math.cos(a), math.sin(a)] for a in (math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6)])
TABLE = linear(200)


def draw(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n points (n, 2) and their classes (n,): three overlapping round Gaussians, each as likely."""
    label = torch.arange(n) % 3
    return CENTRES[label] + WIDTH * normal((n, 2), "three classes", seed), label


class GuidedMixture:
    """The exact model of class ``label`` guided with scale s away from the exact model of all three."""

    def __init__(self, s: float, *, label: int = 0, schedule: Schedule = TABLE) -> None:
        self.schedule, self.s = schedule, s
        self.all = Mixture(schedule, CENTRES, std=WIDTH)
        self.one = Mixture(schedule, CENTRES[label][None], std=WIDTH)

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        u, c = self.all(x, t), self.one(x, t)
        return Prediction(cfg(u.x0, c.x0, self.s), cfg(u.eps, c.eps, self.s))


def walk(model: object, n: int = 400, *, seed: int = 0, steps: int = 50) -> Tensor:
    """n samples (n, 2) by DDIM."""
    return last(ddim(model, normal((n, 2), "three classes start", seed), steps=steps)).x


def tilted(s: float, n: int = 200_000, *, label: int = 0) -> tuple[Tensor, Tensor]:
    """Mean (2,) and standard deviation (2,) of the density p(x) p(c | x)^s at no noise, by weighing samples of p.

    Guidance is often said to sample from it. It does not: the noised tilted density is not what each step is guided with.
    """
    x = draw(n, seed=7)[0].double()
    logits = -(x[:, None] - CENTRES.double()).square().sum(2) / (2 * WIDTH**2)
    weight = (s * logits.log_softmax(1)[:, label]).exp()
    weight = weight / weight.sum()
    mean = weight @ x
    return mean, (weight @ (x - mean).square()).sqrt()


class TinyNet(nn.Module):
    """(x (B, 2), t (B,), cond (B, 3)) -> x0 (B, 2): three layers of 96, for training on the page. Inside they predict v."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 + 3 + 8, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 96),
                                    nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        angle = (t.float() / TABLE.T)[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi
        return x0_from_v(x, self.layers(torch.cat([x, cond, angle.sin(), angle.cos()], 1)), t, TABLE)
