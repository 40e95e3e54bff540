"""Analysis by synthesis: is there a scene whose rendering looks like this picture?

The reader's prediction is rendered, its places and sizes are refined by gradient through the renderer, and what is left
over is the residual. A cross-fade of two things, a chimera or a smear has no scene that explains it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_images, require
from minidiff.measure.reader import Reader
from minidiff.measure.reading import Reading, read
from minidiff.world import Scenes, render

__all__ = ["Explanation", "explain", "residual", "VALID_BELOW"]

# A picture counts as valid when its residual is below this; set from clean held-out pictures with a little noise
# (99 % pass) and from broken ones (cross-fades, missing parts); `minidiff score 00.validity` prints both again.
VALID_BELOW = 0.20


class Explanation(NamedTuple):
    """The scene that explains each of B pictures best, and how much it leaves over."""

    scenes: Scenes
    residual: Tensor      # (B,) root mean square difference in the worst window, pixel values in [-1, 1]
    valid: Tensor         # (B,) bool
    reading: Reading


def residual(images: Tensor, rendered: Tensor) -> Tensor:
    """Root mean square difference in the worst window of a quarter of the side, (B,); a speck counts, noise averages out."""
    side = images.shape[-1]
    square = ((images - rendered) ** 2).mean(1, keepdim=True)
    return F.avg_pool2d(square, side // 4, side // 8).amax((1, 2, 3)).sqrt()


def explain(images: Tensor, reader: Reader, *, steps: int = 24, lr: float = 0.01, chunk: int = 256) -> Explanation:
    """Read pictures (B, 3, S, S), refine x, y and size by Adam on the squared difference, report the residual.

    steps: gradient steps; 0 keeps the reader's own places.
    """
    check_images("images", images, channels=3)
    require(steps >= 0, "steps", steps, "a whole number >= 0")
    parts = [_explain(part, reader, steps, lr) for part in images.split(chunk)]
    scenes = Scenes.cat([p.scenes for p in parts])
    reading = Reading(scenes, torch.cat([p.reading.masks for p in parts]), torch.cat([p.reading.confidence for p in parts]),
                      {k: torch.cat([p.reading.probs[k] for p in parts]) for k in parts[0].reading.probs})
    left = torch.cat([p.residual for p in parts])
    return Explanation(scenes, left, torch.cat([p.valid for p in parts]), reading)


def _explain(images: Tensor, reader: Reader, steps: int, lr: float) -> Explanation:
    reading = read(images, reader)
    scenes, size = reading.scenes, images.shape[-1]
    place = torch.stack([scenes.x, scenes.y, scenes.size]).clone().requires_grad_(True)
    start = place.detach().clone()
    optimiser = torch.optim.Adam([place], lr=lr, betas=(0.8, 0.95))
    best, best_place = torch.full((len(images),), float("inf"), device=images.device), start.clone()
    for step in range(steps + 1):
        moved = dataclasses.replace(scenes, x=place[0].clamp(0, 1), y=place[1].clamp(0, 1), size=place[2].clamp(0.05, 0.45))
        with torch.set_grad_enabled(step < steps):
            picture = render(moved, size).images
            error = ((picture - images) ** 2).mean((1, 2, 3))
        better = error.detach() < best
        best = torch.where(better, error.detach(), best)
        best_place = torch.where(better[None, :, None], place.detach(), best_place)
        if step < steps and error.requires_grad:
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 - step / steps) + 1e-3
            optimiser.zero_grad()
            error.sum().backward()
            optimiser.step()
    x, y, thing_size = best_place
    scenes = dataclasses.replace(scenes, x=x.clamp(0, 1), y=y.clamp(0, 1), size=thing_size.clamp(0.05, 0.45))
    with torch.no_grad():
        left = residual(images, render(scenes, size).images)
    return Explanation(scenes, left, (left < VALID_BELOW) & scenes.present.any(1), reading)
