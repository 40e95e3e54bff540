"""The panels of lesson 13: where each site says a noun is, step by step; a target to drag; how hard to push.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text; everything is computed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from minidiff.editing import self_guidance
from minidiff.editing.properties import centroid, word_map
from minidiff.editing.result import EditResult
from minidiff.errors import check_choice, require
from minidiff.latent.text import token_indices
from minidiff.show.sheet import paper
from minidiff.show.tiles import lay_out, pixels
from minidiff.steer import Recorder

__all__ = ["Pushes", "Sites", "Targets", "marked", "over"]

Point = tuple[float, float]


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
            number = 1 + sum(label.startswith(f"{site.place} {maps.shape[-1]}x") for label in self.maps)
            self.maps[f"{site.place} {maps.shape[-1]}x{maps.shape[-1]}, no. {number}"] = maps

    @property
    def names(self) -> list[str]:
        """The sites in the order in which they run."""
        return list(self.maps)

    def render(self, *, site: str, step: int) -> tuple[np.ndarray, str]:
        """The final picture, and the map over it with its centroid as a cross."""
        check_choice("site", site, self.names)
        require(0 <= step < self.steps, "step", step, f"a whole number from 0 to {self.steps - 1}")
        a = self.maps[site][step]
        x, y = centroid(a).tolist()
        tiles = np.stack([marked(pixels(self.image)[0], scale=3), marked(over(a[None], self.image)[0], goal=(x, y), scale=3)])
        text = f"step {step + 1} of {self.steps}, {site}: the map of {self.noun!r} has its centroid at x = {x:.2f}, y = {y:.2f}"
        return lay_out([tiles], 1, labels=["where it ends", "the map, its centroid as a cross"]), text


class Targets:
    """One picture moved to each of a grid of places: dx and dy in pixels of a picture ``side`` wide. made: the edit, row by row
    in the order of ``shifts``."""

    def __init__(self, pipe: Any, prompt: str, noun: str, keep: Sequence[str], latents: Tensor, place: Point, *,
                 dx: Sequence[int] = (-8, 0, 8), dy: Sequence[int] = (-8, 0, 8), steps: int = 20,
                 side: int = 64) -> None:
        self.shifts = [(x, y) for y in dy for x in dx]
        self.place, self.noun, self.side = place, noun, side
        n = len(self.shifts)
        made = self_guidance(pipe, [prompt] * n, move={noun: torch.tensor(self.shifts) / side}, keep=list(keep),
                             latents=latents.expand(n, -1, -1, -1), steps=steps)
        self.made, self.images, self.source = made, made.edit, made.images["source"][:1]
        fine = min(made.maps["edit"].at(0).sites.values(), key=lambda s: s.level).name
        tokens = token_indices(pipe.tokenizer, prompt, noun)[0]
        self.maps = word_map(made.maps["edit"].at(steps - 1), fine, tokens)

    def render(self, *, dx: int, dy: int) -> tuple[np.ndarray, str]:
        """The source with the wish drawn in, the edit, and where the edit's map looks at the last step."""
        require((dx, dy) in self.shifts, "dx, dy", (dx, dy), f"a shift of the grid, such as {self.shifts[0]}")
        k = self.shifts.index((dx, dy))
        goal = (self.place[0] + dx / self.side, self.place[1] + dy / self.side)
        tiles = np.stack([marked(pixels(self.source)[0], self.place, goal, scale=3),
                          marked(pixels(self.images[k:k + 1])[0], None, goal, scale=3),
                          marked(over(self.maps[k:k + 1], self.images[k:k + 1])[0], None, goal, scale=3)])
        return (lay_out([tiles], 1, labels=["source, and the wish", "edit", f"the map of {self.noun!r}, last step"]),
                f"asked: {dx:+d} px to the right, {dy:+d} px down")


class Pushes:
    """The same move with pushes of different length: picture, and the energy by step.

    made: share of |eps| -> the edit with a push of this length, the smallest first; its first row is shown.
    """

    def __init__(self, made: Mapping[float, EditResult]) -> None:
        from minidiff.show import curve

        self.shares, self.images, self.curves = list(made), [pixels(edit.edit)[0] for edit in made.values()], []
        self.energy = {share: edit.details["energy"][:, 0] for share, edit in made.items()}
        least = self.energy[self.shares[0]]
        for share, values in self.energy.items():
            name = f"push of {share:g} |eps|"
            drawn = curve({"no push": (range(len(least)), least), name: (range(len(values)), values)}, x="step", y="energy",
                          height=2.4, alt="the energy by step", markers=False)
            self.curves.append(drawn.array)

    def render(self, *, push: float) -> tuple[np.ndarray, str]:
        """The picture beside the curve of its energy."""
        check_choice("push", push, self.shares)
        k = self.shares.index(push)
        graph = self.curves[k]
        tile = Image.fromarray(marked(self.images[k], scale=6))
        sheet = paper(tile.width + 16 + graph.shape[1], max(tile.height, graph.shape[0]))
        sheet.paste(tile, (0, (sheet.height - tile.height) // 2))
        sheet.paste(Image.fromarray(graph), (tile.width + 16, (sheet.height - graph.shape[0]) // 2))
        values = self.energy[push]
        said = f"a push of {push:g} |eps|: energy {float(values[0]):.3f} at first, {float(values[-1]):.3f} at last"
        return np.asarray(sheet), said
