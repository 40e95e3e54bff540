"""The six backdrops, painted for each scene: in its style, and a little different from picture to picture."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.rng import generator
from minidiff.world.layers import GRADIENTS, HORIZON, REACH, atlas, margin
from minidiff.world.vocab import BACKDROPS, STYLES, VARY

__all__ = ["STYLE", "backdrop_depth", "backdrop_table", "on_device", "paint_backdrops", "texture"]

# what one unit of Scenes.vary does: parts of the picture for the first three, shares of the light for the others
_HORIZON, _SIDEWAYS, _UPWARDS, _LIGHT, _TINT = 0.05, REACH, 0.06, 0.06, 0.04
_CHUNK = 64  # backdrops of 64 x 64 painted at once on a CPU: bounds the memory

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


@functools.cache
def texture(size: int) -> Tensor:
    """Two fixed paper textures (2, size, size), zero mean and range about [-1, 1]: fine grain and slow wander."""
    coarse = torch.randn(1, 1, 9, 9, generator=generator("paper", 0))
    fine = torch.randn(1, 1, 33, 33, generator=generator("paper", 1))
    both = [F.interpolate(t, size=(size, size), mode="bicubic", align_corners=True)[0, 0] for t in (fine, coarse)]
    return torch.stack(both) / 2.0


@functools.lru_cache(maxsize=32)
def on_device(table: str, size: int, device: torch.device) -> Tensor:
    """A fixed table kept on a device: "texture" (2, size, size); "gradients" (6, 4, 3); "styles" (5, columns)."""
    made = {"texture": lambda: texture(size), "gradients": lambda: torch.tensor(list(GRADIENTS.values())),
            "styles": lambda: torch.tensor(list(STYLE.values())).T.contiguous()}[table]()
    return made.to(device)


def _horizon(vary: Tensor) -> Tensor:
    return HORIZON + _HORIZON * vary[:, 0]


def _flat(backdrop: Tensor, vary: Tensor, size: int) -> Tensor:
    """Backdrops in flat style (n, 3, size, size) in [0, 1]: the sky, and two layers moved and laid over it."""
    n, device = len(backdrop), vary.device
    table = atlas(size, device)
    height, side = table.shape[2:]
    line = torch.arange(size, device=device, dtype=vary.dtype)
    across = margin(size) + line - _SIDEWAYS * size * vary[:, 1:2]                            # (n, size): columns of the atlas
    down = torch.stack((_UPWARDS * vary[:, 2], _HORIZON * vary[:, 0]), 1) * size               # (n, 2): sky, ground
    down = margin(size) + line - down[:, :, None]                                             # (n, 2, size)
    down = down + (2 * backdrop[:, None] + torch.arange(2, device=device))[:, :, None] * side
    across, down = across * (2 / (side - 1)) - 1, down.reshape(n, -1) * (2 / (height - 1)) - 1
    grid = torch.stack((across[:, None].expand(n, 2 * size, size), down[:, :, None].expand(n, 2 * size, size)), -1)
    drawn = F.grid_sample(table.expand(n, -1, -1, -1), grid, padding_mode="border", align_corners=True)
    sky, ground = drawn[:, :, :size], drawn[:, :, size:]
    top, low = on_device("gradients", 0, device)[backdrop][:, :2, :, None, None].unbind(1)       # (n, 3, 1, 1)
    height_of = (((line + 0.5) / size) / _horizon(vary)[:, None]).clamp(0, 1)[:, None, :, None]  # (n, 1, size, 1)
    canvas = torch.addcmul(sky[:, :3], top + (low - top) * height_of, 1 - sky[:, 3:])
    canvas = torch.addcmul(ground[:, :3], canvas, 1 - ground[:, 3:])
    warm = _TINT * vary[:, 4]
    light = torch.stack((1 + warm, torch.ones_like(warm), 1 - warm), 1) * (1 + _LIGHT * vary[:, 3:4])
    return (canvas * light[:, :, None, None]).clamp(0, 1)


def _styled(flat: Tensor, style: str) -> Tensor:
    """Flat pictures (n, 3, S, S) in another style."""
    size = flat.shape[-1]
    if style == "outline":
        return 0.97 - 0.30 * (0.97 - (0.35 * flat.mean(1, keepdim=True) + 0.65 * flat))
    if style == "watercolour":
        grain = on_device("texture", size, flat.device)
        washed = flat + (0.10 + 0.06 * grain[1]) * (1 - flat)
        return (washed + 0.035 * grain[0]).clamp(0, 1)
    if style == "pixel":
        blocks = F.avg_pool2d(flat, 2)
        steps = blocks + ((blocks * 9).round() / 9 - blocks).detach()          # the gradient passes through the steps
        return F.interpolate(steps, scale_factor=2, mode="nearest")
    if style == "neon":
        here = flat[..., :-1, :-1]
        edge = (flat[..., 1:, :-1] - here).abs() + (flat[..., :-1, 1:] - here).abs()
        lines = F.pad(edge.sum(1, keepdim=True), (0, 1, 0, 1)).clamp(0, 0.6)
        dark = 0.05 + (0.20 + lines * 0.8) * flat
        return torch.cat((dark[:, :2], dark[:, 2:] + 0.05), 1).clamp(0, 1)
    return flat


def paint_backdrops(backdrop: Tensor, style: Tensor, vary: Tensor, size: int) -> Tensor:
    """Backdrops without things: (B, 3, size, size) in [0, 1], on the device of ``vary`` and differentiable in it.

    backdrop, style (B,) int64; vary (B, 5) float in [-1, 1], see :class:`minidiff.world.Scenes`; size is even. In pixel
    style the gradient is that of the picture before its colours are rounded to ten steps.
    """
    if vary.device.type != "cpu":
        return _in_one_go(backdrop, style, vary, size)
    parts, order = [], []
    for number, name in enumerate(STYLES):
        for rows in torch.nonzero(style == number).squeeze(1).split(max(1, _CHUNK * 4096 // (size * size))):
            if len(rows):
                parts.append(_styled(_flat(backdrop[rows], vary[rows], size), name))
                order.append(rows)
    painted, rows = torch.cat(parts) if len(parts) > 1 else parts[0], torch.cat(order)
    return painted if bool((rows.diff() > 0).all()) else painted[rows.argsort()]


def _in_one_go(backdrop: Tensor, style: Tensor, vary: Tensor, size: int) -> Tensor:
    """The same without looking at the style: a device that was asked for it would have to be waited for."""
    flat = _flat(backdrop, vary, size)
    out = flat
    for number, name in enumerate(STYLES[1:], 1):
        out = torch.where((style == number)[:, None, None, None], _styled(flat, name), out)
    return out


@functools.lru_cache(maxsize=8)
def backdrop_table(size: int) -> Tensor:
    """All backdrops in all styles as they are without variation: (6, 5, 3, size, size) in [0, 1]; size is even."""
    n, m = len(BACKDROPS), len(STYLES)
    which = torch.arange(n * m)
    with torch.no_grad():
        return paint_backdrops(which // m, which % m, torch.zeros(n * m, VARY), size).reshape(n, m, 3, size, size)


def backdrop_depth(vary: Tensor, size: int) -> Tensor:
    """Depth of empty worlds (B, size, size): 1 for the sky, falling from the horizon to 0.6 at the lower edge."""
    y = (torch.arange(size, device=vary.device) + 0.5) / size
    horizon = _horizon(vary)[:, None]
    line = 1 - 0.4 * ((y - horizon) / (1 - horizon)).clamp(0, 1)
    return line[:, :, None].expand(-1, size, size)
