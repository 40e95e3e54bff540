"""The blocks of the U-Net: residual blocks told the time, and layers that change the resolution."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.nets.norm import make_norm

__all__ = ["space_to_depth", "depth_to_space", "film", "ResBlock", "PostBlock", "SpaceToDepth", "Upsample"]


def space_to_depth(x: Tensor, p: int) -> Tensor:
    """Every p x p patch becomes one pixel with p * p times the channels: (B, C, H, W) -> (B, C p p, H / p, W / p)."""
    return rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=p, q=p)


def depth_to_space(x: Tensor, p: int) -> Tensor:
    """The inverse of :func:`space_to_depth`: (B, C p p, H, W) -> (B, C, H p, W p)."""
    return rearrange(x, "b (c p q) h w -> b c (h p) (w q)", p=p, q=p)


def film(x: Tensor, e: Tensor) -> Tensor:
    """x (1 + scale) + shift with (scale, shift) = e: ADM's AdaGN after the norm. x: (B, C, H, W); e: (B, 2 C)."""
    scale, shift = e[:, :, None, None].chunk(2, dim=1)
    return torch.addcmul(shift, x, 1 + scale)


def _resample(x: Tensor, direction: str) -> Tensor:
    """Factor 2 without weights: nearest up, 2 x 2 average down (the BigGAN block of Dhariwal and Nichol 2021)."""
    return F.interpolate(x, scale_factor=2, mode="nearest") if direction == "up" else F.avg_pool2d(x, 2)


class ResBlock(nn.Module):
    """x + conv(dropout(silu(norm(conv(silu(norm x)), told the time)))): Ho et al. 2020; Dhariwal and Nichol 2021.

    x: (B, cin, H, W); e: (B, emb), already through SiLU. Returns (B, cout, H', W'). ``scale_shift=True`` tells the time by
    scale and shift after the second norm (ADM's AdaGN), False adds it before that norm (DDPM). ``resample`` "up" or
    "down" makes it BigGAN's block: both branches change resolution, after norm and SiLU in the main one. The last
    convolution starts at zero, so the block starts as its shortcut.
    """

    def __init__(self, cin: int, cout: int, emb: int, *, scale_shift: bool = True, dropout: float = 0.0,
                 resample: str | None = None) -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.norm1 = make_norm("group", cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * cout if scale_shift else cout)
        self.norm2 = make_norm("group", cout)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    @property
    def zeros(self) -> tuple[nn.Module, ...]:
        return (self.conv2,)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = _resample(h, self.resample), _resample(x, self.resample)
        h, e = self.conv1(h), self.emb(e)
        h = film(self.norm2(h), e) if self.scale_shift else self.norm2(h + e[:, :, None, None])
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class PostBlock(nn.Module):
    """lucidrains' block: twice conv -> norm -> SiLU; scale and shift after the first norm, dropout after the first SiLU.

    Shapes as :class:`ResBlock`. The norm comes after the convolution, so nothing starts at zero here.
    """

    zeros: tuple[nn.Module, ...] = ()

    def __init__(self, cin: int, cout: int, emb: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.norm1 = make_norm("rms", cout)
        self.emb = nn.Linear(emb, 2 * cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.norm2 = make_norm("rms", cout)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.dropout(F.silu(film(self.norm1(self.conv1(x)), self.emb(e))))
        return self.skip(x) + F.silu(self.norm2(self.conv2(h)))


class SpaceToDepth(nn.Module):
    """Halves the resolution without losing a number: 2 x 2 patches to channels, then a 1 x 1 convolution (lucidrains)."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(space_to_depth(x, 2))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3 x 3 convolution: no chequerboard, unlike a transposed convolution."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_resample(x, "up"))
