"""Five ways to draw a picture of the small world, what the final reader finds on it, and how many of its cells are reached."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.course.samples import sampled
from minidiff.diffusion import ddim, ddpm, row_noise
from minidiff.diffusion.ddgan import ddgan
from minidiff.errors import check_choice
from minidiff.measure.interval import Estimate
from minidiff.measure.reading import read
from minidiff.recipes.few import FewData, labels
from minidiff.world import render
from minidiff.zoo import load

__all__ = ["CELLS", "DIFFUSION", "WAYS", "cells_among", "cells_of", "coverage", "cpu_seconds", "ddim_pictures",
           "fair_cells", "pictures", "spoilt"]

DIFFUSION = "pixel-guided"       # its unconditional half: the same small world, and as many parameters as the GANs' generators
WAYS = {"VAE": 1, "GAN": 1, "DDPM-1000": 1000, "DDIM-20": 20, "DDGAN-4": 4}         # name -> network calls a picture
CELLS = 45                       # 15 pairs of kind and colour that are in training, 3 backdrops


def _run(way: str, n: int, seed: int) -> Callable[[], Tensor]:
    """What makes n pictures anew."""
    rows = range(n)
    if way == "VAE":
        model = load("vae-32")
        return lambda: model.decode(row_noise((n, model.z_dim), seed=seed, t=0, rows=rows, stream="vae"))
    if way in ("GAN", "DDGAN-4"):
        model = load("gan-32" if way == "GAN" else "ddgan")
        x = row_noise((n, 3, 32, 32), seed=seed, t=model.schedule.T, rows=rows, stream="start")
        return lambda: list(ddgan(model, x, model.schedule, z_dim=model.z_dim, seed=seed, rows=rows))[-1].x
    options = {"steps": 20} if way == "DDIM-20" else {}
    return lambda: sampled(n, "ddim" if options else "ddpm", name=DIFFUSION, seed=seed, clip="x0", **options)


@functools.lru_cache(maxsize=16)
def pictures(way: str, n: int, *, seed: int = 0) -> Tensor:
    """n pictures (n, 3, 32, 32) in [-1, 1]; picture i is a function of (way, seed, i). Diffusion samples are kept on disk."""
    check_choice("way", way, WAYS)
    with torch.no_grad():
        return torch.cat([_run(way, n, seed)()]).clamp(-1, 1)


@functools.lru_cache(maxsize=8)
def ddim_pictures(steps: int, n: int, *, seed: int = 0) -> Tensor:
    """n pictures like those of "DDIM-20" with another number of network calls, spaced so that the first is at pure noise."""
    return sampled(n, "ddim", name=DIFFUSION, seed=seed, clip="x0", steps=steps, spacing="trailing").clamp(-1, 1)


def spoilt(n: int) -> dict[str, Tensor]:
    """Pictures (n, 3, 32, 32) to try the reader on: held-out ones, and three ways to spoil them."""
    real, scenes = FewData(32, "test").batch(0, n)
    soft = F.interpolate(F.avg_pool2d(real, 4), scale_factor=4, mode="bilinear")
    empty = render(scenes.replace(present=torch.zeros_like(scenes.present)), 32).images
    return {"held-out pictures": real, "blurred to 8 x 8 values": soft, "mean of two": (real + real.roll(1, 0)) / 2,
            "backdrops alone": empty}


def cells_of(images: Tensor, *, reader: str = "final") -> Tensor:
    """(B,) the cell of the small world that the reader finds, 0 to 47, or -1 where it does not find one thing of that world."""
    seen = read(images, load(f"readers/{reader}")).scenes
    kind, colour, backdrop = labels(seen)
    good = (seen.present.sum(1) == 1) & (kind >= 0) & (colour >= 0) & (backdrop >= 0)
    return torch.where(good, (kind * 4 + colour) * 3 + backdrop, -1)


def cells_among(counts: Tensor, n: int, m: int) -> float:
    """Expected number of cells among m of n pictures, drawn without putting back; counts: (K,) pictures of each cell."""
    i = torch.arange(m)
    return float((1 - ((n - counts.double()[:, None] - i) / (n - i)).prod(1)).sum())


def fair_cells(m: int) -> float:
    """Expected number of cells among m pictures of the world itself, where all 45 are as likely."""
    return CELLS * (1 - (1 - 1 / CELLS) ** m)


def coverage(cells: Tensor, m: int) -> Estimate:
    """:func:`cells_among` m of the pictures, with a 95 % interval by the jackknife. cells: (n,), -1 for none."""
    n, counts = len(cells), torch.bincount(cells[cells >= 0], minlength=48)
    value = cells_among(counts, n, m)
    kinds, times = counts.nonzero()[:, 0], counts[counts > 0]
    without = torch.tensor([cells_among(counts - torch.eye(48, dtype=torch.long)[k], n - 1, m) for k in kinds] +
                           [cells_among(counts, n - 1, m)] * bool((cells < 0).any()), dtype=torch.float64)
    weight = torch.cat([times, (cells < 0).sum()[None]] if len(without) > len(times) else [times]).double()
    mean = (weight * without).sum() / n
    half = 1.96 * math.sqrt((n - 1) / n * float((weight * (without - mean).square()).sum()))
    return Estimate(value, value - half, value + half, n=n)


def cpu_seconds(way: str, n: int, *, repeats: int = 5) -> Tensor:
    """(repeats,) CPU seconds a picture, of all threads, for n pictures at once; of DDPM-1000 and DDIM-20 five calls are timed."""
    check_choice("way", way, WAYS)
    found = []
    for k in range(repeats + 1):
        if way in ("DDPM-1000", "DDIM-20"):
            model, x = load(DIFFUSION), row_noise((n, 3, 32, 32), seed=k, t=1000, rows=range(n), stream="start")
            loop = ddpm(model, x, clip="x0") if way == "DDPM-1000" else ddim(model, x, steps=20, clip="x0")
            next(loop)
            start = time.process_time()
            for _ in range(5):
                next(loop)
            spent = (time.process_time() - start) / 5 * WAYS[way]
        else:
            make = _run(way, n, k)
            start = time.process_time()
            with torch.no_grad():
                make()
            spent = time.process_time() - start
        found.append(spent / n)
    return torch.tensor(found[1:], dtype=torch.float64)                # the first one warms up
