"""What a measure of validity must not be fooled by: pictures that are broken in known ways, and its thresholds from them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import require
from minidiff.measure.reader import Reader
from minidiff.measure.synthesis import explain
from minidiff.rng import normal
from minidiff.world import COLOURS, Scenes, WorldData, render

__all__ = ["bad_pictures", "calibrate", "passing"]


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, 3, S, S) by ``sigma`` pixels, the border repeated."""
    reach = math.ceil(3 * sigma)
    line = torch.exp(-((torch.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    kernel = (line / line.sum()).to(x).expand(x.shape[1], 1, 1, -1)
    for k in (kernel, kernel.transpose(2, 3)):
        pad = (reach, reach, 0, 0) if k.shape[-1] > 1 else (0, 0, reach, reach)
        x = F.conv2d(F.pad(x, pad, mode="replicate"), k, groups=x.shape[1])
    return x


def _slow(n: int, channels: int, size: int, cells: int, *name: str) -> Tensor:
    """Smooth noise (n, channels, size, size) with about ``cells`` bumps along a side, unit variance on its own grid."""
    return F.interpolate(normal((n, channels, cells + 1, cells + 1), *name, 0), size=(size, size), mode="bicubic")


def _blots(empty: Tensor, scenes: Scenes) -> Tensor:
    """What a pixel model draws that has been trained too little: a lump of no shape in two or three colours, with speckle."""
    n, size = len(empty), empty.shape[-1]
    line = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    far = ((x - scenes.x[:, :1, None]) ** 2 + (y - scenes.y[:, :1, None]) ** 2).sqrt() / scenes.size[:, :1, None]
    lump = torch.sigmoid(12 * (1.0 - far + 0.30 * _slow(n, 1, size, 7, "lump")[:, 0]))[:, None]
    table = torch.tensor(list(COLOURS.values())) / 127.5 - 1
    first = table[scenes.colour[:, 0]][:, :, None, None]
    other = table[(scenes.colour[:, 0] + 1 + scenes.kind[:, 0] % (len(table) - 1)) % len(table)][:, :, None, None]
    body = torch.lerp(first, other, torch.sigmoid(3 * _slow(n, 1, size, 5, "stain")))
    body = body + 0.25 * _slow(n, 3, size, 9, "tone") + 0.12 * normal((n, 3, size, size), "speckle", 0)
    return torch.lerp(empty, body, lump).clamp(-1, 1)


@torch.no_grad()
def bad_pictures(scenes: Scenes, size: int) -> dict[str, Tensor]:
    """Pictures (B, 3, size, size) that no scene explains, made from B >= 3 scenes; each name one way to be broken.

    "empty": backdrops alone. "smear": blurred by a sixteenth of the side. "average": means of four pictures. "ghost": every thing
    half transparent. "cross-fade": half of one picture and half of the next. "chimera": the left half of one and the right half
    of the next. "blot": shapeless lumps of colour, as from a model trained too little.
    """
    require(len(scenes) >= 3, "scenes", f"{len(scenes)} scenes", "at least 3: pictures are mixed with the next ones")
    x = render(scenes, size).images
    empty = render(scenes.replace(present=torch.zeros_like(scenes.present)), size).images
    following = x.roll(-1, 0)
    left = torch.arange(size) < size // 2
    return {"empty": empty, "smear": _blur(x, size / 16), "average": sum(x.roll(-k, 0) for k in range(4)) / 4,
            "ghost": (x + empty) / 2, "cross-fade": (x + following) / 2, "chimera": torch.where(left, x, following),
            "blot": _blots(empty, scenes)}


def _measured(reader: Reader, level: str, size: int, n: int, split: str, seed: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Per kind of picture ("real" first): residual (n,), least gain (n,), has a thing (n,)."""
    images, scenes = WorldData(size, split, level, seed).batch(0, n)
    out = {}
    for name, pictures in ({"real": images} | bad_pictures(scenes, size)).items():
        found = explain(pictures, reader)
        out[name] = (found.residual, found.gain.amin(1), found.scenes.present.any(1))
    return out


def passing(reader: Reader, *, level: str, size: int, n: int, split: str = "test", seed: int = 0) -> dict[str, float]:
    """Share of n pictures of each kind that count as valid: "real", then the names of :func:`bad_pictures`."""
    images, scenes = WorldData(size, split, level, seed).batch(0, n)
    kinds = {"real": images} | bad_pictures(scenes, size)
    return {name: float(explain(x, reader).valid.double().mean()) for name, x in kinds.items()}


def _share(measured: tuple[Tensor, Tensor, Tensor], below: float, above: float) -> float:
    left, gains, present = measured
    return float(((left < below) & (gains > above) & present).double().mean())


def calibrate(reader: Reader, *, n: int = 150, split: str = "valid", allowed: float = 0.0,
              levels: tuple[tuple[str, int], ...] = (("simple", 32), ("full", 64))) -> dict[str, object]:
    """The thresholds of :func:`minidiff.measure.synthesis.judge` from n clean and n broken pictures of each kind and level.

    Of the pairs (largest residual, least gain) that let at most ``allowed`` of every kind of broken picture pass, the one that
    the most real pictures pass at their worst level; among equals the largest residual, then the least gain: good samples of a
    model are never as clean as real pictures. Returns "below", "above", the shares that pass, and quantiles to look at.
    """
    tables = {f"{level} {size}": _measured(reader, level, size, n, split, 1) for level, size in levels}
    best: tuple[float, float, float] | None = None
    for below in torch.arange(0.06, 0.301, 0.01).tolist():
        for above in torch.arange(0.30, 0.96, 0.05).tolist():
            shares = [{k: _share(v, below, above) for k, v in t.items()} for t in tables.values()]
            if max(v for t in shares for k, v in t.items() if k != "real") <= allowed:
                good = min(t["real"] for t in shares)
                best = max(best or (-1.0, 0.0, 0.0), (round(good, 3), round(below, 2), -round(above, 2)))
    require(best is not None, "allowed", allowed, "a share that some thresholds reach", "allowed=0.02, or a better reader")
    real, below, above = best[0], best[1], -best[2]
    tail = torch.tensor([0.5, 0.9, 0.98])
    return {"below": below, "above": above, "real, worst level": real,
            "pass": {where: {k: _share(v, below, above) for k, v in t.items()} for where, t in tables.items()},
            "residual of real, quantiles .5 .9 .98": {w: t["real"][0].quantile(tail).tolist() for w, t in tables.items()},
            "gain of real, quantiles .5 .1 .02": {w: t["real"][1].quantile(1 - tail).tolist() for w, t in tables.items()}}
