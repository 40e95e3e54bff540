"""The moving pictures of lesson 01. Each ``*_view`` is a pure function of its knobs: pixels (H, W, 3) and a line of text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minidiff.diffusion import (
    Mixture,
    Schedule,
    Step,
    cosine,
    ddpm,
    jsd,
    linear,
    q_sample,
    scaled_linear,
    sigmoid,
    sigmoid_beta,
    zero_terminal,
)
from minidiff.errors import check_choice, require
from minidiff.lessons.l01_forward_process.toys import swiss_roll
from minidiff.rng import normal
from minidiff.show import DENSITY, PALETTE, PIXELS, figure, paper, pixels, rgb, write_text
from minidiff.world import Scene, Thing, render

__all__ = ["SCHEDULES", "SCENES", "TEN", "forward_view", "step_back_view", "posterior_view", "Roll", "roll_back", "roll_view"]

_MAKERS: dict[str, Callable[[], Schedule]] = {
    "linear": linear, "cosine": cosine, "sigmoid": sigmoid, "sigmoid_beta": sigmoid_beta, "scaled_linear": scaled_linear,
    "zero_terminal": lambda: zero_terminal(scaled_linear()), "jsd": jsd}
SCHEDULES = tuple(_MAKERS)
_COLOURS = ("blue", "orange", "purple", "green", "red", "ink", "#8a6d00")
SCENES = {
    "cat on the beach": Scene((Thing("cat", "red", size=0.28),), "beach"),
    "tree in the snow": Scene((Thing("tree", "green", size=0.30, y=0.55),), "snow"),
    "star at night": Scene((Thing("star", "yellow", size=0.26, y=0.4),), "night"),
}
TEN = 10          # steps of the chain in posterior_view: few, so that one step moves far


class Chart(NamedTuple):
    """Axes drawn once as pixels, and the straight line from data to pixels: x' = ax x + bx, y' = ay y + by."""

    base: np.ndarray
    line: tuple[float, float, float, float]

    def at(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Data to pixels, (..., 2)."""
        ax, bx, ay, by = self.line
        return np.stack(np.broadcast_arrays(ax * np.asarray(x) + bx, ay * np.asarray(y) + by), -1)

    def sheet(self) -> Image.Image:
        return Image.fromarray(self.base)


def _chart(fig: object, axis: object) -> Chart:
    fig.set_dpi(PIXELS * DENSITY)
    fig.canvas.draw()
    base = np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()
    (x0, y0), (x1, y1) = axis.transData.transform([(0, 0), (1, 1)])
    return Chart(base, (x1 - x0, x0, -(y1 - y0), base.shape[0] - y0))


@functools.cache
def _schedule(name: str) -> Schedule:
    check_choice("schedule", name, SCHEDULES)
    return _MAKERS[name]()


@functools.cache
def _abar_chart() -> Chart:
    fig, axis = figure("noising step t (index)", "share of picture, √ᾱ", width=4.4, height=2.4)
    for name in SCHEDULES:
        axis.plot(_schedule(name).abar.sqrt(), color=PALETTE["grey"], linewidth=0.8, alpha=0.7)
    axis.set(xlim=(0, 1000), ylim=(-0.02, 1.02))
    return _chart(fig, axis)


@functools.cache
def _scene_image(scene: str) -> Tensor:
    check_choice("scene", scene, SCENES)
    return render(SCENES[scene], 48).images


@functools.cache
def _still_noise() -> Tensor:
    return normal((1, 3, 48, 48), "01 forward view")


def forward_view(t: int = 250, schedule: str = "linear", scene: str = "cat on the beach") -> tuple[np.ndarray, str]:
    """A scene after t + 1 noising steps, and where that is on the schedule. t: index 0..999; the noise is always the same."""
    plan = _schedule(schedule)
    x = q_sample(_scene_image(scene), t, _still_noise(), plan)
    left = np.repeat(np.repeat(pixels(x)[0], 10, 0), 10, 1)                    # 48 -> 480 device pixels
    chart = _abar_chart()
    sheet = paper(left.shape[1] + 16 + chart.base.shape[1], left.shape[0])
    sheet.paste(Image.fromarray(left), (0, 0))
    right = chart.sheet()
    draw, colour = ImageDraw.Draw(right), rgb(_COLOURS[SCHEDULES.index(schedule)])
    curve = chart.at(np.arange(plan.T), plan.abar.sqrt().numpy())
    draw.line([tuple(p) for p in curve], fill=colour, width=6, joint="curve")
    x_at, y_at = curve[t]
    draw.line([(x_at, y_at), (x_at, chart.at(0, 0)[1])], fill=colour, width=2)
    draw.ellipse([x_at - 11, y_at - 11, x_at + 11, y_at + 11], fill=colour, outline=(255, 255, 255), width=3)
    sheet.paste(right, (left.shape[1] + 16, 0))
    abar, snr = float(plan.abar[t]), float(plan.snr[t])
    return np.asarray(sheet), (f"{schedule}, t = {t}: {abar**0.5:.3f} of the picture + {(1 - abar)**0.5:.3f} of noise, "
                               f"SNR {snr:.3g}, λ {plan.lam[t]:.2f}")


