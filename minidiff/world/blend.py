"""In-betweens: what lies half-way between two scenes, and how it is painted.

Words cannot be interpolated, drawings can: two kinds by the signed distances of their matched parts, colours as RGB, two
backdrops pixel by pixel, places and sizes in a straight line. So every picture on the way is itself a drawing.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.world.sprites import Part, parts, worn
from minidiff.world.vocab import COLOURS, KINDS, MAX_THINGS

__all__ = ["Blend", "blended_parts", "colour_rgb", "kind_pairs", "pattern_colour", "shortest_float"]


@dataclass(frozen=True, eq=False)
class Blend:
    """How far each of B scenes is on its way to another one, and its colours as numbers.

    rgb, second (B, 3, 3): colour of slot j and the second colour of its pattern, sRGB in [0, 1].
    kind, pattern, mood, wears (B, 3) int64: what slot j turns into; share (B, 3) in [0, 1]: how far it is.
    backdrop (B,) int64 and backdrop_share (B,): the same for the backdrop. All floats may carry gradients.
    """

    rgb: Tensor
    second: Tensor
    kind: Tensor
    pattern: Tensor
    mood: Tensor
    wears: Tensor
    share: Tensor
    backdrop: Tensor
    backdrop_share: Tensor

    def __post_init__(self) -> None:
        b = len(self.backdrop)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            shape = (b,) if field.name.startswith("backdrop") else (b, MAX_THINGS)
            shape = (*shape, 3) if field.name in ("rgb", "second") else shape
            require(value.shape == shape, field.name, f"shape {tuple(value.shape)}", f"shape {shape}")

    def map(self, change: Callable[[Tensor], Tensor]) -> Blend:
        """The same change to every tensor: ``blend.map(lambda t: t[:4])``."""
        return Blend(**{f.name: change(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def replace(self, **tensors: Tensor) -> Blend:
        """A changed copy."""
        return dataclasses.replace(self, **tensors)

    @staticmethod
    def of(scenes: Any) -> Blend:
        """The blend of Scenes that are on the way to themselves: their own colours, shares of zero."""
        rgb = colour_rgb(scenes.colour)
        return Blend(rgb, pattern_colour(rgb), scenes.kind, scenes.pattern, scenes.mood, scenes.wears, torch.zeros_like(scenes.x),
                     scenes.backdrop, torch.zeros_like(scenes.x[:, 0]))

    @staticmethod
    def cat(parts: Sequence[Blend]) -> Blend:
        """Several batches one after another."""
        return Blend(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Blend)})


def colour_rgb(colour: Tensor) -> Tensor:
    """Positions in COLOUR_NAMES, any shape (...), to sRGB in [0, 1], (..., 3)."""
    return (torch.tensor(list(COLOURS.values()), device=colour.device) / 255.0)[colour]


def pattern_colour(rgb: Tensor, dim: int = -1) -> Tensor:
    """The second colour of a pattern: a shade of a light colour, a tint of a dark one. rgb in [0, 1], channels at ``dim``."""
    shape = [1] * rgb.ndim
    shape[dim] = 3
    weights = torch.tensor((0.299, 0.587, 0.114), device=rgb.device).reshape(shape)
    luma = (rgb * weights).sum(dim, keepdim=True)
    return torch.where(luma > 0.55, rgb * 0.66, rgb + 0.52 * (1 - rgb))


def _canonical(kind: str) -> list[Part]:
    line = torch.linspace(-1.3, 1.3, 79)
    v, u = torch.meshgrid(line, line, indexing="ij")
    return list(parts(kind, u[None], v[None], torch.ones(1, 1, 1, dtype=torch.int64)))


@functools.cache
def _match(first: str, other: str) -> tuple[tuple[int | None, int | None, float], ...]:
    """Which part of one kind becomes which part of another: (i, j, depth) in drawing order, None where there is no partner.

    Parts of one paint may be matched, none may cross another, the body counts most, and of equal choices the closer
    shapes win (the alignment of two sequences, by dynamic programming). depth: of a part that comes or goes, how deep it is.
    """
    a, b = _canonical(first), _canonical(other)

    def gain(i: int, j: int) -> float:
        if a[i][1] != b[j][1]:
            return -1.0
        return (3.0 if a[i][1] == "body" else 2.0) - float((a[i][0] - b[j][0]).abs().mean().clamp(max=1.0))

    best = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], gain(i, j) + best[i + 1][j + 1])
    out: list[tuple[int | None, int | None, float]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and gain(i, j) > 0 and best[i][j] == gain(i, j) + best[i + 1][j + 1]:
            out.append((i, j, 0.0))
            i, j = i + 1, j + 1
        elif i < len(a) and (j == len(b) or best[i][j] == best[i + 1][j]):
            out.append((i, None, float(-a[i][0].min())))
            i += 1
        else:
            out.append((None, j, float(-b[j][0].min())))
            j += 1
    return tuple(out)


_GONE = 0.3  # how far outside its edge a part is that has come to nothing, in half-heights


def blended_parts(kind: str, kind_to: str, u: Tensor, v: Tensor, words: dict[str, Tensor], share: Tensor) -> Iterator[Part]:
    """Painted parts of things between two kinds, back to front, as in ``sprites.parts`` and ``sprites.worn``.

    Matched parts have the mean of their distances, weighted by share (n, P, P); the others shrink to nothing or grow from
    it. words: mood, mood_to, wears, wears_to, each (n, 1, 1).
    """
    a, b = list(parts(kind, u, v, words["mood"])), list(parts(kind_to, u, v, words["mood_to"]))
    for i, j, depth in _match(kind, kind_to):
        if i is not None and j is not None:
            yield torch.lerp(a[i][0], b[j][0], share), a[i][1]
        elif i is not None:
            yield a[i][0] + (depth + _GONE) * share, a[i][1]
        else:
            yield b[j][0] + (depth + _GONE) * (1 - share), b[j][1]
    for index in (1, 2, 3):
        on_a, on_b = words["wears"] == index, words["wears_to"] == index
        if not bool((on_a | on_b).any()):
            continue
        full = torch.full_like(words["wears"], index)
        away = torch.where(on_a & on_b, 0.0, torch.where(on_a, 0.7 * share, torch.where(on_b, 0.7 * (1 - share), 9.0)))
        for (d, paint), (d_to, _) in zip(worn(kind, u, v, full), worn(kind_to, u, v, full), strict=True):
            yield torch.lerp(d, d_to, share) + away, paint


def kind_pairs(kind: Tensor, kind_to: Tensor) -> Iterator[tuple[Tensor, str, str]]:
    """(rows, kind, kind it turns into) of every pair of kinds among (n,) things."""
    pair = kind * len(KINDS) + kind_to
    for number in torch.unique(pair).tolist():
        yield torch.nonzero(pair == number).squeeze(1), KINDS[number // len(KINDS)], KINDS[number % len(KINDS)]


def shortest_float(value: float) -> float:
    """The shortest decimal that is the same float32, so that 0.3 comes back as 0.3."""
    def narrow(v: float) -> float:
        return struct.unpack("f", struct.pack("f", v))[0]
    return next(v for n in range(6, 10) if narrow(v := float(f"{value:.{n}g}")) == narrow(value))
