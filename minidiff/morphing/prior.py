"""Where to put the frames: AID's Beta prior (He et al. 2024), which looks for weights at which neighbours differ equally."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.errors import require

__all__ = ["Explored", "beta_cdf", "beta_quantile", "explore", "fit_beta", "smoothest"]

_GRID = 4001


def _table(alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """(x, CDF) of Beta(alpha, beta) on a grid that is dense near both ends."""
    require(alpha > 0 and beta > 0, "alpha, beta", (alpha, beta), "positive numbers", "beta_cdf(x, 3.0, 3.0)")
    u = torch.linspace(0, 1, _GRID, dtype=torch.float64)
    x = torch.sin(torch.pi / 2 * u) ** 2
    middle = torch.sin(torch.pi / 2 * (u[1:] + u[:-1]) / 2) ** 2
    # dx = pi sin cos du = pi sqrt(x (1 - x)) du
    density = middle ** (alpha - 0.5) * (1 - middle) ** (beta - 0.5)
    total = torch.cat([torch.zeros(1, dtype=torch.float64), density.cumsum(0)])
    return x, total / total[-1]


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through (xs, ys), xs rising."""
    k = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
    low, high = xs[k - 1], xs[k]
    share = ((x - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    return ys[k - 1] + share * (ys[k] - ys[k - 1])


def beta_cdf(x: Tensor, alpha: float, beta: float) -> Tensor:
    """P(X <= x) for X ~ Beta(alpha, beta), x in [0, 1], float64, to about 1e-6."""
    xs, table = _table(alpha, beta)
    return _interpolate(x.double(), xs, table)


def beta_quantile(p: Tensor, alpha: float, beta: float) -> Tensor:
    """The x with P(X <= x) = p: the inverse of :func:`beta_cdf`."""
    xs, table = _table(alpha, beta)
    return _interpolate(p.double(), table, xs)


def fit_beta(x: Tensor, p: Tensor) -> tuple[float, float]:
    """(alpha, beta) whose CDF is nearest to the points (x, p) in least squares; x, p (n,) rising from 0 to 1.

    A search over a grid of ratios that is made finer four times: no gradient, no start that matters.
    """
    centre, width = (0.7, 0.7), 2.3              # logarithms: 0.2 to 20
    for _ in range(5):
        steps = torch.linspace(-width, width, 7, dtype=torch.float64).tolist()
        tries = [(centre[0] + i, centre[1] + j) for i in steps for j in steps]
        errors = [float((beta_cdf(x, *(torch.tensor(c).exp().tolist())) - p).square().sum()) for c in tries]
        centre, width = tries[min(range(len(tries)), key=errors.__getitem__)], width / 3
    return tuple(torch.tensor(centre, dtype=torch.float64).exp().tolist())


class Explored(NamedTuple):
    """What :func:`explore` looked at. weights: m rising numbers; images (m, ...); gaps (m - 1,): distances of neighbours; prior:
    the last (alpha, beta)."""

    weights: tuple[float, ...]
    images: Tensor
    gaps: Tensor
    prior: tuple[float, float]


def explore(draw: Callable[[list[float]], Tensor], distance: Callable[[Tensor, Tensor], Tensor], *, size: int = 16,
            prior: tuple[float, float] = (3.0, 3.0)) -> Explored:
    """Draw ``size`` frames, each where the path jumps most so far (AID's exploration with a Beta prior).

    draw(weights) -> pictures (n, ...); distance(x, y) -> (n,). It starts at 0, 1/2, 1. Then the largest gap is split where the
    prior's probability between its two ends is halved, and the prior is fitted anew to the share of the way that lies
    behind each weight, so that later splits fall where the picture changes fast.
    """
    require(isinstance(size, int) and size >= 3, "size", repr(size), "a whole number, 3 or more: both ends and the middle",
            "size=16")
    weights = [0.0, 0.5, 1.0]
    images = list(draw(weights))
    gaps = [float(distance(a[None], b[None])) for a, b in itertools.pairwise(images)]
    while len(weights) < size:
        k = max(range(len(gaps)), key=gaps.__getitem__)
        p = beta_cdf(torch.tensor(weights[k:k + 2]), *prior)
        new = float(beta_quantile(p.mean(), *prior))
        if not weights[k] < new < weights[k + 1]:                       # the prior gives this gap no room
            new = (weights[k] + weights[k + 1]) / 2
        frame = draw([new])[0]
        gaps[k:k + 1] = [float(distance(a[None], b[None])) for a, b in ((images[k], frame), (frame, images[k + 1]))]
        weights.insert(k + 1, new)
        images.insert(k + 1, frame)
        way = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)
        if float(way[-1]) > 0:
            prior = fit_beta(torch.tensor(weights, dtype=torch.float64), way / way[-1])
    return Explored(tuple(weights), torch.stack(images), torch.tensor(gaps), prior)


def smoothest(distances: Tensor, count: int) -> list[int]:
    """The ``count`` of m frames, both ends among them, whose hops differ least: the smallest (largest - smallest) hop.

    distances (m, m): of every two frames. All choices are tried, so m is at most 20.
    """
    m = len(distances)
    require(distances.shape == (m, m) and m <= 20, "distances", f"shape {tuple(distances.shape)}", "(m, m) with m at most 20")
    require(2 <= count <= m, "count", count, f"a whole number from 2 to {m}", "count=5")
    best: tuple[float, Sequence[int]] = (float("inf"), ())
    table = distances.tolist()
    for inside in itertools.combinations(range(1, m - 1), count - 2):
        chosen = (0, *inside, m - 1)
        hops = [table[a][b] for a, b in itertools.pairwise(chosen)]
        best = min(best, (max(hops) - min(hops), chosen))
    return list(best[1])
