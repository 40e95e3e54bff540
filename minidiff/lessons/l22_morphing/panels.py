"""The panels of lesson 22: along a path with its hops, even or respaced, by several methods; and guidance at the two ends.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text; everything is computed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from minidiff.errors import check_choice, require
from minidiff.measure.path import Distance, hops, speed_cv, thing_counts
from minidiff.measure.reader import Reader
from minidiff.morphing import Impus
from minidiff.show.theme import colour, figure
from minidiff.show.tiles import below, lay_out, pixels

__all__ = ["Guided", "Walk"]


class Walk:
    """One pair by several methods: the frames of a path, how many things the reader finds in each, and the hops between them.

    films: name -> (weights (n,), frames (n, 3, H, W)). yardstick: the name of the film whose hops stand beside the others';
    control: of the one whose frames stand above theirs.
    """

    def __init__(self, films: Mapping[str, tuple[Sequence[float], Tensor]], distance: Distance, reader: Reader, *,
                 yardstick: str, control: str) -> None:
        check_choice("yardstick", yardstick, films)
        check_choice("control", control, films)
        for name, (weights, frames) in films.items():
            require(len(weights) == len(frames) >= 2, "films", f"{len(weights)} weights and {len(frames)} frames of {name!r}",
                    "a weight for each of two frames or more")
        require(len({len(frames) for _, frames in films.values()}) == 1, "films", "paths of different length",
                "as many frames in each")
        self.films, self.yardstick, self.control = dict(films), yardstick, control
        self.hops = {name: hops(x, distance)[0] for name, (_, x) in films.items()}
        self.way = {name: float(self.hops[name].sum() / distance(x[:1], x[-1:])[0]) for name, (_, x) in films.items()}
        self.counts = {name: thing_counts(x, reader)[0].tolist() for name, (_, x) in films.items()}
        self.top = 1.08 * max(float(h.max()) for h in self.hops.values())

    def _graph(self, path: str, frame: int) -> np.ndarray:
        from minidiff.show import picture

        fig, ax = figure("hop between neighbouring frames", "root of MiniLPIPS", height=2.1)
        h, gold = self.hops[path], self.hops[self.yardstick]
        number = list(range(1, len(h) + 1))
        ax.bar(number, h.tolist(), 0.6, color=[colour("orange" if k == frame else "blue") for k in number], label=path)
        ax.plot(number, gold.tolist(), color=colour("ink"), marker="_", markersize=22, linestyle="none", label=self.yardstick)
        ax.set_ylim(0, self.top)
        ax.set_xticks(number)
        ax.legend()
        return picture(fig, alt=f"hops of {path}").array

    def render(self, *, path: str, frame: int) -> tuple[np.ndarray, str]:
        """The control's strip and the path's, weights below; the frame itself; all hops, the one that leads to it in orange."""
        check_choice("path", path, self.films)
        weights, images = self.films[path]
        require(0 <= frame < len(images), "frame", frame, f"a whole number from 0 to {len(images) - 1}")
        tiles, h = pixels(images), self.hops[path]
        strips = [lay_out([pixels(x)], 1, labels=[f"{v:.3g}" + mark * (k == frame) for k, v in enumerate(at)], row_labels=[name])
                  for name, (at, x), mark in ((self.control, self.films[self.control], ""), (path, (weights, images), " <"))]
        large = lay_out([tiles[frame:frame + 1]], 2)
        hop = f"; the hop that leads here {float(h[frame - 1]):.2f}" if frame else ""
        n = self.counts[path]
        return below(*strips, large, self._graph(path, frame)), (
            f"{path}, weight {weights[frame]:.3g}: {n[frame]} thing{'s' * (n[frame] != 1)} found{hop}. Whole path: spread of the "
            f"hops over their mean {float(speed_cv(h)):.2f}, length {self.way[path]:.2f} times the straight one, one thing in "
            f"{sum(k == 1 for k in n[1:-1])} of {len(n) - 2} frames between the ends")


class Guided:
    """Both ends of the first pair at several weights of guidance, with the unconditional adapter and without it.

    images: the two pictures (2, 3, H, W); want: their own latents (2, C, h, w), which w = 1 gives back but for the inversion's
    error.
    """

    def __init__(self, fit: Impus, images: Tensor, want: Tensor, *, weights: Sequence[float] = (1.5, 3.0),
                 steps: int = 12) -> None:
        from minidiff.latent import decode

        bare = Impus(fit.noise, fit.text, fit.prompt, fit.empty, (fit.loras[0], ()))
        self.sources, self.weights = images, tuple(weights)
        with torch.no_grad():
            self.coded = decode(fit.prompt.vae, want).clamp(-1, 1).float()
        self.images: dict[tuple[float, bool], Tensor] = {}
        self.errors: dict[tuple[float, bool], Tensor] = {}
        with torch.no_grad():
            for w, taught in [(1.0, False), *((w, k) for w in weights for k in (False, True))]:
                z = (fit if taught else bare).latents([0, 0], [0.0, 1.0], guidance=(w, w), steps=steps)
                self.images[w, taught] = decode(fit.prompt.vae, z).clamp(-1, 1).float()
                self.errors[w, taught] = (z - want).square().flatten(1).mean(1).sqrt()

    def error(self, weight: float, taught: bool) -> float:
        """RMS error of the two latents together. taught: with the unconditional adapter."""
        return float(self.errors[weight, taught].square().mean().sqrt())

    def render(self, *, weight: float) -> tuple[np.ndarray, str]:
        """A row for each end: the picture, its own latents decoded, w = 1, then ``weight`` without and with the adapter, and the
        RMS error of the latents of each."""
        check_choice("weight", weight, self.weights)
        keys = [(1.0, False), (weight, False), (weight, True)]
        rows = [np.concatenate([pixels(x[k:k + 1]) for x in (self.sources, self.coded, *(self.images[key] for key in keys))])
                for k in (0, 1)]
        errors = [label for k in (0, 1)
                  for label in ("", "error 0", *(f"error {float(self.errors[key][k]):.2f}" for key in keys))]
        sheet = lay_out(rows, 1 if rows[0].shape[1] > 128 else 2, labels=errors, row_labels=["first", "other"],
                        column_labels=["the picture", "its latents", "guidance 1", f"{weight:g}, without", f"{weight:g}, with"])
        return sheet, (f"guidance {weight:g}: RMS error of the latents {self.error(weight, False):.3f} without the unconditional "
                       f"adapter, {self.error(weight, True):.3f} with it")
