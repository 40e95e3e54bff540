"""The panels of lesson 13: where each site says a noun is, step by step; a target to drag.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text; everything is computed beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from minidiff.editing import self_guidance
from minidiff.editing.properties import centroid, word_map
from minidiff.errors import check_choice, require
from minidiff.latent.text import token_indices
from minidiff.lessons.l13_self_guidance.data import SIDE, positions
from minidiff.measure.reader import Reader
from minidiff.show.tiles import lay_out, pixels
from minidiff.steer import Recorder

__all__ = ["Sites", "Targets", "marked", "over"]

Point = tuple[float, float]
PARTS = {"down": "encoder", "mid": "middle", "up": "decoder"}


def over(maps: Tensor, images: Tensor) -> np.ndarray:
    """Maps (K, h, w), each scaled to its own maximum, in viridis over their pictures (K or 1, 3, H, W): uint8 (K, H, W, 3)."""
    from matplotlib import colormaps

    big = F.interpolate(maps[:, None].float(), size=images.shape[-2:], mode="nearest")[:, 0]
    big = big / big.amax((1, 2), keepdim=True).clamp(min=1e-12)
    colours = np.asarray(colormaps["viridis"]((big * 24).round().div(24).numpy()))[..., :3] * 255
    return (0.7 * colours + 0.3 * pixels(images)).round().astype(np.uint8)


def marked(picture: np.ndarray, start: Point | None = None, goal: Point | None = None, *, scale: int = 4) -> np.ndarray:
    """A uint8 picture (H, W, 3) enlarged, with a ring at ``start``, a cross at ``goal``, a line between (shares of the side)."""
    large = picture.repeat(scale, 0).repeat(scale, 1)
    sheet, (h, w) = Image.fromarray(large), large.shape[:2]
    pen, at = ImageDraw.Draw(sheet), [None if p is None else (p[0] * w, p[1] * h) for p in (start, goal)]
    for colour, width in (((20, 20, 20), 5), ((255, 255, 255), 2)):
        if at[0] and at[1]:
            pen.line([at[0], at[1]], fill=colour, width=width)
        if at[0]:
            x, y = at[0]
            pen.ellipse([x - 7, y - 7, x + 7, y + 7], outline=colour, width=width)
        if at[1]:
            x, y = at[1]
            for k in (-1, 1):
                pen.line([(x - 8, y - 8 * k), (x + 8, y + 8 * k)], fill=colour, width=width)
    return np.asarray(sheet)


class Sites:
    """A noun's map at every site and step that a run recorded, over the picture it ends in.

    record: of the run, all its rows; row: which of them; image (1, 3, H, W): the row's picture; tokens: where its prompt has the
    noun.
    """

    def __init__(self, record: Recorder, image: Tensor, noun: str, tokens: Sequence[int], *, row: int = 0) -> None:
        self.image, self.noun, self.steps = image, noun, len(record.steps)
        self.maps: dict[str, Tensor] = {}
        for name, site in record.at(0).sites.items():
            maps = torch.stack([word_map(record.at(k), name, tokens)[row] for k in range(self.steps)])
            kind = f"{PARTS[site.place]} {maps.shape[-1]}x{maps.shape[-1]}"
            self.maps[f"{kind}, no. {1 + sum(label.startswith(kind) for label in self.maps)}"] = maps

    @property
    def names(self) -> list[str]:
        """The sites in the order in which they run."""
        return list(self.maps)

    def render(self, *, site: str, step: int) -> tuple[np.ndarray, str]:
        """The final picture, and the map of ``step`` (from 1) over it with its centroid as a cross."""
        check_choice("site", site, self.names)
        require(1 <= step <= self.steps, "step", step, f"a whole number from 1 to {self.steps}")
        a = self.maps[site][step - 1]
        x, y = centroid(a).tolist()
        tiles = np.stack([marked(pixels(self.image)[0], scale=3), marked(over(a[None], self.image)[0], goal=(x, y), scale=3)])
        text = f"step {step} of {self.steps}, {site}: the map of {self.noun!r} has its centroid at x = {x:.2f}, y = {y:.2f}"
        return lay_out([tiles], 1, labels=["where it ends", "the map, its centroid as a cross"]), text


class Targets:
    """One picture, its one thing moved to each of a grid of places (dx and dy in pixels), the other kept; and where the reader
    then finds the two. ways: name -> (n, 2), how far each went, in pixels, in the order of ``shifts``; NaN: not found."""

    def __init__(self, pipe: Any, prompt: str, noun: str, kept: str, latents: Tensor, reader: Reader, *,
                 dx: Sequence[int] = (-8, 0, 8), dy: Sequence[int] = (-8, 0, 8), steps: int = 20) -> None:
        self.shifts = [(x, y) for y in dy for x in dx]
        self.noun, self.kept, n = noun, kept, len(self.shifts)
        made = self_guidance(pipe, [prompt] * n, move={noun: torch.tensor(self.shifts) / SIDE}, keep=[kept],
                             latents=latents.expand(n, -1, -1, -1), steps=steps)
        self.made, self.images, self.source = made, made.edit, made.images["source"][:1]
        before, after = ({word: positions(images, [word] * len(images), reader)[:, :2] for word in (noun, kept)}
                         for images in (self.source, self.images))
        self.place: Point = tuple(before[noun][0].tolist())
        self.ways = {word: SIDE * (after[word] - before[word]) for word in (noun, kept)}
        fine = min(made.maps["edit"].at(0).sites.values(), key=lambda s: s.level).name
        tokens = token_indices(pipe.tokenizer, prompt, noun)[0]
        self.maps = word_map(made.maps["edit"].at(steps - 1), fine, tokens)

    def render(self, *, dx: int, dy: int) -> tuple[np.ndarray, str]:
        """The source with the wish drawn in, the edit, and where the edit's map looks at the last step."""
        require((dx, dy) in self.shifts, "dx, dy", (dx, dy), f"a shift of the grid, such as {self.shifts[0]}")
        k = self.shifts.index((dx, dy))
        goal = (self.place[0] + dx / SIDE, self.place[1] + dy / SIDE)
        tiles = np.stack([marked(pixels(self.source)[0], self.place, goal, scale=3),
                          marked(pixels(self.images[k:k + 1])[0], None, goal, scale=3),
                          marked(over(self.maps[k:k + 1], self.images[k:k + 1])[0], None, goal, scale=3)])
        went = (f"the {word} went " + (f"{x:+.1f}, {y:+.1f}" if x == x else "out of the reader's sight")
                for word, (x, y) in ((word, way[k].tolist()) for word, way in self.ways.items()))
        return (lay_out([tiles], 1, labels=["source, and the wish", "edit", f"the map of {self.noun!r}, last step"]),
                f"asked {dx:+d}, {dy:+d} px; {'; '.join(went)}")
