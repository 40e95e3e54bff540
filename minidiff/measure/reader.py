"""The reader: a small network that predicts the scene of a picture.

Each cell of a 16 x 16 grid predicts whether a thing's centre lies in it and, if so, its attributes; every pixel predicts
whether it belongs to a thing and where that thing's centre is; the whole picture gives backdrop and style.
Nothing has to be matched or ordered, so the same network reads one thing or three.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import check_images
from minidiff.world import BACKDROPS, COLOURS, KINDS, MOODS, PATTERNS, STYLES, WEARS, Rendered, Scenes

__all__ = ["Reader", "RawReading", "HEADS", "GRID", "FEATURES", "reader_loss"]

GRID = 16                 # cells along one side
_INPUT = 64               # every picture is resized to this
FEATURES = 64             # length of the feature vector behind FDmini
HEADS = {"kind": len(KINDS), "colour": len(COLOURS), "pattern": len(PATTERNS), "mood": len(MOODS) + 1, "wears": len(WEARS)}


class RawReading(NamedTuple):
    """The network's raw prediction for B pictures, before it is decoded."""

    centre: Tensor               # (B, 16, 16) logit: a thing's centre lies in this cell
    place: Tensor                # (B, 3, 16, 16) x and y inside the cell in [0, 1], size as a fraction of the picture
    words: dict[str, Tensor]     # attribute -> (B, values, 16, 16) logits
    backdrop: Tensor             # (B, 6) logits
    style: Tensor                # (B, 5) logits
    owner: Tensor                # (B, 3, 32, 32): logit "belongs to a thing", then dx, dy to that thing's centre
    features: Tensor             # (B, 64)
    layers: list[Tensor]         # feature maps for MiniLPIPS


def _conv(a: int, b: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.GroupNorm(8, b), nn.SiLU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.GroupNorm(8, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(self.first(x)))


class Reader(nn.Module):
    """Image -> :class:`RawReading`. About 0.3M parameters at width 16; takes any size from 16 upwards."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.config = {"width": width}
        self.stem = nn.Sequential(_conv(3, w, 2), _Residual(w))                       # 32 x 32
        self.middle = nn.Sequential(_conv(w, 2 * w, 2), _Residual(2 * w))             # 16 x 16
        self.deep = nn.Sequential(_conv(2 * w, 4 * w, 2), _Residual(4 * w), _Residual(4 * w))    # 8 x 8
        self.cells = nn.Sequential(_conv(6 * w, 4 * w), _conv(4 * w, 4 * w))
        self.heads = nn.Conv2d(4 * w, 4 + sum(HEADS.values()), 1)
        self.pixels = nn.Sequential(_conv(5 * w, w), nn.Conv2d(w, 3, 1))
        self.embed = nn.Linear(4 * w, FEATURES)
        self.whole = nn.Linear(FEATURES, len(BACKDROPS) + len(STYLES))
        nn.init.constant_(self.heads.bias[:1], -4.0)

    def forward(self, x: Tensor) -> RawReading:
        """x: (B, 3, H, W) in [-1, 1]; a size other than 64 is resized bilinearly (averaged when larger)."""
        check_images("x", x, channels=3, finite=False)
        if x.shape[-2:] != (_INPUT, _INPUT):
            x = F.interpolate(x, size=(_INPUT, _INPUT), mode="bilinear", align_corners=False, antialias=x.shape[-1] > _INPUT)
        a = self.stem(x)
        b = self.middle(a)
        c = self.deep(b)
        d = self.cells(torch.cat([b, F.interpolate(c, scale_factor=2.0)], 1))
        out = self.heads(d)
        centre, place, words = out[:, 0], out[:, 1:4].sigmoid(), out[:, 4:].split(list(HEADS.values()), 1)
        owner = self.pixels(torch.cat([a, F.interpolate(d, scale_factor=2.0)], 1))
        features = self.embed(c.mean((2, 3)))
        backdrop, style = self.whole(F.silu(features)).split([len(BACKDROPS), len(STYLES)], 1)
        return RawReading(centre, place, dict(zip(HEADS, words, strict=True)), backdrop, style, owner, features, [a, b, c])


def reader_loss(raw: RawReading, scenes: Scenes, truth: Rendered) -> Tensor:
    """Per-picture training loss (B,): focal loss for centres, cross-entropy for words, L1 for places and owners.

    Things of which less than a quarter is visible do not count (their attributes cannot be read).
    """
    batch = len(scenes)
    masks = F.interpolate(truth.masks, size=(32, 32), mode="area") if truth.masks.shape[-1] != 32 else truth.masks
    area = (scenes.size * 32) ** 2 * 1.6
    shown = scenes.present & (masks.sum((2, 3)) > 0.25 * area)
    cx, cy = (scenes.x * GRID).clamp(0, GRID - 1e-3), (scenes.y * GRID).clamp(0, GRID - 1e-3)
    row = torch.arange(batch, device=cx.device)[:, None].expand(-1, 3)[shown]
    i, j = cy.long()[shown], cx.long()[shown]

    want = torch.zeros_like(raw.centre)
    want[row, i, j] = 1.0
    near = F.max_pool2d(want[:, None], 3, 1, 1)[:, 0] - want         # cells beside a centre are not punished fully
    p = raw.centre.sigmoid()
    focal = -(want * (1 - p) ** 2 * F.logsigmoid(raw.centre)
              + (1 - want) * (1 - 0.7 * near) * p ** 2 * F.logsigmoid(-raw.centre))
    loss = focal.sum((1, 2)) / 2

    def spread(per_thing: Tensor) -> Tensor:
        """Sum a loss over the things of each picture."""
        return torch.zeros(batch, device=per_thing.device, dtype=per_thing.dtype).index_add(0, row, per_thing)

    place = torch.stack([cx - cx.floor(), cy - cy.floor(), scenes.size], -1)[shown]
    found = raw.place[row, :, i, j]
    loss = loss + spread((found - place).abs() @ torch.tensor([0.5, 0.5, 4.0], device=place.device))
    for name, logits in raw.words.items():
        weight = {"kind": 1.0, "colour": 1.0}.get(name, 0.5)
        loss = loss + weight * spread(F.cross_entropy(logits[row, :, i, j], getattr(scenes, name)[shown], reduction="none"))
    loss = loss + F.cross_entropy(raw.backdrop, scenes.backdrop, reduction="none")
    loss = loss + F.cross_entropy(raw.style, scenes.style, reduction="none")

    line = (torch.arange(32, device=cx.device) + 0.5) / 32
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"))                       # (2, 32, 32): x, y
    target = torch.stack([scenes.x, scenes.y], -1)[:, :, :, None, None] - grid            # (B, 3, 2, 32, 32)
    solid = masks.sum(1).clamp(0, 1)
    loss = loss + 2.0 * F.binary_cross_entropy_with_logits(raw.owner[:, 0], solid, reduction="none").mean((1, 2)) * 4
    wrong = (raw.owner[:, None, 1:] * 0.5 - target).abs().sum(2)                        # (B, 3, 32, 32)
    return loss + 4.0 * (wrong * masks).sum((1, 2, 3)) / (masks.sum((1, 2, 3)) + 1)
