"""Measures of a path of pictures: how even its hops are, how direct it is, and whether each frame is a picture at all.

frames: (n, 3, H, W) of one path, or (B, n, 3, H, W) of several; what is said of hops takes (B, n - 1), or (n - 1,) of one path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidiff.errors import check_pictures, require
from minidiff.measure.features import mini_lpips
from minidiff.measure.reader import Reader
from minidiff.measure.reading import read
from minidiff.world import BACKDROPS, KINDS, Scene, morph, render

__all__ = ["detours", "directness", "equal_spacing", "ghost", "gold_frames", "hops", "perceptual", "smoothness", "speed_cv",
           "thing_counts", "to_gold"]

Distance = Callable[[Tensor, Tensor], Tensor]


def _paths(frames: Tensor) -> Tensor:
    frames = frames[None] if isinstance(frames, Tensor) and frames.ndim == 4 else frames
    good = isinstance(frames, Tensor) and frames.ndim == 5 and frames.shape[1] >= 2
    require(good, "frames", getattr(frames, "shape", type(frames).__name__), "(n, 3, H, W) or (B, n, 3, H, W), n at least 2")
    check_pictures("frames", frames.flatten(0, 1))
    return frames


def rms(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square difference (B,) of pictures, pixel values in [-1, 1]."""
    return (x - y).flatten(1).square().mean(1).sqrt()


def perceptual(reader: Reader) -> Distance:
    """The root of MiniLPIPS as a distance (x, y) -> (B,).

    MiniLPIPS itself is a squared distance: k equal straight hops sum to 1/k of it, so that every path in small steps would be
    shorter than the way between its ends. Its root is a length.
    """
    return lambda x, y: mini_lpips(x, y, reader).clamp(min=0).sqrt()


@torch.no_grad()
def hops(frames: Tensor, distance: Distance = rms) -> Tensor:
    """Distances of neighbouring frames: (B, n - 1)."""
    x = _paths(frames)
    b, n = x.shape[:2]
    return distance(x[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1)).view(b, n - 1)


def smoothness(steps: Tensor) -> Tensor:
    """1 - the Gini coefficient of the hops (AID's measure, He et al. 2024), (B,): 1 for equal hops, 1/n for one jump in n.

    A path that does not move at all has 1.
    """
    x = steps.double().reshape(-1, steps.shape[-1]).sort(1).values
    n = x.shape[1]
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=x.device)
    total = x.sum(1)
    gini = (2 * (rank * x).sum(1) / (n * total.clamp(min=1e-300)) - (n + 1) / n)
    return torch.where(total > 0, 1 - gini, torch.ones_like(gini))


def speed_cv(steps: Tensor) -> Tensor:
    """Standard deviation of the hops over their mean, (B,): 0 for equal hops, sqrt(n - 1) for one jump in n."""
    x = steps.double().reshape(-1, steps.shape[-1])
    return x.std(1, correction=0) / x.mean(1).clamp(min=1e-300)


@torch.no_grad()
def directness(frames: Tensor, distance: Distance = rms) -> Tensor:
    """Length of the path over the distance of its ends, (B,): 1 for a straight one."""
    x = _paths(frames)
    return hops(x, distance).sum(1) / distance(x[:, 0], x[:, -1]).clamp(min=1e-12)