@functools.cache
def _step_chart() -> Chart:
    fig, axis = figure("value of the pixel one step earlier, x at t - 1", "density (its top is 1)", width=6.0, height=2.1)
    axis.set(xlim=(-2, 2), ylim=(0, 1.4))
    return _chart(fig, axis)


def step_back_view(beta: float = 0.4) -> tuple[np.ndarray, str]:
    """The true step back for the data -1 and +1 from x_t = 0.1 at alpha-bar 0.5, and the Gaussian of its mean and variance.

    beta: variance of the last step, between 0 and 0.5. For each datum the earlier pixel is Gaussian (the posterior given x_0);
    the two are weighted by how likely each datum is, given x_t.
    """
    require(0 < beta < 0.5, "beta", beta, "a number between 0 and 0.5, where this step is all the noise there is", "beta=0.25")
    abar, x_t, data = 0.5, 0.1, np.array([-1.0, 1.0])
    before = abar / (1 - beta)
    likely = np.exp(-((x_t - abar**0.5 * data) ** 2) / (2 * (1 - abar)))
    likely = likely / likely.sum()
    means = (beta * before**0.5 * data + (1 - before) * (1 - beta) ** 0.5 * x_t) / (1 - abar)
    variance = beta * (1 - before) / (1 - abar)
    mean = float(likely @ means)
    std = float((variance + likely @ means**2 - mean**2) ** 0.5)
    grid = np.linspace(-6, 6, 2401)
    truth = (likely * np.exp(-((grid[:, None] - means) ** 2) / (2 * variance))).sum(1) / (2 * np.pi * variance) ** 0.5
    one = np.exp(-((grid - mean) ** 2) / (2 * std**2)) / (2 * np.pi) ** 0.5 / std
    chart = _step_chart()
    sheet = chart.sheet()
    draw, top = ImageDraw.Draw(sheet), truth.max()
    draw.line([tuple(p) for p in chart.at(grid, truth / top)[800:1601]], fill=rgb("blue"), width=5, joint="curve")
    line = chart.at(grid, np.minimum(one / top, 1.4))
    for k in range(800, 1600, 20):                                     # dashes
        draw.line([tuple(p) for p in line[k:k + 11]], fill=rgb("orange"), width=4)
    between = float(np.trapezoid(np.maximum(one - truth, 0), grid))
    return np.asarray(sheet), (f"β = {beta:.2f}: two bells {means[1] - means[0]:.2f} apart, each of width "
                               f"{variance**0.5:.2f}; the one Gaussian misplaces {between:.0%} of the mass")


@functools.cache
def _line_chart() -> Chart:
    fig, axis = figure("value of one pixel one step earlier, x at t - 1", "density (each peak = 1)", width=7.0, height=2.7)
    axis.set(xlim=(-3, 3), ylim=(0, 1.12))
    return _chart(fig, axis)


