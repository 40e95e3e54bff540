"""The panels of lesson 14: how hard to push, how sharp the words compete, and what composed predictions draw.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minidiff.editing.attend import excite, middle_level
from minidiff.editing.composable import composable
from minidiff.editing.result import decode_images
from minidiff.editing.word_losses import Things, compete, things_of
from minidiff.errors import check_choice, require
from minidiff.latent.sample import denoise
from minidiff.lessons.l14_several_objects.data import Requested
from minidiff.show.sheet import font, paper
from minidiff.show.tiles import lay_out, pixels
from minidiff.steer import Recorder
from minidiff.steer.record import shape_of
from minidiff.world import COLOURS

__all__ = ["Pushes", "Sharpness", "Sums", "crossed", "thing_maps"]


def _large(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, 0).repeat(scale, 1)


def _painted(maps: Tensor, side: int) -> np.ndarray:
    """Maps (K, h, w) with values in [0, 1] in viridis, each cell a square, ``side`` pixels wide: uint8 (K, side, side, 3)."""
    from matplotlib import colormaps

    coloured = np.asarray(colormaps["viridis"]((maps.clamp(0, 1) * 24).round().div(24).numpy()))[..., :3]
    tiles = [Image.fromarray((x * 255).astype(np.uint8)).resize((side, side), Image.NEAREST) for x in coloured]
    return np.stack([np.asarray(tile) for tile in tiles])


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    sheet = paper(left.shape[1] + 16 + right.shape[1], max(left.shape[0], right.shape[0]))
    for tile, x in ((left, 0), (right, left.shape[1] + 16)):
        sheet.paste(Image.fromarray(tile), (x, (sheet.height - tile.shape[0]) // 2))
    return np.asarray(sheet)


def thing_maps(attention: Tensor, things: Things, shape: tuple[int, int], *, sharpness: float = 20.0,
               nouns: bool = False) -> Tensor:
    """(B, K, h, w): each thing's map after the words have competed: the sum over its phrase, or (nouns) its noun alone.

    attention: (B, N, L), heads and sites averaged.
    """
    weights, _ = things.weights(things.nouns if nouns else things.phrases)
    p = compete(attention, things.words, sharpness=sharpness)
    return torch.einsum("bnl,bkl->bkn", p, weights.to(p)).unflatten(-1, shape)


def crossed(images: Tensor, requested: Requested, *, scale: int = 3, dots: Tensor | None = None) -> Tensor:
    """Pictures (n, 3, H, W), enlarged, with a cross where each thing of ``requested`` should be, in the colour it should have,
    and the first letter of its name beside it. dots (n, K, 2): places in [0, 1] to mark in the same colours, such as centres of
    maps."""
    out = []
    for i, picture in enumerate(pixels(images)):
        sheet = Image.fromarray(_large(picture, scale))
        pen = ImageDraw.Draw(sheet)
        for (x, y), kind, colour in zip(requested.positions[i].tolist(), requested.kinds[i], requested.colours[i], strict=True):
            x, y, arm = x * sheet.width, y * sheet.height, 2.2 * scale
            dark = sum(COLOURS[colour]) < 330
            for ink, wide in ((("white" if dark else "black"), scale + 3), (tuple(COLOURS[colour]), scale)):
                for k in (-1, 1):
                    pen.line([(x - arm, y - arm * k), (x + arm, y + arm * k)], fill=ink, width=wide)
            left = x + arm + 2 if x < 0.85 * sheet.width else x - arm - 5 * scale
            pen.text((left, y - 2.6 * scale), kind[0].upper(), fill=tuple(COLOURS[colour]), font=font(5.5 * scale, bold=True),
                     stroke_width=2, stroke_fill="white" if dark else "black")
        if dots is not None:
            for (x, y), colour in zip(dots[i].tolist(), requested.colours[i], strict=True):
                x, y, r = x * sheet.width, y * sheet.height, 2 * scale
                pen.ellipse([x - r, y - r, x + r, y + r], fill=tuple(COLOURS[colour]), outline="white", width=scale)
        out.append(torch.from_numpy(np.asarray(sheet).copy()).permute(2, 0, 1))
    return torch.stack(out) / 127.5 - 1


class Sharpness:
    """One step's attention (1, N, L): each noun alone and each phrase, after a competition of any sharpness."""

    def __init__(self, attention: Tensor, things: Things, grid: tuple[int, int], names: Sequence[str], *,
                 sharpness: Sequence[float] = (1, 5, 20, 50, 100)) -> None:
        self.attention, self.things, self.names, self.sharpness = attention, things, list(names), list(sharpness)
        self.shape = shape_of(attention.shape[1], grid)

    def maps(self, sharpness: float, *, nouns: bool = False) -> Tensor:
        """(K, h, w)."""
        return thing_maps(self.attention, self.things, self.shape, sharpness=sharpness, nouns=nouns)[0]

    def render(self, *, sharpness: float) -> tuple[np.ndarray, str]:
        """Upper row the nouns alone, lower row the phrases; black is 0, yellow is 1."""
        check_choice("sharpness", sharpness, self.sharpness)
        alone, whole = self.maps(sharpness, nouns=True), self.maps(sharpness)
        nouns = [name.split()[-1] for name in self.names]
        labels = [f"{n!r} {float(m.max()):.2f}" for n, m in zip(nouns, alone, strict=True)]
        labels += [f"{n!r} {float(m.max()):.2f}" for n, m in zip(self.names, whole, strict=True)]
        worst, mean = 1 - float(alone.amax((1, 2)).min()), 1 - float(whole.amax((1, 2)).mean())
        text = f"sharpness {sharpness:g}: worst noun 1 - {1 - worst:.2f} = {worst:.2f}; mean over the phrases {mean:.2f}"
        return lay_out([_painted(alone, 104), _painted(whole, 104)], 1, labels=labels), text


