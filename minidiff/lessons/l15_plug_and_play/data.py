"""What lesson 15 draws with: features as colours, handles as dots, SDEdit in closed form, rendered sources."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.measure import EditPairs, edit_pairs
from minidiff.world import render

__all__ = ["dotted", "mode_boundary", "principal_colours", "rendered"]


def principal_colours(features: Tensor) -> Tensor:
    """Features (B, C, h, w) as colours (B, 3, h, w) in [-1, 1]: their first three principal components over all places of all
    pictures, each from its 2 % to its 98 % quantile. The sign of a component is that in which its largest weight is positive."""
    require(features.ndim == 4 and features.shape[1] >= 3, "features", f"shape {tuple(features.shape)}",
            "shape (B, C, h, w) with three channels or more")
    flat = features.double().movedim(1, -1).flatten(0, -2)
    flat = flat - flat.mean(0)
    axes = torch.linalg.svd(flat, full_matrices=False).Vh[:3]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    shown = flat @ axes.T
    low, high = shown.quantile(0.02, 0), shown.quantile(0.98, 0)
    shown = (2 * (shown - low) / (high - low).clamp(min=1e-12) - 1).clamp(-1, 1)
    return shown.reshape(len(features), *features.shape[-2:], 3).movedim(-1, 1).float()


def dotted(images: Tensor, handles: Tensor, targets: Tensor, *, radius: int = 3) -> Tensor:
    """Pictures (B, 3, H, W) with handles (B, K, 2) as blue dots and targets as red ones, (x, y) in shares of the picture; a white
    line runs from each handle to its target, and a target lies above a handle."""
    out = images.clone()
    high, wide = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")

    def near(points: Tensor, within: float) -> Tensor:                                          # (B, K, 2) -> (B, 1, H, W)
        at = (points * torch.tensor([wide, high]) - 0.5).round()
        far = (x - at[..., 0, None, None]) ** 2 + (y - at[..., 1, None, None]) ** 2
        return (far <= within**2).any(1, keepdim=True)

    way = torch.linspace(0, 1, 2 * max(high, wide))[:, None, None, None]
    between = (handles + way * (targets - handles)).movedim(0, 1).flatten(1, 2)
    out = torch.where(near(between, 0.5), torch.ones(1).to(out), out)
    for points, colour, size in ((handles, (-1.0, -0.1, 0.4), radius), (targets, (0.84, -0.3, -0.8), radius - 1)):
        for within, shade in ((size, (1.0, 1.0, 1.0)), (size - 0.5, colour)):
            out = torch.where(near(points, within), torch.tensor(shade)[None, :, None, None].to(out), out)
    return out


def mode_boundary(abar: Tensor, m: float, v: float, share: float) -> Tensor:
    """The x_t (n,) below which a share 1 - ``share`` of all x_t lies, at levels abar (n,): what DDIM, which keeps order, will
    carry to the border between two modes at -m and +m, each of variance v, the upper one of weight ``share``. By bisection."""
    require(0 < share < 1, "share", share, "the weight of the upper mode, between 0 and 1")
    a, d = abar.double() ** 0.5, (abar.double() * v + 1 - abar.double()) ** 0.5
    low, high = -a * m - 12 * d, a * m + 12 * d
    for _ in range(80):
        middle = (low + high) / 2
        below = (1 - share) * torch.special.ndtr((middle + a * m) / d) + share * torch.special.ndtr((middle - a * m) / d)
        low, high = torch.where(below < 1 - share, middle, low), torch.where(below < 1 - share, high, middle)
    return (low + high) / 2


def rendered(edit: str, n: int) -> tuple[EditPairs, Tensor]:
    """n edits of the split "valid" in the world that mini-sd was trained in, and the pictures of their sources (n, 3, 64, 64)."""
    pairs = as_in_training(edit_pairs(edit, n, split="valid"))
    return pairs, render(pairs.source).images
