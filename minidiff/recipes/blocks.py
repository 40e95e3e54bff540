"""What several recipes share: many batches rendered at once, and pictures of several levels in one batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.world import Scenes, render, sample_scenes

__all__ = ["BLOCK", "mixed"]

BLOCK = 8  # batches rendered at once: many scenes together are painted faster; batch i is still a pure function of i


def mixed(index: Tensor, size: int, seed: int, portions: tuple[tuple[str, int, float], ...]) -> tuple[Scenes, Tensor, Tensor]:
    """Scenes of several levels, rendered at several sizes and brought to one; the share of each level is fixed by rows."""
    scenes, images, masks, start = [], [], [], 0
    for number, (level, side, share) in enumerate(portions):
        stop = len(index) if number == len(portions) - 1 else start + int(share * len(index))
        part = sample_scenes(index[start:stop], split="train", seed=seed, level=level)
        picture = render(part, side)
        scenes.append(part)
        images.append(F.interpolate(picture.images, size=(size, size), mode="bilinear") if side != size else picture.images)
        masks.append(F.interpolate(picture.masks, size=(size // 2, size // 2), mode="area"))
        start = stop
    return Scenes.cat(scenes), torch.cat(images), torch.cat(masks)
