"""The panels of lesson 16: another picture's bottleneck in this picture's pass, and edits along a knob with flipped and kept.

Each ``render`` is a pure function of its knobs; everything is computed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minidiff.diffusion.noise import row_noise
from minidiff.diffusion.predict import signal_noise
from minidiff.editing.h_directions import bottleneck
from minidiff.editing.h_space import MIDDLE
from minidiff.editing.result import decode_images
from minidiff.errors import check_choice, require
from minidiff.latent import denoiser, encode, encode_prompt
from minidiff.lessons.l16_h_space.data import PIXEL_MIDDLE, Inverted
from minidiff.measure import edit_score
from minidiff.measure.reader import Reader
from minidiff.recipes.directions import direction_pairs
from minidiff.show import curve
from minidiff.show.sheet import paper
from minidiff.show.tiles import lay_out, pixels
from minidiff.world import render

__all__ = ["Along", "Injected"]


def _coarse(images: Tensor) -> np.ndarray:
    """Pixels in 31 levels a channel: smaller stills, and the eye hardly sees it."""
    return pixels(((images.clamp(-1, 1) + 1) * 15).round() / 15 - 1)


def _below(top: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """Two pictures, one over the other, on the course's paper."""
    sheet = paper(max(top.shape[1], graph.shape[1]), top.shape[0] + graph.shape[0] + 8)
    sheet.paste(Image.fromarray(top), (0, 0))
    sheet.paste(Image.fromarray(graph), (0, top.shape[0] + 8))
    return np.asarray(sheet)


class Injected:
    """Predicted pictures P_t of a source, of its right answer, and of the source with the other's bottleneck put into its pass.

    pipe: mini-sd; pixel: a pixel model of 32 x 32. For each edit, model and noise level everything is computed beforehand.
    """

    def __init__(self, pipe: Any, pixel: Any, edits: Sequence[str], timesteps: Sequence[int], *, row: int = 0) -> None:
        self.edits, self.timesteps, self.images, self.shares = tuple(edits), tuple(timesteps), {}, {}
        for edit in edits:
            pairs = direction_pairs(edit, row + 1, split="valid")
            scenes = [side[[row]] for side in (pairs.source, pairs.target)]
            with torch.no_grad():
                z = [encode(pipe.vae, render(side).images) for side in scenes]
                said = encode_prompt(pipe, pairs.prompts[row])
                for t in timesteps:
                    made = self._three(denoiser(pipe), *z, said, t, MIDDLE)
                    self._keep("mini-sd", edit, t, made, decode_images(pipe, torch.cat(made)))
                    made = self._three(pixel, *(render(side, 32).images for side in scenes), None, t, PIXEL_MIDDLE)
                    self._keep("pixel-ddpm", edit, t, made, F.interpolate(torch.cat(made).clamp(-1, 1), scale_factor=2))

    @staticmethod
    def _three(model: Any, before: Tensor, after: Tensor, cond: Any, t: int, path: str) -> list[Tensor]:
        noise = row_noise(before.shape, seed=0, t=t, rows=[0], dtype=before.dtype, device=before.device)
        level = torch.full((1,), t)
        a, s = signal_noise(model.schedule, level, before)
        _, here = bottleneck(model, a * before + s * noise, level, cond, path)
        h, there = bottleneck(model, a * after + s * noise, level, cond, path)
        return [here, there, bottleneck(model, a * before + s * noise, level, cond, path, h)[1]]

    def _keep(self, model: str, edit: str, t: int, made: list[Tensor], images: Tensor) -> None:
        here, there, put = made
        self.images[model, edit, t] = images
        self.shares[model, edit, t] = float(((put - here) * (there - here)).sum() / (there - here).square().sum())

    def render(self, *, model: str, edit: str, t: int) -> tuple[np.ndarray, str]:
        """The three predicted pictures, and this picture's share."""
        check_choice("model", model, ("mini-sd", "pixel-ddpm"))
        check_choice("edit", edit, self.edits)
        require(t in self.timesteps, "t", t, f"one of {', '.join(map(str, self.timesteps))}")
        labels = ["P_t of the source", "P_t of the answer", "source, with its h"]
        return lay_out([_coarse(self.images[model, edit, t])], 3, labels=labels), (
            f"{model}, {edit}, t = {t}: {self.shares[model, edit, t]:.0%} of the way")


class Along:
    """The same edits along a knob, by one method or several: pictures, and below them flipped and kept at every value.

    made: method -> value of the knob -> pictures (n, 3, H, W); knob: its name on the axis.
    """

    def __init__(self, found: Inverted, made: Mapping[str, Mapping[float, Tensor]], reader: Reader, knob: str) -> None:
        values = {tuple(row) for row in made.values()}
        require(len(values) == 1, "made", f"{len(values)} lists of values", "the same values for every method")
        self.made, self.knob, self.values, self.sources = made, knob, next(iter(values)), found.images
        truth = found.pairs.truth(reader)
        scores = {(name, v): edit_score(x, truth) for name, row in made.items() for v, x in row.items()}
        self.scores = {key: (float(s.target.mean()), float(s.preserved.mean())) for key, s in scores.items()}
        self.graph = curve({f"{word}, {name}": (self.values, [self.scores[name, v][k] for v in self.values])
                            for name in made for k, word in enumerate(("flipped", "kept"))}, x=knob, y="share", height=2.4,
                           alt="flipped and kept").array

    def render(self, *, value: float) -> tuple[np.ndarray, str]:
        """Rows: the sources, then each method at this value."""
        require(value in self.values, "value", value, f"one of {', '.join(map(str, self.values))}")
        rows = [_coarse(self.sources), *(_coarse(row[value]) for row in self.made.values())]
        said = "; ".join(f"{name}: flipped {self.scores[name, value][0]:.2f}, kept {self.scores[name, value][1]:.2f}"
                         for name in self.made)
        return _below(lay_out(rows, 2, row_labels=["source", *self.made]), self.graph), (
            f"{self.knob} {value:g}: {said} ({len(self.sources)} pictures)")
