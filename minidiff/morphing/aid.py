"""Attention interpolation (He et al. 2024, AID): frames look at the keys and values of both ends; a guide prompt for the middle.

Training-free. With plain interpolation of text and noise each frame attends to itself alone; here the attention of a frame at
weight w is made of the keys and values of the two ends, which run in the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion import last, lerp
from minidiff.errors import check_choice, check_share, require
from minidiff.latent.pipeline import encode_prompt
from minidiff.morphing.ends import (
    FIRST,
    MIXES,
    OTHER,
    MorphResult,
    Side,
    check_weights,
    ends_of,
    frames_of,
    in_order,
    named,
    walk,
)
from minidiff.morphing.interpolate import plain_guidance
from minidiff.steer import Hook, Site, StepContext
from minidiff.steer.record import Select, choose

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["Inner", "Outer", "aid"]

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class _OfBothEnds(Hook):
    """Attention of the frames from the keys and values of the ends; the rows of other texts, and the ends, stay as they are.

    weights: branch -> w in [0, 1]. fused: the frame's own keys and values are kept beside the others (AID's default). until: the
    share of the steps in which it acts, the warm-up. sites: which attention layers, all if left out.
    """

    def __init__(self, weights: Mapping[str, float], *, fused: bool = True, until: float = 0.5,
                 sites: Select = lambda site: True) -> None:
        good = isinstance(weights, Mapping) and len(weights) > 0 and all(0 <= w <= 1 for w in weights.values())
        require(good, "weights", repr(weights), "a weight in [0, 1] for each frame's branch", 'weights={"frame 1": 0.5}')
        check_share("until", until)
        self.weights, self.fused, self.until, self.choose = dict(weights), fused, until, choose(sites)

    def active(self, ctx: StepContext) -> bool:
        return ctx.progress < self.until

    def selects(self, site: Site) -> bool:
        return self.choose(site)

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext, attention: Attention) -> Tensor | None:
        if not ctx.has(FIRST) and not any(ctx.has(name) for name in self.weights):
            return None                          # a call with other texts only
        return self.mix(q, k, v, ctx, attention)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext, attention: Attention) -> Tensor:
        raise NotImplementedError

    def _own_too(self, own: Tensor, new: Tensor) -> Tensor:
        """[own, new] along the tokens where fused: rows whose new ones are their own attend as before, each token twice."""
        return torch.cat([own, new], 2) if self.fused else new


class Inner(_OfBothEnds):
    """Interpolate inside the attention: Attn(Q, (1 - w) K_A + w K_B, (1 - w) V_A + w V_B) (AID's inner interpolation)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext, attention: Attention) -> Tensor:
        a, b = ctx.of(FIRST), ctx.of(OTHER)
        new_k, new_v = k.clone(), v.clone()
        for name, w in self.weights.items():
            rows = ctx.of(name)
            new_k[rows], new_v[rows] = lerp(k[a], k[b], w), lerp(v[a], v[b], w)
        return attention(q, self._own_too(k, new_k), self._own_too(v, new_v))


class Outer(_OfBothEnds):
    """Interpolate the outcomes: (1 - w) Attn(Q, K_A, V_A) + w Attn(Q, K_B, V_B) (AID's outer interpolation)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext, attention: Attention) -> Tensor:
        share = torch.zeros(len(q), 1, 1, 1, dtype=q.dtype, device=q.device)
        outcomes = []
        for end in (FIRST, OTHER):
            new_k, new_v = k.clone(), v.clone()
            for name, w in self.weights.items():
                rows = ctx.of(name)
                share[rows] = w
                new_k[rows], new_v[rows] = k[ctx.of(end)], v[ctx.of(end)]
            outcomes.append(attention(q, self._own_too(k, new_k), self._own_too(v, new_v)))
        return (1 - share) * outcomes[0] + share * outcomes[1]


HOOKS = {"inner": Inner, "outer": Outer}


def aid(pipe: StableDiffusionPipeline, first: Side, other: Side, prompts: tuple[Any, Any] | None = None, *,
        weights: int | Sequence[float] = 9, attend: str = "inner", fused: bool = True, until: float = 0.5,
        guide: str | Sequence[str] | None = None, sites: Select = lambda site: True, mix: str = "slerp", steps: int = 12,
        guidance: float | None = None, seed: int | tuple[int, int] = 0, fixed_point: int = 1) -> MorphResult:
    """A morph by attention interpolation between two prompts, or two pictures (He et al. 2024).

    first, other, prompts, seed, fixed_point, mix, guidance: as in :func:`minidiff.morphing.slerp_morph`; two prompts and one
    seed are the paper's own case. attend: "inner" or "outer"; fused, until, sites: see :class:`Inner`. guide: a prompt in place
    of the lerp of both in every frame between the ends (the paper's PAID), one for all or one for each of the B morphs.
    """
    weights = check_weights(weights)
    check_choice("attend", attend, HOOKS)
    check_choice("mix", mix, MIXES)
    between = named(weights)
    require(bool(between), "weights", weights, "at least one frame between the ends", "weights=9")
    said = None if guide is None else encode_prompt(pipe, guide)
    ends = ends_of(pipe, first, other, prompts, seed=seed, steps=steps, fixed_point=fixed_point)
    require(said is None or len(said) in (1, len(ends.noise[0])), "guide", repr(guide), f"one prompt, or {len(ends.noise[0])}")
    hook = HOOKS[attend](between, fused=fused, until=until, sites=sites)
    way = walk(pipe, ends, between, hooks=[hook], steps=steps, guidance=plain_guidance(guidance, first), mix=mix, guide=said)
    return MorphResult(f"AID, {'fused ' * fused}{attend}", frames_of(pipe, in_order(weights, last(way).z)), weights, ends.prompts,
                       {"guide": guide})
