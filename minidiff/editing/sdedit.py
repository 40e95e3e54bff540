"""SDEdit (Meng et al. 2022): noise a picture part of the way and draw the rest with another prompt; a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.diffusion.sample import visits
from minidiff.editing.result import EditResult, decode_images
from minidiff.errors import check_pictures, require
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import check_prompts, schedule_from, scheduler_options
from minidiff.latent.sample import denoise, initial_noise
from minidiff.steer import Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["noised", "sdedit"]


def noised(pipe: StableDiffusionPipeline, image: Tensor, *, strength: float, noise: Tensor | None = None, seed: int = 0,
           steps: int = 25) -> tuple[Tensor, list[int]]:
    """Where SDEdit begins: the latents (B, C, h, w) of pictures, noised to ``strength``, and the timesteps that are left.

    strength: the share of the ``steps`` that are done, the last int(strength * steps), as in diffusers' image-to-image; 0: the
    latents themselves and no timestep. noise: (B, C, h, w) in place of that of the seed.
    """
    check_pictures("image", image)
    good = isinstance(strength, (int, float)) and 0 <= strength <= 1
    require(good, "strength", strength, "a share of the steps in [0, 1]", "strength=0.5")
    with torch.no_grad():
        clean = encode(pipe.vae, image.to(pipe.device, pipe.vae.dtype))
    noise = initial_noise(pipe, len(image), seed=seed, size=tuple(image.shape[-2:])) if noise is None else noise
    require(noise.shape == clean.shape, "latents", f"shape {tuple(noise.shape)}", f"{tuple(clean.shape)}")
    options = {k: v for k, v in scheduler_options(pipe).items() if k != "clip"}
    way = visits(schedule_from(pipe.scheduler), steps, **options)
    way = way[len(way) - int(strength * len(way) + 1e-9):]
    if not way:
        return clean, []
    return way[0].abar**0.5 * clean + (1 - way[0].abar) ** 0.5 * noise.to(clean), [v.t for v in way]


def sdedit(pipe: StableDiffusionPipeline, target: str | Sequence[str], *, image: Tensor, strength: float = 0.5, seed: int = 0,
           latents: Tensor | None = None, steps: int = 25, guidance: float = 4.0) -> EditResult:
    """Edit pictures ``image`` (B, 3, H, W) in [-1, 1] towards ``target``: fresh noise at ``strength``, then plain sampling.

    strength: the share of the ``steps`` that are done, the last int(strength * steps) of them, as in diffusers' image-to-image
    (section 3.2 of the paper calls the level t_0). 0: the autoencoder's round trip; 1: all steps, and still not pure noise.
    latents: the noise (B, C, h, w) in place of that of the seed. No attention is read and no source prompt is asked for.
    """
    check_pictures("image", image)
    prompts, n = check_prompts(target, argument="target"), len(image)
    require(len(prompts) in (1, n), "target", f"{len(prompts)} prompts", f"1 or {n}: one for each picture")
    prompts = prompts * n if len(prompts) == 1 else prompts
    begin, timesteps = noised(pipe, image, strength=strength, noise=latents, seed=seed, steps=steps)
    images, ways = {"source": image.detach().float().cpu()}, {}
    end = begin
    if timesteps:
        ways["edit"] = Trajectory.of(denoise(pipe, prompts, latents=begin, steps=timesteps, guidance=guidance))
        end = ways["edit"].clean
    images["edit"] = decode_images(pipe, end)
    return EditResult("SDEdit", images, {"source": [""] * n, "edit": prompts}, ways, details={"steps": len(timesteps)})
