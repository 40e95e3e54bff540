"""The panels of lesson 06: 25 Gaussians by number of steps, the steps of DDGAN-4, and the trilemma with the pictures behind it.

Each ``render`` or ``*_view`` is a pure function of its knobs and gives pixels and a line of text.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from PIL import ImageDraw
from torch import Tensor

from minidiff.diffusion.ddgan import GRID_SCALE, ddgan, grid_score
from minidiff.diffusion.noise import row_noise
from minidiff.errors import check_choice, require
from minidiff.lessons.l06_trilemma.data import WAYS
from minidiff.lessons.l06_trilemma.toys import draw_points
from minidiff.measure.interval import Estimate
from minidiff.show import colour, figure, paper, picture, rgb, tile
from minidiff.show.tiles import below
from minidiff.zoo import load

__all__ = ["STEPS", "Trilemma", "plane", "steps_view", "walk_view"]

STEPS = (1, 2, 4, 8, 16, 50)
_BESIDE = {"VAE": -16, "GAN": 2, "DDGAN-4": -4, "DDIM-20": -24, "DDPM-1000": -24}       # where a label stands, points up


def plane(x: Tensor, *, side: int = 620, reach: float = 5.2) -> np.ndarray:
    """Points (n, 2) in the scale of ``twenty_five``: blue within 3 standard deviations of a centre, else orange."""
    sheet = paper(side, side)
    pen, inside = ImageDraw.Draw(sheet), grid_score(x)[0].tolist()

    def at(v: float) -> float:
        return (v + reach) / (2 * reach) * side

    for a in range(-4, 5, 2):
        for b in range(-4, 5, 2):
            pen.ellipse([at(a - 0.25), at(b - 0.25), at(a + 0.25), at(b + 0.25)], outline=rgb("grey"), width=2)
    for (a, b), good in sorted(zip((x * GRID_SCALE).tolist(), inside, strict=True), key=lambda row: row[1]):
        if max(abs(a), abs(b)) < reach:
            pen.ellipse([at(a) - 3, at(-b) - 3, at(a) + 3, at(-b) + 3], fill=rgb("blue" if good else "orange"))
    return np.asarray(sheet)


@functools.lru_cache(maxsize=32)
def _points(generator: str, T: int) -> Tensor:  # noqa: N803
    return draw_points("exact" if generator == "exact draw" else "mean", T, 2500)


def steps_view(T: int, generator: str) -> tuple[np.ndarray, str]:  # noqa: N803
    """2,500 samples of the exact model in T steps; generator: "exact draw" (x0 from q(x0 | x_t)) or "mean" (E[x0 | x_t])."""
    require(T in STEPS, "T", T, f"one of {', '.join(map(str, STEPS))}")
    check_choice("generator", generator, ("exact draw", "mean"))
    x = _points(generator, T)
    good, modes = grid_score(x)
    text = f"T = {T}, {generator}: {modes} of 25 modes, {float(good.double().mean()):.1%} within 3 standard deviations"
    return plane(x), text


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
    """Eight pictures by ``ddgan`` at one of its four steps: x_t above, the x0 that the generator draws for it below."""
    require(step in range(4), "step", step, "a whole number from 0 to 3")
    x, x0 = _walk(int(noise), int(z))[step]
    end, first = _walk(int(noise), int(z))[3][1], _walk(int(noise), 0)[3][1]
    moved = float((end - first).square().mean().sqrt())
    shown = torch.cat([x / x.flatten(1).std(1).view(-1, 1, 1, 1).clamp(min=1), x0]).clamp(-1, 1)
    return (tile(shown, columns=8, scale=4),
            f"step {step + 1} of 4 (t = {3 - step}); the final pictures are {moved:.3f} from those of z = 0 (root mean square)")


class Trilemma:
    """Five points, seconds against quality, coverage written beside; the chosen one ringed, and its pictures below."""

    def __init__(self, images: Mapping[str, Tensor], rows: Mapping[str, Mapping[str, Estimate]]) -> None:
        for way in WAYS:
            require(way in images and way in rows, "images, rows", sorted(images), f"pictures and figures of {way!r}")
        self.images, self.rows = dict(images), dict(rows)

    def _plot(self, way: str) -> np.ndarray:
        fig, ax = figure("CPU seconds a picture (log scale)", "pictures with one thing of the world", height=3.2)
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
        graph, shown = self._plot(way), tile(self.images[way].clamp(-1, 1), columns=8, scale=5)
        r, calls = self.rows[way], WAYS[way]
        text = (f"{way}, {calls} network call{'s' * (calls > 1)}: quality {r['quality'].value:.0%} [{r['quality'].low:.0%}, "
                f"{r['quality'].high:.0%}], coverage {r['coverage'].value:.0%} [{r['coverage'].low:.0%}, "
                f"{r['coverage'].high:.0%}], "
                f"{r['seconds'].value:.2g} CPU seconds")
        return below(graph, shown), text
