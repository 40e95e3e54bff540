"""The plots of the course: curves, measured rows as bars, points in the plane. Each must name its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from minidiff.errors import require
from minidiff.show.sheet import Picture, picture
from minidiff.show.theme import CYCLE, DASHES, MARKERS, SOFT, colour, figure

__all__ = ["curve", "bars", "scatter2d"]


def _numbers(x: Any) -> np.ndarray:
    return x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=float)


def curve(
    lines: Mapping[str, tuple[Any, Any]],
    *,
    x: str,
    y: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
    level: Mapping[str, float] | None = None,
    height: float = 3.0,
    alt: str,
    caption: str = "",
) -> Picture:
    """Curves with a legend: lines is name -> (xs, ys). level: name -> height of a dashed horizontal line (a floor, a target)."""
    require(len(lines) > 0, "lines", "none", "name -> (xs, ys)", "curve({'DDIM': (steps, errors)}, ...)")
    fig, ax = figure(x, y, title=title, height=height)
    for k, (name, (xs, ys)) in enumerate(lines.items()):
        style = {"marker": MARKERS[k % len(MARKERS)]} if markers else {"linestyle": DASHES[k % len(DASHES)]}
        ax.plot(_numbers(xs), _numbers(ys), color=colour(CYCLE[k % len(CYCLE)]), label=name, **style)
    for name, value in (level or {}).items():
        ax.axhline(value, color=SOFT, linewidth=1.2, linestyle=(0, (4, 3)), label=name)
    if log_x:
        ax.set_xscale("log")
        stops = sorted({float(v) for xs, _ in lines.values() for v in _numbers(xs)})
        if len(stops) <= 8:  # few enough to be written out
            ax.set_xticks(stops, [f"{v:g}" for v in stops])
            ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    if log_y:
        ax.set_yscale("log")
    if len(lines) + len(level or {}) > 1:
        ax.legend()
    return picture(fig, alt=alt, caption=caption)


def bars(
    rows: Mapping[str, tuple[float, float, float]],
    *,
    x: str,
    y: str = "method",
    level: Mapping[str, float] | None = None,
    title: str = "",
    alt: str,
    caption: str = "",
) -> Picture:
    """Measured values with intervals, one below the other: rows is name -> (value, low, high). level: name -> vertical line."""
    require(len(rows) > 0, "rows", "none", "name -> (value, low, high)")
    fig, ax = figure(x, y, title=title, height=0.9 + 0.42 * len(rows))
    for k, (value, low, high) in enumerate(rows.values()):
        ax.barh(-k, value, height=0.62, color=colour(CYCLE[0]), alpha=0.85)
        ax.plot([low, high], [-k, -k], color=colour("ink"), linewidth=1.6, marker="|", markersize=8)
    ax.set_yticks([-k for k in range(len(rows))], list(rows))
    ax.grid(axis="y", visible=False)
    for k, (name, value) in enumerate((level or {}).items()):
        ax.axvline(value, color=colour(("orange", "purple", "green")[k % 3]), linestyle=DASHES[1 + k % 3], label=name)
    if level:
        ax.legend()
    return picture(fig, alt=alt, caption=caption)


def scatter2d(
    sets: Mapping[str, Any] | Sequence[Any],
    *,
    x: str = "x",
    y: str = "y",
    limit: float | None = None,
    size: float = 4.0,
    alt: str,
    caption: str = "",
) -> Picture:
    """Points in the plane, one plot beside another: sets is name -> (N, 2). limit: half of the side that is shown."""
    named = sets if isinstance(sets, Mapping) else {str(k): value for k, value in enumerate(sets)}
    require(len(named) > 0, "sets", "none", "name -> points (N, 2)")
    fig, axes = figure([x] * len(named), y, title=list(named), height=0.9 + 6.4 / max(len(named), 2), share_y=True)
    axes = [axes] if len(named) == 1 else axes
    points = [_numbers(value) for value in named.values()]
    limit = limit or 1.08 * max(float(np.abs(p).max()) for p in points)
    for ax, p in zip(axes, points, strict=True):
        require(p.ndim == 2 and p.shape[1] == 2, "sets", f"points of shape {p.shape}", "points of shape (N, 2)")
        ax.scatter(p[:, 0], p[:, 1], s=size, color=colour("blue"), alpha=0.6, linewidths=0)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    return picture(fig, alt=alt, caption=caption)
