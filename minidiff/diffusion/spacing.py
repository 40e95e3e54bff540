"""Which steps a sampler visits. Every published convention, by name.

| name          | steps visited, T = 1000, S = 10              | where                                                      |
|---------------|----------------------------------------------|------------------------------------------------------------|
| leading       | 900 800 ... 0 (+ offset)                     | diffusers' default; offset 1: Stable Diffusion, CompVis    |
| trailing      | 999 899 ... 99                               | Lin et al. 2023: starts at the last step                   |
| linspace      | 999 888 ... 0                                | iDDPM's idea, diffusers' rounding                          |
| linspace_open | 999 899 ... 100: S + 1 points without the 0  | diffusers' DPM-Solver and its "linspace"                   |
| leading_open  | 900 810 ... 90: the same for leading         | diffusers' DPM-Solver and its "leading"                    |
| openai        | 999 888 ... 0, rounded one by one            | improved-diffusion's timestep_respacing="10"               |
| uniform       | range(0, T, T // S): more than S if S does not divide T | DDIM's own code                                 |
| quad          | 800 632 ... 9 0: dense near the picture      | DDIM paper, CIFAR-10                                       |
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import numpy as np

from minidiff.errors import BadInput, check_choice, require

__all__ = ["SPACINGS", "timesteps", "step_pairs"]

SPACINGS = ("leading", "trailing", "linspace", "linspace_open", "leading_open", "openai", "uniform", "quad")


def _points(T: int, S: int, spacing: str) -> list[int]:
    """S steps, in any order, before the offset. np.round takes halves to the even neighbour, as the published codes do."""
    i = np.arange(S)
    if spacing == "leading":
        return list(i * (T // S))
    if spacing == "trailing":
        return list(np.round(np.arange(T, 0, -T / S)[:S]) - 1)
    if spacing == "linspace":
        return list(np.linspace(0, T - 1, S).round())
    if spacing == "linspace_open":
        return list(np.linspace(0, T - 1, S + 1).round()[1:])
    if spacing == "leading_open":
        return list(np.arange(1, S + 1) * (T // (S + 1)))
    if spacing == "uniform":
        return list(range(0, T, T // S))
    if spacing == "quad":
        return list((np.linspace(0, np.sqrt(T * 0.8), S) ** 2).astype(int))
    stride, point, points = ((T - 1) / (S - 1) if S > 1 else 1), 0.0, []  # openai: the sum of strides, then rounded
    for _ in range(S):
        points.append(round(point))
        point += stride
    return points


def timesteps(T: int, steps: int | Sequence[int], *, spacing: str = "leading", offset: int = 0) -> list[int]:
    """The steps a sampler visits, from noise to picture: strictly falling integers in [0, T-1].

    steps: how many (1 to T), or the steps themselves. offset: added to each, for the leading spacings.
    Where a convention names one step twice (quad, at many steps) it is visited once: the second visit does nothing.
    """
    if isinstance(steps, Iterable):
        chosen = [operator.index(t) for t in steps]
        falls = len(chosen) > 0 and all(a > b for a, b in zip(chosen, chosen[1:], strict=False))
        require(falls and chosen[0] < T and chosen[-1] >= 0, "steps", chosen[:8], f"falling integers in [0, {T - 1}]",
                "sorted(set(steps), reverse=True)")
        return chosen
    check_choice("spacing", spacing, SPACINGS)
    require(hasattr(steps, "__index__"), "steps", repr(steps), "a whole number, or the steps themselves", "steps=50")
    steps = operator.index(steps)
    most = T - 1 if spacing.endswith("_open") else T
    require(1 <= steps <= most, "steps", steps, f"1 to {most} steps: the model was trained on T = {T}", f"steps={min(50, most)}")
    if offset and not spacing.startswith("leading"):
        raise BadInput("offset", f"{offset} with spacing {spacing!r}", "0: only the leading spacings take an offset", "offset=0")
    points = sorted({int(p) + offset for p in _points(T, steps, spacing)}, reverse=True)
    require(points[0] < T and points[-1] >= 0, "offset", offset,
            f"steps that stay in [0, {T - 1}], not {points[0]} to {points[-1]}", "offset=0, or fewer steps")
    return points


def step_pairs(T: int, steps: int | Sequence[int], *, spacing: str = "leading", offset: int = 0,
               compat: str | None = None) -> list[tuple[int, int]]:
    """(t, t_prev) of every step; the last t_prev is -1.

    compat="diffusers": t_prev = t - T // S whatever the spacing (its DDIM scheduler). For linspace, and wherever S does not
    divide T, the picture is then brought to one noise level and read at another.
    """
    if compat is not None:
        check_choice("compat", compat, ("diffusers",))
    visited = timesteps(T, steps, spacing=spacing, offset=offset)
    if compat == "diffusers":
        count = len(visited) if isinstance(steps, Iterable) else steps
        return [(t, max(t - T // count, -1)) for t in visited]
    return list(zip(visited, [*visited[1:], -1], strict=True))
