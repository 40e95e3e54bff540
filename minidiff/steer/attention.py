"""Attention spelt out: what diffusers' attention layers compute, with the probabilities in the open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import require

__all__ = ["ExplicitAttnProcessor", "Site", "Watched", "attention", "pool_masks", "sites"]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(output, probabilities) of softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1).

    q (..., N, d), k and v (..., L, d), mask added to the scores -> (..., N, d) and (..., N, L); rows of the latter sum to 1.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    probs = (scores if mask is None else scores + mask).softmax(-1)
    return probs @ v, probs


@dataclass(frozen=True)
class Site:
    """One attention layer of a U-Net. kind: "self" or "cross"; place: "down", "mid" or "up"; level: 0 is the finest."""

    name: str
    kind: str
    place: str
    level: int
    heads: int


def sites(unet: nn.Module) -> dict[str, Site]:
    """Every attention layer of a ``UNet2DConditionModel`` in the order in which it runs, by the name of its module.

    Nothing is assumed about the number of levels, heads or tokens.
    """
    found, levels = [], len(unet.config.block_out_channels)
    for name in unet.attn_processors:
        path = name.removesuffix(".processor")
        place = path.split("_block")[0]
        where = int(path.split(".")[1]) if place != "mid" else 0
        level = {"down": where, "mid": levels - 1, "up": levels - 1 - where}[place]
        module = unet.get_submodule(path)
        kind = "cross" if path.endswith("attn2") else "self"
        found.append((("down", "mid", "up").index(place), where, path, Site(path, kind, place, level, module.heads)))
    return {site.name: site for *_, site in sorted(found, key=lambda row: row[:3])}


class ExplicitAttnProcessor:
    """An attention processor for diffusers that computes the probabilities explicitly and shows them to ``change``.

    change(probs) -> probs gets (B, heads, N, L) before they meet the values; None leaves them alone. Everything else is
    what ``AttnProcessor2_0`` does: group norm, four-dimensional input, residual and rescaling included.
    """

    def __init__(self, change: Callable[[Tensor], Tensor | None] | None = None) -> None:
        self.change = change

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None) -> Tensor:
        x, residual, shape = hidden_states, hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            x = attn.spatial_norm(x, temb)
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(x))
            attention_mask = attention_mask.view(len(x), attn.heads, -1, attention_mask.shape[-1])
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                   for part in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        if attn.norm_k is not None:
            k = attn.norm_k(k)
        out, probs = attention(q, k, v, attention_mask)
        changed = self.change(probs) if self.change is not None else None
        if changed is not None:
            require(changed.shape == probs.shape, "change", f"probabilities of shape {tuple(changed.shape)}",
                    f"the shape they came in, {tuple(probs.shape)}")
            out = changed @ v
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        if residual.ndim == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


class Watched:
    """``with Watched(unet, names) as seen:`` keeps the probabilities of the named sites, with gradients, in ``seen``.

    seen: site name -> (B, heads, N, L) of the last call. The processors that were there come back at the end.
    """

    def __init__(self, unet: nn.Module, names: list[str]) -> None:
        self.unet, self.names, self.seen = unet, names, {}

    def __enter__(self) -> dict[str, Tensor]:
        self.before = self.unet.attn_processors
        changed = dict(self.before)
        for name in self.names:
            changed[f"{name}.processor"] = ExplicitAttnProcessor(lambda probs, name=name: self.seen.__setitem__(name, probs))
        self.unet.set_attn_processor(changed)
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.unet.set_attn_processor(dict(self.before))


def pool_masks(masks: Tensor, cells: int, aspect: float) -> Tensor:
    """Masks (B, K, H, W) averaged to the grid of a site with ``cells`` places: (B, K, cells). aspect: height / width."""
    h = max(1, round((cells * aspect) ** 0.5))
    w, (high, wide) = cells // h, masks.shape[-2:]
    require(h * w == cells and high % h == 0 and wide % w == 0, "cells", cells,
            f"a grid of aspect {aspect:g} that divides masks of {high} x {wide}")
    return torch.flatten(F.avg_pool2d(masks, (high // h, wide // w)), 2)
