"""What the loops need of a Stable Diffusion pipeline: schedule, conventions, sizes, its U-Net as a denoiser, its texts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minidiff.diffusion import X0, Eps, Schedule, V
from minidiff.diffusion.predict import Denoiser
from minidiff.errors import check_choice, require
from minidiff.latent.text import check_prompt, token_ids

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["TextUNet", "check_prompts", "denoiser", "encode_prompt", "latent_shape", "schedule_from", "scheduler_options",
           "whole"]


def schedule_from(scheduler: Any) -> Schedule:
    """The Schedule that a diffusers scheduler was built with (its own float32 table, in float64)."""
    require(
        hasattr(scheduler, "alphas_cumprod"),
        "scheduler",
        type(scheduler).__name__,
        "a scheduler with a table of alphas_cumprod; flow-matching ones have none",
        "DDIMScheduler.from_config(pipe.scheduler.config)",
    )
    return Schedule(scheduler.alphas_cumprod.double().cpu(), getattr(scheduler.config, "beta_schedule", "custom"))


def scheduler_options(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """spacing, offset, final_alpha and clip, as minidiff's samplers call them, from the scheduler's config."""
    c = pipe.scheduler.config
    schedule_from(pipe.scheduler)
    spacing = getattr(c, "timestep_spacing", "leading")
    check_choice("timestep_spacing", spacing, ("leading", "trailing", "linspace"))
    require(
        not getattr(c, "thresholding", False),
        "scheduler",
        "dynamic thresholding",
        "thresholding=False",
        "DDIMScheduler.from_config(pipe.scheduler.config, thresholding=False)",
    )
    limit = getattr(c, "clip_sample_range", 1.0)
    clip = "x0" if getattr(c, "clip_sample", False) else None
    require(clip is None or limit == 1.0, "scheduler", f"clip_sample_range={limit}", "1.0, or clip_sample=False")
    return {
        "spacing": spacing,
        "offset": getattr(c, "steps_offset", 0) if spacing == "leading" else 0,
        "final_alpha": "one" if getattr(c, "set_alpha_to_one", True) else "first",
        "clip": clip,
    }


class TextUNet(nn.Module):
    """``net(z, t, cond)`` around a diffusers U-Net: cond is the context (B, L, D), or (context, hint) where the U-Net sees
    the channels of hint (B, c, h, w) beside z."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z: Tensor, t: Tensor, cond: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        context, *hint = cond if isinstance(cond, tuple) else (cond,)
        return self.unet(torch.cat((z, *hint), dim=1), t, encoder_hidden_states=context).sample


def denoiser(pipe: StableDiffusionPipeline, unet: nn.Module | None = None) -> Denoiser:
    """The pipeline's U-Net (or another one with its scheduler) as a model for the samplers and ``run``: see :class:`TextUNet`."""
    schedule = schedule_from(pipe.scheduler)
    kind = pipe.scheduler.config.prediction_type
    wraps = {"epsilon": Eps, "v_prediction": V, "sample": X0}
    check_choice("prediction_type", kind, tuple(wraps))
    return wraps[kind](TextUNet(unet or pipe.unet), schedule)


def check_prompts(prompts: str | Sequence[str], *, argument: str = "prompts") -> list[str]:
    """A string or a list of them, as a list; everything else is refused."""
    rows = [prompts] if isinstance(prompts, str) else list(prompts) if isinstance(prompts, (list, tuple)) else None
    require(
        rows is not None and len(rows) > 0 and all(isinstance(p, str) for p in rows),
        argument,
        repr(prompts)[:80],
        "a string, or a list of at least one string",
        f"{argument}='a red cat on the grass'",
    )
    return rows


@torch.no_grad()
def encode_prompt(pipe: StableDiffusionPipeline, prompts: str | Sequence[str]) -> Tensor:
    """Context (B, L, D) of prompts. A model with a closed vocabulary (the toy world's) refuses unknown words by name.

    Raises BadInput when a prompt has more tokens than the text encoder takes (nothing is cut off silently).
    """
    prompts = check_prompts(prompts)
    for prompt in prompts:
        check_prompt(pipe.tokenizer, prompt)
    return pipe.text_encoder(token_ids(pipe.tokenizer, prompts).to(pipe.device))[0]


def whole(name: str, value: Any, least: int) -> int:
    """The whole number ``value``, at least ``least``; everything else is refused."""
    good = not isinstance(value, bool) and hasattr(value, "__index__") and operator.index(value) >= least
    require(good, name, repr(value), f"a whole number, {least} or more", f"{name}={max(least, 1)}")
    return operator.index(value)


def latent_shape(pipe: StableDiffusionPipeline, size: int | tuple[int, int] | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of the latent of a picture of ``size`` pixels (height, width); None: the trained size."""
    f = pipe.vae_scale_factor
    side = pipe.unet.config.sample_size
    sides = (side, side) if isinstance(side, int) else tuple(side)
    if size is None:
        return (pipe.vae.config.latent_channels, *sides)
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    require(len(pair) == 2, "size", repr(size), "one number of pixels, or (height, width)", "size=64")
    high, wide = (whole("size", side, 1) for side in pair)
    unit = f * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    require(
        high % unit == 0 and wide % unit == 0,
        "size",
        (high, wide),
        f"multiples of {unit} pixels (autoencoder {f}, U-Net {unit // f})",
        f"size=({f * sides[0]}, {f * sides[1]})",
    )
    return pipe.vae.config.latent_channels, high // f, wide // f
