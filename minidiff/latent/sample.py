"""Text to image with any Stable Diffusion pipeline, on the engine of ``steer``: every size comes from the pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion import last
from minidiff.errors import BadInput, check_pictures, require
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt, latent_shape, scheduler_options, whole
from minidiff.rng import normal
from minidiff.steer.guiders import CFG, Guider
from minidiff.steer.hooks import Hook
from minidiff.steer.loop import State, invert, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["denoise", "initial_noise", "invert_image", "invert_latents", "prepare_latents", "text_to_image"]


def initial_noise(pipe: StableDiffusionPipeline, n: int, *, seed: int = 0, size: int | tuple[int, int] | None = None) -> Tensor:
    """Noise (n, C, h, w) to begin with, drawn on the CPU; row i depends on (seed, i) only."""
    shape = latent_shape(pipe, size)
    n, seed = whole("n", n, 1), whole("seed", seed, 0)
    return torch.cat([normal((1, *shape), "latent", seed, i) for i in range(n)]).to(pipe.device, pipe.unet.dtype)


def prepare_latents(pipe: StableDiffusionPipeline, latents: Tensor | None, n: int, seed: int, size: Any) -> Tensor:
    """Noise to begin with: ``latents`` (n, C, h, w), checked, or that of the seed."""
    if latents is None:
        return initial_noise(pipe, n, seed=seed, size=size)
    channels = pipe.vae.config.latent_channels
    shape = f"a float tensor of shape ({n}, {channels}, h, w): one row for each prompt"
    require(isinstance(latents, Tensor), "latents", type(latents).__name__, shape, "initial_noise(pipe, n, seed=0)")
    require(
        latents.ndim == 4 and len(latents) == n and latents.shape[1] == channels and latents.is_floating_point(),
        "latents",
        f"{latents.dtype} of shape {tuple(latents.shape)}",
        shape,
    )
    require(size is None, "size", repr(size), "no size beside latents, which have one already")
    require(bool(torch.isfinite(latents).all()), "latents", "NaN or infinity", "finite numbers")
    return latents.to(pipe.device, pipe.unet.dtype)


def denoise(
    pipe: StableDiffusionPipeline,
    prompts: str | Sequence[str],
    *,
    steps: int | Sequence[int] = 25,
    guidance: float = 4.0,
    seed: int = 0,
    latents: Tensor | None = None,
    negative: str | Sequence[str] = "",
    size: int | tuple[int, int] | None = None,
    eta: float = 0.0,
    hint: Tensor | None = None,
    hooks: Sequence[Hook] = (),
    rows: Sequence[int] | None = None,
) -> Iterator[State]:
    """The denoising loop of a Stable Diffusion pipeline: :func:`minidiff.steer.run` on one branch, "source".

    The same numbers as ``pipe(prompts, latents=latents, num_inference_steps=steps, guidance_scale=guidance)`` with its
    DDIMScheduler: spacing, offset and last step are read from the scheduler's config. latents: (B, C, h, w) standard
    normal, or None for :func:`initial_noise`. negative: what stands in place of the empty prompt, for all or for each. hint:
    (B, c, h, w) channels that a U-Net of a concat task sees beside the latent.
    """
    prompts, others = check_prompts(prompts), check_prompts(negative, argument="negative")
    n = len(prompts)
    require(len(others) in (1, n), "negative", f"{len(others)} prompts", f"1 or {n}: one for each prompt")
    good = isinstance(guidance, (int, float)) and not isinstance(guidance, bool) and math.isfinite(guidance)
    require(good, "guidance", repr(guidance), "a finite number", "guidance=4.0")
    require(abs(guidance) <= 1000, "guidance", guidance, "a number between -1000 and 1000", "guidance=4.0")
    z = prepare_latents(pipe, latents, n, whole("seed", seed, 0), size)
    had, takes = pipe.vae.config.latent_channels, pipe.unet.config.in_channels
    require(
        (hint is None) == (takes == had),
        "hint",
        "none" if hint is None else f"shape {tuple(hint.shape)}",
        f"no hint: this U-Net takes the {had} latent channels alone" if takes == had else f"(B, {takes - had}, h, w)",
    )
    texts: dict[str, Any] = {"prompt": encode_prompt(pipe, prompts)}
    if guidance != 1.0:
        texts["empty"] = encode_prompt(pipe, others)
    if hint is not None:
        require(
            hint.shape == (n, takes - had, *z.shape[-2:]),
            "hint",
            f"shape {tuple(hint.shape)}",
            f"({n}, {takes - had}, {z.shape[-2]}, {z.shape[-1]}): this U-Net takes {takes} channels, {had} of them the latent",
        )
        texts = {text: (context, hint.to(z)) for text, context in texts.items()}
    return run(
        denoiser(pipe),
        z,
        texts,
        steps=steps,
        eta=eta,
        guider=CFG(guidance),
        seed=seed,
        rows=rows,
        hooks=hooks,
        **scheduler_options(pipe),
    )


@torch.no_grad()
def text_to_image(
    pipe: StableDiffusionPipeline,
    prompts: str | Sequence[str],
    *,
    steps: int | Sequence[int] = 25,
    guidance: float = 4.0,
    seed: int = 0,
    latents: Tensor | None = None,
    negative: str | Sequence[str] = "",
    size: int | tuple[int, int] | None = None,
    eta: float = 0.0,
    hint: Tensor | None = None,
    chunk: int = 16,
) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] of prompts: :func:`denoise` to the end, then the decoder. Arguments as there.

    chunk: rows at once; it changes nothing but memory and speed. Everything is checked before the first chunk runs.

    Faster, as torch has it: ``with torch.autocast("cpu", dtype=torch.bfloat16):`` around the call where the processor multiplies
    bfloat16 itself (pictures within 2/255 in the mean); ``pipe.unet.compile()`` before it (within 1e-4; half a minute or more at
    the first call of each size, so for hundreds of pictures). Not both. ``minidiff bench peers --compile`` measures them.
    """
    prompts, others = check_prompts(prompts), check_prompts(negative, argument="negative")
    n, chunk = len(prompts), whole("chunk", chunk, 1)
    require(len(others) in (1, n), "negative", f"{len(others)} prompts", f"1 or {n}: one for each prompt")
    z = prepare_latents(pipe, latents, n, whole("seed", seed, 0), size)
    require(
        hint is None or (isinstance(hint, Tensor) and len(hint) == n),
        "hint",
        getattr(hint, "shape", type(hint).__name__),
        f"{n} rows: one for each prompt",
    )
    parts = [slice(i, min(i + chunk, n)) for i in range(0, n, chunk)]
    loops = [
        denoise(
            pipe,
            prompts[part],
            steps=steps,
            guidance=guidance,
            seed=seed,
            latents=z[part],
            eta=eta,
            negative=others if len(others) == 1 else others[part],
            hint=None if hint is None else hint[part],
            rows=range(n)[part],
        )
        for part in parts
    ]
    return torch.cat([decode(pipe.vae, last(loop).x).clamp(-1, 1).to(z) for loop in loops])


