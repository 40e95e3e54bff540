"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024): not one noise brings a picture back, but one a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.diffusion.noise import row_noise
from minidiff.diffusion.predict import Prediction
from minidiff.diffusion.sample import ddim_sigma, visits
from minidiff.editing.inversion import Inversion
from minidiff.errors import check_share, require
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import denoiser, encode_prompt, schedule_from, scheduler_options
from minidiff.steer.guiders import CFG
from minidiff.steer.hooks import Hook, Latents, Predict, StepContext
from minidiff.steer.loop import run
from minidiff.steer.record import Pin, Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["AddNoise", "FindNoise", "edit_friendly_inversion", "with_noises"]


class AddNoise(Hook):
    """A run whose steps have DDPM's mean (Song et al. 2021, eq. 12, sigma at eta), and to which ``trajectory.noises`` are added.

    For a run at eta = 0, all branches alike: the noises are an inversion's, not new ones (Huberman-Spiegelglas et al. 2024).
    """

    def __init__(self, trajectory: Trajectory, *, eta: float = 1.0) -> None:
        check_share("eta", eta)
        self.trajectory, self.eta = trajectory, eta

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> dict[str, Prediction]:
        room, sigma = 1 - ctx.abar_prev, ddim_sigma(ctx.abar, ctx.abar_prev, self.eta)
        share = (max(room - sigma**2, 0.0) / room) ** 0.5 if room > 0 else 1.0
        return {branch: Prediction(p.x0, share * p.eps) for branch, p in pred.items()}

    def after_step(self, z: Latents, ctx: StepContext) -> Latents:
        noise = self.trajectory.noises[self.trajectory.timesteps.index(int(ctx.t))]
        return {branch: x + noise.to(x) for branch, x in z.items()}


class FindNoise(AddNoise):
    """The same run, held on a path: ``found`` is what each step's mean lacks of the path's next latents."""

    def __init__(self, path: Trajectory, *, eta: float = 1.0, branch: str = "source") -> None:
        super().__init__(path, eta=eta)
        self.branch, self.found, self.pin = branch, [], Pin(path, branch)

    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> Latents:
        return self.pin.before_step(z, ctx, predict)

    def after_step(self, z: Latents, ctx: StepContext) -> Latents:
        there = self.pin.after_step(z, ctx)
        self.found.append(there[self.branch] - z[self.branch])
        return there


def with_noises(pipe: StableDiffusionPipeline, path: Trajectory, prompts: str | Sequence[str], *, guidance: float,
                eta: float = 1.0) -> Trajectory:
    """The path with the noises that a run of ``prompts`` needs so as to follow it, the last step's included: S network calls."""
    find, texts = FindNoise(path, eta=eta), {"prompt": encode_prompt(pipe, prompts), "empty": encode_prompt(pipe, "")}
    way = Trajectory.of(run(denoiser(pipe), path.noise, texts, steps=path.timesteps, guider=CFG(guidance), hooks=[find],
                            **scheduler_options(pipe)))
    return dataclasses.replace(way, noises=torch.stack(find.found))


def edit_friendly_inversion(pipe: StableDiffusionPipeline, images: Tensor, prompts: str | Sequence[str], *, steps: int = 50,
                            guidance: float = 3.5, skip: float = 0.36, eta: float = 1.0, seed: int = 0,
                            rows: Sequence[int] | None = None) -> Inversion:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024): noises, not one noise, bring the picture back exactly.

    The picture is noised to every level with *independent* noise, and what DDPM's mean lacks from one level to the next is kept.
    guidance: of the source; skip: the share of the noisiest steps that an edit leaves out (36 of 100 as published).
    """
    require(0 <= skip < 1, "skip", skip, "a share of the steps in [0, 1)", "skip=0.36")
    with torch.no_grad():
        z = encode(pipe.vae, images.to(pipe.device, pipe.vae.dtype))
    options = {k: v for k, v in scheduler_options(pipe).items() if k != "clip"}
    way = visits(schedule_from(pipe.scheduler), steps, **options)
    kind = {"dtype": z.dtype, "device": z.device, "stream": "edit-friendly"}
    noisy = [v.abar**0.5 * z + (1 - v.abar) ** 0.5 * row_noise(z.shape, seed=seed, t=v.t, rows=rows, **kind) for v in way]
    path = Trajectory(torch.stack([*noisy, z]), tuple(v.t for v in way), torch.zeros(len(way), *z.shape))
    full, k = with_noises(pipe, path, prompts, guidance=guidance, eta=eta), round(skip * len(way))
    part = Trajectory(full.latents[k:], full.timesteps[k:], full.eps[k:], full.noises[k:])
    return Inversion("edit-friendly", part, (AddNoise(part, eta=eta), Pin(part)), images=images)
