"""The panels of lesson 16: another picture's bottleneck in this picture's pass, and edits along a knob, kept against flipped.

Each ``render`` is a pure function of its knobs; everything is computed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.editing.result import decode_images
from minidiff.errors import require
from minidiff.latent import denoiser
from minidiff.lessons.l16_h_space.data import Inverted, passes
from minidiff.measure import edit_score
from minidiff.measure.reader import Reader
from minidiff.show import picture
from minidiff.show.theme import CYCLE, MARKERS, SOFT, colour, figure
from minidiff.show.tiles import below, lay_out, pixels

__all__ = ["Along", "Injected"]


class Injected:
    """Predicted pictures P_t of a source, of its right answer, and of the source with the other's bottleneck put into its pass.

    pipe: mini-sd; pixel: a pixel model of 32 x 32. For each edit, model and noise level everything is computed beforehand.
    """

    def __init__(self, pipe: Any, pixel: Any, edits: Sequence[str], timesteps: Sequence[int], *, row: int = 0) -> None:
        self.edits, self.timesteps, self.images, self.shares = tuple(edits), tuple(timesteps), {}, {}
        for edit in edits:
            for t in timesteps:
                made = [x[[row]] for x in passes(denoiser(pipe), edit, t, row + 1, pipe=pipe)]
                self._keep("mini-sd", edit, t, made, decode_images(pipe, torch.cat(made)))
                made = [x[[row]] for x in passes(pixel, edit, t, row + 1)]
                self._keep("pixel-ddpm", edit, t, made, F.interpolate(torch.cat(made).clamp(-1, 1), scale_factor=2))

    def _keep(self, model: str, edit: str, t: int, made: list[Tensor], images: Tensor) -> None:
        here, there, put = made
        self.images[model, edit, t] = images
        self.shares[model, edit, t] = float(((put - here) * (there - here)).sum() / (there - here).square().sum())

    def render(self, *, t: int) -> tuple[np.ndarray, str]:
        """A row for each model and edit: the three predicted pictures at level t; in the text this picture's shares."""
        require(t in self.timesteps, "t", t, f"one of {', '.join(map(str, self.timesteps))}")
        names = [(model, edit) for model in ("mini-sd", "pixel-ddpm") for edit in self.edits]
        sheet = lay_out([pixels(self.images[model, edit, t]) for model, edit in names], 2,
                        row_labels=[f"{model}, {edit}" for model, edit in names],
                        column_labels=["source", "right answer", "source, answer's h"])
        gone = "; ".join(f"{model}, {edit} {self.shares[model, edit, t]:.0%}" for model, edit in names)
        return sheet, f"t = {t}, share of the way: {gone}"


class Along:
    """The same edits along a knob, by one method or several: pictures, and below them kept against flipped at every value.

    made: method -> value of the knob -> pictures (n, 3, H, W); knob: its name, such as "c", the argument of ``render``.
    """

    def __init__(self, found: Inverted, made: Mapping[str, Mapping[float, Tensor]], reader: Reader, knob: str) -> None:
        values = {tuple(row) for row in made.values()}
        require(len(values) == 1, "made", f"{len(values)} lists of values", "the same values for every method")
        self.made, self.knob, self.values, self.sources = made, knob, next(iter(values)), found.images
        truth = found.pairs.truth(reader)
        scores = {(name, v): edit_score(x, truth) for name, row in made.items() for v, x in row.items()}
        self.scores = {key: (float(s.target.mean()), float(s.preserved.mean())) for key, s in scores.items()}

    def graph(self, value: float) -> np.ndarray:
        """Kept against flipped: a line for each method along the knob, the points of ``value`` ringed."""
        fig, ax = figure("flipped", "kept", height=2.6)
        for k, name in enumerate(self.made):
            points = [self.scores[name, v] for v in self.values]
            ax.plot(*zip(*points, strict=True), marker=MARKERS[k], color=colour(CYCLE[k]), label=name)
            ax.plot(*self.scores[name, value], marker="o", markersize=13, fillstyle="none", color="black", linestyle="none")
        ax.plot(0, 1, marker="*", markersize=11, color=SOFT, linestyle="none", label="no edit")
        least = min(kept for _, kept in self.scores.values())
        ax.set(xlim=(-0.05, 1.12), ylim=(0.5 if least > 0.55 else -0.05, 1.07))
        ax.legend(loc="lower left")
        return picture(fig, alt="kept against flipped").array

    def render(self, **at: float) -> tuple[np.ndarray, str]:
        """Rows: the sources, then each method at a value of the knob, ``render(c=0.2)``; below, kept against flipped."""
        require(set(at) == {self.knob}, "at", sorted(at), f"the knob, {self.knob}", f"render({self.knob}={self.values[0]:g})")
        value = at[self.knob]
        require(value in self.values, self.knob, value, f"one of {', '.join(map(str, self.values))}")
        rows = [pixels(self.sources), *(pixels(row[value]) for row in self.made.values())]
        said = "; ".join(f"{name}: flipped {self.scores[name, value][0]:.2f}, kept {self.scores[name, value][1]:.2f}"
                         for name in self.made)
        top = lay_out(rows, 2, row_labels=["source", *self.made])
        return below(top, self.graph(value)), f"{self.knob} = {value:g}: {said} ({len(self.sources)} pictures)"
