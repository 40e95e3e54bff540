"""The panels of lesson 23: a cloud of points that follows an energy, films with their hops, and the rows of the scoreboard.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minidiff.course.claims import UNDECIDED, Row
from minidiff.errors import check_choice, require
from minidiff.lessons.l23_your_own_energy.data import margin
from minidiff.lessons.l23_your_own_energy.toys import COVARIANCE, GOAL, Cloud, follow, linear, square, tilted
from minidiff.measure.path import Distance, directness, hops, speed_cv
from minidiff.show import Picture, colour, curve, figure, picture
from minidiff.show.tiles import below, lay_out, pixels

__all__ = ["Films", "Tilts", "Walk", "all_rows", "downhill"]

ENERGIES = {"linear": linear, "square": square}
SHADES = {"passed": "green", UNDECIDED: "grey", "failed": "red"}
MARKS = {"passed": "o", UNDECIDED: "s", "failed": "X"}
REACH = 6.0                        # half-widths: rows further from their target are drawn there


def _ellipse(cloud: Cloud, radius: float = 2.0) -> np.ndarray:
    """The line (101, 2) on which a Gaussian's density has fallen as far as at ``radius`` standard deviations."""
    angle = torch.linspace(0, 2 * math.pi, 101, dtype=torch.float64)
    root = torch.linalg.cholesky(cloud.covariance + 1e-12 * torch.eye(2, dtype=torch.float64))
    return (cloud.mean + radius * torch.stack([angle.cos(), angle.sin()], 1) @ root.T).numpy()


def _plane(ax: Any, name: str) -> None:
    """Level lines of an energy, and arrows downhill."""
    x, y = np.linspace(-3, 5, 9), np.linspace(-2.5, 3.5, 7)
    at = torch.tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), requires_grad=True)
    (slope,) = torch.autograd.grad(ENERGIES[name](at).sum(), at)
    fine = torch.tensor(np.stack(np.meshgrid(np.linspace(-3.4, 5.4, 60), [-2.9, 3.9]), -1).reshape(-1, 2))
    ax.contour(np.linspace(-3.4, 5.4, 60), [-2.9, 3.9], ENERGIES[name](fine).view(2, 60).numpy(), levels=9,
               colors=[colour("grey")], linewidths=0.7, linestyles="solid")
    ax.quiver(*at.detach().T.numpy(), *(-slope.T.numpy()), color=colour("orange"), angles="xy", scale=45, width=0.004)
    ax.set(xlim=(-3.4, 5.4), ylim=(-2.9, 3.9), aspect="equal")


def downhill() -> Picture:
    """The two energies of the toy side by side: level lines, arrows downhill, and the cloud that they will act on."""
    titles = ["$E = -x_1$", f"$E = (x_1 - {GOAL:g})^2 / 2$"]
    fig, axes = figure(["$x_1$", "$x_1$"], "$x_2$", title=titles, height=2.9, share_y=True)
    for ax, name in zip(axes, ENERGIES, strict=True):
        _plane(ax, name)
        ax.plot(*_ellipse(Cloud(torch.zeros(2, dtype=torch.float64), COVARIANCE)).T, color=colour("blue"), linewidth=2)
    return picture(fig, alt="Two planes with arrows: all of one length to the right under a linear energy; under a square one "
                            "towards a vertical line, longer the further away they start. An ellipse lies askew in both.",
                   caption="An energy is a landscape, its arrows point downhill. The ellipse holds the data: they lie askew, so "
                           "that points further to the right are mostly higher, too.")


class Tilts:
    """Clouds of points that followed an energy at several scales, against the density that they should have."""

    def __init__(self, scales: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0, 20.0), *, n: int = 500, steps: int = 50) -> None:
        self.scales = list(scales)
        self.points = {(name, s): follow(energy, s, n=n, steps=steps) for name, energy in ENERGIES.items() for s in self.scales}

    def render(self, *, energy: str, scale: float) -> tuple[np.ndarray, str]:
        """The points over the level lines; dashed the data, solid the tilted density, at two standard deviations."""
        check_choice("energy", energy, ENERGIES)
        check_choice("scale", scale, self.scales)
        x, right = self.points[energy, scale], tilted(ENERGIES[energy], scale)
        fig, ax = figure("$x_1$", "$x_2$", height=3.4)
        _plane(ax, energy)
        if energy == "linear":
            ax.set(xlim=(-3.4, max(5.4, scale + 3)), ylim=(-2.9, max(3.9, scale / 2 + 2.5)))
        ax.scatter(*x.T.numpy(), s=5, color=colour("blue"), alpha=0.5, linewidths=0, label="points")
        ax.plot(*_ellipse(Cloud(torch.zeros(2, dtype=torch.float64), COVARIANCE)).T, color=colour("ink"), linewidth=1.2,
                linestyle=(0, (4, 3)), label="data")
        ax.plot(*_ellipse(right).T, color=colour("green"), linewidth=2, label="right answer")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        mean, std = x.mean(0).tolist(), x.std(0).tolist()
        want = right.covariance.diagonal().sqrt().tolist()
        text = (f"{energy}, scale {scale:g}: mean ({mean[0]:.2f}, {mean[1]:.2f}), right is ({right.mean[0]:.2f}, "
                f"{right.mean[1]:.2f}); spread of x₁ {std[0]:.2f}, right is {want[0]:.2f}")
        return np.asarray(_pixels(fig)), text


def _pixels(fig: Any) -> np.ndarray:
    """A figure as device pixels (H, W, 3)."""
    import io

    from minidiff.show import png

    with Image.open(io.BytesIO(png(fig))) as opened:
        return np.asarray(opened.convert("RGB"))


