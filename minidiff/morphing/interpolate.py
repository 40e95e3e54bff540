"""In-betweens by mixing codes: lerp and slerp of inverted noise (Song et al. 2021), midpoints of midpoints (Wang and Golland)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion import last, lerp, q_sample, row_noise, slerp, timesteps
from minidiff.errors import check_choice, require
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import denoiser, encode_prompt, schedule_from, scheduler_options
from minidiff.morphing.ends import (
    MIXES,
    MorphResult,
    Side,
    check_weights,
    ends_of,
    frames_of,
    in_order,
    named,
    picture_pair,
    walk,
)
from minidiff.steer import CFG, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["cross_fade", "latent_lerp", "lerp", "midpoints", "noise_levels", "plain_guidance", "slerp", "slerp_morph",
           "wang_golland"]


def cross_fade(first: Tensor, other: Tensor, weights: int | Sequence[float] = 9) -> Tensor:
    """Pictures laid over each other, the trivial morph: (B, 3, H, W) twice -> (B, n, 3, H, W)."""
    return torch.stack([lerp(first, other, w) for w in check_weights(weights)], 1)


@torch.no_grad()
def latent_lerp(pipe: StableDiffusionPipeline, first: Tensor, other: Tensor, weights: int | Sequence[float] = 9) -> Tensor:
    """The clean latents of two pictures laid over each other and decoded: (B, 3, H, W) twice -> (B, n, 3, H, W)."""
    a, b = (encode(pipe.vae, x.to(pipe.device, pipe.vae.dtype)) for x in (first, other))
    return frames_of(pipe, [lerp(a, b, w) for w in check_weights(weights)])


def plain_guidance(guidance: float | None, first: Side) -> float:
    """The weight itself, or 1 for pictures (so that the ends come back) and 4 for prompts."""
    return guidance if guidance is not None else 1.0 if isinstance(first, Tensor) else 4.0


def slerp_morph(pipe: StableDiffusionPipeline, first: Side, other: Side, prompts: tuple[Any, Any] | None = None, *,
                weights: int | Sequence[float] = 9, mix: str = "slerp", steps: int = 12, guidance: float | None = None,
                seed: int | tuple[int, int] = 0, fixed_point: int = 1) -> MorphResult:
    """Invert both pictures, mix the noises on the great circle, denoise (Song et al. 2021, section 5.3; DDIM-Interpolation).

    first, other, prompts, seed, fixed_point: as in :func:`minidiff.morphing.ends_of`; the embedding of a frame is
    the lerp of both. mix: "slerp" or "lerp" of the noises. guidance: None is 1 for pictures, 4 for prompts. The ends are what the
    inversion gives back, not the pictures themselves.
    """
    weights = check_weights(weights)
    check_choice("mix", mix, MIXES)
    ends = ends_of(pipe, first, other, prompts, seed=seed, steps=steps, fixed_point=fixed_point)
    way = walk(pipe, ends, named(weights), steps=steps, guidance=plain_guidance(guidance, first), mix=mix,
               with_ends=bool({0.0, 1.0} & set(weights)))
    return MorphResult(mix, frames_of(pipe, in_order(weights, last(way).z)), weights, ends.prompts)


def noise_levels(pipe: StableDiffusionPipeline, steps: int, shares: Sequence[float]) -> list[list[int]]:
    """For each share of the way to pure noise the timesteps from there down to the picture, of ``steps`` in all."""
    options = scheduler_options(pipe)
    every = timesteps(schedule_from(pipe.scheduler).T, steps, spacing=options["spacing"], offset=options["offset"])
    for share in shares:
        require(0 < share <= 1, "shares", share, "shares of the way to pure noise, above 0 and up to 1", "shares=(0.6, 0.3)")
    return [list(every[-max(1, round(share * steps)):]) for share in shares]


@torch.no_grad()
def midpoints(pipe: StableDiffusionPipeline, a: Tensor, b: Tensor, text: Tensor, route: Sequence[int], *, guidance: float = 1.0,
              seed: int = 0, rows: Sequence[int] | None = None) -> Tensor:
    """The clean latents half-way between clean latents a and b (n, C, h, w) at one level of noise.

    Both are noised to ``route[0]`` with the *same* noise (a function of seed, row and level), slerped at one half, and denoised
    along ``route`` with ``text`` (n, L, D). The more noise, the freer the midpoint; with none it is the blend of the two.
    """
    schedule, t = schedule_from(pipe.scheduler), int(route[0])
    eps = row_noise(a.shape, seed=seed, t=t, rows=rows, dtype=a.dtype, device=a.device, stream="midpoint")
    z = slerp(*(q_sample(x, t, eps, schedule) for x in (a, b)), 0.5)
    texts = {"prompt": text, **({"empty": encode_prompt(pipe, "")} if guidance != 1.0 else {})}
    return last(run(denoiser(pipe), z, texts, steps=list(route), guider=CFG(guidance), **scheduler_options(pipe))).x


@torch.no_grad()
def wang_golland(pipe: StableDiffusionPipeline, first: Tensor, other: Tensor, prompts: tuple[Any, Any] | None = None, *,
                 levels: int = 3, shares: tuple[float, float] = (0.6, 0.3), steps: int = 20, guidance: float | None = None,
                 seed: int = 0) -> MorphResult:
    """Midpoints of midpoints (Wang and Golland 2023): 2 ** levels + 1 frames between two pictures (B, 3, H, W).

    Level 1 is the frame in the middle, at ``shares[0]`` of the way to pure noise; each further level halves every gap with
    less noise, down to ``shares[1]``: near neighbours need less freedom. Left out of the published method: fitting the prompts'
    embeddings to the pictures, a pose for ControlNet, and eight candidates a frame ranked by CLIP.
    """
    require(isinstance(levels, int) and 1 <= levels <= 6, "levels", repr(levels), "a whole number from 1 to 6", "levels=3")
    images, said = picture_pair(first, other, prompts)
    both = [encode_prompt(pipe, p) for p in said]
    fall = (shares[1] - shares[0]) / max(levels - 1, 1)
    routes = noise_levels(pipe, steps, [shares[0] + fall * k for k in range(levels)])
    n, w = len(images[0]), plain_guidance(guidance, first)
    z = {float(k): encode(pipe.vae, x.to(pipe.device, pipe.vae.dtype)) for k, x in enumerate(images)}
    for level, route in enumerate(routes):
        gaps = list(pairwise(sorted(z)))
        middles = [(a + b) / 2 for a, b in gaps]
        text = torch.cat([lerp(*both, m) for m in middles])
        made = midpoints(pipe, torch.cat([z[a] for a, _ in gaps]), torch.cat([z[b] for _, b in gaps]), text, route, guidance=w,
                         seed=seed + level, rows=list(range(n)) * len(gaps))
        z |= dict(zip(middles, made.split(n), strict=True))
    weights = tuple(sorted(z))
    return MorphResult("Wang and Golland", frames_of(pipe, [z[k] for k in weights]), weights, said,
                       {"levels of noise": [route[0] for route in routes]})
