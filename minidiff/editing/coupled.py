"""EDICT (Wallace et al. 2023): exact inversion by two coupled latents, at any guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.editing.inversion import Inversion
from minidiff.errors import require
from minidiff.latent.sample import invert_image
from minidiff.steer.guiders import CFG
from minidiff.steer.hooks import Hook, Latents, Predict, StepContext
from minidiff.steer.record import Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["Coupled", "edict_inversion"]


class Coupled(Hook):
    """EDICT (Wallace et al. 2023): two latents, each stepped with the prediction at the other one, so that a step can be undone.

    ``run``, a = sqrt(abar_prev / abar), b = sqrt(1 - abar_prev) - a sqrt(1 - abar):
        x = a x + b eps(y);  y = a y + b eps(x);  x = p x + (1 - p) y;  y = p y + (1 - p) x
    ``invert`` undoes the four lines from the last to the first. Each step the latents change places. z is the x of the last step,
    ``other`` the y of each branch: at the start ``other``, or (None) the same as z. Two network calls a step.
    """

    def __init__(self, other: Tensor | None = None, *, mix: float = 0.93, inverse: bool = False) -> None:
        require(other is None or other.ndim == 4, "other", getattr(other, "shape", None), "latents of shape (B, C, h, w)")
        require(0 < mix <= 1, "mix", mix, "a number above 0, up to 1 (latents that do not mix)", "mix=0.93")
        self.start, self.mix, self.inverse = other, mix, inverse

    def _ab(self, ctx: StepContext) -> tuple[float, float]:
        a = (ctx.abar_prev / ctx.abar) ** 0.5
        return a, (1 - ctx.abar_prev) ** 0.5 - a * (1 - ctx.abar) ** 0.5

    def _turned(self, ctx: StepContext) -> bool:
        return (ctx.steps - 1 - ctx.index if self.inverse else ctx.index) % 2 == 1

    @torch.no_grad()
    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> Latents:
        if ctx.index == 0:
            self.other = {b: x if self.start is None else self.start.to(x) for b, x in z.items()}
        (a, b), p = self._ab(ctx), self.mix
        x, y = (self.other, z) if self._turned(ctx) else (z, self.other)
        if self.inverse:
            y = {k: (y[k] - (1 - p) * x[k]) / p for k in z}
            x = {k: (x[k] - (1 - p) * y[k]) / p for k in z}
            eps = predict(x)
            y = {k: (y[k] - b * eps[k].eps) / a for k in z}
        else:
            eps = predict(y)
            x = {k: a * x[k] + b * eps[k].eps for k in z}
        self.pair = x, y
        return y if self.inverse else x                      # where the loop itself asks the network now

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> None:
        self.eps = {branch: p.eps.detach() for branch, p in pred.items()}

    def after_step(self, z: Latents, ctx: StepContext) -> Latents:
        (a, b), p, (x, y) = self._ab(ctx), self.mix, self.pair
        if self.inverse:
            x = {k: (x[k] - b * self.eps[k]) / a for k in z}
        else:
            y = {k: a * y[k] + b * self.eps[k] for k in z}
            x = {k: p * x[k] + (1 - p) * y[k] for k in z}
            y = {k: p * y[k] + (1 - p) * x[k] for k in z}
        x, self.other = (y, x) if self._turned(ctx) else (x, y)
        return x


def edict_inversion(pipe: StableDiffusionPipeline, images: Tensor, prompts: str | Sequence[str], *, steps: int = 50,
                    guidance: float = 3.0, mix: float = 0.93) -> Inversion:
    """EDICT at the guidance of the edit: exact up to rounding, which mixing multiplies by 1 / mix twice a step on the way up."""
    up = Coupled(mix=mix, inverse=True)
    way = Trajectory.of(invert_image(pipe, images, prompts, steps=steps, guider=CFG(guidance), hooks=[up]))
    return Inversion("edict", way, (Coupled(up.other["source"], mix=mix),), images=images)
