"""What several recipes share: batches rendered many at once, pictures of several levels in one batch, the steps drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_choice
from minidiff.world import Scenes, render, sample_scenes

__all__ = ["BLOCK", "T_SAMPLINGS", "mixed_batch", "sample_t"]

BLOCK = 8  # batches rendered at once: many scenes together are painted faster; batch i is still a pure function of i
T_SAMPLINGS = ("uniform", "mixture")


def mixed_batch(index: Tensor, size: int, seed: int,
                portions: tuple[tuple[str, int, float], ...]) -> tuple[Scenes, Tensor, Tensor]:
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


def sample_t(n: int, T: int, generator: torch.Generator, how: str = "uniform") -> Tensor:
    """(n,) whole numbers in [0, T), the steps of a batch. "uniform", or "mixture": half uniform, half T sigmoid(N(0, 1)).

    The logit-normal half (Esser et al. 2024, equation 19) is spent in the middle, where a network learns which shape to draw.
    """
    check_choice("t_sampling", how, T_SAMPLINGS)
    even = torch.randint(0, T, (n,), generator=generator)
    if how == "uniform":
        return even
    middle = (torch.sigmoid(torch.randn(n, generator=generator)) * T).long().clamp(max=T - 1)
    return torch.where(torch.rand(n, generator=generator) < 0.5, even, middle)
