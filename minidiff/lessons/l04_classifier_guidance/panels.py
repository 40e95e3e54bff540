"""The moving pictures of lesson 04. Each ``*_view`` is a pure function of its knobs: pixels (H, W, 3) and a line of text."""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import ImageDraw

from minidiff.errors import check_choice
from minidiff.lessons.l04_classifier_guidance.data import ShiftedByClassifier, sample, see
from minidiff.lessons.l04_classifier_guidance.toys import guided_ddim
from minidiff.recipes.few import FEW_KINDS
from minidiff.show import paper, rgb, tile, write_text
from minidiff.zoo import load

__all__ = ["classifier_view", "modes_view"]


@functools.lru_cache(maxsize=32)
def _modes(scale: float) -> torch.Tensor:
    return guided_ddim(scale, 1500, steps=40)[:, 0]


def modes_view(scale: float) -> tuple[np.ndarray, str]:
    """A histogram of 1,500 guided samples (orange) over the two modes of the data (grey line) and the right mode (blue line)."""
    x = _modes(float(scale))
    width, height, low, high = 1100, 420, -2.2, 2.8
    sheet, edges = paper(width, height + 50), torch.linspace(low, high, 76, dtype=torch.float64)
    pen, step = ImageDraw.Draw(sheet), float(edges[1] - edges[0])
    counts = torch.histogram(x.contiguous(), edges).hist / len(x) / step

    def at(v: float, d: float) -> tuple[float, float]:
        return (v - low) / (high - low) * width, height - d / 3.2 * height

    for left, density in zip(edges.tolist(), counts.tolist(), strict=False):
        pen.rectangle([*at(left, min(density, 3.1)), *at(left + step * 0.9, 0)], fill=rgb("orange"))
    line = torch.linspace(low, high, 400, dtype=torch.float64)
    bell = [torch.exp(-(line - m) ** 2 / 0.18) / (0.3 * 6.2832**0.5) for m in (-1, 1)]
    for name, curve in (("grey", (bell[0] + bell[1]) / 2), ("blue", bell[1])):
        pen.line([at(float(v), float(d)) for v, d in zip(line, curve, strict=True)], fill=rgb(name), width=4)
    for v in (-2, -1, 0, 1, 2):
        write_text(sheet, (at(v, 0)[0], height + 8), (str(v),), size=11, anchor="centre")
    right = float((x > 0).double().mean())
    return np.asarray(sheet), f"scale {scale:g}: mean {float(x.mean()):.2f}, width {float(x.std()):.2f}, {right:.1%} on the right"


@functools.lru_cache(maxsize=32)
def _pictures(scale: float, kind: str) -> tuple[np.ndarray, str]:
    number = torch.full((16,), FEW_KINDS.index(kind))
    images = sample(ShiftedByClassifier(load("pixel-guided"), load("noisy-classifier"), scale, kind=number), 16, seed=2, steps=10)
    seen = see(images)
    counts = ", ".join(f"{int((seen.kind == i).sum())} {name}" for i, name in enumerate(FEW_KINDS))
    return tile(images.clamp(-1, 1), columns=8, scale=4), f"scale {scale:g}, asked for a {kind}: the final reader sees {counts}"


def classifier_view(scale: float, kind: str) -> tuple[np.ndarray, str]:
    """Sixteen samples of the unconditional half of ``pixel-guided``, steered by ``noisy-classifier``."""
    check_choice("kind", kind, FEW_KINDS)
    return _pictures(float(scale), kind)