def equal_spacing(weights: Sequence[float], steps: Tensor, count: int) -> Tensor:
    """Weights (B, count) at which hops would be equal: the way behind each weight, inverted piecewise linearly.

    weights: n rising numbers; steps (B, n - 1) or (n - 1,). DiffMorpher's rescheduling (Zhang et al. 2024), and what has to be
    done before validity is compared: a path that jumps has nearly all of its frames near its ends, where they are good.
    """
    w = torch.as_tensor(weights, dtype=torch.float64)
    x = steps.double().reshape(-1, steps.shape[-1])
    require(len(w) == x.shape[1] + 1, "steps", f"{x.shape[1]} hops", f"{len(w) - 1}: one fewer than weights")
    require(isinstance(count, int) and count >= 2, "count", repr(count), "at least 2", "count=9")
    way = torch.cat([torch.zeros(len(x), 1, dtype=torch.float64), x.cumsum(1)], 1)
    way = way + 1e-9 * way[:, -1:].clamp(min=1e-12) * torch.arange(len(w))             # strictly rising
    goal = torch.linspace(0, 1, count, dtype=torch.float64) * way[:, -1:]
    k = torch.searchsorted(way, goal.contiguous()).clamp(1, len(w) - 1)
    low, high = way.gather(1, k - 1), way.gather(1, k)
    return torch.lerp(w[k - 1], w[k], ((goal - low) / (high - low)).clamp(0, 1))


def ghost(frames: Tensor, first: Tensor, other: Tensor, *, least: float = 0.05) -> Tensor:
    """How much of each frame's difference from the nearer end a blend of both ends explains: (B, n), 1 for a cross-fade.

    1 - min_w |x - (1 - w) a - w b|^2 / min(|x - a|^2, |x - b|^2), w in [0, 1]. first, other: (3, H, W) or (B, 3, H, W). A
    frame that differs from its nearer end by less than ``least`` of the way between the ends counts as that end: 0.
    """
    x = _paths(frames)
    a, b = (e[None] if e.ndim == 3 else e for e in (first, other))
    x, a, b = x.flatten(2).double(), a.flatten(1).double()[:, None], b.flatten(1).double()[:, None]
    way = (b - a).square().sum(-1)
    w = (((x - a) * (b - a)).sum(-1) / way.clamp(min=1e-12)).clamp(0, 1)
    left = (x - a - w[..., None] * (b - a)).square().sum(-1)
    near = torch.minimum((x - a).square().sum(-1), (x - b).square().sum(-1))
    return torch.where(near > least**2 * way, 1 - left / near.clamp(min=1e-12), torch.zeros_like(near)).float()


def thing_counts(frames: Tensor, reader: Reader) -> Tensor:
    """How many things the reader finds in each frame: (B, n) whole numbers."""
    x = _paths(frames)
    return read(x.flatten(0, 1), reader).scenes.present.sum(1).view(x.shape[:2])


def detours(frames: Tensor, first: Scene, other: Scene, reader: Reader) -> Tensor:
    """Which frames (n,) of one path show a kind or a backdrop that neither end has, or no thing at all.

    A kind half-way between two others may be read as a third one, so read it beside the gold morph's own share.
    """
    found = read(_paths(frames)[0], reader).scenes
    kinds = {KINDS.index(t.kind) for s in (first, other) for t in s.things}
    grounds = torch.tensor([BACKDROPS.index(s.backdrop) for s in (first, other)], device=found.backdrop.device)
    known = torch.zeros(len(KINDS), dtype=torch.bool, device=found.kind.device)
    known[list(kinds)] = True
    strange = (found.present & ~known[found.kind]).any(1) | ~found.present.any(1)
    return strange | (found.backdrop[:, None] != grounds).all(1)


def gold_frames(first: Scene, other: Scene, size: int, *, count: int = 33) -> Tensor:
    """The world's own morph of two scenes, the path that is right: (count, 3, size, size), see :func:`minidiff.world.morph`."""
    return render(morph(first, other, torch.linspace(0, 1, count)), size).images


@torch.no_grad()
def to_gold(frames: Tensor, gold: Tensor, distance: Distance = rms) -> Tensor:
    """Distance of each frame (n, 3, H, W) from the nearest one of the gold morph (m, 3, H, W): (n,).

    How far off the path a frame is, wherever on it it should be.
    """
    x = _paths(frames)[0]
    each = [distance(x, g.expand_as(x)) for g in gold]
    return torch.stack(each).amin(0)
