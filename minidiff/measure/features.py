"""Features of a reader, and the two distances built on them. They are not FID and not LPIPS, and are never called so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_pictures, require
from minidiff.measure.reader import Reader

__all__ = ["features", "mini_lpips"]


@torch.no_grad()
def features(images: Tensor, reader: Reader, *, chunk: int = 256) -> Tensor:
    """Feature vectors (N, 64) float32 of pictures (N, 3, S, S) in [-1, 1]: the reader's pooled last layer."""
    check_pictures("images", images)
    return torch.cat([reader(part).features for part in images.split(chunk)]).float()


def mini_lpips(x: Tensor, y: Tensor, reader: Reader) -> Tensor:
    """MiniLPIPS (B,): squared distance of unit-length features at three depths, averaged over places and depths.

    x, y: (B, 3, S, S) in [-1, 1], of the same shape; differentiable. 0 means the same picture. The form is that of
    LPIPS (Zhang et al. 2018, eq. 1) without learned weights, on the reader's own layers.
    """
    check_pictures("x", x)
    check_pictures("y", y)
    require(x.shape == y.shape, "y", f"shape {tuple(y.shape)}", f"the shape of x, {tuple(x.shape)}")
    total = torch.zeros(len(x), device=x.device)
    layers_x, layers_y = reader(x).layers, reader(y).layers
    for a, b in zip(layers_x, layers_y, strict=True):
        a, b = (F.normalize(t.flatten(2), dim=1) for t in (a, b))
        total = total + ((a - b) ** 2).sum(1).mean(1)
    return total / len(layers_x)