def posterior_view(x0: float = 0.8, xt: float = -0.3, t: int = 4) -> tuple[np.ndarray, str]:
    """One pixel, ten-step cosine chain: what x_0 says about x_{t-1}, what x_t says, and both together. t: 0..9."""
    plan, chart = cosine(TEN), _line_chart()
    c1, c2, var = (float(c) for c in plan.posterior(t))
    before, alpha = float(plan.at(t - 1)), float(plan.alpha[t])
    curves = ((before**0.5 * x0, 1 - before, "blue"),                          # q(x_{t-1} | x_0)
              (xt / alpha**0.5, (1 - alpha) / alpha, "orange"),                # q(x_t | x_{t-1}) as a function of x_{t-1}
              (c1 * x0 + c2 * xt, var, "ink"))                                 # their product
    sheet = paper(chart.base.shape[1], chart.base.shape[0] + 64)
    plot = chart.sheet()
    draw, grid = ImageDraw.Draw(plot), np.linspace(-3, 3, 601)
    for mean, variance, name in curves:
        height = np.exp(-((grid - mean) ** 2) / (2 * max(variance, 1e-5)))
        draw.line([tuple(p) for p in chart.at(grid, height)], fill=rgb(name), width=5 if name == "ink" else 4, joint="curve")
    for value, name, mark in ((x0, "blue", "x₀"), (xt, "orange", "xₜ")):
        px, py = chart.at(value, 0.0)
        draw.polygon([(px, py - 4), (px - 11, py + 16), (px + 11, py + 16)], fill=rgb(name))
        write_text(plot, (px + 16, py - 40), (mark,), size=12, fill=PALETTE[name], bold=True)
    sheet.paste(plot, (0, 0))
    y = chart.base.shape[0] + 2
    write_text(sheet, (20, y), ("q(xₜ₋₁ | x₀)",), size=12, fill=PALETTE["blue"], bold=True)
    write_text(sheet, (330, y), ("q(xₜ | xₜ₋₁)",), size=12, fill=PALETTE["orange"], bold=True)
    write_text(sheet, (640, y), (f"both: mean {c1:.2f}·x₀ + {c2:.2f}·xₜ = {c1 * x0 + c2 * xt:.2f},  std {var**0.5:.2f}",),
               size=12, bold=True)
    says = [f"{mean:.2f} ± {variance**0.5:.2f}" for mean, variance, _ in curves]
    return np.asarray(sheet), f"t = {t}: x₀ alone says {says[0]}, xₜ alone {says[1]}, both {says[2]}"


class Roll(NamedTuple):
    """A reverse chain kept for scrubbing: T + 1 states x (T + 1, B, 2), T predictions x0 (T, B, 2), the data (N, 2)."""

    x: Tensor
    x0: Tensor
    data: Tensor


def roll_back(schedule: Schedule, *, n: int = 300, data: Tensor | None = None) -> Roll:
    """Walk n points back from noise to a swiss roll with the ideal denoiser. Frame k is the state after k reverse steps."""
    data = swiss_roll() if data is None else data
    start = normal((n, 2), "roll back")
    steps: list[Step] = list(ddpm(Mixture(schedule, data), start))
    return Roll(torch.stack([start, *(s.x for s in steps)]), torch.stack([s.x0 for s in steps]), data)


@functools.cache
def _plane() -> Chart:
    fig, axis = figure("first coordinate", "second coordinate", width=3.7, height=3.6)
    axis.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
    return _chart(fig, axis)


def _dots(image: np.ndarray, chart: Chart, points: np.ndarray, colour: str, reach: int) -> None:
    """Round dots of radius ``reach`` pixels, painted into ``image``; points outside the axes are left out."""
    points = points[(np.abs(points) < 3.2).all(1)]
    centre = np.round(chart.at(points[:, 0], points[:, 1])).astype(int)
    side = np.arange(-reach, reach + 1)
    dy, dx = (d[side[:, None] ** 2 + side**2 <= reach**2 + 1] for d in np.meshgrid(side, side, indexing="ij"))
    rows = (centre[:, 1, None] + dy).clip(0, image.shape[0] - 1)
    columns = (centre[:, 0, None] + dx).clip(0, image.shape[1] - 1)
    image[rows, columns] = rgb(colour)


def roll_view(rolls: dict[str, Roll], steps: str, moment: int = 0) -> tuple[np.ndarray, str]:
    """Left the points x_t, right what the ideal denoiser makes of them. steps: a key of ``rolls``; moment: how far back in
    fortieths of the way, 0 (noise) to 40 (done)."""
    check_choice("steps", steps, rolls)
    require(0 <= moment <= 40, "moment", moment, "a number from 0 (noise) to 40 (done)", "moment=20")
    roll, chart = rolls[steps], _plane()
    T = len(roll.x0)
    k = round(moment / 40 * T)
    halves = []
    for points in (roll.x[k], roll.x0[min(k, T - 1)]):
        image = chart.base.copy()
        _dots(image, chart, roll.data.numpy(), "#cfcabd", 3)
        _dots(image, chart, points.numpy(), "blue" if not halves else "orange", 5)
        halves.append(image)
    sheet = paper(2 * chart.base.shape[1], chart.base.shape[0] + 60)
    sheet.paste(Image.fromarray(np.concatenate(halves, 1)), (0, 60))
    titles: Sequence[str] = (f"points after {k} of {T} reverse steps", "where the ideal denoiser thinks they came from")
    for place, title in enumerate(titles):
        write_text(sheet, (place * chart.base.shape[1] + 60, 16), (title,), size=12, fill=("blue", "orange")[place], bold=True)
    spread = float(roll.x0[min(k, T - 1)].std())
    return np.asarray(sheet), f"{k} of {T} reverse steps done; the guesses spread over {spread:.2f} (the data over 1.00)"
