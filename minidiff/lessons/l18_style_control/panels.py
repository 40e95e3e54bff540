"""The panels of lesson 18: styles times contents to click through, the plane of the two weights, kept steps, and style blends.

Each ``render`` is a pure function of its knobs; everything is drawn beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.diffusion import last
from minidiff.editing.parasol import blend_styles, invert_content, parasol, styled
from minidiff.editing.result import decode_images
from minidiff.editing.style_tokens import content_code, style_statistics
from minidiff.editing.triplets import Triplets
from minidiff.errors import require
from minidiff.latent import initial_noise
from minidiff.lessons.l18_style_control.data import PARTS, Codes, Marks, Models, draw, marks
from minidiff.lessons.l18_style_control.data import shown as attributes
from minidiff.measure import read
from minidiff.measure.reader import Reader
from minidiff.show import colour, curve, figure, picture
from minidiff.show.tiles import below, lay_out, pixels
from minidiff.steer import Dual
from minidiff.world import STYLES, Scenes, render

__all__ = ["Blends", "Kept", "StyleByContent", "Weights", "gallery_codes"]


class StyleByContent:
    """Every content in every style: one picture for each pair of scenes, all contents from their own noise.

    ``marks`` says of the pictures, row by row of the table, what the reader found.
    """

    def __init__(
        self,
        known: Models,
        styles: Scenes,
        contents: Scenes,
        reader: Reader,
        *,
        g_style: float = 5.0,
        g_content: float = 4.0,
        steps: int = 12,
        seed: int = 18,
    ) -> None:
        m, n = len(styles), len(contents)
        side = known.pipe.unet.config.sample_size * known.pipe.vae_scale_factor
        self.styles, self.contents = (render(scenes, side).images for scenes in (styles, contents))
        self.style_names = tuple(STYLES[k] for k in styles.style.tolist())
        self.content_names = tuple(f"{one.things[0].colour} {one.things[0].kind}" for one in contents)
        row, column = torch.arange(m).repeat_interleave(n), torch.arange(n).repeat(m)
        with torch.no_grad():
            style = known.tokens.style_code(style_statistics(known.reader, self.styles))[row]
            content = content_code(known.reader, self.contents)[column]
        z = initial_noise(known.pipe, n, seed=seed).repeat(m, 1, 1, 1)
        made = draw(known, Codes(style, content, style), Dual(g_style, g_content), latents=z, steps=steps)
        self.images = made.unflatten(0, (m, n))
        self.marks = marks(made, Triplets(contents[column], contents[column], styles[row]), reader)

    def verdict(self, i: int, j: int) -> str:
        """What is right in the picture of style i and content j."""
        k = i * len(self.content_names) + j
        found = dict(zip(("style", *PARTS), (self.marks.style[k], *self.marks.content[k]), strict=True))
        right = [name for name, yes in found.items() if yes]
        return "right: " + (", ".join(right) or "nothing")

    def render(self, *, style: str, content: str) -> tuple[np.ndarray, str]:
        """Content, style and result side by side; below, the whole table with nothing hidden."""
        for name, value, names in (("style", style, self.style_names), ("content", content, self.content_names)):
            require(value in names, name, value, f"one of {', '.join(names)}")
        i, j = self.style_names.index(style), self.content_names.index(content)
        row = torch.stack([self.contents[j], self.styles[i], self.images[i, j]])
        top = lay_out([pixels(row)], 2, labels=["content y", "style s", "result"])
        table = lay_out([pixels(self.contents), *(pixels(x) for x in self.images)], 2,
                        row_labels=["content y", *self.style_names], column_labels=self.content_names)
        return below(top, table), f"{content} in {style} style; {self.verdict(i, j)}"


class Weights:
    """The plane (g_s, g_y): the same triplets at each pair of weights, with style and content accuracy."""

    def __init__(
        self,
        known: Models,
        codes: Codes,
        found: Triplets,
        reader: Reader,
        *,
        styles: Sequence[float] = (0.0, 2.0, 5.0),
        contents: Sequence[float] = (1.0, 3.0, 5.0),
        steps: int = 10,
        shown: int = 4,
    ) -> None:
        self.g_style, self.g_content, self.n = tuple(styles), tuple(contents), len(codes.content)
        self.y, self.s = attributes(found.y), attributes(found.s)
        self.style_names = [STYLES[k] for k in found.s.style.tolist()[:shown]]
        side = known.pipe.unet.config.sample_size * known.pipe.vae_scale_factor
        self.given = [render(scenes, side).images[:shown] for scenes in (found.y, found.s)]
        self.images, self.marks = {}, {}
        for gs in styles:
            for gy in contents:
                x = draw(known, codes, Dual(gs, gy), steps=steps)
                self.images[gs, gy], self.marks[gs, gy] = x[:shown], marks(x, found, reader)

    def accuracy(self, g_style: float, g_content: float) -> tuple[float, float]:
        """(style, content) at one pair of weights."""
        m = self.marks[g_style, g_content]
        return float(m.style.double().mean()), float(m.each.mean())

    def render(self, *, g_style: float, g_content: float) -> tuple[np.ndarray, str]:
        """The first contents, styles and results at these weights; below, content against style along each g_y."""
        for name, value, known in (("g_style", g_style, self.g_style), ("g_content", g_content, self.g_content)):
            require(value in known, name, value, f"one of {', '.join(map(str, known))}")
        rows = [pixels(x) for x in (*self.given, self.images[g_style, g_content])]
        top = lay_out(rows, 2, row_labels=["content y", "style s", "result"], column_labels=self.style_names)
        here = self.accuracy(g_style, g_content)
        fig, ax = figure("style accuracy", "content accuracy", height=2.6)
        for k, gy in enumerate(self.g_content):
            line = tuple(zip(*(self.accuracy(gs, gy) for gs in self.g_style), strict=True))
            ax.plot(*line, marker="os^"[k % 3], color=colour(("blue", "orange", "green")[k % 3]), label=f"g_y = {gy:g}")
        ax.plot(*here, marker="o", markersize=13, fillstyle="none", linestyle="none", color="black", label="here")
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        ax.legend()
        graph = picture(fig, alt="content against style accuracy")
        return below(top, graph.array), (
            f"g_s = {g_style:g}, g_y = {g_content:g}: style {here[0]:.2f}, content {here[1]:.2f} ({self.n} pictures)"
        )


class Kept:
    """Content pictures inverted and drawn anew with the first steps held (the paper's lambda)."""

    def __init__(
        self, known: Models, style: Tensor, content: Tensor, *, keeps: Sequence[int] = (0, 4, 7, 9, 12), steps: int = 12
    ) -> None:
        self.content, self.style, self.keeps, self.steps = content, style, tuple(keeps), steps
        z = invert_content(*known, content, steps=steps).noise
        self.images = {k: parasol(*known, style, content, keep=k, latents=z, steps=steps).edit for k in keeps}

    def marks(self, found: Triplets, reader: Reader) -> dict[int, Marks]:
        """keep -> what a reader finds, of the triplets that the pictures were rendered from."""
        return {k: marks(x, found, reader) for k, x in self.images.items()}

    def render(self, *, keep: int) -> tuple[np.ndarray, str]:
        """Rows: content, style, result."""
        require(keep in self.keeps, "keep", keep, f"one of {', '.join(map(str, self.keeps))}")
        rows = [pixels(x) for x in (self.content, self.style, self.images[keep])]
        return lay_out(rows, 2, row_labels=["content y", "style s", "result"]), f"{keep} of {self.steps} steps kept from y"


class Blends:
    """One content in styles between two: the frames, and the reader's probabilities of both styles along the way."""

    def __init__(
        self,
        known: Models,
        first: Tensor,
        second: Tensor,
        content: Tensor,
        reader: Reader,
        ends: tuple[int, int],
        *,
        weights: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        steps: int = 12,
        latents: Tensor | None = None,
    ) -> None:
        self.weights, count = list(weights), len(weights)
        code = torch.cat([blend_styles(first, second, w) for w in self.weights])
        content = content.expand(count, -1)
        z = None if latents is None else latents.expand(count, -1, -1, -1)
        made = last(styled(known.pipe, known.tokens, code, content, latents=z, steps=steps, guider=Dual(5.0, 4.0)))
        self.images, self.ends = decode_images(known.pipe, made.x), ends
        self.probs = read(self.images, reader).probs["style"][:, list(ends)]

    def render(self, *, frame: int) -> tuple[np.ndarray, str]:
        """All frames with the chosen one named; below, both probabilities."""
        require(isinstance(frame, int) and 0 <= frame < len(self.weights), "frame", frame, f"0 to {len(self.weights) - 1}")
        names = [STYLES[k] for k in self.ends]
        labels = [f"[{w:g}]" if k == frame else f"{w:g}" for k, w in enumerate(self.weights)]
        top = lay_out([pixels(self.images)], 2, labels=labels)
        graph = curve(
            {name: (self.weights, self.probs[:, k]) for k, name in enumerate(names)},
            x="weight of the second style",
            y="probability",
            height=2.2,
            alt="probabilities of both styles",
        )
        a, b = self.probs[frame].tolist()
        return below(top, graph.array), f"w = {self.weights[frame]:g}: {names[0]} {a:.2f}, {names[1]} {b:.2f}"


def gallery_codes(known: Models, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Style codes (N, 64) and content codes (N, 160) of a gallery (N, 3, S, S)."""
    parts: list[Any] = []
    with torch.no_grad():
        for x in pictures.split(64):
            parts.append((known.tokens.style_code(style_statistics(known.reader, x)), content_code(known.reader, x)))
    style, content = zip(*parts, strict=True)
    return torch.cat(style), torch.cat(content)
