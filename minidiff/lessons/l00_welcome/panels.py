"""The pictures behind the panels of lesson 00: a scene builder, a cross-fade that stops being valid, and intervals."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from minidiff.measure import explain, wilson
from minidiff.show import Picture, grid, tile
from minidiff.world import ANIMALS, BACKDROPS, COLOURS, KINDS, PATTERNS, STYLES, WEARS, Scene, Thing, WorldData, caption, render
from minidiff.zoo import load

__all__ = ["CHOICES", "scene_from", "draw_scene", "fades", "show_fade", "share_interval", "cover"]

CHOICES = {"kind": KINDS, "colour": tuple(COLOURS), "pattern": PATTERNS, "wears": WEARS, "backdrop": BACKDROPS, "style": STYLES}


def scene_from(*, kind: str, colour: str, pattern: str, wears: str, backdrop: str, style: str, x: float, size: float) -> Scene:
    """The scene that the knobs say; glasses and bow ties fall off what has no face."""
    if kind not in ANIMALS and wears not in ("nothing", "hat"):
        wears = "nothing"
    return Scene((Thing(kind, colour, pattern, size=size, x=x, wears=wears),), backdrop, style)


def draw_scene(**knobs: object) -> tuple[np.ndarray, str]:
    """Picture, mask and depth side by side, and one caption of the scene; it says what could not be worn."""
    scene = scene_from(**knobs)
    out = render(scene, 128)
    mask, depth = ((m.expand(-1, 3, -1, -1) * 2 - 1) for m in (out.masks[:, :1], out.depth[:, None]))
    missing = "" if scene.things[0].wears == knobs["wears"] else f" (a {knobs['kind']} has no face for the {knobs['wears']})"
    return tile(torch.cat([out.images, mask, depth]), columns=3, scale=2, gap=6), caption(scene, 0) + missing


@functools.lru_cache(maxsize=1)
def fades() -> tuple[Tensor, Tensor, list[float], list[bool]]:
    """Eleven cross-fades between two held-out pictures, what explains each best, the residual, and whether it is valid."""
    images, _ = WorldData(32, "test", "simple").batch(0, 13)
    a, b = images[0], images[12]
    x = torch.stack([torch.lerp(a, b, share / 10) for share in range(11)])
    found = explain(x, load("readers/develop"))
    with torch.no_grad():
        best = render(found.scenes, 32).images
    return x, best, found.residual.tolist(), found.valid.tolist()


def show_fade(*, share: int) -> tuple[np.ndarray, str]:
    """The fade at ``share`` tenths, the rendering that explains it best, and their difference, four times as bright."""
    x, best, left, valid = fades()
    row = torch.stack([x[share], best[share], (4 * (x[share] - best[share]).abs()).clamp(max=2) - 1])
    words = "valid" if valid[share] else "not valid: no scene explains it"
    return tile(row, columns=3, scale=6, gap=6), f"{share / 10:g} of the second picture: residual {left[share]:.3f}, {words}"


def share_interval(*, n: int, percent: int) -> tuple[np.ndarray, str]:
    """The 95 % interval of a share that was ``percent`` % in a sample of n, drawn as a bar from 0 to 1."""
    right = round(n * percent / 100)
    found = wilson(right, n)
    sheet = np.full((60, 601, 3), 250, np.uint8)
    sheet[28:32] = 215
    for tick in range(0, 601, 60):
        sheet[20:40, tick] = 170
    low, high = round(600 * found.low), round(600 * found.high)
    sheet[18:42, low : high + 1] = (120, 170, 225)
    middle = round(600 * found.value)
    sheet[10:50, max(0, middle - 1) : middle + 2] = (20, 60, 140)
    return (
        sheet,
        f"{right} of {n}: share {found.value:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f} (scale from 0 to 1)",
    )


def cover() -> Picture:
    """The picture at the top of the README: every kind, all styles. ``cover().save("data/world.png")`` makes it again."""
    colours = list(COLOURS)
    scenes = [
        Scene((Thing(kind, colours[(i + 2 * row) % 9], size=0.3),), BACKDROPS[(i + row) % 6], style)
        for row, style in enumerate(STYLES)
        for i, kind in enumerate(KINDS)
    ]
    return grid(render(scenes, 56).images, columns=len(KINDS), scale=1, alt="Twelve kinds of things in five drawing styles")
