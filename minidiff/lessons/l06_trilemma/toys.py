"""Lesson 06's world with a known truth: 25 Gaussians, networks for them, and a denoising diffusion GAN trained in seconds."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.diffusion import Mixture, last
from minidiff.diffusion.ddgan import (
    GRID_SCALE,
    d_loss,
    ddgan,
    ddgan_schedule,
    draw_x0,
    g_loss,
    pair,
    posterior_sample,
    r1,
    twenty_five,
)
from minidiff.errors import check_choice
from minidiff.rng import generator, normal

__all__ = ["CENTRES", "ITERATIONS", "PointDiscriminator", "PointGenerator", "STD", "Trained", "draw_points", "draw_t",
           "imbalance", "points", "starts", "train", "trained", "walk", "z_share"]

STD = 0.05 / GRID_SCALE
CENTRES = torch.cartesian_prod(torch.linspace(-4, 4, 5), torch.linspace(-4, 4, 5)) / GRID_SCALE
COARSE, FINE = (2.0, 4.0, 8.0, 16.0), (2.0, 4.0, 8.0, 16.0, 32.0)       # of the discriminator, of the generator
ITERATIONS, BATCH, RATE, GAMMA, EMA = 4000, 256, 6e-3, 1e-4, 0.995


def points(n: int, seed: int, i: int = 0, *, spare: int = 0) -> Tensor:
    """n points (n, 2 + spare) of the 25 Gaussians in the scale of ``twenty_five``; the spare coordinates are 0 in all data."""
    rng = generator("06 points", seed, i)
    x = CENTRES[torch.randint(25, (n,), generator=rng)] + STD * torch.randn(n, 2, generator=rng)
    return F.pad(x, (0, spare))


def draw_t(n: int, T: int, rng: torch.Generator) -> Tensor:  # noqa: N803
    """n times: the last step, t = 0, where precision is decided, in 7 of 10 rows, the others alike."""
    u = torch.rand(n, generator=rng)
    other = 1 + torch.randint(max(1, T - 1), (n,), generator=rng)
    return torch.where((u < 0.7) | torch.tensor(T == 1), 0, other)


def waves(x: Tensor, t: Tensor, T: int, frequencies: tuple[float, ...]) -> Tensor:  # noqa: N803
    """(B, 2 + 4 len(frequencies) + T): points (B, 2), their sines and cosines, and which step it is, as one of T."""
    return torch.cat([x, *(f(k * x) for k in frequencies for f in (torch.sin, torch.cos)), F.one_hot(t, T).float()], 1)


def _layers(cin: int, width: int, cout: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(cin, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
                         nn.Linear(width, cout))


class PointGenerator(nn.Module):
    """``net(x_t, t, z)`` -> x0, (B, 2 + spare): a proposal a_t x_t + b_t z with learned a_t, b_t, which a small network corrects.

    z: (B, 2). spread: b_t before training. faint: z goes through three linear layers first, as in ``LatentUNet``, which shrink
    it. With spare coordinates a fixed mix of them, times a learned c_t, is added to the proposal.
    """

    def __init__(self, T: int, *, width: int = 64, spread: float = 0.5, spare: int = 0,
                 faint: bool = False) -> None:
        super().__init__()
        self.T, self.spare = T, spare
        sizes = (2, 64, 64, 64) if faint else ()
        self.mapping = nn.Sequential(*(part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.SiLU())),
                                     *[nn.Linear(64, 2, bias=False)] * faint)
        self.keep, self.spread = nn.Parameter(torch.ones(T, 1)), nn.Parameter(torch.full((T, 1), spread))
        self.other = nn.Parameter(torch.full((T, 1), 0.5))
        self.register_buffer("mix", normal((spare, 2), "06 mix") / max(1, spare) ** 0.5)
        self.layers = _layers(2 + 4 * len(FINE) + T, width, 2)
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        u = self.keep[t] * x[:, :2] + self.spread[t] * self.mapping(z)
        if self.spare:
            u = u + self.other[t] * (x[:, 2:] @ self.mix)
        return F.pad(u + self.layers(waves(u, t, self.T, FINE)), (0, self.spare))


class PointDiscriminator(nn.Module):
    """``net(x_{t-1}, t, x_t)`` -> (B,) logits."""

    def __init__(self, T: int, *, width: int = 64, spare: int = 0) -> None:  # noqa: N803
        super().__init__()
        self.T = T
        self.layers = _layers(2 * (2 + 4 * len(COARSE) + T) + spare, width, 1)

    def forward(self, before: Tensor, t: Tensor, after: Tensor) -> Tensor:
        seen = [waves(x[:, :2], t, self.T, COARSE) for x in (before, after)]
        return self.layers(torch.cat([*seen, after[:, 2:]], 1))[:, 0]


class Trained(NamedTuple):
    """After an iteration: the averaged generator, the discriminator, and the loss of that (2 log 2: it knows nothing)."""

    iteration: int
    generator: PointGenerator
    discriminator: PointDiscriminator
    loss: float


def train(T: int, *, iterations: int = ITERATIONS, seed: int = 0, spread: float = 0.5, spare: int = 0,  # noqa: N803
          faint: bool = False) -> Iterator[Trained]:
    """A denoising diffusion GAN of T steps (T = 1: a GAN) on the 25 Gaussians. Yields after every iteration."""
    torch.manual_seed(seed)
    table = ddgan_schedule(T)
    make, D = functools.partial(PointGenerator, T, spread=spread, spare=spare, faint=faint), PointDiscriminator(T, spare=spare)
    G, mean = make(), make()
    mean.load_state_dict(G.state_dict())
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), RATE, betas=(0.5, 0.9)) for net in (G, D))
    for i in range(iterations):
        rng = generator("06 train", seed, T, i)
        for opt in (opt_g, opt_d):
            opt.param_groups[0]["lr"] = RATE * min(1, (i + 1) / 100) * (1 + math.cos(math.pi * i / iterations)) / 2
        x0, t = points(BATCH, seed, i, spare=spare), draw_t(BATCH, T, rng)
        noise, z = torch.randn(3, *x0.shape, generator=rng), torch.randn(BATCH, 2, generator=rng)
        before, after = pair(x0, t, table, noise[0], noise[1])
        fake = posterior_sample(G(after, t, z), after, t, table, noise[2])
        told = d_loss(D(before, t, after), D(fake.detach(), t, after)).mean()
        some = BATCH // 4
        penalty = r1(lambda x, t=t[:some], after=after[:some]: D(x, t, after), before[:some]).mean()
        opt_d.zero_grad()
        (told + GAMMA / 2 * penalty).backward()
        opt_d.step()
        D.requires_grad_(False)
        opt_g.zero_grad()
        g_loss(D(fake, t, after)).mean().backward()
        opt_g.step()
        D.requires_grad_(True)
        with torch.no_grad():
            for average, new in zip(mean.parameters(), G.parameters(), strict=True):
                average.lerp_(new, max(1 - EMA, 1 / (i + 1)))
        yield Trained(i + 1, mean, D, float(told.detach()))


@functools.lru_cache(maxsize=16)
def trained(T: int = 4, seed: int = 0, iterations: int = ITERATIONS, spread: float = 0.5, spare: int = 0,  # noqa: N803
            faint: bool = False) -> PointGenerator:
    """The averaged generator of :func:`train` after all its iterations."""
    end = deque(train(T, iterations=iterations, seed=seed, spread=spread, spare=spare, faint=faint), maxlen=1)[0]
    return end.generator.eval().requires_grad_(False)


def starts(n: int, seed: int = 0, *, spare: int = 0) -> Tensor:
    """(n, 2 + spare) standard normal numbers."""
    return normal((n, 2 + spare), "06 start", seed)


@torch.no_grad()
def walk(net: Callable, T: int, n: int, *, seed: int = 0, fixed_z: bool = False) -> Tensor:  # noqa: N803
    """n samples (n, 2) of net(x, t, z) in T steps."""
    x = starts(n, seed, spare=getattr(net, "spare", 0))
    return last(ddgan(net, x, ddgan_schedule(T), z_dim=2, seed=seed, fixed_z=fixed_z)).x[:, :2]


def _gaussian_walk(model: Mixture, x: Tensor, rng: torch.Generator) -> Tensor:
    """From x_T down by Gaussians of mean c1 E[x0 | x_t] + c2 x_t and covariance beta~ I + c1^2 Cov(x0 | x_t)."""
    for t in reversed(range(model.schedule.T)):
        c1, c2, var = (float(v) for v in model.schedule.posterior(torch.tensor(t)))
        abar, mean = float(model.schedule.at(t)), model(x, t).x0
        width = model.std**2 / (abar * model.std**2 + 1 - abar)
        guesses = model.points + abar**0.5 * width * (x[:, None] - abar**0.5 * model.points)          # (n, 25, 2), one a mode
        apart = guesses - mean[:, None]
        spread = torch.einsum("nk,nki,nkj->nij", model.weights(x, t), apart, apart) + (1 - abar) * width * torch.eye(2)
        root = torch.linalg.cholesky(var * torch.eye(2) + c1**2 * spread)
        x = c1 * mean + c2 * x + torch.einsum("nij,nj->ni", root, torch.randn(x.shape, generator=rng))
    return x


def draw_points(how: str, T: int, n: int, *, seed: int = 0) -> Tensor:  # noqa: N803
    """n samples without training. how: "exact", x0 drawn from q(x0 | x_t); "mean", E[x0 | x_t] in its place; "gaussian", each
    step one Gaussian with the mean and the covariance of the true step."""
    check_choice("how", how, ("exact", "mean", "gaussian"))
    model, rng = twenty_five(ddgan_schedule(T)), generator("06 exact", T, seed)
    if how == "gaussian":
        return _gaussian_walk(model, starts(n, seed), rng)
    return walk((lambda x, t, z: draw_x0(model, x, int(t[0]), generator=rng)) if how == "exact" else
                (lambda x, t, z: model(x, t).x0), T, n, seed=seed)


def imbalance(x: Tensor) -> float:
    """Kullback-Leibler divergence of the 25 centres' shares among the points from equal shares, in nats (0 to log 25)."""
    share = torch.bincount(torch.cdist(x, CENTRES.to(x)).argmin(1), minlength=25).double() / len(x)
    share = share[share > 0]
    return float((share * (share * 25).log()).sum())


@torch.no_grad()
def z_share(net: Callable, x: Tensor, t: int, z: Tensor) -> tuple[float, Tensor]:
    """How much of the spread of x0 = net(x_t, t, z) is due to z, a ratio of standard deviations, and the (B,) variances over z.

    x: (B, ...) states at time t; z: (K, B, z_dim). The exercise 06.z_share asks for the first of the two.
    """
    out = torch.stack([net(x, torch.full((len(x),), t), draw) for draw in z]).flatten(2)
    inside = out.var(0)
    whole = out.flatten(0, 1).var(0).mean()
    return float((inside.mean() / whole.clamp(min=1e-20)).sqrt()), inside.mean(1) / whole.clamp(min=1e-20)