class Pushes:
    """One prompt from one noise, moved by steps of several lengths: the picture, the things' maps half way, the loss."""

    def __init__(self, pipe: Any, prompt: str, things: Sequence[str], latents: Tensor, *,
                 shares: Sequence[float] = (0.0, 0.06, 0.15), steps: int = 20, guidance: float = 4.0) -> None:
        from minidiff.show import curve

        self.shares, self.names, self.pictures, self.maps, self.losses = list(shares), list(things), {}, {}, {}
        spoken, level = things_of(pipe.tokenizer, [prompt], self.names), middle_level(pipe)
        for share in self.shares:
            push = excite(pipe, spoken, relative=share)
            record = Recorder(lambda site: site.kind == "cross" and site.place == "up" and site.level == level)
            states = list(denoise(pipe, [prompt], latents=latents, steps=steps, guidance=guidance, hooks=[push, record]))
            maps = record.at(steps // 2)
            a = torch.stack([probs.mean(1) for probs in maps.probs.values()]).mean(0)
            self.maps[share] = thing_maps(a, spoken, shape_of(a.shape[1], maps.grid))[0]
            self.pictures[share] = pixels(decode_images(pipe, states[-1].x))[0]
            self.losses[share] = torch.cat([push.values[k] for k in sorted(push.values)])
        self.curves = {share: curve({"not moved": (range(1, len(v) + 1), self.losses[self.shares[0]]),
                                     f"{share:g} of |z|": (range(1, len(v) + 1), v)}, x="step", y="loss", height=2.2,
                                    alt="the loss by step", markers=False).array for share, v in self.losses.items()}

    def render(self, *, share: float) -> tuple[np.ndarray, str]:
        """Every picture in the upper row, the chosen one last; its maps below; the loss of each step beside them."""
        check_choice("share", share, self.shares)
        order = [s for s in self.shares if s != share] + [share]
        above = np.stack([_large(self.pictures[s], 2) for s in order])
        labels = ["not moved" if s == 0 else f"{s:g} of |z|" for s in order]
        sheet = lay_out([above, _painted(self.maps[share], 128)], 1, labels=[*labels, *self.names])
        peaks = ", ".join(f"{n} {float(m.max()):.2f}" for n, m in zip(self.names, self.maps[share], strict=True))
        return _beside(sheet, self.curves[share]), f"a step of {share:g} |z|: peaks half way {peaks}"


class Sums:
    """Two prompts composed with weights (first, w): the picture, and two Gaussians whose scores are composed in the same way."""

    def __init__(self, pipe: Any, parts: Sequence[str], latents: Tensor, *, weights: Sequence[float] = (-2.0, 0.0, 2.0, 4.0),
                 first: float = 2.0, steps: int = 20) -> None:
        require(len(parts) == 2, "parts", len(parts), "two prompts")
        self.first, self.weights = first, list(weights)
        made = {w: composable(pipe, parts, (first, w), latents=latents, steps=steps).edit for w in self.weights}
        self.pictures = {w: pixels(images)[0] for w, images in made.items()}

    @staticmethod
    def density(x: Tensor, first: float, other: float) -> Tensor:
        """The density whose score is the composed one of N(-2, 1), N(2, 1) and the broad N(0, 5): products and quotients of the
        three, not their sum; scaled to a maximum of 1."""
        log = [-(x - m) ** 2 / (2 * v) for m, v in ((-2.0, 1.0), (2.0, 1.0), (0.0, 5.0))]
        total = first * log[0] + other * log[1] + (1 - first - other) * log[2]
        return (total - total.max()).exp()

    def render(self, *, weight: float) -> tuple[np.ndarray, str]:
        """The picture of the composed predictions, and the density of the composed scores."""
        from minidiff.show import curve

        check_choice("weight", weight, self.weights)
        x = torch.linspace(-6, 6, 121)
        drawn = curve({"first prompt": (x, self.density(x, 1.0, 0.0)), "second prompt": (x, self.density(x, 0.0, 1.0)),
                       "composed": (x, self.density(x, self.first, weight))}, x="x", y="density, highest = 1", height=2.4,
                      alt="three bell curves", markers=False)
        top = round(float(x[self.density(x, self.first, weight).argmax()]), 1) + 0.0
        text = f"weights {self.first:g} and {weight:g}: the composed density is highest at x = {top:.1f}"
        return _beside(_large(self.pictures[weight], 5), drawn.array), text
