"""DiffMorpher (Zhang et al. 2024): an adapter for each picture, and all that lies between the two mixed with one weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion import last, lerp, slerp
from minidiff.errors import check_choice, require
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import encode_prompt
from minidiff.measure.path import Distance, equal_spacing, hops, rms
from minidiff.morphing.adapt import LerpLoRA, invert_with, picture_loras
from minidiff.morphing.aid import Inner
from minidiff.morphing.ends import (
    FIRST,
    OTHER,
    Ends,
    MorphResult,
    Side,
    check_weights,
    frames_of,
    in_order,
    named,
    picture_pair,
    walk,
)
from minidiff.personal.lora import LoRA
from minidiff.steer import Hook

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["STAGES", "adain", "diffmorpher", "mixed_attention", "respaced", "slerp_adain"]

STAGES = ("lora", "attention", "adain", "spacing")


def adain(z: Tensor, a: Tensor, b: Tensor, w: float) -> Tensor:
    """Each channel of z with the mean and standard deviation of lerp of those of a and b (DiffMorpher, eqs. 8-10).

    z, a, b: (B, C, h, w). Huang and Belongie's (2017) adaptive instance normalisation, with targets between two pictures.
    """
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)

    mean, std = moments(z)
    means, stds = zip(moments(a), moments(b), strict=True)
    return lerp(*stds, w) * (z - mean) / std.clamp(min=1e-8) + lerp(*means, w)


def slerp_adain(a: Tensor, b: Tensor, w: float) -> Tensor:
    """slerp of two noises, then :func:`adain`."""
    return adain(slerp(a, b, w), a, b, w)


def mixed_attention(weights: dict[str, float], *, until: float = 0.6) -> Inner:
    """Keys and values of self-attention on the way up: (1 - w) K_A + w K_B, likewise V, in the first ``until`` of the steps
    (DiffMorpher, eqs. 5-7). The frame's own keys and values are not kept."""
    return Inner(weights, fused=False, until=until, sites=lambda site: site.kind == "self" and site.place == "up")


def respaced(draw: Callable[[Sequence[float]], Tensor], weights: Sequence[float], count: int, *, distance: Distance = rms,
             rounds: int = 1) -> tuple[Tensor, tuple[float, ...]]:
    """``count`` frames at which the hops would be equal, and their weights (DiffMorpher, section 3.4).

    draw(weights) -> frames (n, 3, H, W). The frames at ``weights`` are drawn and their hops measured; the running sum of the hops
    is inverted piecewise linearly, and the frames are drawn anew. One round is the published method. In further rounds everything
    drawn so far is measured, so a leap between two frames is narrowed down from round to round.
    """
    require(isinstance(rounds, int) and rounds >= 1, "rounds", repr(rounds), "a whole number, 1 or more", "rounds=1")
    known = dict(zip(weights, draw(weights), strict=True))
    for _ in range(rounds):
        order = sorted(known)
        steps = hops(torch.stack([known[w] for w in order]), distance)
        new = [float(w) for w in equal_spacing(order, steps, count)[0]]
        missing = [w for w in new if w not in known]
        known |= dict(zip(missing, draw(missing), strict=True)) if missing else {}
    return torch.stack([known[w] for w in new]), tuple(new)


def diffmorpher(pipe: StableDiffusionPipeline, first: Side, other: Side, prompts: tuple[Any, Any] | None = None, *,
                weights: int | Sequence[float] = 9, stages: Sequence[str] = STAGES, rank: int = 8, iterations: int = 40,
                lr: float = 2e-3, loras: Sequence[LoRA] | None = None, until: float = 0.6, rounds: int = 1,
                distance: Distance = rms, steps: int = 12, guidance: float | None = None, seed: int = 0,
                fixed_point: int = 1) -> MorphResult:
    """A morph by DiffMorpher (Zhang et al. 2024) between pictures (B, 3, H, W) or (3, H, W) in [-1, 1].

    prompts: what both show (None: the empty prompt). stages: which parts are on, a choice of STAGES; with none it is
    :func:`slerp_morph`. "lora": an adapter of attention for each picture (rank, iterations, lr, seed), the pictures inverted with
    their own, the frames drawn with lerp of Delta W. "attention": keys and values of the ends, for ``until`` of the steps.
    "adain": the noise of a frame gets the channel means and deviations between those of the ends. "spacing": frames at equal
    hops of ``distance``; then ``weights`` are the frames that are measured, and as many come back (see :func:`respaced`).
    loras: adapters that are fitted already (B of the first pictures, then B of the other ones), as a result's
    ``details["loras"]`` holds them. guidance: None is 1, as in the paper.

    ``result.details["weights"]``: where the frames of each morph lie.
    """
    weights = check_weights(weights)
    require(isinstance(first, Tensor) and isinstance(other, Tensor), "first, other", type(first).__name__,
            "two pictures: it fits adapters to them", "text_to_image(pipe, prompts) draws them")
    good = isinstance(stages, (list, tuple)) and len(set(stages)) == len(stages)
    require(good, "stages", repr(stages), f"some of {', '.join(STAGES)}", f"stages={STAGES}")
    for stage in stages:
        check_choice("stages", stage, STAGES)
    images, said = picture_pair(first, other, prompts)
    n = len(images[0])
    with torch.no_grad():
        z = torch.cat([encode(pipe.vae, x.to(pipe.device, pipe.vae.dtype)) for x in images])
    text = torch.cat([encode_prompt(pipe, p) for p in said])
    if "lora" not in stages:
        require(loras is None, "loras", "adapters", "none without the stage 'lora'")
        loras = []
    elif loras is None:
        loras = picture_loras(pipe, z, text, rank=rank, iterations=iterations, lr=lr, seed=seed)
    want = 2 * n if "lora" in stages else 0
    require(len(loras) == want, "loras", f"{len(loras)} adapters", f"{want}: of the first pictures, then of the others")
    noise = invert_with(pipe, z, text, loras, steps=steps, fixed_point=fixed_point)
    made, where = [], []
    for i in range(n):
        ends = Ends((noise[i:i + 1], noise[n + i:n + i + 1]), ([said[0][i]], [said[1][i]]),
                    (text[i:i + 1], text[n + i:n + i + 1]))

        def draw(at: Sequence[float], ends: Ends = ends, own: Sequence[LoRA] = loras[i::n]) -> Tensor:
            between, hooks = named(at), []
            if own:
                hooks.append(LerpLoRA(*own, {FIRST: 0.0, **between, OTHER: 1.0}))
            if "attention" in stages and between:
                hooks.append(mixed_attention(between, until=until))
            return _frames(pipe, ends, at, hooks, steps=steps, mix=slerp_adain if "adain" in stages else slerp,
                           guidance=1.0 if guidance is None else guidance)

        if "spacing" in stages:
            frames, at = respaced(draw, weights, len(weights), distance=distance, rounds=rounds)
        else:
            frames, at = draw(weights), weights
        made.append(frames)
        where.append(at)
    return MorphResult("DiffMorpher", torch.stack(made), weights, said, {"weights": where, "stages": tuple(stages),
                                                                                 "loras": loras})


def _frames(pipe: StableDiffusionPipeline, ends: Ends, at: Sequence[float], hooks: list[Hook], **options: Any) -> Tensor:
    """The frames (n, 3, H, W) of one morph."""
    z = last(walk(pipe, ends, named(at), hooks=hooks, **options)).z
    return frames_of(pipe, in_order(at, z))[0]

