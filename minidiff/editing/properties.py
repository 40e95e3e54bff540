"""What a cross-attention map tells of its word (place, size, shape, look), and energies on it: Epstein et al. 2023, section 3.2.

A map is A (B, h, w), one site's attention to a word. Positions are shares of the picture's side, (0, 0) the top left corner and
(1, 1) the bottom right one, so that maps of all sizes agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import BadInput, require
from minidiff.steer.attention import Site
from minidiff.steer.energy import Energy, EnergyState
from minidiff.steer.hooks import StepContext
from minidiff.steer.record import Maps, Recorder, Select, shape_of

__all__ = ["Appearance", "Centroid", "Properties", "Shape", "Size", "Tokens", "appearance", "centroid", "decoder_cross", "size",
           "threshold", "transform", "word_map"]

Tokens = Sequence[int] | Sequence[Sequence[int]]
DUST = 1e-4   # differences below this count as none: L1 takes the sign of rounding errors too, and a relative scale enlarges it
LEAST = 1e-8  # under every quotient


def decoder_cross(site: Site) -> bool:
    """The cross-attention of the decoder: the sites whose maps know the place from the first step on."""
    return site.kind == "cross" and site.place == "up"


# What a map says ---------------------------------------------------------------------------------------------------------


def word_map(maps: Maps, name: str, tokens: Tokens) -> Tensor:
    """The map of a word at one site, heads and tokens averaged: (B, h, w). tokens: positions, for all rows or a list for each."""
    probs = maps.probs[name].mean(1)  # (B, N, L)
    rows = [list(row) for row in tokens] if isinstance(tokens[0], (list, tuple)) else [list(tokens)] * len(probs)
    require(len(rows) == len(probs), "tokens", f"lists for {len(rows)} rows", f"one list, or one for each of {len(probs)} rows")
    share = torch.stack([F.one_hot(torch.tensor(row), probs.shape[-1]).double().mean(0) for row in rows]).to(probs)
    return (probs @ share[..., None])[..., 0].unflatten(1, shape_of(probs.shape[1], maps.grid))


def centroid(a: Tensor) -> Tensor:
    """Centre of mass (x, y) of maps (..., h, w): (..., 2). A cell counts at its middle, so that maps of all sizes agree."""
    x, y = (torch.arange(0.5, n, dtype=a.dtype, device=a.device) / n for n in (a.shape[-1], a.shape[-2]))
    mass = a.sum((-2, -1)) + LEAST
    return torch.stack(((a.sum(-2) * x).sum(-1) / mass, (a.sum(-1) * y).sum(-1) / mass), -1)


def _stretch(a: Tensor) -> Tensor:
    low, high = a.amin((-2, -1), keepdim=True), a.amax((-2, -1), keepdim=True)
    return (a - low) / (high - low + LEAST)


def threshold(a: Tensor, *, sharpness: float = 10.0) -> Tensor:
    """The shape: maps (..., h, w) stretched to [0, 1], pushed through a soft step at one half, and stretched again.

    Minimum and maximum are those of each map. A flat map has no shape: all zeros.
    """
    return _stretch(torch.sigmoid(sharpness * (_stretch(a) - 0.5)))


def size(a: Tensor, *, sharpness: float = 10.0) -> Tensor:
    """The share of the picture that the shape covers: (...)."""
    return threshold(a, sharpness=sharpness).mean((-2, -1))


def appearance(shape: Tensor, features: Tensor) -> Tensor:
    """Mean of the features (B, C, H, W) over the shape (B, h, w), which is resized to them: (B, C)."""
    weight = F.interpolate(shape[:, None], size=features.shape[-2:], mode="bilinear", align_corners=False)
    return (weight * features).sum((2, 3)) / (weight.sum((2, 3)) + LEAST)


def transform(a: Tensor, shift: Tensor, times: Tensor, about: Tensor) -> Tensor:
    """Maps (B, h, w) enlarged ``times`` (B,) about a point (B, 2), then moved by ``shift`` (B, 2); bilinear, 0 outside.

    Coordinates are cells plus an offset, exactly 0 where nothing is asked for: the same map then comes back bit for bit.
    """
    h, w = a.shape[-2:]
    axes = []
    for k, n in ((1, h), (0, w)):
        at = torch.arange(n, dtype=a.dtype, device=a.device)
        middle, by = about[:, k, None] * n - 0.5, shift[:, k, None] * n
        axes.append(at + (at - middle) * (1 / times[:, None] - 1) - by / times[:, None])  # (B, n): where each cell comes from
    out = a
    for axis, where in zip((1, 2), axes, strict=True):
        n = a.shape[axis]
        hat = (1 - (where[:, :, None] - torch.arange(n, dtype=a.dtype, device=a.device)).abs()).clamp(min=0)  # (B, to, from)
        out = hat @ out if axis == 1 else out @ hat.transpose(1, 2)
    return out


# Energies ----------------------------------------------------------------------------------------------------------------


class Properties(Recorder):
    """The record of a run that energies refer to: decoder cross-attention with heads averaged, and features, step by step."""

    def __init__(self, sites: Select = decoder_cross, *, modules: Sequence[str] = (), **options: Any) -> None:
        super().__init__(sites, modules=modules, **options)

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> None:
        super().on_probs(site, probs.mean(1, keepdim=True), ctx)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each row, (B,); what is smaller than DUST counts as nothing."""
    return F.relu((a - b).abs() - DUST).reshape(len(a), -1).mean(1)


