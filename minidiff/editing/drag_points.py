"""Handles on a feature map: how they pull (motion supervision) and how they are found again (point tracking).

The two halves of DragDiffusion (Shi et al. 2023, section 3.3) and of DragGAN before it, as pure functions of any features
(B, C, H, W). A handle is (x, y) in shares of the picture's sides, as a scene's things are placed; :func:`cells` turns it into a
place of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import require

__all__ = ["blob", "cells", "features_at", "motion_loss", "swept", "track"]


def blob(centres: Tensor, size: int | tuple[int, int], *, width: float = 3.0) -> Tensor:
    """Gaussian blobs exp(-|q - centre|^2 / (2 width^2)) as features (B, 1, H, W), differentiable in ``centres`` (B, 2), in cells.

    The smallest thing that can be dragged: its one parameter is where it is.
    """
    high, wide = (size, size) if isinstance(size, int) else size
    require(width > 0, "width", width, "a positive number of cells", "width=3.0")
    x = torch.arange(wide, dtype=centres.dtype) - centres[:, :1]
    y = torch.arange(high, dtype=centres.dtype) - centres[:, 1:]
    return torch.exp(-(x.square()[:, None, None] + y.square()[:, None, :, None]) / (2 * width**2))


def cells(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (..., 2), x and y in shares of the picture, as places of a map of ``size`` (height, width), 0 the first centre."""
    return points * points.new_tensor([size[1], size[0]]) - 0.5


def features_at(features: Tensor, points: Tensor) -> Tensor:
    """Features (B, C, H, W) at points (B, K, 2), (x, y) in cells, between four of them in proportion: (B, K, C).

    Outside the map the nearest edge counts.
    """
    size = points.new_tensor([features.shape[-1], features.shape[-2]])
    grid = (2 * points + 1) / size - 1
    return F.grid_sample(features, grid[:, :, None].to(features), padding_mode="border", align_corners=False)[..., 0].mT


def _patch(radius: int, like: Tensor) -> Tensor:
    """(P, 2): the offsets (x, y) of a square of (2 radius + 1)^2 cells, row by row."""
    side = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(side, side).flip(1)


def _around(features: Tensor, points: Tensor, radius: int) -> Tensor:
    """(B, K, P, C): the features in the square around each place."""
    every = points[:, :, None] + _patch(radius, points)
    return features_at(features, every.flatten(1, 2)).unflatten(1, every.shape[1:3])


def motion_loss(features: Tensor, points: Tensor, goals: Tensor, *, radius: int = 1, near: float = 0.0) -> Tensor:
    """sum over handles and their squares of |F(q + d) - sg(F(q))|, the mean over channels; d: one cell to the goal (eq. 3): (B,).

    features (B, C, H, W); points, goals (B, K, 2) in cells. Where less than one cell is left d is what is left, and handles
    within ``near`` cells no longer pull. sg: no gradient passes, so the content at the handle moves to the goal and not back.
    """
    require(goals.shape == points.shape and points.shape[-1] == 2, "goals", f"shape {tuple(goals.shape)} beside points of shape "
            f"{tuple(points.shape)}", "(B, K, 2), a goal for each point")
    way = goals - points
    left = way.norm(dim=-1, keepdim=True)
    step = way / left.clamp(min=1.0)
    apart = _around(features, points + step, radius) - _around(features, points, radius).detach()
    return (apart.abs().mean(-1).sum(-1) * (left[..., 0] > near)).sum(-1)


@torch.no_grad()
def track(features: Tensor, first: Tensor, points: Tensor, *, radius: int = 3) -> Tensor:
    """The points (B, K, 2), each moved to the cell within ``radius`` whose features are nearest to ``first`` in L1 (eq. 5).

    first (B, K, C): the features of each handle before anything moved. Of equals the nearest to the old place is taken.
    """
    offsets = _patch(radius, points)
    offsets = offsets[offsets.norm(dim=1).argsort(stable=True)]
    every = points[:, :, None] + offsets
    seen = features_at(features, every.flatten(1, 2)).unflatten(1, every.shape[1:3])
    best = (seen - first[:, :, None]).abs().sum(-1).argmin(-1)
    return every.gather(2, best[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]


def swept(handles: Tensor, targets: Tensor, reach: float, size: int | tuple[int, int]) -> Tensor:
    """A free mask (B, 1, H, W): 1 within ``reach`` (a share of the picture's side) of the way of any handle to its target.

    What a person paints who wants the thing and its goal to be free, and all else kept.
    """
    require(handles.shape == targets.shape and handles.shape[-1] == 2, "targets", f"shape {tuple(targets.shape)} beside handles "
            f"of shape {tuple(handles.shape)}", "(B, K, 2), a target for each handle")
    high, wide = (size, size) if isinstance(size, int) else size
    y, x = torch.meshgrid((torch.arange(high) + 0.5) / high, (torch.arange(wide) + 0.5) / wide, indexing="ij")
    spots = torch.stack([x, y], -1)[:, :, None, None]                                              # (H, W, 1, 1, 2)
    way = targets - handles                                                                        # (B, K, 2)
    along = ((spots - handles) * way).sum(-1) / way.square().sum(-1).clamp(min=1e-12)
    apart = (spots - (handles + along.clamp(0, 1)[..., None] * way)).norm(dim=-1)                  # (H, W, B, K)
    return (apart.amin(-1) <= reach).permute(2, 0, 1)[:, None].float()
