"""Where in a picture a subject is, and how like it that spot looks: the score of personalisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_pictures

if TYPE_CHECKING:
    from minidiff.world.subject import Subject

__all__ = ["Identity", "identity"]

_REACH = 1.28          # half-side of a sprite, in half-heights, as in subject.py
_SIZES = (0.13, 0.36)  # half-heights at which a subject is looked for


class Identity(NamedTuple):
    """distance (B,): root mean square difference inside the silhouette at the best place; place (B, 3): x, y, size."""

    distance: Tensor
    place: Tensor


def identity(subject: Subject, images: Tensor, *, steps: int = 24) -> Identity:
    """What ``Subject.identity`` computes; images (B, 3, S, S)."""
    check_pictures("images", images)
    small = F.avg_pool2d(images, 2)                                 # half the size is enough to find it
    side = small.shape[-1]
    best, place = torch.full((len(images),), float("inf")), torch.zeros(len(images), 3)
    low, high = _SIZES
    for half in torch.arange(low, high + 1e-6, 0.02).tolist():
        reach = math.ceil(half * _REACH * side)
        patch = torch.zeros(1, 3, 2 * reach, 2 * reach)
        here = torch.tensor([[0.5, 0.5, half * side / (2 * reach)]])
        colour, alpha = subject.place(patch, here)
        weight = _inner(alpha).expand(3, -1, -1)[None]
        area = float(weight[0, 0].sum())
        shown = colour / alpha.clamp(min=1e-3)
        padded = F.pad(small, (reach // 2,) * 4, mode="replicate")
        error = F.conv2d(padded**2, weight) - 2 * F.conv2d(padded, weight * shown)
        error = (error[:, 0] + float((weight * shown**2).sum())) / (3 * area)
        least, at = error.flatten(1).min(1)
        row, column = at // error.shape[2], at % error.shape[2]
        centre = torch.stack((column, row), 1) + reach - reach // 2
        better = least < best
        best = torch.where(better, least, best)
        found = torch.cat((centre / side, torch.full((len(images), 1), half)), 1)
        place = torch.where(better[:, None], found, place)
    return _refine(subject, images, place, steps)


def _refine(subject: Subject, images: Tensor, place: Tensor, steps: int) -> Identity:
    place = place.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([place], lr=0.006)
    best, kept = torch.full((len(images),), float("inf")), place.detach().clone()
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            pasted, alpha = subject.place(images, place)
            inside = _inner(alpha)
            inside = inside / inside.sum((1, 2), keepdim=True).clamp(min=1.0)
            shown = (pasted - images) / alpha.clamp(min=1e-3)[:, None]          # sprite minus picture, at full opacity
            error = ((shown**2).mean(1) * inside).sum((1, 2))
            error = error + 100 * ((place[:, 2] - _SIZES[1]).relu() ** 2 + (_SIZES[0] - place[:, 2]).relu() ** 2)
        better = error.detach() < best
        best = torch.where(better, error.detach(), best)
        kept = torch.where(better[:, None], place.detach(), kept)
        if step < steps:
            optimiser.param_groups[0]["lr"] = 0.006 * (1 - step / steps)
            optimiser.zero_grad()
            error.sum().backward()
            optimiser.step()
    return Identity(best.clamp(min=0).sqrt(), kept)


def _inner(alpha: Tensor) -> Tensor:
    """Weight of a pixel in the distance: 1 where the subject covers it, 0 where the backdrop mixes in."""
    return ((alpha - 0.8) / 0.2).clamp(0, 1)