def _rows(value: Any, like: Tensor, width: int | None = None) -> Tensor:
    """A number, a pair, or one for each row, as (B,) or (B, width)."""
    t = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    shape = (len(like),) if width is None else (len(like), width)
    try:
        return t.expand(shape)
    except RuntimeError:
        raise BadInput("to, shift or times", f"shape {tuple(t.shape)}", f"shape {shape}, or what spreads to it") from None


class _Word(Energy):
    """An energy of one word: the mean over the sites of how far its property is from the target, row by row.

    tokens: the word's positions. like: the record of a reference run, whose value at the same step is the target.
    """

    def __init__(self, tokens: Tokens, *, like: Properties | None = None, of: Tokens | None = None,
                 sites: Select = decoder_cross, modules: Sequence[str] = ()) -> None:
        super().__init__(sites=sites, modules=modules)
        self.tokens, self.like, self.of = tokens, like, tokens if of is None else of

    def distance(self, a: Tensor, reference: Tensor | None, maps: Maps, before: Maps | None) -> Tensor:
        raise NotImplementedError

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        names = [name for name, site in maps.sites.items() if self.selects(site)]
        require(len(names) > 0, "sites", "none", "at least one cross-attention site")
        before = None if self.like is None else self.like.at(state.ctx.index)
        out = []
        for name in names:
            a = word_map(maps, name, self.tokens)
            out.append(self.distance(a, None if before is None else word_map(before, name, self.of).to(a), maps, before))
        return torch.stack(out).mean(0)


class Centroid(_Word):
    """|centroid - target|, in shares of the side. to: the place (x, y), for all rows or for each; or like= and shift=(dx, dy)."""

    def __init__(self, tokens: Tokens, *, to: Any = None, shift: Any = (0.0, 0.0), **options: Any) -> None:
        super().__init__(tokens, **options)
        require((to is None) != (self.like is None), "to", repr(to), "either a place, or a record with like=", "to=(0.5, 0.5)")
        self.to, self.shift = to, shift

    def distance(self, a: Tensor, reference: Tensor | None, maps: Maps, before: Maps | None) -> Tensor:
        want = _rows(self.to, a, 2) if reference is None else centroid(reference) + _rows(self.shift, a, 2)
        return _apart(centroid(a), want)


class Size(_Word):
    """|size - target|, in shares of the picture. to: the size; or like= and times=, a factor on the reference's."""

    def __init__(self, tokens: Tokens, *, to: Any = None, times: Any = 1.0, **options: Any) -> None:
        super().__init__(tokens, **options)
        require((to is None) != (self.like is None), "to", repr(to), "either a size, or a record with like=", "to=0.1")
        self.to, self.times = to, times

    def distance(self, a: Tensor, reference: Tensor | None, maps: Maps, before: Maps | None) -> Tensor:
        want = _rows(self.to, a) if reference is None else size(reference) * _rows(self.times, a)
        return _apart(size(a), want)


class Shape(_Word):
    """Mean absolute difference of the shape and the reference's, moved by shift=(dx, dy) and enlarged times= about its centre."""

    def __init__(self, tokens: Tokens, *, like: Properties, shift: Any = (0.0, 0.0), times: Any = 1.0, **options: Any) -> None:
        super().__init__(tokens, like=like, **options)
        self.shift, self.times = shift, times

    def distance(self, a: Tensor, reference: Tensor, maps: Maps, before: Maps | None) -> Tensor:
        shape = threshold(reference)
        want = transform(shape, _rows(self.shift, a, 2), _rows(self.times, a), centroid(shape))
        return _apart(threshold(a), want)


class Appearance(_Word):
    """Mean absolute difference of the mean features under the shape from the reference's, in units of the features' own spread.

    features: the path of a decoder module. of: the word's tokens in the reference's prompt, where they differ. The shape is held
    fixed (no gradient), so that the thing changes its look and not its outline.
    """

    def __init__(self, tokens: Tokens, *, like: Properties, features: str, **options: Any) -> None:
        super().__init__(tokens, like=like, modules=(features,), **options)
        self.features = features

    def distance(self, a: Tensor, reference: Tensor, maps: Maps, before: Maps) -> Tensor:
        mine, other = maps.outputs[self.features], before.outputs[self.features].to(a)
        spread = other.std((2, 3)).mean(1, keepdim=True) + LEAST
        return _apart(appearance(threshold(a).detach(), mine) / spread, appearance(threshold(reference), other) / spread)
