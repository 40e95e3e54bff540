"""The moving pictures of lesson 05. Each ``*_view`` is a pure function of its knobs: pixels (H, W, 3) and a line of text."""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minidiff.diffusion.guide import composable, instruct_pix2pix
from minidiff.errors import check_choice
from minidiff.lessons.l04_classifier_guidance.data import Guided, Seen, sample, see
from minidiff.lessons.l05_classifier_free_guidance.toys import CENTRES, GuidedMixture, draw, tilted, walk
from minidiff.recipes.few import FEW_COLOURS, FEW_KINDS, condition
from minidiff.show import paper, rgb, tile, write_text
from minidiff.zoo import load

__all__ = ["beside_bars", "classes_view", "guidance_view", "two_scales", "two_scales_view"]

STEPS = 10
_SHADES = {"red": "#d63031", "yellow": "#fad732", "blue": "#2962d6", "white": "#d8d8d0"}


def beside_bars(images: Tensor, seen: Seen) -> np.ndarray:
    """Sixteen pictures in two rows, and below them how many of them the reader takes for each kind and each colour."""
    top = tile(images.clamp(-1, 1), columns=8, scale=4)
    names, numbers = (*FEW_KINDS, *FEW_COLOURS, "neither"), [int((seen.kind == i).sum()) for i in range(4)]
    numbers += [int((seen.colour == i).sum()) for i in range(4)] + [int(((seen.kind < 0) | (seen.colour < 0)).sum())]
    sheet = paper(top.shape[1], top.shape[0] + 250)
    sheet.paste(Image.fromarray(top), (0, 0))
    pen, wide = ImageDraw.Draw(sheet), top.shape[1] / len(names)
    for i, (name, count) in enumerate(zip(names, numbers, strict=True)):
        left, foot = i * wide + 14, top.shape[0] + 200
        high = 150 * count / max(1, len(images))
        pen.rectangle([left, foot - high, left + wide - 28, foot], fill=rgb(_SHADES.get(name, "grey" if i > 7 else "ink")),
                      outline=rgb("grey"))
        write_text(sheet, (left + wide / 2 - 14, foot + 4), (name,), size=11, anchor="centre")
        write_text(sheet, (left + wide / 2 - 14, foot - high - 34), (str(count),), size=11, anchor="centre")
    return np.asarray(sheet)


@functools.lru_cache(maxsize=64)
def _guided(scale: float, kind: str, colour: str, seed: int) -> tuple[np.ndarray, str]:
    cond = condition(None if kind == "any" else kind, None if colour == "any" else colour, n=16)
    images = sample(Guided(load("pixel-guided"), cond, scale), 16, seed=seed, steps=STEPS)
    seen = see(images)
    right = int(seen.right(None if kind == "any" else kind, None if colour == "any" else colour).sum())
    burnt = float((images.abs() > 1).double().mean())
    return beside_bars(images, seen), f"scale {scale:g}: {right} of 16 as asked; {burnt:.0%} of the values beyond white or black"


def guidance_view(scale: float, kind: str, colour: str, seed: int = 0) -> tuple[np.ndarray, str]:
    """Sixteen new samples of ``pixel-guided`` at this scale, the same noises at every scale, beside the reader's counts."""
    check_choice("kind", kind, ("any", *FEW_KINDS))
    check_choice("colour", colour, ("any", *FEW_COLOURS))
    return _guided(float(scale), kind, colour, int(seed))


def classes_view(scale: float) -> tuple[np.ndarray, str]:
    """Three classes in the plane, 400 guided samples of the upper one, and three heights as lines: the centre of the class, the
    mean of the density the samples are said to have, and their own mean."""
    side, reach = 560, 3.4
    sheet = paper(side, side)
    pen = ImageDraw.Draw(sheet)

    def at(p: Tensor) -> Tensor:
        return torch.stack([(p[:, 0] + reach) / (2 * reach) * side, (reach - 1 - p[:, 1] + reach - 2) / (2 * reach) * side], 1)

    data, label = draw(600)
    for name, points in (("grey", data[label != 0]), ("blue", data[label == 0]), ("orange", walk(GuidedMixture(scale)))):
        for x, y in at(points).tolist():
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=rgb(name))
    got, said = walk(GuidedMixture(scale)).mean(0), tilted(scale)[0].float()
    for name, p, words, left, above in (("ink", CENTRES[0], "class", 0, 4), ("purple", said, "tilted", side, -26),
                                        ("orange", got, "samples", 0, -26)):
        (_, y), = at(p[None]).tolist()
        pen.line([0, y, side, y], fill=rgb(name), width=2)
        write_text(sheet, (left, y + above), (f"{words} {float(p[1]):.2f}",), size=11, fill=name,
                   anchor="right" if left else "left")
    heights = f"samples have mean height {float(got[1]):.2f}, the tilted density {float(said[1]):.2f}"
    return np.asarray(sheet), f"scale {scale:g}: {heights}"


def two_scales(s_kind: float, s_colour: float, *, form: str = "composable", kind: str = "heart", colour: str = "blue", n: int = 8,
               seed: int = 0, steps: int = STEPS) -> Tensor:
    """n samples with a scale for each of two conditions. form: "composable" (kind and colour apart), "chain" (InstructPix2Pix:
    first the kind, then the colour given the kind). Three predictions a step, from one call of the network."""
    check_choice("form", form, ("composable", "chain"))
    model = load("pixel-guided")
    conds = [condition(n=n), condition(kind, n=n), condition(None, colour, n=n) if form == "composable" else
             condition(kind, colour, n=n)]

    class Three(Guided):
        def __call__(self, x: Tensor, t: Tensor) -> object:
            both = self.model(torch.cat([x] * 3), torch.cat([t] * 3), torch.cat(conds))
            u, a, b = both.x0.chunk(3)
            x0 = (composable(u, (a, b), (s_kind, s_colour)) if form == "composable" else
                  instruct_pix2pix(u, a, b, s_kind, s_colour))
            abar = float(self.schedule.at(int(t[0])))
            return type(both)(x0, (x - abar**0.5 * x0) / (1 - abar) ** 0.5)

    return sample(Three(model, conds[0]), n, seed=seed, steps=steps)


@functools.lru_cache(maxsize=64)
def _two(s_kind: float, s_colour: float, form: str) -> tuple[np.ndarray, str]:
    images = two_scales(s_kind, s_colour, form=form)
    seen = see(images)
    words = f"{int((seen.kind == 1).sum())} of 8 hearts, {int((seen.colour == 2).sum())} of 8 blue"
    return tile(images.clamp(-1, 1), columns=8, scale=5), f"kind {s_kind:g}, colour {s_colour:g}: {words}"


def two_scales_view(s_kind: float, s_colour: float, form: str = "composable") -> tuple[np.ndarray, str]:
    """Eight pictures for "heart" with one scale and "blue" with another."""
    return _two(float(s_kind), float(s_colour), form)
