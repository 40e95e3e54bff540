"""Attention spelt out: what diffusers' attention layers compute, with the probabilities in the open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import require

__all__ = ["ExplicitAttnProcessor", "Site", "attention", "pool_masks", "sites"]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(output, probabilities) of softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1).

    q (..., N, d), k and v (..., L, d), mask added to the scores -> (..., N, d) and (..., N, L); rows of the latter sum to 1.
    """
    require(q.ndim == k.ndim == v.ndim, "q", f"{q.ndim} axes beside {k.ndim} of k and {v.ndim} of v", "equally many",
            "q[None] if it is one row")
    probs = _probabilities(q, k, mask)
    return probs @ v, probs


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1)


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

    Nothing is assumed about the number of levels, heads or tokens. A network without diffusers' attention layers has none.
    """
    if not hasattr(unet, "attn_processors"):
        return {}
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
    """An attention processor for diffusers whose queries, keys, values and probabilities lie open.

    ``attend(q, k, v, attention) -> out`` gets q (B, heads, N, d), k and v (B, heads, L, d) and may change all three before it
    calls ``attention(q, k, v, change=None) -> (B, heads, N, d)``, in which ``change(probs)`` sees the probabilities
    (B, heads, N, L) before they meet the values, and returns others or None. Without ``change`` it is torch's fused attention.
    Everything else is what ``AttnProcessor2_0`` does: group norm, four-dimensional input, residual and rescaling included.
    """

    def __init__(self, attend: Callable[..., Tensor] | None = None) -> None:
        self.attend = attend

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
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
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
        )
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        if attn.norm_k is not None:
            k = attn.norm_k(k)

        def plain(q: Tensor, k: Tensor, v: Tensor, change: Callable[[Tensor], Tensor | None] | None = None) -> Tensor:
            if change is None:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
            probs = _probabilities(q, k, attention_mask)
            changed = change(probs)
            if changed is None:
                return probs @ v
            require(
                changed.shape == probs.shape,
                "on_probs",
                f"probabilities of shape {tuple(changed.shape)}",
                f"the shape they came in, {tuple(probs.shape)}",
            )
            return changed @ v

        out = plain(q, k, v) if self.attend is None else self.attend(q, k, v, plain)
        require(out.shape == q.shape, "attend", f"an output of shape {tuple(out.shape)}", f"the shape of q, {tuple(q.shape)}")
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        if residual.ndim == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def pool_masks(masks: Tensor, cells: int, aspect: float) -> Tensor:
    """Masks (B, K, H, W) averaged to the grid of a site with ``cells`` places: (B, K, cells). aspect: height / width."""
    h = max(1, round((cells * aspect) ** 0.5))
    w, (high, wide) = cells // h, masks.shape[-2:]
    require(
        h * w == cells and high % h == 0 and wide % w == 0,
        "cells",
        cells,
        f"a grid of aspect {aspect:g} that divides masks of {high} x {wide}",
    )
    return torch.flatten(F.avg_pool2d(masks, (high // h, wide // w)), 2)
