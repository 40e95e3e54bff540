"""The U-Net of denoising-diffusion-pytorch (lucidrains), the reference that many courses and assignments build on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import require
from minidiff.nets.attention import Attention, LinearAttention
from minidiff.nets.blocks import PostBlock, SpaceToDepth, Upsample
from minidiff.nets.embed import TimeEmbedding
from minidiff.nets.unet import Stage, check_call, check_levels, initialise

__all__ = ["LucidrainsUNet"]


class LucidrainsUNet(nn.Module):
    """``net(x, t, self_cond=None)``: x (B, channels, H, W) in [-1, 1], t (B,) steps -> (B, out, H, W).

    Where it differs from :class:`~minidiff.nets.UNet`: a 7 x 7 stem on single pixels, two blocks a level at the width they
    receive (the change of resolution widens), norms after the convolutions, attention at every level after its second
    block, a skip from the stem to the last block. channels, out_channels, dim, mults, size, learned_variance: as there.

    attention:       sides of the feature maps with full attention, the others have linear; None: the innermost alone.
    heads, head_dim, memory: of every attention; ``memory`` learned keys and values stand beside the picture's own.
    time:            "sinusoidal", "learned" or "random": see :class:`minidiff.nets.embed.TimeEmbedding`.
    self_condition:  takes the last guess of x0 as ``self_cond`` beside x (Chen et al. 2022); None equals zeros.

    A new net returns exactly 0 (theirs does not). ``LucidrainsUNet(**net.config)`` builds the same net again.
    """

    def __init__(self, channels: int = 3, out_channels: int | None = None, *, dim: int = 64,
                 mults: tuple[int, ...] = (1, 2, 4, 8), size: int = 32, attention: tuple[int, ...] | None = None, heads: int = 4,
                 head_dim: int = 32, memory: int = 4, time: str = "sinusoidal", dropout: float = 0.0,
                 self_condition: bool = False, learned_variance: bool = False) -> None:
        super().__init__()
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.config = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
        self.channels, self.self_condition, self.factor = channels, self_condition, 2 ** (len(mults) - 1)
        sides = check_levels(size, mults, 1, 2, attention or (), dropout)
        full = sides[-1:] if attention is None else attention
        emb, widths, last = 4 * dim, [dim * m for m in mults], len(mults) - 1
        kept = [dim, *widths[:-1]]                            # width of the down blocks, so of the skips
        self.out_channels = (out_channels or channels) * (2 if learned_variance else 1)
        self.time = TimeEmbedding(time, dim, emb)

        def residual(cin: int, cout: int) -> PostBlock:
            return PostBlock(cin, cout, emb, dropout=dropout)

        def mixers(width: int, side: int) -> list[nn.Module]:
            kind = Attention if side in full else LinearAttention
            return [nn.Identity(), kind(width, heads=heads, head_dim=head_dim, memory=memory, norm="rms")]

        self.stem = nn.Conv2d(channels * (2 if self_condition else 1), dim, 7, padding=3)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i, side in enumerate(sides):
            change = SpaceToDepth(kept[i], widths[i]) if i < last else nn.Conv2d(kept[i], widths[i], 3, padding=1)
            self.downs.append(Stage([residual(kept[i], kept[i]) for _ in range(2)], mixers(kept[i], side), change))
        inner = widths[-1]
        middle = Attention(inner, heads=heads, head_dim=head_dim, memory=memory, norm="rms")
        self.middle = Stage([residual(inner, inner)], [middle], residual(inner, inner))
        for i in reversed(range(len(mults))):
            change = Upsample(widths[i], kept[i]) if i > 0 else nn.Conv2d(widths[i], dim, 3, padding=1)
            stack = [residual(widths[i] + kept[i], widths[i]) for _ in range(2)]
            self.ups.append(Stage(stack, mixers(widths[i], sides[i]), change))
        self.last = residual(2 * dim, dim)
        self.out = nn.Conv2d(dim, self.out_channels, 1)
        initialise(self, self.out)

    def forward(self, x: Tensor, t: Tensor, self_cond: Tensor | None = None) -> Tensor:
        check_call(self, x, t)
        if self_cond is not None:
            require(self.self_condition, "self_cond", "a guess of x0", "none: this net was built without it",
                    "LucidrainsUNet(..., self_condition=True)")
            require(self_cond.shape == x.shape, "self_cond", f"shape {tuple(self_cond.shape)}", f"{tuple(x.shape)}, as x")
        if self.self_condition:
            x = torch.cat((torch.zeros_like(x) if self_cond is None else self_cond, x), dim=1)
        e = F.silu(self.time(t))
        x = first = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.downs:
            x = stage.down(x, e, skips)
        x = self.middle.down(x, e, [])
        for stage in self.ups:
            x = stage.up(x, e, skips)
        return self.out(self.last(torch.cat((x, first), dim=1), e))
