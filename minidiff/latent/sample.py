"""Text to image with any Stable Diffusion pipeline, through the samplers of lesson 03: every size comes from the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from minidiff.diffusion import X0, Eps, Schedule, V, ddim, invert, last
from minidiff.diffusion.predict import Denoiser, Prediction
from minidiff.diffusion.sample import Step
from minidiff.errors import check_choice, check_images, require
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.text import token_ids
from minidiff.rng import normal
from minidiff.world import parse

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["Guided", "denoiser", "encode_prompt", "latent_shape", "invert_image", "scheduler_options", "schedule_from",
           "initial_noise", "denoise", "text_to_image"]


def schedule_from(scheduler: object) -> Schedule:
    """The Schedule that a diffusers scheduler was built with (its own float32 table, in float64)."""
    return Schedule(scheduler.alphas_cumprod.double(), getattr(scheduler.config, "beta_schedule", "custom"))


def denoiser(pipe: StableDiffusionPipeline, *, hint: Tensor | None = None) -> Denoiser:
    """The pipeline's U-Net as a model for minidiff's samplers: ``model(z, t, cond=context)``, context (B, L, D).

    hint: (b, c, h, w) channels that the U-Net sees beside z; repeated when z has 2b rows (guidance).
    """
    kind = pipe.scheduler.config.prediction_type
    wraps = {"epsilon": Eps, "v_prediction": V, "sample": X0}
    check_choice("prediction_type", kind, tuple(wraps))

    def net(z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        seen = z if hint is None else torch.cat((z, hint.repeat(len(z) // len(hint), 1, 1, 1)), dim=1)
        return pipe.unet(seen, t, encoder_hidden_states=cond).sample

    return wraps[kind](net, schedule_from(pipe.scheduler))


class Guided(nn.Module):
    """Classifier-free guidance (Ho and Salimans 2021, eq. 6, in Stable Diffusion's weight): u + w (c - u).

    ``model(z, t, cond=(context, empty))`` runs both in one call of 2B rows, the empty one first, as diffusers does. w = 1
    is the conditional model alone.
    """

    def __init__(self, model: Denoiser, weight: float) -> None:
        super().__init__()
        self.model, self.weight, self.schedule = model, float(weight), model.schedule

    def forward(self, z: Tensor, t: int | Tensor, cond: tuple[Tensor, Tensor]) -> Prediction:
        context, empty = cond
        if self.weight == 1.0:
            return self.model(z, t, context)
        t = torch.as_tensor(t, device=z.device).expand(len(z))
        both = self.model(torch.cat((z, z)), torch.cat((t, t)), torch.cat((empty, context)))
        pairs = [part.chunk(2) for part in both]
        return Prediction(*(u + self.weight * (c - u) for u, c in pairs))


def _toy(pipe: StableDiffusionPipeline) -> bool:
    return bool(pipe.tokenizer.init_kwargs.get("toy_world"))


@torch.no_grad()
def encode_prompt(pipe: StableDiffusionPipeline, prompts: str | Sequence[str]) -> Tensor:
    """Context (B, L, D) of prompts. With a model of the toy world, words it does not know are refused by name.

    Raises BadInput when a prompt has more tokens than the text encoder takes (nothing is cut off silently).
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    require(len(prompts) > 0 and all(isinstance(p, str) for p in prompts), "prompts", repr(prompts), "a string or a list of them")
    if _toy(pipe):
        for prompt in prompts:
            parse(prompt)
        prompts = ["".join(" " if c in ",.;:" else c for c in prompt.lower()) for prompt in prompts]
    return pipe.text_encoder(token_ids(pipe.tokenizer, prompts).to(pipe.device))[0]


def latent_shape(pipe: StableDiffusionPipeline, size: int | tuple[int, int] | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of the latent of a picture of ``size`` pixels (height, width); None: the trained size."""
    f = pipe.vae_scale_factor
    side = pipe.unet.config.sample_size
    sides = (side, side) if isinstance(side, int) else tuple(side)
    if size is None:
        return (pipe.vae.config.latent_channels, *sides)
    high, wide = (size, size) if isinstance(size, int) else size
    unit = f * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    require(high % unit == 0 and wide % unit == 0 and min(high, wide) > 0, "size", (high, wide),
            f"multiples of {unit} pixels (autoencoder {f}, U-Net {unit // f})", f"size=({f * sides[0]}, {f * sides[1]})")
    return pipe.vae.config.latent_channels, high // f, wide // f


def initial_noise(pipe: StableDiffusionPipeline, n: int, *, seed: int = 0, size: int | tuple[int, int] | None = None) -> Tensor:
    """Noise (n, C, h, w) to begin with, drawn on the CPU; row i depends on (seed, i) only."""
    shape = latent_shape(pipe, size)
    return torch.cat([normal((1, *shape), "latent", seed, i) for i in range(n)]).to(pipe.device)


def denoise(pipe: StableDiffusionPipeline, prompts: str | Sequence[str], *, steps: int = 25, guidance: float = 4.0,
             seed: int = 0, latents: Tensor | None = None, negative: str = "", size: int | tuple[int, int] | None = None,
             eta: float = 0.0) -> Iterator[Step]:
    """The denoising loop of a Stable Diffusion pipeline, as minidiff's DDIM: yields a Step of latents after each step.

    The same numbers as ``pipe(prompts, latents=latents, num_inference_steps=steps, guidance_scale=guidance)`` with its
    DDIMScheduler: spacing, offset and last step are read from the scheduler's config. latents: (B, C, h, w) standard
    normal, or None for :func:`initial_noise`. negative: what stands in place of the empty prompt.
    """
    context = encode_prompt(pipe, prompts)
    empty = encode_prompt(pipe, negative).expand(len(context), -1, -1)
    z = initial_noise(pipe, len(context), seed=seed, size=size) if latents is None else latents
    z = z.to(pipe.device, pipe.unet.dtype)
    require(len(z) == len(context), "latents", f"{len(z)} rows", f"one for each of the {len(context)} prompts")
    return ddim(Guided(denoiser(pipe), guidance), z, steps=steps, eta=eta, seed=seed, cond=(context, empty),
                **scheduler_options(pipe))


def scheduler_options(pipe: StableDiffusionPipeline) -> dict:
    """spacing, offset and final_alpha, as minidiff's samplers call them, from the scheduler's config."""
    c = pipe.scheduler.config
    final_alpha = "one" if getattr(c, "set_alpha_to_one", True) else "first"
    return {"spacing": c.timestep_spacing, "offset": c.steps_offset if c.timestep_spacing == "leading" else 0,
            "final_alpha": final_alpha}


@torch.no_grad()
def text_to_image(pipe: StableDiffusionPipeline, prompts: str | Sequence[str], *, chunk: int = 16, seed: int = 0,
                  latents: Tensor | None = None, size: int | tuple[int, int] | None = None, **options: float) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] of prompts: :func:`denoise` to the end, then the decoder. Options as there."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    z = initial_noise(pipe, len(prompts), seed=seed, size=size) if latents is None else latents
    parts = [last(denoise(pipe, prompts[i : i + chunk], latents=z[i : i + chunk], **options)).x
             for i in range(0, len(prompts), chunk)]
    return decode(pipe.vae, torch.cat(parts)).clamp(-1, 1)


def invert_image(pipe: StableDiffusionPipeline, images: Tensor, prompts: str | Sequence[str], *, steps: int = 50,
                 fixed_point: int = 0) -> Iterator[Step]:
    """DDIM inversion at w = 1: from pictures (B, 3, H, W) to the noise that gives them back, by lesson 03's ``invert``."""
    check_images("images", images, channels=3)
    context = encode_prompt(pipe, prompts).expand(len(images), -1, -1)
    z = encode(pipe.vae, images.to(pipe.device, pipe.vae.dtype))
    return invert(Guided(denoiser(pipe), 1.0), z, steps=steps, fixed_point=fixed_point,
                  cond=(context, context), **scheduler_options(pipe))
