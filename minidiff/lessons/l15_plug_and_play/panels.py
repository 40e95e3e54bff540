"""The panels of lesson 15: SDEdit's strengths beside Plug-and-Play, what is copied and for how long, and a drag as a film.

Each ``render`` is a pure function of its knobs; everything is drawn beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.editing import Inversion, plug_and_play, sdedit
from minidiff.editing.sdedit import noised
from minidiff.errors import require
from minidiff.latent.pipeline import schedule_from
from minidiff.lessons.l15_plug_and_play.data import dotted
from minidiff.measure import EditTruth, edit_score
from minidiff.show import curve
from minidiff.show.tiles import below, lay_out, pixels

__all__ = ["DragFilm", "Shares", "Strengths"]


def _point(images: Tensor, truth: EditTruth) -> tuple[float, float]:
    """(share of edits that read as asked, IoU of the thing with its place in the counterfactual)."""
    s = edit_score(images, truth)
    return float(s.of("target").mean()), float(s.of("iou").mean())


class Strengths:
    """SDEdit of the same pictures at several strengths, beside other editors: share edited against what is kept."""

    def __init__(self, pipe: Any, truth: EditTruth, targets: Sequence[str], others: Mapping[str, Tensor], *,
                 strengths: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0), steps: int = 12, guidance: float = 4.0) -> None:
        self.images = {s: sdedit(pipe, list(targets), image=truth.images, strength=s, steps=steps, guidance=guidance).edit
                       for s in strengths}
        schedule = schedule_from(pipe.scheduler)
        begins = {s: noised(pipe, truth.images[:1], strength=s, steps=steps)[1][:1] for s in strengths}
        self.levels = {s: float(schedule.at(t[0])) if t else 1.0 for s, t in begins.items()}
        self.points = {s: _point(x, truth) for s, x in self.images.items()}
        self.others = {name: _point(x, truth) for name, x in others.items()}

    def render(self, *, strength: float) -> tuple[np.ndarray, str]:
        """SDEdit at the strength; below it the curve of all strengths with this point, and the others."""
        require(strength in self.images, "strength", strength, f"one of {', '.join(map(str, self.images))}")
        top = lay_out([pixels(self.images[strength])], 2, row_labels=["SDEdit"])
        lines = {"SDEdit, " + ", ".join(f"{s:g}" for s in self.points): tuple(zip(*self.points.values(), strict=True))}
        lines |= {name: ([p[0]], [p[1]]) for name, p in self.others.items()}
        lines["chosen"] = tuple([v] for v in self.points[strength])
        graph = curve(lines, x="share of edits that read as asked", y="IoU", height=2.6, alt="share edited against IoU")
        right, kept = self.points[strength]
        return below(top, graph.array), (f"strength {strength:g}, abar {self.levels[strength]:.2f}: right {right:.2f}, "
                                          f"IoU {kept:.2f} ({len(self.images[strength])} pictures)")


class Shares:
    """Plug-and-Play with the features and q, k copied for several shares of the steps: pictures, and both scores as a table."""

    def __init__(self, pipe: Any, truth: EditTruth, prompts: Sequence[str], targets: Sequence[str], inversion: Inversion, *,
                 features: Sequence[float] = (0.0, 0.4, 0.8), attention: Sequence[float] = (0.0, 0.5, 1.0),
                 known: Mapping[tuple[float, float], Tensor] | None = None, steps: int = 12, guidance: float = 4.0) -> None:
        """known: edits (n, 3, H, W) that are drawn already, by (features, attention)."""
        self.features, self.attention = tuple(features), tuple(attention)
        todo = {(f, a) for f in features for a in attention} - set(known or {})
        self.images = dict(known or {}) | {
            (f, a): plug_and_play(pipe, list(prompts), list(targets), inversion=inversion, feature_share=f, attention_share=a,
                                  steps=steps, guidance=guidance).edit for f, a in sorted(todo)}
        self.points = {key: _point(x, truth) for key, x in self.images.items()}

    def render(self, *, features: float, attention: float) -> tuple[np.ndarray, str]:
        """The edits at these shares; below, the IoU by the share of q and k, one line for each share of the features."""
        for name, value, known in (("features", features, self.features), ("attention", attention, self.attention)):
            require(value in known, name, value, f"one of {', '.join(map(str, known))}")
        top = lay_out([pixels(self.images[features, attention])], 2, row_labels=["edit"])
        lines = {f"features {f:g}": (self.attention, [self.points[f, a][1] for a in self.attention]) for f in self.features}
        lines["chosen"] = ([attention], [self.points[features, attention][1]])
        graph = curve(lines, x="share of the steps with the source's q and k", y="IoU", height=2.6, alt="IoU by shares")
        right, kept = self.points[features, attention]
        return below(top, graph.array), (f"features {features:g}, q and k {attention:g}: right {right:.2f}, IoU {kept:.2f} "
                                          f"({len(self.images[features, attention])} pictures)")


class DragFilm:
    """One drag as a film: the predicted picture with its handles and targets, and how far the handles still have to go."""

    def __init__(self, frames: Tensor, handles: Tensor, targets: Tensor, iterations: Sequence[int]) -> None:
        """frames (F, 3, H, W); handles (F, K, 2) and targets (K, 2) in shares of the picture; iterations: of each frame."""
        require(len(frames) == len(handles), "handles", f"{len(handles)} of {len(frames)} frames", "one set for each frame")
        require(len(frames) == len(iterations), "iterations", len(iterations), f"{len(frames)}: one for each frame")
        self.frames, self.handles, self.targets, self.iterations = frames, handles, targets, list(iterations)
        self.left = frames.shape[-1] * (handles - targets).norm(dim=-1).mean(-1)

    def render(self, *, frame: int) -> tuple[np.ndarray, str]:
        """The picture at a frame, blue dots the handles, red ones the targets, a line from each to its own; below, the mean
        distance left by iteration."""
        require(0 <= frame < len(self.frames), "frame", frame, f"a whole number from 0 to {len(self.frames) - 1}")
        big = torch.nn.functional.interpolate(self.frames[frame][None], scale_factor=2, mode="nearest")
        shown = torch.cat([big, dotted(big, self.handles[frame][None], self.targets[None])])
        top = lay_out([pixels(shown)], 2, labels=["predicted picture", "with handles and targets"])
        at = self.iterations[frame]
        graph = curve({"distance": (self.iterations, self.left), "here": ([at], [self.left[frame]])}, x="iteration",
                      y="pixels to go", height=2.2, alt="distance to go by iteration")
        return below(top, graph.array), f"iteration {at}: the handles are {self.left[frame]:.1f} pixels from their targets"
