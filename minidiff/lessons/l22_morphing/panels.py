"""The panels of lesson 22: a path with its hops at even weights and respaced, the stages one by one, guidance at the ends.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text; everything is computed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minidiff.errors import require
from minidiff.measure.path import Distance, hops, speed_cv
from minidiff.morphing import Impus
from minidiff.show import curve
from minidiff.show.sheet import paper
from minidiff.show.tiles import lay_out, pixels

__all__ = ["Guided", "Stages", "thin"]


def thin(images: Tensor) -> Tensor:
    """Pictures in 16 levels a channel: smaller pages, and the eye hardly sees it."""
    return ((images.clamp(-1, 1) + 1) * 7.5).round() / 7.5 - 1


def _strip(images: Tensor, scale: int, labels: Sequence[str] = ()) -> np.ndarray:
    return lay_out([pixels(thin(images))], scale, labels=list(labels))


class Stages:
    """The frames (n, 3, H, W) of one pair by several methods or stages, and below them the size of each hop."""

    def __init__(self, paths: Mapping[str, Tensor], distance: Distance) -> None:
        sizes = {tuple(x.shape) for x in paths.values()}
        require(len(sizes) == 1, "paths", sizes, "paths of as many frames, (n, 3, H, W) each")
        self.paths = dict(paths)
        self.hops = {name: hops(x, distance)[0] for name, x in paths.items()}
        self.straight = {name: float(distance(x[:1], x[-1:])[0]) for name, x in paths.items()}
        self.top = 1.05 * max(float(h.max()) for h in self.hops.values())

    def render(self, *, stages: str) -> tuple[np.ndarray, str]:
        """The strip, the hops of it against those of the first path, and their evenness in words."""
        require(stages in self.paths, "stages", repr(stages), f"one of {', '.join(self.paths)}")
        h, first = self.hops[stages], next(iter(self.hops))
        number = [k + 1 for k in range(len(h))]
        lines = {first: (number, self.hops[first])} | {stages: (number, h)}
        graph = curve(lines, x="hop", y="size of the hop", height=2.1, level={"the largest of all": self.top},
                      alt=f"hops of {stages}").array
        strip = _strip(self.paths[stages], 1)
        wide = max(strip.shape[1], graph.shape[1])
        sheet = paper(wide, strip.shape[0] + 16 + graph.shape[0])
        sheet.paste(Image.fromarray(strip), ((wide - strip.shape[1]) // 2, 0))
        sheet.paste(Image.fromarray(graph), ((wide - graph.shape[1]) // 2, strip.shape[0] + 16))
        said = (f"{stages}: spread of the hops over their mean {float(speed_cv(h)):.2f}, largest hop "
                f"{float(h.max() / h.sum()):.0%} of the way, which is {float(h.sum()) / self.straight[stages]:.2f} times the "
                f"straight one")
        return np.asarray(sheet), said


class Guided:
    """Both ends of the first pair at several weights of guidance, with the unconditional adapter and without it.

    want: the pictures' own latents (2, C, h, w), which w = 1 gives back but for the inversion's error.
    """

    def __init__(self, fit: Impus, want: Tensor, *, weights: Sequence[float] = (1.0, 1.5, 2.0, 3.0), steps: int = 12) -> None:
        bare = Impus(fit.noise, fit.text, fit.prompt, fit.empty, (fit.loras[0], ()))
        self.images: dict[float, list[Tensor]] = {}
        self.errors: dict[float, list[float]] = {}
        from minidiff.latent import decode

        with torch.no_grad():
            for w in weights:
                z = [side.latents([0, 0], [0.0, 1.0], guidance=(w, w), steps=steps) for side in (bare, fit)]
                self.images[w] = [decode(fit.prompt.vae, x).clamp(-1, 1).float() for x in z]
                self.errors[w] = [float((x - want).square().mean().sqrt()) for x in z]

    def render(self, *, weight: float) -> tuple[np.ndarray, str]:
        """Both ends without, then both with the adapter; the RMS errors of the latents."""
        require(weight in self.images, "weight", weight, f"one of {', '.join(map(str, self.images))}")
        without, taught = self.errors[weight]
        tiles = torch.cat(self.images[weight])
        return _strip(tiles, 2, ["first, without", "other, without", "first, with", "other, with"]), (
            f"guidance {weight:g}: error of the latents {without:.3f} without the unconditional adapter, {taught:.3f} with it")
