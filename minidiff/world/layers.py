"""What the six backdrops are made of: a sky, what stands in it, and the ground, each a layer that can be moved."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.world.shapes import box, circle, ellipse, segment, triangle
from minidiff.world.vocab import BACKDROPS

__all__ = ["GRADIENTS", "HORIZON", "REACH", "atlas", "margin"]

# sky above, sky at the horizon, ground at the horizon, ground below
GRADIENTS = {
    "grass": ((0.70, 0.87, 0.98), (0.91, 0.96, 0.98), (0.72, 0.87, 0.58), (0.56, 0.77, 0.46)),
    "beach": ((0.62, 0.84, 0.96), (0.90, 0.96, 0.97), (0.96, 0.89, 0.72), (0.91, 0.80, 0.60)),
    "night": ((0.16, 0.18, 0.40), (0.34, 0.33, 0.58), (0.25, 0.28, 0.46), (0.18, 0.21, 0.37)),
    "snow": ((0.77, 0.85, 0.94), (0.90, 0.94, 0.98), (0.95, 0.97, 1.00), (0.86, 0.91, 0.97)),
    "room": ((0.95, 0.88, 0.82), (0.97, 0.92, 0.86), (0.80, 0.66, 0.54), (0.71, 0.56, 0.45)),
    "sunset": ((0.56, 0.45, 0.70), (0.99, 0.76, 0.58), (0.62, 0.45, 0.55), (0.46, 0.34, 0.48)),
}
HORIZON = 0.62
REACH = 0.08  # how far a layer may be moved, as a part of the picture: layers are painted that much beyond the frame
_BAND = 32  # rows of a layer painted at once

Colour = tuple[float, float, float]
Item = tuple[Tensor, Colour, float, float]  # signed distance, colour, width of the soft edge, opacity


def _sky(name: str, x: Tensor, y: Tensor, px: float) -> Iterator[Item]:
    """What stands in the sky or hangs on the wall, back to front."""
    if name in ("grass", "beach"):
        yield circle(x, y, 0.86, 0.13, 0.075), (1.0, 0.90, 0.56), px, 1.0
        for cx, cy, r in ((0.16, 0.17, 0.05), (0.23, 0.14, 0.065), (0.31, 0.17, 0.05)):
            yield ellipse(x, y, cx, cy, r * 1.5, r * 0.8), (1.0, 1.0, 1.0), 0.02, 0.85
    if name == "night":
        yield circle(x, y, 0.84, 0.15, 0.085), (0.98, 0.95, 0.80), px, 1.0
        yield circle(x, y, 0.805, 0.13, 0.07), (0.19, 0.21, 0.43), px, 1.0
        for cx, cy, r in ((0.1, 0.1, 9), (0.22, 0.28, 7), (0.36, 0.08, 8), (0.55, 0.2, 7), (0.68, 0.06, 6), (0.93, 0.36, 7),
                          (0.07, 0.45, 6)):
            yield circle(x, y, cx, cy, r * 0.0014), (1.0, 0.98, 0.9), px, 1.0
    if name == "sunset":
        yield circle(x, y, 0.5, HORIZON - 0.02, 0.17), (1.0, 0.88, 0.62), px, 1.0
        for cx, cy, w in ((0.24, 0.3, 0.16), (0.74, 0.2, 0.2), (0.6, 0.40, 0.12)):
            yield ellipse(x, y, cx, cy, w, 0.018), (0.98, 0.70, 0.62), px, 0.8
    if name == "snow":  # the feet of the mountains lie deep behind the ground, so that they may rise
        yield triangle(x, y, (0.295, 0.86), (1.195, 0.86), (0.76, 0.26)), (0.80, 0.86, 0.94), px, 1.0
        yield triangle(x, y, (-0.3, 0.86), (0.7, 0.86), (0.2, 0.36)), (0.84, 0.89, 0.96), px, 1.0
        for cx, cy in ((0.1, 0.14), (0.32, 0.2), (0.52, 0.1), (0.9, 0.16), (0.6, 0.3), (0.95, 0.5), (0.05, 0.42)):
            yield circle(x, y, cx, cy, 0.012), (1.0, 1.0, 1.0), px, 1.0
    if name == "room":
        frame = (0.86, 0.72, 0.60)
        yield box(x, y, 0.80, 0.24, 0.14, 0.16), frame, px, 1.0
        yield box(x, y, 0.80, 0.24, 0.115, 0.135), (0.74, 0.89, 0.97), px, 1.0
        yield torch.minimum(box(x, y, 0.80, 0.24, 0.01, 0.14), box(x, y, 0.80, 0.24, 0.12, 0.01)), frame, px, 1.0
        yield box(x, y, 0.17, 0.22, 0.09, 0.11), (0.80, 0.62, 0.52), px, 1.0
        yield box(x, y, 0.17, 0.22, 0.07, 0.09), (0.97, 0.84, 0.62), px, 1.0


def _sea(name: str, x: Tensor, y: Tensor, px: float) -> Iterator[Item]:
    """What lies at the horizon behind the ground."""
    if name == "beach":
        yield box(x, y, 0.5, 0.56, 1.0, 0.06), (0.36, 0.70, 0.80), px, 1.0
        yield segment(x, y, 0.1, 0.545, 0.3, 0.545, 0.004), (0.80, 0.93, 0.96), px, 1.0
        yield segment(x, y, 0.6, 0.57, 0.85, 0.57, 0.004), (0.80, 0.93, 0.96), px, 1.0


def _floor(name: str, x: Tensor, y: Tensor, px: float) -> Iterator[Item]:
    """What lies on the ground."""
    if name == "room":
        yield ellipse(x, y, 0.5, 0.87, 0.38, 0.075), (0.84, 0.52, 0.50), px, 0.55
        yield box(x, y, 0.5, HORIZON, 1.0, 0.012), (0.98, 0.95, 0.91), px, 1.0
    if name == "grass":
        for cx, cy in ((0.08, 0.76), (0.3, 0.9), (0.55, 0.74), (0.72, 0.92), (0.93, 0.8)):
            yield circle(x, y, cx, cy, 0.013), (0.99, 0.97, 0.82), px, 1.0
    if name == "sunset":
        yield ellipse(x, y, 0.5, 0.70, 0.2, 0.02), (0.95, 0.68, 0.56), px, 0.5


def _over(canvas: Tensor, alpha: Tensor, item: Item) -> tuple[Tensor, Tensor]:
    distance, colour, soft, opacity = item
    cover = (0.5 - distance / soft).clamp(0, 1) * opacity
    fill = torch.tensor(colour)[:, None, None].expand_as(canvas)
    return torch.lerp(canvas, fill, cover.expand_as(canvas)), alpha + cover * (1 - alpha)


def margin(size: int) -> int:
    """Pixels of a layer beyond the frame on every side."""
    return math.ceil(REACH * size) + 2


def _band(name: str, size: int, rows: range) -> Tensor:
    """Both layers of some rows: (2, 4, rows, size + 2 margins), painted at four times the size and averaged.

    A layer is red, green, blue times opacity, then opacity. The colours are chosen such that the layers laid over the sky
    where they stand give the average of the fine picture exactly, edges included.
    """
    big, m = 4 * size, margin(size)
    line_x = (torch.arange(-4 * m, big + 4 * m) + 0.5) / big
    line_y = (torch.arange(4 * rows.start, 4 * rows.stop) + 0.5) / big
    y, x = torch.meshgrid(line_y, line_x, indexing="ij")
    px = 1.5 / big
    top, low, near, below = (torch.tensor(c)[:, None, None] for c in GRADIENTS[name])
    canvas, alpha = top + (low - top) * (y / HORIZON).clamp(0, 1), torch.zeros_like(y)[None]
    for item in _sky(name, x, y, px):
        canvas, alpha = _over(canvas, alpha, item)
    behind, sky_alpha, alpha = canvas, alpha, torch.zeros_like(alpha)
    for item in _sea(name, x, y, px):
        canvas, alpha = _over(canvas, alpha, item)
    ground = near + (below - near) * ((y - HORIZON) / (1 - HORIZON)).clamp(0, 1)
    hill = HORIZON + {"grass": 0.035, "snow": 0.03}.get(name, 0.0) * torch.sin(7.0 * x + 0.6)
    canvas, alpha = torch.where(y > hill, ground, canvas), torch.where(y > hill, torch.ones_like(alpha), alpha)
    for item in _floor(name, x, y, px):
        canvas, alpha = _over(canvas, alpha, item)
    canvas, behind, sky_alpha, alpha = (F.avg_pool2d(t[None], 4)[0] for t in (canvas, behind, sky_alpha, alpha))
    centre = ((torch.tensor(list(rows)) + 0.5) / size)[None, :, None]
    bare = top + (low - top) * (centre / HORIZON).clamp(0, 1)
    sky = torch.cat((behind - bare * (1 - sky_alpha), sky_alpha))
    return torch.stack((sky, torch.cat((canvas - behind * (1 - alpha), alpha))))


@functools.lru_cache(maxsize=8)
def atlas(size: int, device: torch.device) -> Tensor:
    """The layers of all backdrops below one another, sky, ground, sky, ...: (1, 4, 12 P, P), P = size + 2 margin(size)."""
    m = margin(size)
    starts = range(-m, size + m, _BAND)
    layers = [torch.cat([_band(name, size, range(i, min(i + _BAND, size + m))) for i in starts], 2) for name in BACKDROPS]
    side = size + 2 * m
    return torch.stack(layers).permute(2, 0, 1, 3, 4).reshape(1, 4, len(BACKDROPS) * 2 * side, side).contiguous().to(device)
