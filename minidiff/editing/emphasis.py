"""Two ways to stress or silence a word without touching the attention of the others by hand: its value, and its key."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.errors import check_share, require
from minidiff.steer import Hook, Site, StepContext

__all__ = ["EmphasiseValue", "IgnoreKey"]


class _Words(Hook):
    def __init__(self, tokens: Tensor, *, until: float = 1.0, branch: str = "source", text: str = "prompt") -> None:
        require(isinstance(tokens, Tensor) and tokens.ndim in (1, 2), "tokens", getattr(tokens, "shape", type(tokens).__name__),
                "a tensor (L,) or (n, L)", 'word_values(pipe.tokenizer, prompt, {"cat": 2.0})')
        check_share("until", until)
        self.tokens, self.until, self.branch, self.text = tokens.reshape(-1, 1, 1, tokens.shape[-1]), until, branch, text

    def active(self, ctx: StepContext) -> bool:
        return ctx.progress < self.until

    def selects(self, site: Site) -> bool:
        return site.kind == "cross"


class EmphasiseValue(_Words):
    """v_k <- c_k v_k in cross-attention: a word's message made louder. tokens: c, (L,) or (n, L).

    softmax(q k^T) (c v) = (c softmax(q k^T)) v: exactly :class:`~minidiff.editing.Reweight`, without its explicit softmax.
    """

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext,
               attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor | None:
        if not ctx.has(self.branch, self.text):
            return None
        mine, louder = ctx.of(self.branch, self.text), v.clone()
        louder[mine] = v[mine] * self.tokens.transpose(-1, -2).to(v)
        return attention(q, k, louder)


class IgnoreKey(_Words):
    """A word's scores q k^T become -inf before the softmax: no place can look at it, its share goes to the others.

    tokens: 1 at the tokens to ignore, 0 elsewhere, (L,) or (n, L). Masked scores are computed as what they equal: the word's
    probabilities set to 0 and the row divided by its sum. Unlike Reweight with c = 0, rows still sum to 1.
    """

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> Tensor | None:
        if not ctx.has(self.branch, self.text):
            return None
        mine = ctx.of(self.branch, self.text)
        kept = probs[mine] * (1 - self.tokens.to(probs))
        out = probs.clone()
        out[mine] = kept / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(probs.dtype).tiny)
        return out
