"""What lesson 01 measures with: two toys in the plane, the exact reverse chain, and the reader that knows every picture."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff.diffusion import Mixture, Step
from minidiff.diffusion.ddgan import GRID_SCALE, draw_x0, grid_score, twenty_five
from minidiff.errors import require
from minidiff.rng import generator as stream
from minidiff.rng import key, uniform

__all__ = ["GRID_SCALE", "swiss_roll", "twenty_five", "grid_score", "draw_x0", "exact_reverse", "ideal_reading", "crossing"]

def swiss_roll(n: int = 400, *, seed: int = 0) -> Tensor:
    """n points (n, 2) float32 on a spiral without thickness, mean 0 and variance 1 over both axes together."""
    require(isinstance(n, int) and n >= 2, "n", repr(n), "a whole number from 2 on", "swiss_roll(400)")
    u = (torch.arange(n) + uniform(key("swiss roll", seed), torch.arange(n), 1)[:, 0]) / n      # one point in each n-th
    angle = 1.5 * math.pi * (1 + 8 * u).sqrt()                       # from 1.5 pi to 4.5 pi, evenly along the curve
    points = angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    points = points - points.mean(0)
    return (points / points.square().mean().sqrt()).float()


def exact_reverse(model: Mixture, x: Tensor, *, generator: torch.Generator | None = None) -> Iterator[Step]:
    """The reverse chain without any approximation: draw x_0 from q(x_0 | x_t), then x_{t-1} from q(x_{t-1} | x_t, x_0).

    Together that is one draw from q(x_{t-1} | x_t), however large the step. Yields a Step after each; its x0 is the draw.
    """
    schedule, generator = model.schedule, generator or stream("exact reverse")
    for index, t in enumerate(reversed(range(schedule.T))):
        x0 = draw_x0(model, x, t, generator=generator)
        c1, c2, var = (float(c) for c in schedule.posterior(t))
        eps = (x - float(schedule.at(t)) ** 0.5 * x0) / (1 - float(schedule.at(t))) ** 0.5
        x = c1 * x0 + c2 * x + var**0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        yield Step(index, schedule.T, t, t - 1, x, x0, eps)


def ideal_reading(gallery: Tensor, labels: dict[str, Tensor], abar: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """What can be read from a noised picture by a reader who knows the whole gallery: nobody can do better.

    gallery: (N, C, H, W), each picture as likely; the first P of them are noised with noise (P, C, H, W), the same at every
    level. labels: name -> (N,) int64. abar: (L,) in (0, 1). By Bayes' rule picture n has the probability
    softmax_n(-|x_t - sqrt(abar) m_n|^2 / (2 (1 - abar))), and a label the sum over its pictures.
    Returns name -> (L, P) bool: is the most probable label the true one?
    """
    require(gallery.shape[1:] == noise.shape[1:] and 0 < len(noise) <= len(gallery), "noise", f"shape {tuple(noise.shape)}",
            f"shape (P, {', '.join(map(str, gallery.shape[1:]))}) with P <= {len(gallery)}")
    require(bool(((abar > 0) & (abar < 1)).all()), "abar", "0, 1 or beyond", "values between 0 and 1")
    flat, probes = gallery.flatten(1), len(noise)
    clean = (flat[:probes] @ flat.T).double()                 # inner products once; every noise level is made of them
    rough = (noise.flatten(1) @ flat.T).double()
    norm = flat.square().sum(1).double()
    found: dict[str, list[Tensor]] = {name: [] for name in labels}
    for a in abar.double().tolist():
        inner = a * clean + (a * (1 - a)) ** 0.5 * rough      # sqrt(abar) <x_t, m_n>
        weight = torch.softmax((inner - a * norm / 2) / (1 - a), 1)
        for name, label in labels.items():
            chance = weight.new_zeros(probes, int(label.max()) + 1).index_add(1, label, weight)
            found[name].append(chance.argmax(1) == label[:probes])
    return {name: torch.stack(rows) for name, rows in found.items()}


def crossing(where: Tensor, share: Tensor, level: float) -> float:
    """Where a falling curve first goes below ``level``, read between the points; where, share: (L,). NaN if it never does."""
    below = (share < level).nonzero()[:, 0]
    if len(below) == 0:
        return math.nan
    i = int(below[0])
    if i == 0:
        return float(where[0])
    part = float((share[i - 1] - level) / (share[i - 1] - share[i]))
    return float(where[i - 1] + part * (where[i] - where[i - 1]))
