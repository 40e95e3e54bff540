"""Signed distance functions in torch: negative inside, zero on the edge, positive outside.

Every function takes local coordinates u (to the right) and v (downwards), of one shape or of shapes that broadcast, in
units of a thing's half-height, and returns a distance in the same units. With u (n, 1, P) and v (n, P, 1) what rests on
one of them costs P numbers and not P * P: terms are grouped so that as much as can be does. All are differentiable almost
everywhere.
Distances to ellipses are the usual first-order estimate, exact at the edge in value and slope.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["circle", "ellipse", "box", "segment", "triangle", "star", "heart", "turned"]


def circle(u: Tensor, v: Tensor, cu: float, cv: float, r: float) -> Tensor:
    """Disc of radius r around (cu, cv)."""
    return ((u - cu) ** 2 + ((v - cv) ** 2 + 1e-9)).sqrt() - r


def ellipse(u: Tensor, v: Tensor, cu: float, cv: float, ru: float, rv: float) -> Tensor:
    """Ellipse with half-axes ru, rv: (k - 1) k / |grad k| with k = |p / r|."""
    a, b = (u - cu) / ru, (v - cv) / rv
    k = (a * a + (b * b + 1e-9)).sqrt()
    slope = ((a / ru) ** 2 + ((b / rv) ** 2 + 1e-9)).sqrt()
    return k * (k - 1) / slope


def box(u: Tensor, v: Tensor, cu: float, cv: float, hu: float, hv: float) -> Tensor:
    """Box with half-sides hu, hv (distance outside is the larger of the two overshoots)."""
    return torch.maximum((u - cu).abs() - hu, (v - cv).abs() - hv)


def segment(u: Tensor, v: Tensor, au: float, av: float, bu: float, bv: float, r: float) -> Tensor:
    """Round-ended line from a to b with half-width r."""
    du, dv = bu - au, bv - av
    square = du * du + dv * dv
    along = [(w - start) * (step / square) for w, start, step in ((u, au, du), (v, av, dv)) if step]
    h = sum(along[1:], along[0]).clamp(0, 1)
    across, down = u - au - h * du if du else u - au, v - av - h * dv if dv else v - av
    return (across**2 + (down**2 + 1e-9)).sqrt() - r


def triangle(u: Tensor, v: Tensor, a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> Tensor:
    """Triangle as the intersection of three half-planes (exact inside, a lower bound outside)."""
    if (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) < 0:
        b, c = c, b
    distance = None
    for (pu, pv), (qu, qv) in ((a, b), (b, c), (c, a)):
        length = math.hypot(qu - pu, qv - pv)
        nu, nv = (qv - pv) / length, -(qu - pu) / length
        side = u * nu + (v * nv - (pu * nu + pv * nv))
        distance = side if distance is None else torch.maximum(distance, side)
    return distance


def star(u: Tensor, v: Tensor, cu: float, cv: float, outer: float, inner: float, points: int = 5) -> Tensor:
    """Star with straight edges between an outer and an inner radius; one tip points up."""
    half = math.pi / points
    angle = torch.atan2(u - cu, -(v - cv))
    radius = ((u - cu) ** 2 + ((v - cv) ** 2 + 1e-9)).sqrt()
    folded = (torch.remainder(angle + half, 2 * half) - half).abs()
    x, y = radius * folded.cos(), radius * folded.sin()
    bx, by = inner * math.cos(half), inner * math.sin(half)
    length = math.hypot(bx - outer, by)
    return (x - outer) * (by / length) - y * ((bx - outer) / length)


def heart(u: Tensor, v: Tensor) -> Tensor:
    """Heart in [-1, 1]^2: two discs above, a corner below."""
    a = u.abs()
    lobe = circle(a, v, 0.46, -0.34, 0.52)
    # the straight flank runs from the point (0, 0.95) to where it touches the lobe
    flank = triangle(a, v, (-0.4, -0.34), (0.895, -0.06), (0.0, 0.93))
    top = circle(a, v, 0.20, -0.18, 0.30)
    return torch.minimum(torch.minimum(lobe, flank), top)


def turned(u: Tensor, v: Tensor, cu: float, cv: float, degrees: float) -> tuple[Tensor, Tensor]:
    """Coordinates around (cu, cv) in a frame turned clockwise by ``degrees``."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return c * (u - cu) + s * (v - cv), c * (v - cv) - s * (u - cu)
