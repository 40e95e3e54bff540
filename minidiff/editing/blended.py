"""Blended latent diffusion (Avrahami et al. 2022, 2023): inpainting without training; RePaint's resampling (2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff.diffusion.noise import row_noise
from minidiff.diffusion.sample import ddim_step
from minidiff.errors import require
from minidiff.steer.hooks import Hook, Latents, Predict, StepContext

__all__ = ["Blend"]


class Blend(Hook):
    """After each step the part outside the mask is put back, noised to the level just reached: z <- m z + (1 - m) z_known.

    known: clean latents (n, C, h, w); mask: (n or 1, 1, h, w), 1 where to paint (Blended Diffusion, algorithm 1). repeats > 1:
    each step is taken, noised back and taken again that often (RePaint, algorithm 1, jump length 1), at that many times the cost.
    Noise is a function of (seed, row's number, t); rows: the numbers, as in ``run``.
    """

    def __init__(self, known: Tensor, mask: Tensor, *, branch: str = "source", repeats: int = 1, seed: int = 0,
                 rows: Sequence[int] | None = None) -> None:
        require(known.ndim == 4, "known", f"shape {tuple(known.shape)}", "shape (B, C, h, w)", "known[None] if it is one")
        fits = mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[-2:] == known.shape[-2:] and len(mask) in (1, len(known))
        require(fits, "mask", f"shape {tuple(mask.shape)}", f"shape ({len(known)}, 1, {known.shape[-2]}, {known.shape[-1]})")
        require(bool(((mask >= 0) & (mask <= 1)).all()), "mask", "values outside [0, 1]", "1 where to paint, 0 where to keep")
        require(isinstance(repeats, int) and repeats >= 1, "repeats", repeats, "a whole number, 1 or more")
        self.known, self.mask, self.branch, self.repeats = known, mask, branch, repeats
        self.seed, self.rows = seed, rows

    def _noise(self, like: Tensor, ctx: StepContext, turn: int, stream: str) -> Tensor:
        return row_noise(like.shape, seed=self.seed, t=ctx.t, rows=self.rows, dtype=like.dtype, device=like.device,
                         stream=f"{stream} {turn}")

    def _blend(self, x: Tensor, ctx: StepContext, turn: int) -> Tensor:
        known = self.known.to(x)
        if ctx.t_prev >= 0:
            known = ctx.abar_prev**0.5 * known + (1 - ctx.abar_prev) ** 0.5 * self._noise(x, ctx, turn, "blend")
        return torch.lerp(known, x, self.mask.to(x).expand_as(x))

    @torch.no_grad()
    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> Latents:
        x = z[self.branch]
        for turn in range(self.repeats - 1):
            p = predict({self.branch: x})[self.branch]
            x = self._blend(ddim_step(p.x0, p.eps, ctx.abar_prev), ctx, turn)
            share = ctx.abar / ctx.abar_prev
            x = share**0.5 * x + (1 - share) ** 0.5 * self._noise(x, ctx, turn, "back")
        return {self.branch: x}

    def after_step(self, z: Latents, ctx: StepContext) -> Latents:
        return {self.branch: self._blend(z[self.branch], ctx, self.repeats - 1)}
