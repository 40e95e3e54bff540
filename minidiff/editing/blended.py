"""Blended latent diffusion (Avrahami et al. 2022 and 2023): inpainting without training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff.diffusion.noise import row_noise
from minidiff.errors import require
from minidiff.steer.hooks import Hook, Latents, StepContext

__all__ = ["Blend"]


class Blend(Hook):
    """After each step the part outside the mask is put back, noised to the level just reached: z <- m z + (1 - m) z_known.

    known: clean latents (n, C, h, w); mask: (n or 1, 1, h, w), 1 where to paint. The noise of the known part is one draw a row,
    kept for all steps (of the numbers ``rows``, as in run), so that what is put back lies on one straight way. Blended Diffusion's algorithm 1.
    """

    def __init__(self, known: Tensor, mask: Tensor, *, branch: str = "source", seed: int = 0,
                 rows: Sequence[int] | None = None) -> None:
        fits = mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[-2:] == known.shape[-2:] and len(mask) in (1, len(known))
        require(fits, "mask", f"shape {tuple(mask.shape)}", f"shape ({len(known)}, 1, {known.shape[-2]}, {known.shape[-1]})")
        require(bool(((mask >= 0) & (mask <= 1)).all()), "mask", "values outside [0, 1]", "1 where to paint, 0 where to keep")
        self.known, self.mask, self.branch = known, mask, branch
        self.noise = row_noise(known.shape, seed=seed, t=0, rows=rows, dtype=known.dtype, device=known.device,
                                stream="blend")

    def after_step(self, z: Latents, ctx: StepContext) -> Latents:
        x = z[self.branch]
        known = ctx.abar_prev**0.5 * self.known + (1 - ctx.abar_prev) ** 0.5 * self.noise if ctx.t_prev >= 0 else self.known
        return {self.branch: torch.lerp(known.to(x), x, self.mask.to(x).expand_as(x))}
