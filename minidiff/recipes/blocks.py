"""What several recipes share: batches rendered many at once, pictures of several levels in one batch, the steps drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import check_choice
from minidiff.world import WORLD_EDITION, Scenes, render, sample_scenes

__all__ = ["T_SAMPLINGS", "Blocks", "Draw", "fingerprint", "mixed_batch", "mixed_identity", "noise", "sample_t"]

_AT_ONCE = {"cpu": 8, "cuda": 64}  # batches made at once
T_SAMPLINGS = ("uniform", "mixture")

Draw = dict[str, Tensor]


class Blocks:
    """Many batches made at once, since many scenes together are painted faster: ``blocks.rows(i, n, device)`` is batch i.

    make: (numbers of the rows (m,) int64 on the device, block number) -> dict of tensors of m rows. Batch i stays a pure function
    of (i, n, kind of device). keep: on CUDA so many rows are made once, kept on the device, and come back in the same batches
    from then on; 0 makes every row anew. keep_on_cpu: the same elsewhere, for rows that take as long to make as to learn from.
    """

    def __init__(self, make: Callable[[Tensor, int], Draw], *, keep: int = 0, keep_on_cpu: int = 0) -> None:
        self.make, self.keep, self.keep_on_cpu = torch.no_grad()(make), keep, keep_on_cpu
        self._made: dict[tuple[int, int, torch.device], Draw] = {}

    def rows(self, i: int, n: int, device: torch.device) -> Draw:
        at_once = _AT_ONCE.get(device.type, 8)
        number, first = i // at_once, i % at_once * n
        kept = (self.keep if device.type == "cuda" else self.keep_on_cpu) // (n * at_once)
        number = number % kept if kept else number
        where = (number, n, device)
        if where not in self._made:
            if not kept:
                self._made.clear()
            index = torch.arange(number * n * at_once, (number + 1) * n * at_once, device=device)
            self._made[where] = self.make(index, number)
        return {name: value[first : first + n] for name, value in self._made[where].items()}


def noise(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Standard normal noise where the generator lives: drawing it elsewhere would make a GPU wait for the copy."""
    return torch.randn(tuple(shape), generator=rng, device=rng.device)


def mixed_batch(index: Tensor, size: int, seed: int, portions: tuple[tuple[str, int, float], ...], *,
                change: Callable[[Scenes], Scenes] = lambda scenes: scenes) -> tuple[Scenes, Tensor, Tensor]:
    """Scenes of several levels, rendered at several sizes and brought to one; the share of each level is fixed by rows.

    change: what is done with scenes before they are rendered.
    """
    scenes, images, masks, start = [], [], [], 0
    for number, (level, side, share) in enumerate(portions):
        stop = len(index) if number == len(portions) - 1 else start + int(share * len(index))
        part = change(sample_scenes(index[start:stop], split="train", seed=seed, level=level))
        picture = render(part, side)
        scenes.append(part)
        images.append(F.interpolate(picture.images, size=(size, size), mode="bilinear") if side != size else picture.images)
        masks.append(F.interpolate(picture.masks, size=(size, size), mode="bilinear") if side != size else picture.masks)
        start = stop
    return Scenes.cat(scenes), torch.cat(images), torch.cat(masks)


def mixed_identity(portions: tuple[tuple[str, int, float], ...]) -> dict[str, Any]:
    """What :func:`mixed_batch` draws, as a recipe's identity names its data."""
    return {"world": WORLD_EDITION, "portions": portions}


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that change with any weight of a frozen model that a recipe learns from."""
    made = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        made.update(f"{name} {tuple(x.shape)} ".encode())
        made.update(x.detach().float().cpu().contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


def sample_t(n: int, T: int, generator: torch.Generator, how: str = "uniform") -> Tensor:
    """(n,) whole numbers in [0, T), the steps of a batch, where the generator lives.

    how: "uniform", or "mixture": half uniform, half T sigmoid(N(0, 1)).

    The logit-normal half (Esser et al. 2024, equation 19) is spent in the middle, where a network learns which shape to draw.
    """
    check_choice("t_sampling", how, T_SAMPLINGS)
    device = generator.device
    even = torch.randint(0, T, (n,), generator=generator, device=device)
    if how == "uniform":
        return even
    middle = (torch.sigmoid(noise((n,), generator)) * T).long().clamp(max=T - 1)
    return torch.where(torch.rand(n, generator=generator, device=device) < 0.5, even, middle)
