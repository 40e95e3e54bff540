"""Inversion by DDIM: which noise does a picture come from, and what keeps guidance from leading elsewhere on the way back?

Every method, those of ``noise_maps`` and ``coupled`` included, ends as an :class:`Inversion`: the way from noise to picture, and
what a run from that noise needs. All are hooks and texts of the one loop, so each goes together with any editing method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.diffusion.sample import ddim_step, last
from minidiff.errors import require
from minidiff.latent.pipeline import denoiser, encode_prompt, scheduler_options
from minidiff.latent.sample import invert_image
from minidiff.steer.guiders import CFG
from minidiff.steer.hooks import Hook, Latents, Predict, StepContext
from minidiff.steer.loop import run
from minidiff.steer.record import Pin, Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["FitEmpty", "Inversion", "direct_inversion", "fit_empty", "negative_prompt_inversion", "null_text_inversion"]


@dataclass(frozen=True, eq=False)
class Inversion:
    """Where an edit of pictures begins, and how it is run.

    trajectory: from noise to picture, its timesteps are the steps of the run; hooks: what every run from its noise needs; empty:
    what stands in place of the empty prompt in every branch, (B, L, D), or one for each step, (S, B, L, D); None: the empty
    prompt; images (B, 3, H, W): what was inverted, where it was pictures.
    """

    method: str
    trajectory: Trajectory
    hooks: tuple[Hook, ...] = ()
    empty: Tensor | None = None
    images: Tensor | None = None

    def text(self, ctx: StepContext) -> Tensor:
        """The empty prompt's stand-in at a step."""
        require(self.empty is not None, "empty", None, "an inversion with a stand-in for the empty prompt")
        return self.empty if self.empty.ndim == 3 else self.empty[ctx.index]


def direct_inversion(pipe: StableDiffusionPipeline, images: Tensor, prompts: str | Sequence[str], *, steps: int = 50,
                     fixed_point: int = 0, hold: bool = True) -> Inversion:
    """DDIM inversion at w = 1; on the way back the source branch is held on its way (direct inversion, Ju et al. 2024).

    Whatever the guidance, the source comes back; the target branch is left alone and shares the source's attention only where an
    editing method copies it. hold=False: DDIM alone (Song et al. 2021), whose source drifts away as soon as w is not 1.
    """
    way = Trajectory.of(invert_image(pipe, images, prompts, steps=steps, fixed_point=fixed_point))
    return Inversion("direct", way, (Pin(way),), images=images) if hold else Inversion("ddim", way, images=images)


def negative_prompt_inversion(pipe: StableDiffusionPipeline, images: Tensor, prompts: str | Sequence[str], *, steps: int = 50
                              ) -> Inversion:
    """The source prompt in place of the empty one (Miyake et al. 2023): its guidance is c + w (c - c), the pass at w = 1.

    A target c' gets c + w (c' - c) instead of u + w (c' - u): what both prompts share is no longer pushed.
    """
    way = direct_inversion(pipe, images, prompts, steps=steps, hold=False)
    return dataclasses.replace(way, method="negative-prompt", empty=encode_prompt(pipe, prompts))


class FitEmpty(Hook):
    """Null-text inversion (Mokady et al. 2023, algorithm 1): at each step the empty prompt's vectors are fitted, by ``inner``
    steps of Adam, so that the guided step from where the run is meets the pivot, the trajectory of the inversion at w = 1.

    Give ``text`` to the run as the text "empty". Step i learns at lr (1 - i / 2S), begins with what step i - 1 found, stops a row
    at a mean squared error of stop (1 + 100 i / S) (the published schedules), and keeps the best that was met. found: the vectors
    by step, each (B, L, D); losses: by step, before and after, (2, B).
    """

    def __init__(self, pivot: Trajectory, empty: Tensor, *, guidance: float, inner: int = 10, lr: float = 0.1,
                 stop: float = 1e-5, branch: str = "source") -> None:
        require(guidance != 1.0, "guidance", guidance, "not 1: there the empty prompt has no say, and its gradient is zero")
        require(isinstance(inner, int) and inner >= 0, "inner", inner, "a whole number of steps of Adam, 0 or more")
        self.pivot, self.start, self.combine, self.branch = pivot, empty, CFG(guidance), branch
        self.inner, self.lr, self.stop = inner, lr, stop
        self.found: list[Tensor] = []
        self.losses: list[Tensor] = []

    def text(self, ctx: StepContext) -> Tensor:
        return self.u

    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> None:
        if ctx.index == 0:
            self.u = self.start.expand(ctx.n, *self.start.shape[1:])
            self.found.clear()
            self.losses.clear()
        goal = self.pivot.clean if ctx.t_prev < 0 else self.pivot.at(int(ctx.t_prev))
        with torch.no_grad():
            c = predict({self.branch: z[self.branch]}, "prompt")[self.branch]
        u = self.u.detach().clone().requires_grad_()
        adam, losses, best = torch.optim.Adam([u], self.lr * (1 - ctx.progress / 2)), [], self.u.detach()
        for k in range(self.inner + 1):
            self.u = u
            p = self.combine({"empty": predict({self.branch: z[self.branch]}, "empty")[self.branch], "prompt": c}, ctx)
            loss = (ddim_step(p.x0, p.eps, ctx.abar_prev) - goal).square().mean((1, 2, 3))
            losses.append(loss.detach())
            better = losses[-1] <= torch.stack(losses).amin(0)
            best = torch.where(better[:, None, None], u.detach(), best)
            going = losses[-1] > self.stop * (1 + 100 * ctx.progress)
            if k == self.inner or not bool(going.any()):
                break
            u.grad, before = torch.autograd.grad(loss.sum(), u)[0], u.detach().clone()
            adam.step()
            u.data = torch.where(going[:, None, None], u.data, before)
        self.u = best
        self.found.append(best)
        self.losses.append(torch.stack([losses[0], torch.stack(losses).amin(0)]))


def fit_empty(pipe: StableDiffusionPipeline, pivot: Trajectory, prompts: str | Sequence[str], *, guidance: float = 7.5,
              inner: int = 10, lr: float = 0.1) -> FitEmpty:
    """:class:`FitEmpty` after a run from the pivot's noise: what the empty prompt must be so that the run stays on the pivot."""
    fit = FitEmpty(pivot, encode_prompt(pipe, ""), guidance=guidance, inner=inner, lr=lr)
    texts = {"prompt": encode_prompt(pipe, prompts), "empty": fit.text}
    last(run(denoiser(pipe), pivot.noise, texts, steps=pivot.timesteps, guider=CFG(guidance), hooks=[fit],
             **scheduler_options(pipe)))
    return fit


def null_text_inversion(pipe: StableDiffusionPipeline, images: Tensor, prompts: str | Sequence[str], *, steps: int = 50,
                        guidance: float = 7.5, inner: int = 10, lr: float = 0.1) -> Inversion:
    """DDIM inversion, then :class:`FitEmpty` at the guidance that the edit will have; source and target both get what it found.

    lr: 0.01 as published for Stable Diffusion; mini-sd needs more. A step costs inner + 2 network calls and inner gradients.
    """
    way = direct_inversion(pipe, images, prompts, steps=steps, hold=False)
    fit = fit_empty(pipe, way.trajectory, prompts, guidance=guidance, inner=inner, lr=lr)
    return dataclasses.replace(way, method="null-text", empty=torch.stack(fit.found))
