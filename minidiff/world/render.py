"""The renderer: a batch of scenes -> pictures, visible masks and depth; differentiable in x, y and size.

Every thing is painted on a square patch of pixels around its centre, all things of one kind together, and the
patches are laid over the backdrops from back to front.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import require
from .backdrops import STYLE, backdrop_table, depth_table, texture
from .scene import Scene, Scenes
from .sprites import INK, parts, worn
from .vocab import COLOURS, KINDS, MAX_THINGS, SIZE_RANGE

__all__ = ["Rendered", "render"]

_REACH = 1.38            # half-side of a patch, in half-heights of the thing
_CHUNK = 24              # things painted at once: keeps the working set in the processor's cache


class Rendered(NamedTuple):
    """What the renderer gives: images (B, 3, S, S) in [-1, 1], masks (B, 3, S, S) in [0, 1], depth (B, S, S) in [0, 1]."""

    images: Tensor
    masks: Tensor
    depth: Tensor


def render(scenes: Scenes | Scene | list[Scene], size: int = 64) -> Rendered:
    """Paint scenes at ``size`` x ``size`` pixels on the device of the scenes.

    Masks hold each thing's visible share of every pixel (what nearer things cover is taken away); slots without a
    thing are zero. Depth is 1 at the sky and smaller for what is nearer. Gradients flow to x, y and size.

    Raises BadInput when ``size`` is not an even whole number of at least 16.
    """
    if isinstance(scenes, Scene):
        scenes = [scenes]
    if not isinstance(scenes, Scenes):
        scenes = Scenes.of(list(scenes))
    require(isinstance(size, int) and size >= 16 and size % 2 == 0, "size", size,
            "an even whole number of pixels, at least 16", "size=64")
    device, batch = scenes.x.device, len(scenes)
    canvas = backdrop_table(size).to(device)[scenes.backdrop, scenes.style]
    slots = [_paint_slot(scenes, k, size) for k in range(MAX_THINGS)]
    covers: list[Tensor] = []
    for slot in slots:
        cover = torch.zeros(batch, size, size, device=device)
        if slot is not None:
            which, index, rgb, alpha, solid, inside = slot
            canvas, cover = _lay(canvas, which, index, rgb, alpha, solid, inside)
        covers.append(cover)
    depth = depth_table(size).to(device).expand(batch, size, size)
    for k, cover in enumerate(covers):
        depth = depth + cover * ((0.5 - 0.15 * k) - depth)
    visible, seen = [], torch.ones(batch, size, size, device=device)
    for cover in reversed(covers):
        visible.append(cover * seen)
        seen = seen * (1 - cover)
    return Rendered(canvas * 2 - 1, torch.stack(visible[::-1], 1), depth)


def _lay(canvas: Tensor, which: Tensor, index: Tensor, rgb: Tensor, alpha: Tensor, solid: Tensor,
         inside: Tensor) -> tuple[Tensor, Tensor]:
    """Blend patches (n, 3, P, P) into the pictures ``which``; index (n, P*P) are flat pixel numbers."""
    batch, _, size, _ = canvas.shape
    n = len(which)
    alpha, solid = (t.reshape(n, -1) * inside for t in (alpha, solid))
    flat = canvas.reshape(batch, 3, -1)
    under = flat[which].gather(2, index[:, None].expand(-1, 3, -1))
    change = alpha[:, None] * (rgb.reshape(n, 3, -1) - under)
    rows = (which[:, None] * size * size + index).reshape(-1)
    plane = torch.zeros(3, batch * size * size, device=canvas.device, dtype=canvas.dtype)
    plane = plane.index_add(1, rows, change.transpose(0, 1).reshape(3, -1))
    cover = torch.zeros(batch * size * size, device=canvas.device, dtype=canvas.dtype).index_add(0, rows, solid.reshape(-1))
    canvas = canvas + plane.reshape(3, batch, size, size).transpose(0, 1)
    return canvas, cover.reshape(batch, size, size)


def _paint_slot(scenes: Scenes, k: int, size: int):
    """Paint slot k of every scene that has it: (which scene, pixel index, rgb, alpha, solid, inside the picture)."""
    which_all = torch.nonzero(scenes.present[:, k]).squeeze(1)
    if len(which_all) == 0:
        return None
    pieces = []
    on_cpu = scenes.x.device.type == "cpu"
    kinds = scenes.kind[which_all, k]
    sizes = scenes.size[which_all, k].detach()
    for number, kind in enumerate(KINDS):
        group = which_all[kinds == number]
        if len(group) == 0:
            continue
        if on_cpu:  # small patches for small things
            group = group[torch.argsort(scenes.size[group, k].detach())]
        chunk = max(1, _CHUNK * 4096 // (size * size)) if on_cpu else len(group)
        for part in group.split(chunk):
            pieces.append((part, kind))
    biggest = max(float(sizes.max()), SIZE_RANGE[0])
    out = []
    full = _side(biggest, size)
    for which, kind in pieces:
        side = _side(float(scenes.size[which, k].detach().max()), size) if on_cpu else full
        out.append((which, *_paint(scenes, which, k, kind, size, side)))
    which = torch.cat([o[0] for o in out])
    flat = [torch.cat([_widen(o[j], full) for o in out]) for j in range(1, 6)]
    return which, *flat


def _side(thing_size: float, size: int) -> int:
    return min(2 * math.ceil(_REACH * thing_size * size) + 2, 2 * size)


def _widen(t: Tensor, side: int) -> Tensor:
    """Pad the last dimension (flattened patch) with zeros up to side * side, so patches of all sizes stack."""
    missing = side * side - t.shape[-1]
    return t if missing == 0 else torch.nn.functional.pad(t, (0, missing))


def _lookup(name: str, style: Tensor) -> Tensor:
    return torch.tensor(STYLE[name], device=style.device)[style][:, None, None]


def _paint(scenes: Scenes, which: Tensor, k: int, kind: str, size: int, side: int):
    device = scenes.x.device
    cx, cy, half = (f[which, k][:, None, None] for f in (scenes.x, scenes.y, scenes.size))
    style, colour = scenes.style[which], scenes.colour[which, k]
    steps = torch.arange(side, device=device)
    ix = torch.floor(cx.detach() * size).long() - side // 2 + steps[None, None, :]       # (n, 1, P)
    iy = torch.floor(cy.detach() * size).long() - side // 2 + steps[None, :, None]       # (n, P, 1)
    inside = ((ix >= 0) & (ix < size) & (iy >= 0) & (iy < size))
    jx, jy = ix.clamp(0, size - 1), iy.clamp(0, size - 1)
    index = jy * size + jx                                                               # (n, P, P)
    cell = _lookup("cell", style)
    px, py = (torch.where(cell > 0, 2.0 * torch.div(i, 2, rounding_mode="floor") + 1.0, i + 0.5) for i in (ix, iy))
    u, v = torch.broadcast_tensors((px / size - cx) / half, (py / size - cy) / half)
    sharp = half * size * (1 + cell)                                                     # pixels per unit
    grain = texture(size).to(device).reshape(2, -1)[:, index.reshape(-1)].reshape(2, *index.shape)
    wander = _lookup("wobble", style) * grain[1]

    base = torch.tensor(list(COLOURS.values()), device=device)[colour][:, :, None, None] / 255.0
    luma = (base * torch.tensor([0.299, 0.587, 0.114], device=device)[None, :, None, None]).sum(1, keepdim=True)
    other = torch.where(luma > 0.55, base * 0.66, base + 0.52 * (1 - base))
    body = base + _pattern(scenes.pattern[which, k], u, v, sharp)[:, None] * (other - base)
    paints = {"body": body, "dark": base * 0.74, "light": base + 0.50 * (1 - base)}

    mood, wears = scenes.mood[which, k][:, None, None], scenes.wears[which, k][:, None, None]
    rgb, outline = body, None
    for group in (parts(kind, u, v, mood), worn(kind, u, v, wears)):
        for distance, paint in group:
            distance = distance + wander
            cover = (0.5 - distance * sharp).clamp(0, 1)[:, None]
            fill = paints[paint] if isinstance(paint, str) else torch.tensor(paint, device=device)[None, :, None, None]
            rgb = rgb + cover * (fill - rgb)
            outline = distance if outline is None else torch.minimum(outline, distance)

    def s(name: str) -> Tensor:
        return _lookup(name, style)[:, None]

    solid = (0.5 - outline * sharp).clamp(0, 1)
    rgb = rgb * (1 - s("light") * v[:, None])
    rgb = (rgb + s("fill_white") * (1 - rgb)) * s("fill_gain")
    width = torch.maximum(_lookup("rim_width", style), 0.9 / sharp)
    stroke = (0.5 - ((outline + width / 2).abs() - width / 2) * sharp).clamp(0, 1)[:, None] * s("rim_alpha")
    shade = base * s("rim_gain") + s("glow") * 0.25
    shade = shade + s("rim_ink") * (torch.tensor(INK, device=device)[None, :, None, None] - shade)
    rgb = rgb + stroke * (shade - rgb)
    wash = s("wash") * (0.45 + 0.55 * grain[0][:, None])
    rgb = (rgb + wash * 0.45 * (1 - rgb)).clamp(0, 1)
    # light around neon things and the soft shadow under flat ones do not belong to the mask
    halo = _lookup("glow", style) * torch.exp(-(outline.clamp(min=0) / 0.13) ** 2)
    ground = _lookup("shadow", style) * torch.exp(-((u / 0.75) ** 2 + ((v - 0.97) / 0.13) ** 2))
    around = torch.maximum(halo, ground)
    tint = torch.where(s("glow") > 0, base, torch.tensor([0.12, 0.10, 0.22], device=device)[None, :, None, None])
    alpha = solid + (1 - solid) * around
    mixed = (rgb * solid[:, None] + tint * ((1 - solid) * around)[:, None]) / (alpha[:, None] + 1e-6)
    n = len(which)
    return index.reshape(n, -1), mixed.reshape(n, 3, -1), alpha.reshape(n, -1), solid.reshape(n, -1), inside.reshape(n, -1)


def _pattern(pattern: Tensor, u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    """Share of the second colour (n, P, P) for plain, striped, dotted and checked."""
    period = 0.50
    def wave(w: Tensor) -> Tensor:      # distance to the nearest band edge, positive inside the band
        return period / 4 - (torch.remainder(w, period) - period / 2).abs()
    a, b = wave(u), wave(v)
    p, q = (torch.remainder(w + period / 2, period) - period / 2 for w in (u, v))
    dots = 0.155 - (p * p + q * q + 1e-9).sqrt()
    checks = torch.where(a * b > 0, torch.minimum(a.abs(), b.abs()), -torch.minimum(a.abs(), b.abs()))
    kind = pattern[:, None, None]
    inside = torch.where(kind == 1, b, torch.where(kind == 2, dots, checks))
    return (0.5 + inside * sharp).clamp(0, 1) * (kind > 0).to(u.dtype)
