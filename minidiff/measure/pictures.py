"""Distances of two pictures, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["psnr"]


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, (B,): 10 log10(4 / mean square error).

    x, y: (B, C, H, W) in [-1, 1]. Equal pictures give a large finite number (the mean square error counts as 1e-12 at least).
    """
    return 10 * torch.log10(4 / (x - y).square().flatten(1).mean(1).clamp(min=1e-12))
