"""Denoising diffusion GANs (Xiao, Kreis and Vahdat 2022): few large steps, each drawn from an implicit x0 and the posterior.

    p(x_{t-1} | x_t) = integral of p(z) q(x_{t-1} | x_t, x0 = G(x_t, z, t)) dz

The argument for it needs no network: :func:`draw_x0` is a perfect generator for a mixture, and replacing it by the mean
E[x0 | x_t], as a Gaussian reverse step does, loses most of the data at T = 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.diffusion.call import predict_at
from minidiff.diffusion.noise import check_rows, row_noise
from minidiff.diffusion.oracle import Mixture
from minidiff.diffusion.predict import batch_t, check_state, q_sample
from minidiff.diffusion.sample import Step
from minidiff.diffusion.schedule import Schedule
from minidiff.errors import checks_first, require

__all__ = ["GRID_SCALE", "d_loss", "ddgan", "ddgan_schedule", "draw_x0", "g_loss", "grid_score", "pair", "posterior_sample", "r1",
           "twenty_five"]

GRID_SCALE = math.sqrt(8 + 0.05**2)      # brings the 25 Gaussians (centres -4, -2, 0, 2, 4 on both axes, std 0.05) to variance 1


def ddgan_schedule(T: int = 4, *, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:  # noqa: N803
    """The variance preserving SDE cut into T steps (Xiao et al. 2022, appendix C).

    abar(u) = exp(-u^2 (beta_max - beta_min) / 2 - u beta_min) at u_k = k / T (1 - 1e-3) + 1e-3, divided by its value at u_0.
    T = 4: beta 0.478255, 0.849206, 0.956418, 0.987404. T = 1: one step from noise, a plain GAN.
    """
    require(isinstance(T, int) and 1 <= T <= 64, "T", T, "a whole number from 1 to 64", "T=4")
    require(0 < beta_min < beta_max, "beta_min, beta_max", (beta_min, beta_max), "0 < beta_min < beta_max")
    u = torch.arange(T + 1, dtype=torch.float64) / T * (1 - 1e-3) + 1e-3
    abar = (-0.5 * u**2 * (beta_max - beta_min) - u * beta_min).exp()
    return Schedule(abar[1:] / abar[0], f"ddgan{T}")


def _coefficient(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x).view(-1, *(1,) * (x.ndim - 1))


def pair(x0: Tensor, t: int | Tensor, schedule: Schedule, noise: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """(x_{t-1}, x_t) on one path: x_{t-1} by :func:`q_sample` with ``noise``, then one more step with ``more``.

    t: (B,) in [0, T-1]; at t = 0 the first of the pair is x0 itself. Two separate calls of q_sample would give two unrelated
    noises, and a discriminator that learns nothing about the step between them.
    """
    t = batch_t(t, x0)
    before = q_sample(x0, t - 1, noise, schedule)
    alpha = schedule.at(t) / schedule.at(t - 1)
    return before, _coefficient(alpha.sqrt(), x0) * before + _coefficient((1 - alpha).sqrt(), x0) * more


def posterior_sample(x0: Tensor, x_t: Tensor, t: int | Tensor, schedule: Schedule, noise: Tensor) -> Tensor:
    """One draw of q(x_{t-1} | x_t, x0) (Ho et al. 2020, eq. 6-7). At t = 0 the variance is 0 and x0 comes back."""
    c1, c2, var = schedule.posterior(batch_t(t, x_t))
    return _coefficient(c1, x_t) * x0 + _coefficient(c2, x_t) * x_t + _coefficient(var.sqrt(), x_t) * noise


def d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss, shaped like its logits: softplus(-real) + softplus(fake), 2 log 2 where it knows nothing."""
    return F.softplus(-real) + F.softplus(fake)


def g_loss(fake: Tensor) -> Tensor:
    """The generator's loss, not saturating: softplus(-fake) (Goodfellow et al. 2014)."""
    return F.softplus(-fake)


def r1(logits: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """||d D / d x||^2 of each row, (B,), with a graph (Mescheder et al. 2018): for real x_{t-1} only, times gamma / 2."""
    given = x.detach().requires_grad_(True)
    gradient = torch.autograd.grad(logits(given).sum(), given, create_graph=True)[0]
    return gradient.square().flatten(1).sum(1)


@checks_first
def ddgan(generator: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, schedule: Schedule, *, z_dim: int, seed: int = 0,
          rows: Sequence[int] | None = None, fixed_z: bool = False) -> Iterator[Step]:
    """Sample in T steps: z, x0 = G(x_t, t, z), x_{t-1} ~ q(x_{t-1} | x_t, x0). Yields a Step after each.

    generator: (x_t (B, ...), t (B,), z (B, z_dim)) -> x0, shaped like x_t. x: (B, ...) standard normal. seed, rows: the noise
    of row r at step t is a function of (seed, r, t). fixed_z: z = 0 always, which shows what z was for.
    """
    check_state("x", x)
    seed, rows = check_rows(seed, rows, len(x))
    yield  # arguments are good; the rest runs as the caller asks for steps
    for index, t in enumerate(reversed(range(schedule.T))):
        z = torch.zeros(len(x), z_dim) if fixed_z else row_noise((len(x), z_dim), seed=seed, t=t, rows=rows, stream="z")
        x0 = predict_at(generator, x, t, z.to(x))
        abar = float(schedule.at(t))
        eps = (x - abar**0.5 * x0) / (1 - abar) ** 0.5
        x = posterior_sample(x0, x, t, schedule, row_noise(x.shape, seed=seed, t=t, rows=rows).to(x))
        yield Step(index, schedule.T, t, t - 1, x, x0, eps)


# 25 Gaussians ------------------------------------------------------------------------------------------------------------


def twenty_five(schedule: Schedule) -> Mixture:
    """The 25 Gaussians as an exact model: Mixture(schedule, 25 centres, std), scaled to variance 1 on each axis."""
    axis = torch.linspace(-4, 4, 5)
    return Mixture(schedule, torch.cartesian_prod(axis, axis) / GRID_SCALE, std=0.05 / GRID_SCALE)


def grid_score(x: Tensor) -> tuple[Tensor, int]:
    """Points (B, 2) in the scale of :func:`twenty_five`: which lie within 3 standard deviations of a centre, (B,) bool,
    and how many of the 25 centres have at least one such point. A perfect sampler has 1 - exp(-4.5) = 98.9 % within."""
    axis = torch.linspace(-4, 4, 5).to(x)
    far, centre = torch.cdist(x * GRID_SCALE, torch.cartesian_prod(axis, axis)).min(1)
    good = far < 0.15
    return good, len(centre[good].unique())


def draw_x0(model: Mixture, x: Tensor, t: int, *, generator: torch.Generator) -> Tensor:
    """One draw from q(x_0 | x_t) for data that is a finite set, or equal round Gaussians. x: (B, D) or (B, C, H, W).

    First which point x came from, by its probability; then, if the points have a width s, where in that Gaussian:
    N(m + g (x - a m), s^2 (1 - abar) / (abar s^2 + 1 - abar)), a = sqrt(abar), g = a s^2 / (abar s^2 + 1 - abar).
    """
    abar, s = float(model.schedule.at(t)), model.std
    centre = model.points.to(x)[torch.multinomial(model.weights(x, t), 1, generator=generator)[:, 0]]
    if s == 0:
        return centre
    width = abar * s**2 + 1 - abar
    mean = centre + abar**0.5 * s**2 / width * (x - abar**0.5 * centre)
    return mean + (s**2 * (1 - abar) / width) ** 0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
