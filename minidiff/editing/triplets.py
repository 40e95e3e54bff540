"""Triplets (x, y, s) to learn style control from: x has y's content and s's style. Rendered where the world can, or retrieved."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import require
from minidiff.rng import key, uniform
from minidiff.world import STYLES, Scenes, sample_scenes

__all__ = ["Triplets", "rendered_triplets", "retrieved_triplets"]


class Triplets(NamedTuple):
    """x, y, s as scenes (rendered), or as positions (B,) in a gallery (retrieved; x is where the search began)."""

    x: Scenes | Tensor
    y: Scenes | Tensor
    s: Scenes | Tensor


def _scenes(index: Tensor, seed: int, stream: str, style: Tensor, split: str, edition: int) -> Scenes:
    base = sample_scenes(index, seed=key(seed, stream) % 2**31, split=split, level="simple").replace(style=style)
    return base if edition > 1 else base.replace(vary=torch.zeros_like(base.vary), size=base.size.clamp(max=0.30))


def rendered_triplets(index: Tensor | range, *, seed: int = 0, split: str = "train", edition: int = 2) -> Triplets:
    """Triplets number ``index``, exact: x is y's scene in s's style, y shows it in another style, s is another scene.

    One plain thing a scene, every style equally often. edition: 1 keeps to the world that mini-sd has seen (backdrops that do not
    vary, half-heights up to 0.30). A row depends on (seed, split, its number) alone.
    """
    index = torch.arange(index.start, index.stop, index.step) if isinstance(index, range) else index
    u, n = uniform(key(seed, "styles"), index, 2), len(STYLES)
    wanted = (u[:, 0] * n).long().clamp(max=n - 1)
    other = (wanted + 1 + (u[:, 1] * (n - 1)).long().clamp(max=n - 2)) % n
    x = _scenes(index, seed, "content", wanted, split, edition)
    return Triplets(x, x.replace(style=other), _scenes(index, seed, "style", wanted, split, edition))


def retrieved_triplets(style: Tensor, content: Tensor, *, reject: float = 0.5) -> Triplets:
    """Triplets found in a gallery by its codes, as the paper makes them: for each picture x, s is the nearest by
    style among those that are not too near by content, and y the nearest by content among those not too near by style.

    style (N, D), content (N, E): codes of the N pictures, compared by cosine. reject: the share of the gallery, the nearest in
    the *other* modality, that is refused, in [0, 1). x itself is never its own s or y.
    """
    require(
        style.ndim == 2 and content.ndim == 2 and len(style) == len(content) > 2,
        "content",
        f"shape {tuple(content.shape)}",
        f"({len(style)}, D): one row for each row of style, three at least",
    )
    require(0 <= reject < 1, "reject", reject, "a share of the gallery in [0, 1)", "reject=0.5")
    own = torch.eye(len(style), dtype=torch.bool, device=style.device)
    near = [(F.normalize(code, dim=1) @ F.normalize(code, dim=1).T).masked_fill(own, -torch.inf) for code in (style, content)]
    refused = round(reject * (len(style) - 1))

    def nearest(by: Tensor, other: Tensor) -> Tensor:
        if refused:
            by = by.scatter(1, other.topk(refused, 1).indices, -torch.inf)
        return by.argmax(1)

    return Triplets(torch.arange(len(style), device=style.device), nearest(near[1], near[0]), nearest(near[0], near[1]))
