"""Self-attention over the pixels of a feature map: full and linear, with optional memory tokens."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import require
from minidiff.nets.norm import make_norm

__all__ = ["Attention", "LinearAttention", "head_shape"]


def head_shape(channels: int, heads: int | None, head_dim: int | None) -> tuple[int, int]:
    """(heads, channels per head); the missing one is derived from ``channels``.

    heads=4: DDPM style, channels / 4 each. heads=None, head_dim=64: ADM, more heads where the map is wider.
    heads=4, head_dim=32: lucidrains, an inner width of 128 whatever the channels.
    """
    require(heads is not None or head_dim is not None, "heads", None, "heads or head_dim to be given", "heads=4")
    if heads is None:
        require(channels % head_dim == 0, "head_dim", head_dim, f"a divisor of the {channels} channels at an attention layer",
                "heads=4, head_dim=None")
        heads = channels // head_dim
    if head_dim is None:
        require(channels % heads == 0, "heads", heads, f"a divisor of the {channels} channels at an attention layer",
                "heads=None, head_dim=... or a dim that is a multiple of heads")
        head_dim = channels // heads
    return heads, head_dim


class _Attention(nn.Module):
    """norm -> q, k, v -> mix(q, k, v) -> zero-initialised projection -> added to the input. (B, C, H, W) in and out."""

    def __init__(self, channels: int, *, heads: int | None = 4, head_dim: int | None = None, memory: int = 0,
                 norm: str = "group") -> None:
        super().__init__()
        self.heads, self.head_dim = head_shape(channels, heads, head_dim)
        inner = self.heads * self.head_dim
        self.norm = make_norm(norm, channels)
        self.qkv = nn.Linear(channels, 3 * inner, bias=False)
        self.memory = nn.Parameter(torch.randn(2, self.heads, memory, self.head_dim)) if memory else None
        self.out = nn.Linear(inner, channels)

    @property
    def zeros(self) -> tuple[nn.Module, ...]:
        """Layers that start at zero, so that the whole layer starts as the identity."""
        return (self.out,)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")        # a view when x is channels_last
        q, k, v = rearrange(self.qkv(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        if self.memory is not None:                                     # learned keys and values beside the picture's own
            mk, mv = repeat(self.memory, "two heads m d -> two b heads m d", b=len(x))
            k, v = torch.cat((mk, k), dim=2), torch.cat((mv, v), dim=2)
        y = self.out(rearrange(self.mix(q, k, v), "b heads n d -> b n (heads d)"))
        return x + rearrange(y, "b (h w) c -> b c h w", h=x.shape[2])


class Attention(_Attention):
    """Full attention softmax(q k' / sqrt(d)) v (Vaswani et al. 2017, equation 1): every pixel looks at every pixel."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type == "cpu" and torch.is_grad_enabled():      # the fused kernel's backward took a third of a training step
            return (q * self.head_dim**-0.5 @ k.transpose(2, 3)).softmax(3) @ v
        return F.scaled_dot_product_attention(q, k, v)


class LinearAttention(_Attention):
    """softmax_d(q) (softmax_n(k)' v) / sqrt(d): cost grows with n instead of n^2 (Shen et al. 2018, as in lucidrains).

    The keys are normalised over the positions and the queries over their own channels, so the small d x d table
    k' v is made once and read by every position. lucidrains has one more norm after the projection.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        table = k.softmax(dim=2).transpose(2, 3) @ v
        return q.softmax(dim=3) * self.head_dim**-0.5 @ table
