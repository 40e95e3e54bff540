"""The six backdrops, painted once for each style and size, and the fixed textures of the paper."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.rng import generator
from minidiff.world.shapes import box, circle, ellipse, segment, triangle
from minidiff.world.vocab import BACKDROPS, STYLES

__all__ = ["backdrop_table", "depth_table", "texture", "STYLE"]

# one column for each style: flat, outline, watercolour, pixel, neon
STYLE = {
    "fill_white": (0.00, 0.30, 0.12, 0.00, 0.00),  # how far a fill is washed towards white
    "fill_gain": (1.00, 1.00, 1.00, 1.00, 0.34),  # brightness of the fill
    "rim_width": (0.07, 0.095, 0.10, 0.00, 0.13),  # stroke inside the silhouette, in half-heights
    "rim_alpha": (0.55, 1.00, 0.45, 0.00, 1.00),
    "rim_ink": (0.00, 1.00, 0.00, 0.00, 0.00),  # 1: the stroke is ink; 0: a shade of the thing's colour
    "rim_gain": (0.70, 1.00, 0.72, 1.00, 1.25),
    "glow": (0.00, 0.00, 0.00, 0.00, 0.75),  # light around the silhouette
    "wobble": (0.00, 0.00, 0.06, 0.00, 0.00),  # how far the edge wanders, in half-heights
    "wash": (0.00, 0.00, 0.34, 0.00, 0.00),  # how much the paper shows through
    "shadow": (0.22, 0.00, 0.10, 0.22, 0.00),  # soft shadow under the thing
    "light": (0.10, 0.00, 0.06, 0.00, 0.00),  # brighter above, darker below
    "cell": (0.0, 0.0, 0.0, 1.0, 0.0),  # 1: drawn on a grid of 2 x 2 pixels
}

# sky above, sky at the horizon, ground at the horizon, ground below
_GRADIENTS = {
    "grass": ((0.70, 0.87, 0.98), (0.91, 0.96, 0.98), (0.72, 0.87, 0.58), (0.56, 0.77, 0.46)),
    "beach": ((0.62, 0.84, 0.96), (0.90, 0.96, 0.97), (0.96, 0.89, 0.72), (0.91, 0.80, 0.60)),
    "night": ((0.16, 0.18, 0.40), (0.34, 0.33, 0.58), (0.25, 0.28, 0.46), (0.18, 0.21, 0.37)),
    "snow": ((0.77, 0.85, 0.94), (0.90, 0.94, 0.98), (0.95, 0.97, 1.00), (0.86, 0.91, 0.97)),
    "room": ((0.95, 0.88, 0.82), (0.97, 0.92, 0.86), (0.80, 0.66, 0.54), (0.71, 0.56, 0.45)),
    "sunset": ((0.56, 0.45, 0.70), (0.99, 0.76, 0.58), (0.62, 0.45, 0.55), (0.46, 0.34, 0.48)),
}
_HORIZON = 0.62


def _over(canvas: Tensor, distance: Tensor, colour: tuple[float, float, float], soft: float, alpha: float = 1.0) -> Tensor:
    cover = (0.5 - distance / soft).clamp(0, 1) * alpha
    return canvas + cover * (torch.tensor(colour, dtype=canvas.dtype)[:, None, None] - canvas)


def _scene(name: str, size: int) -> Tensor:
    """One backdrop in flat style, (3, size, size) in [0, 1], painted at four times the size and averaged."""
    big = 4 * size
    line = (torch.arange(big) + 0.5) / big
    y, x = torch.meshgrid(line, line, indexing="ij")
    px = 1.5 / big
    top, low, near, below = (torch.tensor(c)[:, None, None] for c in _GRADIENTS[name])
    sky = top + (low - top) * (y / _HORIZON).clamp(0, 1)
    ground = near + (below - near) * ((y - _HORIZON) / (1 - _HORIZON)).clamp(0, 1)
    hill = _HORIZON + {"grass": 0.035, "snow": 0.03}.get(name, 0.0) * torch.sin(7.0 * x + 0.6)
    canvas = sky
    if name in ("grass", "beach"):
        canvas = _over(canvas, circle(x, y, 0.86, 0.13, 0.075), (1.0, 0.90, 0.56), px)
        for cx, cy, r in ((0.16, 0.17, 0.05), (0.23, 0.14, 0.065), (0.31, 0.17, 0.05)):
            canvas = _over(canvas, ellipse(x, y, cx, cy, r * 1.5, r * 0.8), (1.0, 1.0, 1.0), 0.02, 0.85)
    if name == "night":
        canvas = _over(canvas, circle(x, y, 0.84, 0.15, 0.085), (0.98, 0.95, 0.80), px)
        canvas = _over(canvas, circle(x, y, 0.805, 0.13, 0.07), (0.19, 0.21, 0.43), px)
        for cx, cy, r in (
            (0.1, 0.1, 9),
            (0.22, 0.28, 7),
            (0.36, 0.08, 8),
            (0.55, 0.2, 7),
            (0.68, 0.06, 6),
            (0.93, 0.36, 7),
            (0.07, 0.45, 6),
        ):
            canvas = _over(canvas, circle(x, y, cx, cy, r * 0.0014), (1.0, 0.98, 0.9), px)
    if name == "sunset":
        canvas = _over(canvas, circle(x, y, 0.5, _HORIZON - 0.02, 0.17), (1.0, 0.88, 0.62), px)
        for cx, cy, w in ((0.24, 0.3, 0.16), (0.74, 0.2, 0.2), (0.6, 0.40, 0.12)):
            canvas = _over(canvas, ellipse(x, y, cx, cy, w, 0.018), (0.98, 0.70, 0.62), px, 0.8)
    if name == "snow":
        canvas = _over(canvas, triangle(x, y, (0.45, 0.66), (1.05, 0.66), (0.76, 0.26)), (0.80, 0.86, 0.94), px)
        canvas = _over(canvas, triangle(x, y, (-0.1, 0.66), (0.5, 0.66), (0.2, 0.36)), (0.84, 0.89, 0.96), px)
        for cx, cy in ((0.1, 0.14), (0.32, 0.2), (0.52, 0.1), (0.9, 0.16), (0.6, 0.3), (0.95, 0.5), (0.05, 0.42)):
            canvas = _over(canvas, circle(x, y, cx, cy, 0.012), (1.0, 1.0, 1.0), px)
    if name == "room":
        canvas = _over(canvas, box(x, y, 0.80, 0.24, 0.14, 0.16), (0.86, 0.72, 0.60), px)
        canvas = _over(canvas, box(x, y, 0.80, 0.24, 0.115, 0.135), (0.74, 0.89, 0.97), px)
        canvas = _over(
            canvas, torch.minimum(box(x, y, 0.80, 0.24, 0.01, 0.14), box(x, y, 0.80, 0.24, 0.12, 0.01)), (0.86, 0.72, 0.60), px
        )
        canvas = _over(canvas, box(x, y, 0.17, 0.22, 0.09, 0.11), (0.80, 0.62, 0.52), px)
        canvas = _over(canvas, box(x, y, 0.17, 0.22, 0.07, 0.09), (0.97, 0.84, 0.62), px)
    if name == "beach":
        canvas = _over(canvas, box(x, y, 0.5, 0.56, 0.6, 0.06), (0.36, 0.70, 0.80), px)
        canvas = _over(canvas, segment(x, y, 0.1, 0.545, 0.3, 0.545, 0.004), (0.80, 0.93, 0.96), px)
        canvas = _over(canvas, segment(x, y, 0.6, 0.57, 0.85, 0.57, 0.004), (0.80, 0.93, 0.96), px)
    canvas = torch.where(y > hill, ground, canvas)
    if name == "room":
        canvas = _over(canvas, ellipse(x, y, 0.5, 0.87, 0.38, 0.075), (0.84, 0.52, 0.50), px, 0.55)
        canvas = _over(canvas, box(x, y, 0.5, _HORIZON, 0.6, 0.012), (0.98, 0.95, 0.91), px)
    if name == "grass":
        for cx, cy in ((0.08, 0.76), (0.3, 0.9), (0.55, 0.74), (0.72, 0.92), (0.93, 0.8)):
            canvas = _over(canvas, circle(x, y, cx, cy, 0.013), (0.99, 0.97, 0.82), px)
    if name == "sunset":
        canvas = _over(canvas, ellipse(x, y, 0.5, 0.70, 0.2, 0.02), (0.95, 0.68, 0.56), px, 0.5)
    return F.avg_pool2d(canvas[None], 4)[0]


@functools.cache
def texture(size: int) -> Tensor:
    """Two fixed paper textures (2, size, size), zero mean and range about [-1, 1]: fine grain and slow wander."""
    coarse = torch.randn(1, 1, 9, 9, generator=generator("paper", 0))
    fine = torch.randn(1, 1, 33, 33, generator=generator("paper", 1))
    both = [F.interpolate(t, size=(size, size), mode="bicubic", align_corners=True)[0, 0] for t in (fine, coarse)]
    return torch.stack(both) / 2.0


def _styled(flat: Tensor, style: str, size: int) -> Tensor:
    grey = flat.mean(0, keepdim=True)
    if style == "outline":
        return 0.97 - 0.30 * (0.97 - (0.35 * grey + 0.65 * flat))
    if style == "watercolour":
        grain = texture(size)
        washed = flat + (0.10 + 0.06 * grain[1]) * (1 - flat)
        return (washed + 0.035 * grain[0]).clamp(0, 1)
    if style == "pixel":
        blocks = F.avg_pool2d(flat[None], 2)
        steps = (blocks * 9).round() / 9
        return F.interpolate(steps, scale_factor=2, mode="nearest")[0]
    if style == "neon":
        edge = (flat[:, 1:, :-1] - flat[:, :-1, :-1]).abs() + (flat[:, :-1, 1:] - flat[:, :-1, :-1]).abs()
        lines = F.pad(edge, (0, 1, 0, 1)).sum(0, keepdim=True).clamp(0, 0.6)
        return (0.05 + 0.20 * flat + torch.tensor([0.0, 0.0, 0.05])[:, None, None] + lines * flat * 0.8).clamp(0, 1)
    return flat


@functools.cache
def backdrop_table(size: int) -> Tensor:
    """All backdrops in all styles: (6, 5, 3, size, size) in [0, 1]; size is even."""
    flats = [_scene(name, size) for name in BACKDROPS]
    return torch.stack([torch.stack([_styled(flat, style, size) for style in STYLES]) for flat in flats])


@functools.cache
def depth_table(size: int) -> Tensor:
    """Depth of the empty world (size, size): 1 for the sky, falling to 0.6 at the lower edge."""
    y = (torch.arange(size) + 0.5) / size
    line = 1 - 0.4 * ((y - _HORIZON) / (1 - _HORIZON)).clamp(0, 1)
    return line[:, None].expand(size, size).contiguous()