def invert_image(
    pipe: StableDiffusionPipeline,
    images: Tensor,
    prompts: str | Sequence[str],
    *,
    steps: int | Sequence[int] = 50,
    fixed_point: int = 0,
    guider: Guider | None = None,
    hooks: Sequence[Hook] = (),
) -> Iterator[State]:
    """DDIM inversion at w = 1: from pictures (B, 3, H, W) to the noise that gives them back; :func:`minidiff.steer.invert`.

    ``Trajectory.of(invert_image(...))`` is what the editing methods take.
    """
    check_pictures("images", images)
    prompts = check_prompts(prompts)
    require(len(prompts) in (1, len(images)), "prompts", f"{len(prompts)} prompts", f"1 or {len(images)}: one for each picture")
    scheduler_options(pipe)
    with torch.no_grad():
        z = encode(pipe.vae, images.to(pipe.device, pipe.vae.dtype))
    return invert_latents(pipe, z, encode_prompt(pipe, prompts), steps=steps, fixed_point=fixed_point, guider=guider, hooks=hooks)


def invert_latents(
    pipe: StableDiffusionPipeline,
    z: Tensor,
    text: Tensor,
    *,
    steps: int | Sequence[int] = 50,
    fixed_point: int = 0,
    guider: Guider | None = None,
    hooks: Sequence[Hook] = (),
) -> Iterator[State]:
    """:func:`invert_image` of clean latents (B, C, h, w) with any embeddings (B or 1, L, D) in place of prompts."""
    options = scheduler_options(pipe)
    if options.pop("clip") is not None:
        raise BadInput("scheduler", "clip_sample=True", "clip_sample=False: a clip has no inverse")
    texts = {"prompt": text, "empty": encode_prompt(pipe, "")}
    return invert(denoiser(pipe), z, texts, steps=steps, fixed_point=fixed_point, guider=guider, hooks=hooks, **options)
