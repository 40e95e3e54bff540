"""The reader: a small network that predicts the scene of a picture.

Each cell of a 16 x 16 grid predicts whether a thing's centre lies in it and, if so, its attributes; every pixel predicts
whether it belongs to a thing and where that thing's centre is; the whole picture gives backdrop and style, and how this
backdrop differs from the others of its name (``Scenes.vary``).
Nothing has to be matched or ordered, so the same network reads one thing or three.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import check_choice, check_images
from minidiff.world import BACKDROPS, COLOURS, KINDS, MOODS, PATTERNS, STYLES, WEARS, Rendered, Scenes
from minidiff.world.vocab import VARY

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
    vary: Tensor                 # (B, 5) in [-1, 1]: how the backdrop differs from the usual one of its name
    owner: Tensor                # (B, 3, M, M), M = 64 (32 in edition 1): logit "belongs to a thing", then dx, dy to its centre
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
    """Image -> :class:`RawReading`. 0.87M parameters at width 24; takes any size from 16 upwards.

    edition: 2 reads ``vary``, draws masks at 64 x 64 and lets the cells see the finest features, which faces and patterns of
    small things need. 1 is the layout of the readers shipped for the world's first edition (0.3M at width 16): masks at
    32 x 32, and ``vary`` is 0.
    """

    def __init__(self, width: int = 24, *, edition: int = 2) -> None:
        super().__init__()
        check_choice("edition", edition, (1, 2))
        w, fine = width, edition > 1
        self.config, self.fine = {"width": width, "edition": edition}, fine
        self.stem = nn.Sequential(_conv(3, w, 2), _Residual(w))                       # 32 x 32
        self.middle = nn.Sequential(_conv(w, 2 * w, 2), *(_Residual(2 * w) for _ in range(edition)))            # 16 x 16
        self.deep = nn.Sequential(_conv(2 * w, 4 * w, 2), _Residual(4 * w), _Residual(4 * w))    # 8 x 8
        self.cells = nn.Sequential(_conv(10 * w if fine else 6 * w, 4 * w), _conv(4 * w, 4 * w))
        self.heads = nn.Conv2d(4 * w, 4 + sum(HEADS.values()), 1)
        if not fine:
            self.pixels = nn.Sequential(_conv(5 * w, w), nn.Conv2d(w, 3, 1))
        else:
            self.pixels = nn.Sequential(_conv(5 * w, w), nn.Conv2d(w, 4 * 16, 1), nn.PixelShuffle(2))     # 64 x 64
            self.edge = nn.Sequential(_conv(16 + 3, 16), nn.Conv2d(16, 3, 1))
            self.scenery = nn.Sequential(nn.Conv2d(4 * w, 16, 1), nn.SiLU(), nn.Flatten(), nn.Linear(16 * 64, 64), nn.SiLU(),
                                         nn.Linear(64, VARY), nn.Tanh())
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
        near = [F.pixel_unshuffle(a, 2), b] if self.fine else [b]
        d = self.cells(torch.cat([*near, F.interpolate(c, scale_factor=2.0)], 1))
        out = self.heads(d)
        centre, place, words = out[:, 0], out[:, 1:4].sigmoid(), out[:, 4:].split(list(HEADS.values()), 1)
        owner = self.pixels(torch.cat([a, F.interpolate(d, scale_factor=2.0)], 1))
        if self.fine:
            owner = self.edge(torch.cat([owner, x.to(owner.dtype)], 1))
        features = self.embed(c.mean((2, 3)))
        backdrop, style = self.whole(F.silu(features)).split([len(BACKDROPS), len(STYLES)], 1)
        vary = self.scenery(c) if self.fine else torch.zeros_like(features[:, :VARY])
        return RawReading(centre, place, dict(zip(HEADS, words, strict=True)), backdrop, style, vary, owner, features, [a, b, c])


def reader_loss(raw: RawReading, scenes: Scenes, truth: Rendered) -> Tensor:
    """Per-picture training loss (B,) in float32: focal loss for centres, cross-entropy for words, L1 for places and owners,
    smooth L1 for ``vary``.

    Things of which less than a quarter is visible do not count (their attributes cannot be read): they stay in every sum
    with a weight of 0, so that no shape and no value has to be known on the host and a CUDA graph can hold the step.
    """
    side = raw.owner.shape[-1]
    masks = F.interpolate(truth.masks, size=(side, side), mode="area") if truth.masks.shape[-1] != side else truth.masks
    shown = (scenes.present & (masks.sum((2, 3)) > 0.25 * 1.6 * (scenes.size * side) ** 2)).float()            # (B, 3)
    cx, cy = (scenes.x * GRID).clamp(0, GRID - 1e-3), (scenes.y * GRID).clamp(0, GRID - 1e-3)
    cell = cy.long() * GRID + cx.long()                                                                       # (B, 3)

    def at_cell(field: Tensor) -> Tensor:
        """What a field (B, C, 16, 16) predicts in the cell of each thing: (B, 3, C) float32."""
        return field.float().flatten(2).gather(2, cell[:, None].expand(-1, field.shape[1], -1)).transpose(1, 2)

    centre = raw.centre.float()
    want = torch.zeros_like(centre).flatten(1).scatter_add(1, cell, shown).clamp(max=1).reshape(centre.shape)
    near = F.max_pool2d(want[:, None], 3, 1, 1)[:, 0] - want         # cells beside a centre are not punished fully
    p = centre.sigmoid()
    focal = -(want * (1 - p) ** 2 * F.logsigmoid(centre) + (1 - want) * (1 - 0.7 * near) * p ** 2 * F.logsigmoid(-centre))
    loss = focal.sum((1, 2)) / 2

    found = at_cell(raw.place)
    place = torch.stack([cx - cx.floor(), cy - cy.floor(), scenes.size], -1)
    off = (found - place).abs()
    loss = loss + ((0.5 * off[..., 0] + 0.5 * off[..., 1] + 4.0 * off[..., 2]) * shown).sum(1)
    for name, logits in raw.words.items():
        weight = {"kind": 1.0, "colour": 1.0}.get(name, 0.5)
        wrong = F.cross_entropy(at_cell(logits).flatten(0, 1), getattr(scenes, name).flatten(), reduction="none")
        loss = loss + weight * (wrong.reshape(shown.shape) * shown).sum(1)
    loss = loss + F.cross_entropy(raw.backdrop.float(), scenes.backdrop, reduction="none")
    loss = loss + F.cross_entropy(raw.style.float(), scenes.style, reduction="none")
    loss = loss + 2.0 * F.smooth_l1_loss(raw.vary.float(), scenes.vary, reduction="none", beta=0.1).mean(1)

    line = (torch.arange(side, device=cx.device) + 0.5) / side
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"))                       # (2, M, M): x, y
    target = torch.stack([scenes.x, scenes.y], -1)[:, :, :, None, None] - grid            # (B, 3, 2, M, M)
    solid, owner = masks.sum(1).clamp(0, 1), raw.owner.float()
    loss = loss + 8.0 * F.binary_cross_entropy_with_logits(owner[:, 0], solid, reduction="none").mean((1, 2))
    wrong = (owner[:, None, 1:] * 0.5 - target).abs().sum(2)                            # (B, 3, M, M)
    return loss + 4.0 * (wrong * masks).sum((1, 2, 3)) / (masks.sum((1, 2, 3)) + 1)