class Films:
    """Films (n, 3, H, W) of one pair of pictures by several energies, and below each the sizes of its hops."""

    def __init__(self, films: Mapping[str, Tensor], distance: Distance) -> None:
        sizes = {tuple(x.shape) for x in films.values()}
        require(len(sizes) == 1, "films", sizes, "films of as many frames, (n, 3, H, W) each")
        self.frames = {name: pixels(x) for name, x in films.items()}
        self.hops = {name: hops(x, distance)[0] for name, x in films.items()}
        self.ways = {name: float(directness(x, distance)) for name, x in films.items()}

    def render(self, *, energy: str) -> tuple[np.ndarray, str]:
        """The film, its hops against those of the first film, and their evenness and the way in words."""
        check_choice("energy", energy, self.frames)
        h, first = self.hops[energy], next(iter(self.hops))
        number, top = range(1, len(h) + 1), max(float(x.max()) for x in self.hops.values())
        graph = curve({first: (number, self.hops[first])} | {energy: (number, h)}, x="hop", y="size of the hop", height=2.1,
                      level={"the largest of all": top}, alt=f"hops of {energy}").array
        strip = lay_out([self.frames[energy]], 1)
        spread, way = float(speed_cv(h)), self.ways[energy]
        said = f"{energy}: spread of the hops over their mean {spread:.2f}; way {way:.2f} times the straight one"
        return below(strip, graph), said


def _names(rows: Iterable[Row]) -> list[str]:
    return sorted({r.lesson for r in rows})


def all_rows(rows: Sequence[Row]) -> Picture:
    """Every row as one mark: column its lesson, height its value's distance from the target in half-widths of its interval."""
    require(len(rows) > 0, "rows", "none", "the rows of the scoreboard", "list(stored().values())")
    lessons = _names(rows)
    fig, ax = figure("lesson", "distance from the target (half-widths)", height=3.6)
    ax.axhspan(-1, 1, color=colour("grey"), alpha=0.13, linewidth=0)
    ax.axhline(0, color=colour("ink"), linewidth=1)
    for verdict, shade in SHADES.items():
        mine = [r for r in rows if r.verdict == verdict]
        at = [(lessons.index(r.lesson) + _aside(r, rows), max(-REACH, min(REACH, margin(r)[0]))) for r in mine]
        if at:
            ax.scatter(*zip(*at, strict=True), s=17, marker=MARKS[verdict], color=colour(shade), linewidths=0, alpha=0.85,
                       label=f"{len(mine)} {verdict}")
    ax.set_xticks(range(len(lessons)), lessons)
    ax.set(xlim=(-0.7, len(lessons) - 0.3), ylim=(-REACH - 0.6, REACH + 0.6))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    told = ", ".join(f"{sum(r.verdict == v for r in rows)} {v}" for v in SHADES)
    alt = (f"A plot with one mark for each of {len(rows)} rows of the scoreboard in {len(lessons)} columns, {told}; marks of "
           "rows that passed lie above zero, of those that failed below, undecided ones about it.")
    caption = ("Every row: how far its value lies on the good side of its target (up) or on the bad one (down), in half-widths "
               f"of its own interval, {REACH:g} at most. In the grey band an interval with equal sides reaches across.")
    return picture(fig, alt=alt, caption=caption)


def _aside(row: Row, rows: Sequence[Row]) -> float:
    """A row's place within its column, so that marks of one height do not cover each other."""
    here = sorted((r for r in rows if r.lesson == row.lesson), key=lambda r: margin(r)[0])
    return ((here.index(row) * 3) % 7 - 3) * 0.1


class Walk:
    """The rows of the scoreboard on one axis: each interval as it lies to its own target, by lesson and by verdict."""

    def __init__(self, rows: Sequence[Row]) -> None:
        require(len(rows) > 0, "rows", "none", "the rows of the scoreboard", "list(stored().values())")
        self.rows, self.lessons, self.verdicts = list(rows), _names(rows), ["all", *SHADES]

    def chosen(self, lesson: str, verdict: str) -> list[Row]:
        """The rows of one lesson with one verdict, or with any."""
        return [r for r in self.rows if r.lesson == lesson and verdict in ("all", r.verdict)]

    def render(self, *, lesson: str, verdict: str) -> tuple[np.ndarray, str]:
        """One line a row: its interval, in half-widths from its target; what lies right of the line meets it."""
        check_choice("lesson", lesson, self.lessons)
        check_choice("verdict", verdict, self.verdicts)
        rows = self.chosen(lesson, verdict)
        said = f"lesson {lesson}, {verdict}: {len(rows)} of {len(self.chosen(lesson, 'all'))} rows"
        fig, ax = figure("distance from the target, in half-widths of the interval (right: good)", "row",
                         height=0.9 + 0.3 * max(1, len(self.chosen(lesson, "all"))))
        ax.axvline(0, color=colour("ink"), linewidth=1)
        for k, row in enumerate(rows):
            ends = [max(-REACH, min(REACH, v)) for v in margin(row)]
            shade = colour(SHADES[row.verdict])
            ax.plot(ends[1:], [-k, -k], color=shade, linewidth=2.6, marker="|", markersize=8)
            ax.plot(ends[:1], [-k], color=shade, marker=MARKS[row.verdict], markersize=8, markeredgecolor="white")
        ax.set_yticks([-k for k in range(len(rows))], [f"{r.id}: {r.value:.3g}, {r.target}" for r in rows])
        ax.set(xlim=(-REACH - 0.3, REACH + 0.3), ylim=(-max(1, len(self.chosen(lesson, 'all'))) + 0.4, 0.6))
        ax.grid(axis="y", visible=False)
        return _pixels(fig), said
