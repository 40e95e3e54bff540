"""The panels of lesson 03: samplers side by side, the way from noise to picture, a walk between two pictures.

Each class computes beforehand what it can; its ``render`` is a pure function of the knobs and gives pixels and a line of text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from minidiff.diffusion import Step, ddim, dpm2m, heun, last
from minidiff.errors import check_choice, require
from minidiff.show.sheet import Picture, picture, plural
from minidiff.show.theme import PALETTE, figure, rgb
from minidiff.show.tiles import lay_out, pixels, spread

__all__ = ["SOLVERS", "EtaPaths", "Explorer", "Trajectories", "Walk"]

SOLVERS = ("DDIM", "2M", "Heun")


def _empty(rows: np.ndarray, count: int) -> np.ndarray:
    """The row filled up to ``count`` pictures with paper."""
    blank = np.broadcast_to(np.array(rgb("#fcfbf7"), np.uint8), (count - len(rows), *rows.shape[1:]))
    return np.concatenate([rows, blank])


class EtaPaths:
    """Points on a line on their way by DDIM at a chosen eta, beside the ways at eta = 0, and where all of them end.

    model: an exact model of one-dimensional data; x: (B, 1), the starting noises. Runs are kept, so that moving back is free.
    """

    def __init__(self, model: Callable, x: Tensor, *, steps: int = 40, drawn: int = 6) -> None:
        require(x.ndim == 2 and x.shape[1] == 1 and len(x) >= drawn, "x", f"shape {tuple(x.shape)}", f"(B, 1) with B >= {drawn}")
        self.model, self.x, self.steps, self.drawn = model, x, steps, drawn
        self._kept: dict[float, tuple[list[int], Tensor]] = {}

    def path(self, eta: float) -> tuple[list[int], Tensor]:
        """The noising steps at which the points are (-1: the data), and the points there, (steps + 1, B)."""
        if eta not in self._kept:
            moves = list(ddim(self.model, self.x, steps=self.steps, eta=eta))
            self._kept[eta] = ([moves[0].t, *(s.t_prev for s in moves)], torch.stack([self.x, *(s.x for s in moves)])[:, :, 0])
        return self._kept[eta]

    def stayed(self, eta: float) -> float:
        """Share of the points that end on the side of zero on which they began."""
        points = self.path(eta)[1]
        return float((points[0].sign() == points[-1].sign()).double().mean())

    def render(self, *, eta: float) -> tuple[Picture, str]:
        """Left the ways at this eta, in the middle those at eta = 0, right both histograms of the ends."""
        place = "x (one dimension)"
        fig, axes = figure(["noising step t", "noising step t", "x at the end"], [place, place, "points"], columns=3,
                           title=[f"η = {eta:g}", "η = 0", f"the ends of all {len(self.x)}"], height=2.3)
        for axis, value in zip(axes, (eta, 0.0), strict=False):
            moments, points = self.path(value)
            for column in points.T[:self.drawn]:
                axis.plot(moments, column, color=PALETTE["blue" if column[-1] > 0 else "orange"], linewidth=0.9)
            axis.set(ylim=(-3.2, 3.2))
            axis.invert_xaxis()
        bins = np.linspace(-1.6, 1.6, 33)
        for value, colour, width in ((0.0, "grey", 3.0), (eta, "purple", 1.2)):
            axes[2].hist(self.path(value)[1][-1].numpy(), bins=bins, histtype="step", color=PALETTE[colour], linewidth=width,
                         label=f"η = {value:g}")
        axes[2].legend(fontsize=8, loc="upper center")
        moments, points = self.path(eta)
        spread = ", ".join(f"t = {moments[k]}: {points[k].std():.2f}" for k in (0, self.steps // 2, self.steps - 4))
        return picture(fig, alt=f"Paths from noise to data at eta {eta:g} and at eta 0, and histograms of where they end"), (
            f"η = {eta:g}: {self.stayed(eta):.0%} end on the side where they began; standard deviation at {spread}, "
            f"at the end: {points[-1].std():.2f}")


class Explorer:
    """Samples of a wrapped pixel model for a number of network calls, eta and solver, over a well-solved reference.

    noise: (B, C, H, W), the starting noises. budget: pictures times calls that one move of a slider may cost; where it is
    not enough, fewer pictures are drawn. Results are kept, so that moving back is free.
    """

    def __init__(self, model: Callable, noise: Tensor, *, budget: int = 200, reference: int = 30) -> None:
        self.model, self.noise, self.budget = model, noise, budget
        self.reference = last(dpm2m(model, noise, steps=reference, clip="x0")).x
        self.label = f"where it leads (2M, {reference} calls)"
        self._kept: dict[tuple[int, float, str], Tensor] = {}

    def samples(self, *, calls: int, eta: float, solver: str) -> Tensor:
        """(b, C, H, W) with b <= B: what the solver makes of the first noises with at most ``calls`` network calls each."""
        check_choice("solver", solver, SOLVERS)
        require(isinstance(calls, int) and calls >= 1, "calls", calls, "a whole number, at least 1")
        cache_key = (calls, float(eta) if solver == "DDIM" else 0.0, solver)
        if cache_key not in self._kept:
            x = self.noise[:max(1, min(len(self.noise), self.budget // calls))]
            if solver == "DDIM":
                loop = ddim(self.model, x, steps=calls, eta=eta, spacing="linspace" if calls > 1 else "trailing", clip="both")
            elif solver == "2M":
                loop = dpm2m(self.model, x, steps=calls, clip="x0")
            else:
                loop = heun(self.model, x, steps=(calls + 1) // 2)
            self._kept[cache_key] = last(loop).x
        return self._kept[cache_key]

    def distance(self, *, calls: int, eta: float, solver: str) -> float:
        """Root mean square difference to the reference pictures of the same noises."""
        x = self.samples(calls=calls, eta=eta, solver=solver)
        return float((x - self.reference[:len(x)]).square().mean().sqrt())

    def render(self, *, calls: int, eta: float, solver: str) -> tuple[np.ndarray, str]:
        """Two rows of pixels (chosen sampler, reference) and one line of text."""
        x = self.samples(calls=calls, eta=eta, solver=solver)
        used = calls if solver != "Heun" else 2 * ((calls + 1) // 2) - 1
        name = f"{solver}, η = {eta:g}" if solver == "DDIM" else solver
        rows = [_empty(pixels(x), len(self.noise)), pixels(self.reference)]
        array = lay_out(rows, 2, row_labels=[f"{name}, {plural(used, 'call')}", self.label])
        aside = "" if solver == "DDIM" or eta == 0 else " (η has no effect on this solver)"
        cost = f"{plural(len(x), 'picture')}, {plural(used, 'network call')} each"
        return array, (f"{cost}; root mean square distance to the lower row "
                       f"{self.distance(calls=calls, eta=eta, solver=solver):.2f}{aside}")


class Trajectories:
    """x_t and the x0 guess along several runs from the same noise, kept as pixels at ``frames`` moments.

    runs: name -> list of Steps, as list(ddim(...)) gives. A moment is the share of the way from noise to picture, in %.
    count: how many pictures of each run are shown, all that there are when left out.
    """

    def __init__(self, runs: Mapping[str, Sequence[Step]], *, frames: int = 51, count: int | None = None) -> None:
        require(len(runs) > 0 and all(len(steps) > 0 for steps in runs.values()), "runs", f"{len(runs)} runs", "lists of Steps")
        self.runs, self.frames = dict(runs), frames
        self._pixels = {}
        for name, steps in self.runs.items():
            chosen = [steps[i] for i in spread(len(steps), frames)]
            self._pixels[name] = [(s.t_prev, pixels(torch.stack([s.x, s.x0], 1)[:count].flatten(0, 1))) for s in chosen]

    def render(self, *, part: int) -> tuple[np.ndarray, str]:
        """part: 0 (noise) to 100 (picture), in % of the steps. One row a run: x_t and x0 guess of each picture."""
        require(0 <= part <= 100, "part", part, "a number from 0 to 100")
        moments = {name: kept[round(part / 100 * (len(kept) - 1))] for name, kept in self._pixels.items()}
        count = len(next(iter(moments.values()))[1]) // 2
        heads = [what + (f", {chr(65 + i)}" if count > 1 else "") for i in range(count) for what in ("x", "x0 guess")]
        labels = [f"{name}: t = {t}" if t >= 0 else f"{name}: done" for name, (t, _) in moments.items()]
        array = lay_out([row for _, row in moments.values()], 3 if count <= 2 else 2, row_labels=labels, column_labels=heads)
        return array, f"{part} % of the way from noise to picture"


class Walk:
    """Frames between two pictures by several ways: one row a way, the neighbours of the chosen frame beside it."""

    def __init__(self, ways: Mapping[str, Tensor], weights: Sequence[float]) -> None:
        sizes = {len(frames) for frames in ways.values()}
        require(sizes == {len(weights)}, "ways", f"{sorted(sizes)} frames", f"{len(weights)} frames each, one for each weight")
        self.weights = list(weights)
        self._pixels = {name: pixels(frames) for name, frames in ways.items()}

    def render(self, *, weight: int) -> tuple[np.ndarray, str]:
        """weight: number of the frame, from 0."""
        require(0 <= weight < len(self.weights), "weight", weight, f"a whole number from 0 to {len(self.weights) - 1}")
        shown = [0, weight, len(self.weights) - 1]
        rows = [frames[shown] for frames in self._pixels.values()]
        array = lay_out(rows, 3, row_labels=list(self._pixels), column_labels=["start", f"w = {self.weights[weight]:.2f}", "end"])
        return array, f"w = {self.weights[weight]:.2f}"
