"""IMPUS's measures of a path and its perceptually uniform sampling, on anything that can be drawn at a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.measure.path import Distance

__all__ = ["lora_rank", "relative_diversity", "uniform_path", "uniform_paths"]

Draw = Callable[[Sequence[int], Sequence[float]], Tensor]   # (which paths, where) -> a frame of each


def relative_diversity(frames: Tensor, distance: Distance, *, order: str = "forward") -> float:
    """IMPUS's rPPD: the sum of the hops over (n - 1) times the distance of the ends, for the n + 1 frames of n hops.

    frames (n + 1, 3, H, W), the first end first. A straight path of lengths gives 1 / (n - 1), not 1 / n: the released code
    divides ten hops by nine, and the rank rule was made with it. order "forward" is the definition. "code" is what the released
    loop walks: it sets out from the first end, jumps to the last frame but one and comes back, so that a straight path has
    1.8 / 9 in place of 1 / 9.
    """
    require(order in ("forward", "code"), "order", repr(order), "'forward' or 'code'")
    require(frames.ndim == 4 and len(frames) >= 3, "frames", f"shape {tuple(frames.shape)}", "(n, 3, H, W), n at least 3")
    n = len(frames) - 1
    way = frames if order == "forward" else torch.cat([frames[:1], frames[:-1].flip(0)])
    total = float(distance(way[:-1], way[1:]).sum())
    return total / ((n - 1) * max(float(distance(frames[:1], frames[-1:])[0]), 1e-12))


def lora_rank(diversity: float, *, slope: float = 18.0, start: float = 6.0, most: int = 32) -> int:
    """The rank for a path of this relative diversity: 2 ** max(0, floor(slope d - start)), at most ``most`` (IMPUS, appendix).

    The published numbers belong to LPIPS of photographs and a path of ten hops: rank 1 below .389, then doubled every .056.
    """
    require(math.isfinite(diversity) and diversity >= 0, "diversity", diversity, "a finite number, 0 or more")
    require(most >= 1, "most", most, "a rank, 1 or more", "most=32")
    return min(most, 2 ** max(0, math.floor(slope * diversity - start + 1e-9)))


def uniform_path(known: dict[float, Tensor], distance: Distance, *, delta: float, tol: float = 0.05,
                 narrowest: float = 1e-5) -> Generator[float, Tensor, list[float]]:
    """Perceptually uniform sampling (IMPUS, section 3.4): the weights from 0 to 1 at which each hop is delta.

    A generator: it yields a weight, is sent the frame (3, H, W) there, and returns the weights. From the frame it stands on it
    halves the interval until a hop is within ``tol`` of delta (a share of it), goes there, and stops where the other end is
    within delta. known: weight -> frame, of 0.0 and 1.0 at least; what is drawn is put there, and what is known already is
    not asked for. Where the interval gets as narrow as ``narrowest`` the path leaps: the frame behind the leap is taken.
    """
    require({0.0, 1.0} <= set(known), "known", sorted(known), "the frames of both ends, at 0.0 and 1.0")
    require(delta > 0 and 0 < tol < 1, "delta, tol", (delta, tol), "delta above 0 and tol, a share of it, in (0, 1)")
    here, path = 0.0, [0.0]

    def gap(w: float) -> float:
        return float(distance(known[here][None], known[w][None])[0]) / delta

    while gap(1.0) > 1 + tol:
        ahead = [w for w in sorted(known) if w > here]
        high = next(w for w in ahead if gap(w) >= 1 - tol)
        low = max(w for w in known if w < high)
        while gap(high) > 1 + tol and high - low > narrowest:
            middle = (low + high) / 2
            known[middle] = yield middle
            low, high = (low, middle) if gap(middle) >= 1 - tol else (middle, high)
        here = high
        path.append(here)
    return path if here == 1.0 else [*path, 1.0]


def uniform_paths(draw: Draw, known: Sequence[dict[float, Tensor]], distance: Distance, deltas: Sequence[float], *,
                  tol: float = 0.05, narrowest: float = 1e-5) -> list[list[float]]:
    """:func:`uniform_path` of many paths side by side: each turn draws one frame of every path that still wants one."""
    runs = [uniform_path(k, distance, delta=d, tol=tol, narrowest=narrowest) for k, d in zip(known, deltas, strict=True)]
    done: dict[int, list[float]] = {}
    wanted: dict[int, float] = {}

    def go(i: int, frame: Tensor | None) -> None:
        try:
            wanted[i] = runs[i].send(frame)                     # type: ignore[arg-type]
        except StopIteration as end:
            done[i] = end.value
            wanted.pop(i, None)

    for i in range(len(runs)):
        go(i, None)
    while wanted:
        rows = list(wanted)
        for i, frame in zip(rows, draw(rows, [wanted[i] for i in rows]), strict=True):
            go(i, frame)
    assert all(a < b for path in done.values() for a, b in pairwise(path))
    return [done[i] for i in range(len(runs))]
