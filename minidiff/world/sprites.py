"""The kinds of the toy world, each a list of painted parts from back to front.

A part is (distance, paint): the distance in units of the thing's half-height, the paint either a role
("body" takes the thing's colour and pattern, "dark" and "light" are shades of it) or a fixed sRGB triple in [0, 1].
The four animals share one face and differ in their ears alone, so "cat to dog" is a small edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff.world.shapes import box, circle, ellipse, heart, segment, star, triangle, turned

__all__ = ["Part", "PARTS", "HAT", "INK", "parts", "worn"]

Part = tuple[Tensor, str | tuple[float, float, float]]

INK = (0.17, 0.15, 0.22)
WHITE = (0.99, 0.99, 0.99)
ROSE = (0.96, 0.66, 0.70)
LEAF = (0.36, 0.62, 0.34)
BARK = (0.52, 0.38, 0.28)
CREAM = (0.98, 0.93, 0.82)
GOLD = (0.98, 0.72, 0.22)


def _ears_cat(u: Tensor, v: Tensor) -> Iterator[Part]:
    a = u.abs()
    yield triangle(a, v, (0.12, -0.32), (0.80, 0.16), (0.70, -0.98)) - 0.02, "body"
    yield triangle(a, v, (0.36, -0.34), (0.70, -0.08), (0.65, -0.76)), ROSE


def _ears_dog(u: Tensor, v: Tensor) -> Iterator[Part]:
    p, q = turned(u.abs(), v, 0.72, 0.10, -24)
    yield ellipse(p, q, 0.0, 0.0, 0.25, 0.58), "dark"


def _ears_rabbit(u: Tensor, v: Tensor) -> Iterator[Part]:
    p, q = turned(u.abs(), v, 0.34, -0.52, 10)
    yield ellipse(p, q, 0.0, 0.0, 0.20, 0.50), "body"
    yield ellipse(p, q, 0.0, 0.02, 0.10, 0.36), ROSE


def _ears_bear(u: Tensor, v: Tensor) -> Iterator[Part]:
    a = u.abs()
    yield circle(a, v, 0.58, -0.36, 0.31), "body"
    yield circle(a, v, 0.58, -0.36, 0.17), "dark"


def _animal(ears: Callable[[Tensor, Tensor], Iterator[Part]], over: bool) -> Callable[[Tensor, Tensor, Tensor], Iterator[Part]]:
    def draw(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
        if not over:
            yield from ears(u, v)
        yield ellipse(u, v, 0.0, 0.25, 0.82, 0.70), "body"
        if over:
            yield from ears(u, v)
        yield from _face(u, v, mood)
    return draw


def _face(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    """Eyes, muzzle, nose and mouth; mood (n, 1, 1) is 1 happy, 2 sad, 3 surprised."""
    a = u.abs()
    sad, surprised = (mood == 2).to(u.dtype), (mood == 3).to(u.dtype)
    eye = ((a - 0.33) ** 2 + ((v - 0.12) ** 2 + 1e-9)).sqrt() - (0.115 + 0.055 * surprised)
    yield eye, INK
    yield circle(a, v, 0.36, 0.08, 0.045), WHITE
    brow = segment(a, v, 0.20, -0.20, 0.48, -0.06, 0.045)
    yield brow + 9.0 * (1 - sad), INK
    yield ellipse(u, v, 0.0, 0.56, 0.40, 0.30), "light"
    yield ellipse(u, v, 0.0, 0.37, 0.12, 0.085), INK
    depth = 0.16 - 0.32 * sad
    curve = 0.56 + 0.16 * sad + depth * (1 - (u / 0.25) ** 2)
    slope = (1 + (2 * depth * u / 0.0625) ** 2).sqrt()
    mouth = torch.maximum((v - curve).abs() / slope - 0.05, a - 0.25)
    yield mouth + 9.0 * surprised, INK
    yield ellipse(u, v, 0.0, 0.65, 0.11, 0.14) + 9.0 * (1 - surprised), INK


def _fish(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield triangle(u, v, (0.42, 0.05), (1.02, -0.48), (1.02, 0.58)) - 0.02, "dark"
    yield triangle(u, v, (-0.25, -0.35), (0.40, -0.30), (0.28, -0.80)) - 0.02, "dark"
    yield ellipse(u, v, -0.15, 0.05, 0.85, 0.56), "body"
    p, q = turned(u, v, 0.12, 0.18, 25)
    yield ellipse(p, q, 0.0, 0.0, 0.26, 0.14), "dark"
    yield circle(u, v, -0.58, -0.08, 0.17), WHITE
    yield circle(u, v, -0.62, -0.08, 0.09), INK


def _bird(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield torch.minimum(segment(u, v, -0.10, 0.6, -0.10, 0.93, 0.05), segment(u, v, 0.22, 0.6, 0.22, 0.93, 0.05)), GOLD
    yield triangle(u, v, (0.45, 0.10), (1.05, -0.28), (0.98, 0.30)) - 0.02, "dark"
    yield triangle(u, v, (-0.70, -0.55), (-0.70, -0.18), (-1.12, -0.36)), GOLD
    yield torch.minimum(ellipse(u, v, 0.08, 0.22, 0.68, 0.56), circle(u, v, -0.42, -0.40, 0.44)), "body"
    p, q = turned(u, v, 0.25, 0.20, 18)
    yield ellipse(p, q, 0.0, 0.0, 0.42, 0.25), "dark"
    yield circle(u, v, -0.52, -0.46, 0.10), INK
    yield circle(u, v, -0.55, -0.49, 0.035), WHITE


def _flower(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield segment(u, v, 0.0, 0.1, 0.0, 0.95, 0.07), LEAF
    p, q = turned(u.abs(), v, 0.26, 0.72, -35)
    yield ellipse(p, q, 0.0, 0.0, 0.26, 0.11), LEAF
    petals = None
    for turn in (0, 60, 120):
        p, q = turned(u, v, 0.0, -0.28, turn)
        petal = circle(p.abs(), q, 0.42, 0.0, 0.27)
        petals = petal if petals is None else torch.minimum(petals, petal)
    yield petals, "body"
    yield circle(u, v, 0.0, -0.28, 0.25), GOLD


def _tree(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield box(u, v, 0.0, 0.66, 0.13, 0.32), BARK
    crown = torch.minimum(circle(u.abs(), v, 0.42, 0.02, 0.44), circle(u, v, 0.0, -0.46, 0.52))
    yield torch.minimum(crown, circle(u, v, 0.0, 0.06, 0.46)), "body"


def _star(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield star(u, v, 0.0, 0.05, 1.0, 0.46) - 0.04, "body"


def _heart(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield heart(u, v), "body"


def _house(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield box(u, v, 0.0, 0.42, 0.70, 0.52), "body"
    yield triangle(u, v, (-0.98, -0.08), (0.98, -0.08), (0.0, -0.95)), "dark"
    yield box(u, v, 0.30, 0.62, 0.19, 0.32), BARK
    yield box(u, v, -0.30, 0.42, 0.20, 0.20), WHITE
    yield torch.minimum(box(u, v, -0.30, 0.42, 0.03, 0.20), box(u, v, -0.30, 0.42, 0.20, 0.03)), INK


def _mushroom(u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    yield ellipse(u, v, 0.0, 0.50, 0.33, 0.46), CREAM
    cap = torch.maximum(ellipse(u, v, 0.0, 0.10, 0.95, 0.98), v - 0.16)
    yield cap, "body"
    yield torch.maximum(ellipse(u, v, 0.0, 0.16, 0.86, 0.10), 0.10 - v), "light"


PARTS: dict[str, Callable[[Tensor, Tensor, Tensor], Iterator[Part]]] = {
    "cat": _animal(_ears_cat, over=False), "dog": _animal(_ears_dog, over=True),
    "rabbit": _animal(_ears_rabbit, over=False), "bear": _animal(_ears_bear, over=False),
    "fish": _fish, "bird": _bird, "flower": _flower, "tree": _tree,
    "star": _star, "heart": _heart, "house": _house, "mushroom": _mushroom,
}

# where a hat sits: (centre u, brim v, scale)
HAT = {"cat": (0.0, -0.36, 0.85), "dog": (0.0, -0.36, 0.95), "rabbit": (0.0, -0.36, 0.62), "bear": (0.0, -0.36, 0.85),
       "fish": (-0.30, -0.42, 0.8), "bird": (-0.42, -0.76, 0.8), "flower": (0.0, -0.86, 0.7), "tree": (0.0, -0.86, 0.8),
       "star": (0.0, -0.72, 0.7), "heart": (0.0, -0.62, 0.8), "house": (0.0, -0.72, 0.8), "mushroom": (0.0, -0.78, 0.8)}

_HAT, _BAND, _TIE = (0.24, 0.22, 0.36), (0.92, 0.45, 0.35), (0.82, 0.16, 0.42)


def parts(kind: str, u: Tensor, v: Tensor, mood: Tensor) -> Iterator[Part]:
    """Painted parts of a thing, back to front. u, v: local coordinates that broadcast to (n, P, P); mood: (n, 1, 1) index."""
    return PARTS[kind](u, v, mood)


def worn(kind: str, u: Tensor, v: Tensor, wears: Tensor) -> Iterator[Part]:
    """What a thing wears: wears (n, 1, 1) is 0 nothing, 1 hat, 2 glasses, 3 bow tie. Absent parts are moved far away."""
    def only(index: int) -> Tensor:
        return 9.0 * (wears != index).to(u.dtype)

    if bool((wears == 1).any()):
        cu, cv, s = HAT[kind]
        away = only(1)
        yield box(u, v, cu, cv - 0.26 * s, 0.34 * s, 0.30 * s) + away, _HAT
        yield box(u, v, cu, cv - 0.05 * s, 0.34 * s, 0.08 * s) + away, _BAND
        yield segment(u, v, cu - 0.55 * s, cv + 0.04 * s, cu + 0.55 * s, cv + 0.04 * s, 0.075) + away, _HAT
    if bool((wears == 2).any()):
        a, away = u.abs(), only(2)
        rim = circle(a, v, 0.33, 0.12, 0.235).abs() - 0.05
        yield torch.minimum(rim, segment(u, v, -0.10, 0.10, 0.10, 0.10, 0.05)) + away, _TIE
    if bool((wears == 3).any()):
        a, away = u.abs(), only(3)
        yield triangle(a, v, (-0.05, 0.98), (0.46, 0.74), (0.46, 1.22)) - 0.03 + away, _TIE
        yield circle(u, v, 0.0, 0.98, 0.13) + away, INK
