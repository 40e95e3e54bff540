"""The noisy classifier of ADM: the descending half of a U-Net, and an attention pool in the place of an average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import check_images, require
from minidiff.nets.attention import Attention
from minidiff.nets.blocks import ResBlock, space_to_depth
from minidiff.nets.embed import TimeEmbedding
from minidiff.nets.norm import make_norm

__all__ = ["AttentionPool", "NoisyClassifier"]


class AttentionPool(nn.Module):
    """One query, the mean of all positions, attends to all positions (Radford et al. 2021, CLIP; Dhariwal and Nichol 2021).

    (B, C, H, W) -> (B, C). A learned position is added to each of the ``side`` x ``side`` tokens and to the mean's token.
    """

    def __init__(self, channels: int, side: int, *, heads: int = 4) -> None:
        super().__init__()
        require(channels % heads == 0, "heads", heads, f"a divisor of the {channels} channels", "heads=4")
        self.heads = heads
        self.position = nn.Parameter(torch.randn(side * side + 1, channels) * channels**-0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(x, "b c h w -> b (h w) c")
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.position
        q, k, v = rearrange(self.qkv(tokens), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        y = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        return self.out(rearrange(y, "b h 1 d -> b (h d)"))


class NoisyClassifier(nn.Module):
    """``net(x_t, t)`` -> {name: (B, classes) logits}: what a noised picture shows (Dhariwal and Nichol 2021, section 4).

    classes: number of classes of each attribute. It sees q_sample(x, t) in training, so it can be asked at any noise level.
    No BatchNorm: the logits of a row do not depend on the others, so the gradient of a sum over rows is a row's own.
    """

    def __init__(self, classes: Mapping[str, int], *, channels: int = 3, dim: int = 32, mults: Sequence[int] = (1, 2),
                 patch: int = 2, size: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.config = {"classes": dict(classes), "channels": channels, "dim": dim, "mults": list(mults), "patch": patch,
                       "size": size, "heads": heads}
        self.channels, self.patch = channels, patch
        emb = 4 * dim
        self.time = TimeEmbedding("sinusoidal", dim, emb)
        self.stem = nn.Conv2d(channels * patch**2, dim * mults[0], 3, padding=1)
        blocks: list[nn.Module] = []
        width = dim * mults[0]
        for i, mult in enumerate(mults):
            blocks.append(ResBlock(width, dim * mult, emb, resample="down" if i else None))
            width = dim * mult
        self.blocks = nn.ModuleList(blocks)
        self.mixer = Attention(width, heads=heads)
        self.last = ResBlock(width, width, emb)
        self.norm = make_norm("group", width)
        self.pool = AttentionPool(width, size // patch // 2 ** (len(mults) - 1), heads=heads)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in classes.items()})

    def forward(self, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        check_images("x", x, channels=self.channels, finite=False)
        require(t.shape == (len(x),), "t", f"shape {tuple(t.shape)}", f"shape ({len(x)},), one step a picture")
        e = F.silu(self.time(t))
        h = self.stem(space_to_depth(x, self.patch))
        for block in self.blocks:
            h = block(h, e)
        h = self.pool(F.silu(self.norm(self.last(self.mixer(h), e))))
        return {name: head(F.silu(h)) for name, head in self.heads.items()}
