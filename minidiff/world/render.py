"""The renderer: a batch of scenes -> pictures, visible masks and depth; differentiable in x, y and size.

Every thing is painted on a square patch of pixels around its centre, all things of one kind together, and the
patches are laid over the backdrops from back to front.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.world.backdrops import STYLE, backdrop_depth, on_device, paint_backdrops
from minidiff.world.blend import blended_parts, colour_rgb, kind_pairs, pattern_colour
from minidiff.world.scene import Scene, Scenes
from minidiff.world.sprites import INK, parts, worn
from minidiff.world.vocab import KINDS, MAX_THINGS

__all__ = ["Rendered", "render"]

_REACH = 1.38  # half-side of a patch, in half-heights of the thing
_CHUNK = 24  # things painted at once: keeps the working set in the processor's cache


class Rendered(NamedTuple):
    """What the renderer gives: images (B, 3, S, S) in [-1, 1], masks (B, 3, S, S) in [0, 1], depth (B, S, S) in [0, 1]."""

    images: Tensor
    masks: Tensor
    depth: Tensor


def render(scenes: Scenes | Scene | list[Scene], size: int = 64) -> Rendered:
    """Paint scenes at ``size`` x ``size`` pixels on the device of the scenes.

    Masks hold each thing's visible share of every pixel (what nearer things cover is taken away); slots without a
    thing are zero. Depth is 1 at the sky and smaller for what is nearer. Gradients flow to x, y, size and vary,
    and to the colours and shares of a blend.

    Raises BadInput when ``size`` is not an even whole number of at least 16.
    """
    if isinstance(scenes, Scene):
        scenes = [scenes]
    if not isinstance(scenes, Scenes):
        scenes = Scenes.of(list(scenes))
    require(
        isinstance(size, int) and size >= 16 and size % 2 == 0,
        "size",
        size,
        "an even whole number of pixels, at least 16",
        "size=64",
    )
    require(len(scenes) > 0, "scenes", "no scene", "at least one", "render(sample_scenes(range(8)))")
    device, batch, host = scenes.x.device, len(scenes), _on_host(scenes)
    canvas = paint_backdrops(scenes.backdrop, scenes.style, scenes.vary, size)
    if scenes.blend is not None:
        other = paint_backdrops(scenes.blend.backdrop, scenes.style, scenes.vary, size)
        canvas = torch.lerp(canvas, other, scenes.blend.backdrop_share[:, None, None, None].expand_as(canvas))
    canvas = canvas.transpose(0, 1).reshape(3, -1)  # (3, B * S * S): one row of pixels a channel
    covers = []
    for k in range(MAX_THINGS):
        canvas, cover = _lay_slot(canvas, scenes, host, k, size)
        covers.append(cover.reshape(batch, size, size))
    images = canvas.reshape(3, batch, size, size).transpose(0, 1).contiguous() * 2 - 1
    depth = backdrop_depth(scenes.vary, size)
    for k, cover in enumerate(covers):
        depth = torch.lerp(depth, torch.full_like(depth, 0.5 - 0.15 * k), cover)
    visible, seen = [], torch.ones(batch, size, size, device=device)
    for cover in reversed(covers):
        visible.append(cover * seen)
        seen = seen * (1 - cover)
    return Rendered(images, torch.stack(visible[::-1], 1), depth)


def _on_host(scenes: Scenes) -> dict[str, Tensor]:
    """What decides how the work is divided, on the CPU: from elsewhere in one copy, all that render waits for."""
    columns = {"style": scenes.style[:, None]} | {n: getattr(scenes, n) for n in ("present", "kind", "pattern", "size")}
    if scenes.blend is not None:
        columns["kind_to"] = scenes.blend.kind
    widths = [value.shape[1] for value in columns.values()]
    if scenes.x.device.type != "cpu":
        packed = torch.cat([value.detach().double() for value in columns.values()], 1).cpu()
        columns = dict(zip(columns, packed.split(widths, 1), strict=True))
    kept = {name: value.detach() if name == "size" else value.long() for name, value in columns.items()}
    return kept | {"style": kept["style"][:, 0]}


def _lay_slot(canvas: Tensor, scenes: Scenes, host: dict[str, Tensor], k: int, size: int) -> tuple[Tensor, Tensor]:
    """Paint slot k of every scene that has it over the canvas; returns the canvas and what the slot covers (B * S * S,)."""
    cover = torch.zeros(canvas.shape[1], device=canvas.device)
    present = torch.nonzero(host["present"][:, k]).squeeze(1)
    if len(present) == 0:
        return canvas, cover
    change = torch.zeros_like(canvas)
    for which, kind, side in _groups(scenes, host, present, k, size):
        pixel, rgb, alpha, solid = _paint(scenes, which.to(canvas.device), k, kind, size, side, _needs(host, which, k))
        under = canvas[:, pixel].reshape(3, *alpha.shape)
        added = alpha * (rgb.transpose(0, 1) - under)
        change.scatter_add_(1, pixel.expand(3, -1), added.reshape(3, -1))
        cover.scatter_add_(0, pixel, solid.reshape(-1))
    return canvas + change, cover


def _groups(scenes: Scenes, host: dict[str, Tensor], present: Tensor, k: int,
            size: int) -> Iterator[tuple[Tensor, str | tuple[str, str], int]]:
    """Scenes whose thing k is of one kind, and the side of a patch that holds it; on the CPU small things get small ones."""
    on_cpu = scenes.x.device.type == "cpu"
    kinds, sizes = host["kind"][present, k], host["size"][present, k]
    full = _side(float(sizes.max()), size)
    if scenes.blend is not None:
        for chosen, kind, kind_to in kind_pairs(kinds, host["kind_to"][present, k]):
            yield present[chosen], (kind, kind_to), full
        return
    for number, kind in enumerate(KINDS):
        chosen = torch.nonzero(kinds == number).squeeze(1)
        if len(chosen) == 0:
            continue
        if not on_cpu:
            yield present[chosen], kind, full
            continue
        chosen = chosen[sizes[chosen].argsort()]
        for part in chosen.split(max(1, _CHUNK * 4096 // (size * size))):
            yield present[part], kind, _side(float(sizes[part[-1]]), size)


class _Needs(NamedTuple):
    """Which steps a group of things needs at all."""

    textured: bool
    celled: bool
    glowing: bool
    patterned: bool


def _needs(host: dict[str, Tensor], which: Tensor, k: int) -> _Needs:
    styles = set(host["style"][which].tolist())
    some = (any(STYLE[name][style] > 0 for style in styles) for name in ("wash", "cell", "glow"))
    return _Needs(*some, bool((host["pattern"][which, k] > 0).any()))


def _side(thing_size: float, size: int) -> int:
    return min(2 * math.ceil(_REACH * thing_size * size) + 2, 2 * size)


@functools.cache
def _fixed(paint: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(paint, device=device)[None, :, None, None]


def _paint(scenes: Scenes, which: Tensor, k: int, kind: str | tuple[str, str], size: int, side: int,
           needs: _Needs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Patches of one kind: flat pixel numbers (n * P * P,), rgb (n, 3, P, P), alpha and mask (n, P, P); zero off the picture."""
    device = scenes.x.device
    cx, cy, half = (f[which, k][:, None, None] for f in (scenes.x, scenes.y, scenes.size))
    row = on_device("styles", 0, device)[scenes.style[which]]
    style = {name: row[:, i, None, None] for i, name in enumerate(STYLE)}
    steps = torch.arange(side, device=device)
    ix = torch.floor(cx.detach() * size).long() - side // 2 + steps[None, None, :]  # (n, 1, P)
    iy = torch.floor(cy.detach() * size).long() - side // 2 + steps[None, :, None]  # (n, P, 1)
    inside = ((ix >= 0) & (ix < size)) & ((iy >= 0) & (iy < size))
    local = iy.clamp(0, size - 1) * size + ix.clamp(0, size - 1)  # (n, P, P)
    pixel = (local + which[:, None, None] * (size * size)).reshape(-1)
    px, py = ix + 0.5, iy + 0.5
    if needs.celled:
        px, py = (torch.where(style["cell"] > 0, 2.0 * torch.div(i, 2, rounding_mode="floor") + 1.0, i + 0.5) for i in (ix, iy))
    u, v = (px / size - cx) / half, (py / size - cy) / half  # (n, 1, P) and (n, P, 1): what rests on one costs P, not P * P
    sharp = half * size * (1 + style["cell"])  # pixels per unit
    if needs.textured:
        grain, slow = (t[local] for t in on_device("texture", size, device).reshape(2, -1))
        wander = style["wobble"] * slow

    blend = scenes.blend
    base = (colour_rgb(scenes.colour[which, k]) if blend is None else blend.rgb[which, k])[:, :, None, None]
    body, pattern = base, scenes.pattern[which, k]
    if blend is not None:
        share = blend.share[which, k][:, None, None].expand(-1, side, side)
        mixed = torch.lerp(_pattern(pattern, u, v, sharp), _pattern(blend.pattern[which, k], u, v, sharp), share)
        body = torch.lerp(base, blend.second[which, k][:, :, None, None], mixed[:, None])
    elif needs.patterned:
        body = torch.lerp(base, pattern_colour(base, 1), _pattern(pattern, u, v, sharp)[:, None])
    paints = {"body": body, "dark": base * 0.74, "light": base + 0.50 * (1 - base)}

    mood, wears = scenes.mood[which, k][:, None, None], scenes.wears[which, k][:, None, None]
    rgb = body.expand(-1, -1, side, side)
    outline = None
    if blend is None:
        painted = itertools.chain(parts(kind, u, v, mood), worn(kind, u, v, wears))
    else:
        to = {"mood_to": blend.mood[which, k][:, None, None], "wears_to": blend.wears[which, k][:, None, None]}
        painted = blended_parts(*kind, u, v, {"mood": mood, "wears": wears} | to, share)
    for distance, paint in painted:
        if needs.textured:
            distance = distance + wander
        cover = (0.5 - distance * sharp).clamp(0, 1)[:, None]
        rgb = torch.lerp(rgb, paints[paint] if isinstance(paint, str) else _fixed(paint, device), cover)
        outline = distance if outline is None else torch.minimum(outline, distance)

    flat = {name: value[:, None] for name, value in style.items()}
    solid = (0.5 - outline * sharp).clamp(0, 1)
    gain = (1 - flat["light"] * v[:, None]) * ((1 - flat["fill_white"]) * flat["fill_gain"])
    rgb = rgb * gain + flat["fill_white"] * flat["fill_gain"]
    width = torch.maximum(style["rim_width"], 0.9 / sharp)
    stroke = (0.5 - ((outline + width / 2).abs() - width / 2) * sharp).clamp(0, 1)[:, None] * flat["rim_alpha"]
    shade = torch.lerp(base * flat["rim_gain"] + flat["glow"] * 0.25, _fixed(INK, device), flat["rim_ink"])
    rgb = torch.lerp(rgb, shade, stroke)
    if needs.textured:
        wash = flat["wash"] * (0.2 + 0.25 * grain[:, None])
        rgb = rgb + wash * (1 - rgb)
    # light around neon things and the soft shadow under flat ones do not belong to the mask
    around = style["shadow"] * torch.exp(-((u / 0.75) ** 2)) * torch.exp(-(((v - 0.97) / 0.13) ** 2))
    if needs.glowing:
        around = torch.maximum(around, style["glow"] * torch.exp(-((outline.clamp(min=0) / 0.13) ** 2)))
    tint = torch.where(flat["glow"] > 0, base, _fixed((0.12, 0.10, 0.22), device))
    around = (1 - solid) * around
    alpha = solid + around
    rgb = torch.lerp(tint.expand_as(rgb), rgb.clamp(0, 1), (solid / (alpha + 1e-6))[:, None])
    return pixel, rgb, alpha * inside, solid * inside


def _pattern(pattern: Tensor, u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    """Share of the second colour (n, P, P) for plain, striped, dotted and checked; a period is half a unit."""
    period = 0.50
    p, q = ((w / period - torch.floor(w / period + 0.5)) * period for w in (u, v))  # distance to the nearest cell centre
    a, b = period / 4 - p.abs(), period / 4 - q.abs()  # positive inside a band
    dots = 0.155 - (p * p + q * q + 1e-9).sqrt()
    checks = torch.minimum(a.abs(), b.abs()) * torch.sign(a * b)
    kind = pattern[:, None, None]
    inside = torch.where(kind == 1, b, torch.where(kind == 2, dots, checks))
    return (0.5 + inside * sharp).clamp(0, 1) * (kind > 0)
