"""The panels of lesson 06: 25 Gaussians by number of steps, the steps of DDGAN-4, and the trilemma with the pictures behind it.

Each ``render`` or ``*_view`` is a pure function of its knobs and gives pixels and a line of text.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from PIL import ImageDraw
from torch import Tensor

from minidiff.diffusion.ddgan import GRID_SCALE, ddgan, ddgan_schedule, grid_score
from minidiff.diffusion.noise import row_noise
from minidiff.errors import check_choice, require
from minidiff.lessons.l06_trilemma.data import WAYS
from minidiff.lessons.l06_trilemma.toys import draw_points
from minidiff.measure.interval import Estimate
from minidiff.show import colour, curve, figure, paper, picture, pixels, rgb, tile
from minidiff.show.tiles import below, lay_out
from minidiff.zoo import load

__all__ = ["GENERATORS", "STEPS", "Trilemma", "dirac_view", "plane", "step_view", "steps_view", "walk_view"]

STEPS = (1, 2, 4, 8, 16, 50)
GENERATORS = {"mean": "mean", "mean, true width": "gaussian", "exact draw": "exact"}
_BESIDE = {"VAE": -16, "GAN": 2, "DDGAN-4": -4, "DDIM-20": -24, "DDPM-1000": -24}       # where a label stands, points up


def plane(x: Tensor, *, side: int = 620, reach: float = 5.2) -> np.ndarray:
    """Points (n, 2) in the scale of ``twenty_five``: blue inside a ring of 3 standard deviations around a centre, else orange."""
    sheet = paper(side, side)
    pen, inside = ImageDraw.Draw(sheet), grid_score(x)[0].tolist()

    def at(v: float) -> float:
        return (v + reach) / (2 * reach) * side

    for a in range(-4, 5, 2):
        for b in range(-4, 5, 2):
            pen.ellipse([at(a - 0.15), at(b - 0.15), at(a + 0.15), at(b + 0.15)], outline=rgb("grey"), width=1)
    for (a, b), good in sorted(zip((x * GRID_SCALE).tolist(), inside, strict=True), key=lambda row: not row[1]):
        if max(abs(a), abs(b)) < reach:
            pen.ellipse([at(a) - 2, at(-b) - 2, at(a) + 2, at(-b) + 2], fill=rgb("blue" if good else "orange"))
    return np.asarray(sheet)


@functools.lru_cache(maxsize=32)
def _points(generator: str, T: int) -> Tensor:  # noqa: N803
    return draw_points(GENERATORS[generator], T, 2500)


def steps_view(T: int, generator: str) -> tuple[np.ndarray, str]:  # noqa: N803
    """2,500 samples of the exact model in T steps; generator: "mean" (E[x0 | x_t], and the posterior's width), "mean, true width"
    (one Gaussian with the mean and the covariance of the true step), or "exact draw" (x0 from q(x0 | x_t))."""
    require(T in STEPS, "T", T, f"one of {', '.join(map(str, STEPS))}")
    check_choice("generator", generator, GENERATORS)
    x = _points(generator, T)
    good, modes = grid_score(x)
    text = f"T = {T}, {generator}: {modes} of 25 modes, {float(good.double().mean()):.1%} within 3 standard deviations"
    return plane(x), text


def step_view(t: int, x: float) -> tuple[np.ndarray, str]:
    """q(x_{t-1} | x_t = x) of a model of 4 steps for data at -1 and +1, and two Gaussians with its mean: one of the posterior's
    width, one as wide as the true step. The last step, t = 0, has no width of its own and is drawn 0.04 wide."""
    require(t in range(4), "t", t, "a whole number from 0 to 3")
    schedule = ddgan_schedule(4)
    abar, (c1, c2, var) = float(schedule.at(t)), (float(v) for v in schedule.posterior(torch.tensor(t)))
    plus, own = 1 / (1 + math.exp(-2 * abar**0.5 * x / (1 - abar))), max(var**0.5, 0.04)
    mean, wide = c2 * x + c1 * (2 * plus - 1), (own**2 + 4 * c1**2 * plus * (1 - plus)) ** 0.5
    at = torch.linspace(-3.5, 3.5, 701, dtype=torch.float64)

    def bell(centre: float, std: float) -> Tensor:
        return (-(at - centre).square() / (2 * std**2)).exp() / (std * (2 * math.pi) ** 0.5)

    lines = {"true step": plus * bell(c2 * x + c1, own) + (1 - plus) * bell(c2 * x - c1, own),
             "Gaussian around the mean": bell(mean, own), "Gaussian of the true width": bell(mean, wide)}
    drawn = curve({name: (at, y) for name, y in lines.items()}, x="x_{t-1}", y="density", markers=False, height=2.8,
                  alt="the step's density")
    apart = float((lines["true step"] - lines["Gaussian of the true width"]).abs().sum() * 0.01 / 2)
    return drawn.array, (f"t = {t}, x_t = {x:g}: the true step is {wide / own:.2f} times as wide as the posterior; the Gaussian "
                         f"of that width misplaces {apart:.0%} of the samples")


def dirac_view(gamma: float) -> tuple[np.ndarray, str]:
    """The Dirac-GAN of Mescheder et al. (2018): the data is the number 0, the generator the number g, D(x) = d x.
    500 alternating gradient steps of the two losses from g = d = 1, with the penalty gamma / 2 d^2."""
    g, d, path = 1.0, 1.0, [(1.0, 1.0)]
    for _ in range(500):
        d -= 0.1 * (g / (1 + math.exp(-d * g)) + gamma * d)
        g += 0.1 * d / (1 + math.exp(d * g))
        path.append((g, d))
    fig, ax = figure("g: the generator's number", "d: slope of D", height=3.2)
    ax.plot(*zip(*path, strict=True), color=colour("blue"), linewidth=1.2)
    ax.plot(*path[0], marker="o", color=colour("orange"), linestyle="none")
    ax.plot(0, 0, marker="x", color=colour("red"), linestyle="none")
    ax.set(xlim=(-2, 2), ylim=(-1.6, 1.6))
    said = f"gamma = {gamma:g}: after 500 steps {(g**2 + d**2) ** 0.5:.2f} from the solution"
    return picture(fig, alt="the path of the two players").array, said


@functools.lru_cache(maxsize=32)
def _walk(seed: int, z_seed: int) -> list[tuple[Tensor, Tensor]]:
    """(x_t, x0) of the four steps of eight pictures: the noise of start and steps by ``seed``, z by ``z_seed``."""
    net, rows = load("ddgan"), range(8)
    x = row_noise((8, 3, 32, 32), seed=seed, t=4, rows=rows, stream="start")
    out: list[tuple[Tensor, Tensor]] = []

    def other_z(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        z = row_noise(tuple(z.shape), seed=z_seed, t=int(t[0]), rows=rows, stream="z")
        out.append((x, net(x, t, z)))
        return out[-1][1]

    for _ in ddgan(other_z, x, net.schedule, z_dim=net.z_dim, seed=seed):
        pass
    return out


def walk_view(step: int, z: int, noise: int) -> tuple[np.ndarray, str]:
    """Six pictures by ``ddgan`` at step t: x_t, and the x0 that the generator draws with the noise and the latents number 0, with
    other latents (number z), and with another noise (number ``noise``)."""
    require(step in range(4), "step", step, "a whole number from 0 to 3")
    plain, other, moved = _walk(0, 0), _walk(0, int(z)), _walk(int(noise), 0)
    x, x0 = plain[3 - step]
    rows = [x / x.flatten(1).std(1).view(-1, 1, 1, 1).clamp(min=1), x0, other[3 - step][1], moved[3 - step][1]]
    by_z, by_noise = (float((way[3][1] - plain[3][1]).square().mean().sqrt()) for way in (other, moved))
    words = ("x_t", "guess of x0", "another z", "other noise")
    return (lay_out([pixels(row[:6].clamp(-1, 1)) for row in rows], 2, row_labels=words),
            f"t = {step}; the final pictures move by {by_z:.3f} with z and by {by_noise:.3f} with the noise (root mean square)")


class Trilemma:
    """Five points, seconds against quality, coverage written beside; the chosen one ringed, and its pictures below."""

    def __init__(self, images: Mapping[str, Tensor], rows: Mapping[str, Mapping[str, Estimate]],
                 ddim: Mapping[int, float] = MappingProxyType({})) -> None:
        """ddim: steps -> quality, a line through the sampler of "DDIM-20" with fewer steps."""
        for way in WAYS:
            require(way in images and way in rows, "images, rows", sorted(images), f"pictures and figures of {way!r}")
        self.images, self.rows, self.ddim = dict(images), dict(rows), dict(ddim)

    def _plot(self, way: str) -> np.ndarray:
        fig, ax = figure("CPU seconds a picture (log scale)", "pictures with one thing of the world", height=3.2)
        call = self.rows["DDIM-20"]["seconds"].value / WAYS["DDIM-20"]
        ax.plot([call * k for k in self.ddim], list(self.ddim.values()), color=colour("grey"), marker="s", markersize=4)
        for k, share in self.ddim.items():
            ax.annotate(f"DDIM-{k}", (call * k, share), textcoords="offset points", xytext=(5, -9), fontsize=7.5,
                        color=colour("grey"))
        for name, row in self.rows.items():
            q, s = row["quality"], row["seconds"]
            chosen = name == way
            ink = "orange" if chosen else "blue"
            ax.plot([s.value] * 2, [q.low, q.high], color=colour(ink), linewidth=1.4)
            ax.plot([s.low, s.high], [q.value] * 2, color=colour(ink), linewidth=1.4)
            ax.plot(s.value, q.value, marker="o", markersize=11 if chosen else 7, color=colour(ink), linestyle="none")
            ax.annotate(f"{name}\ncovers {row['coverage'].value:.0%}", (s.value, q.value), textcoords="offset points",
                        xytext=(10, _BESIDE[name]), fontsize=8.5, fontweight="bold" if chosen else "normal")
        ax.set_xscale("log")
        ax.set(xlim=(3e-4, 30), ylim=(-0.03, 1.08))
        return picture(fig, alt="the trilemma").array

    def render(self, *, way: str) -> tuple[np.ndarray, str]:
        """The plot, and below it the pictures of ``way``."""
        check_choice("way", way, WAYS)
        graph, shown = self._plot(way), tile(self.images[way].clamp(-1, 1), columns=8, scale=4)
        r, calls = self.rows[way], WAYS[way]
        text = (f"{way}, {calls} network call{'s' * (calls > 1)}: quality {r['quality'].value:.0%} [{r['quality'].low:.0%}, "
                f"{r['quality'].high:.0%}], coverage {r['coverage'].value:.0%} [{r['coverage'].low:.0%}, "
                f"{r['coverage'].high:.0%}], "
                f"{r['seconds'].value:.2g} CPU seconds")
        return below(graph, shown), text
