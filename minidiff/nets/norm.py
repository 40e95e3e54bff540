"""Normalisations of a feature map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import check_choice

__all__ = ["NORMS", "RMSNorm", "make_norm"]

NORMS = ("group", "rms")


class RMSNorm(nn.Module):
    """Each pixel's channel vector scaled to length sqrt(C), times a learned gain (lucidrains v2; no mean, no shift).

    The square root is of the channels, not of the width: lucidrains' guided_diffusion.py has x.shape[-1] there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (self.gain * math.sqrt(x.shape[1]))


def make_norm(kind: str, channels: int, *, groups: int = 32) -> nn.Module:
    """``"group"``: GroupNorm with at most ``groups`` groups, eps 1e-6 (Ho et al. 2020); ``"rms"``: :class:`RMSNorm`.

    A group holds at least four channels, as in Ho's 128-channel net (EDM's rule). With one channel a group, the norm would
    remove each channel's mean, and with it the time that a "ddpm" block adds just before.
    """
    check_choice("norm", kind, NORMS)
    if kind == "rms":
        return RMSNorm(channels)
    return nn.GroupNorm(math.gcd(max(1, min(groups, channels // 4)), channels), channels, eps=1e-6)
