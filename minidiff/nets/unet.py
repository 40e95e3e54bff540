"""The U-Net of diffusion models: Ho et al. 2020 with the improvements of Dhariwal and Nichol 2021 (ADM)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import check_images, require
from minidiff.nets.attention import Attention
from minidiff.nets.blocks import PostBlock, ResBlock, Upsample, depth_to_space, space_to_depth
from minidiff.nets.embed import TimeEmbedding
from minidiff.nets.norm import make_norm

__all__ = ["PRESETS", "Stage", "UNet", "check_call", "check_levels", "initialise"]

# "ddpm": the net of Ho et al. 2020 for 32 x 32 pictures; "adm": that of Dhariwal and Nichol 2021
PRESETS: dict[str, dict] = {
    "mini": {},
    "ddpm": {"scale_shift": False, "blocks": 2, "patch": 1, "mults": (1, 2, 2), "attention": (16,), "heads": 1},
    "adm": {"resblock_updown": True, "blocks": 2, "patch": 1, "mults": (1, 2, 2), "attention": (16, 8), "heads": None,
            "head_dim": 64, "learned_variance": True},
}


class Stage(nn.Module):
    """One resolution, down or up: blocks, each followed by attention or nothing, then a change of resolution."""

    def __init__(self, blocks: list[nn.Module], mixers: list[nn.Module], change: nn.Module) -> None:
        super().__init__()
        self.blocks, self.mixers, self.change = nn.ModuleList(blocks), nn.ModuleList(mixers), change

    def leave(self, x: Tensor, e: Tensor) -> Tensor:
        return self.change(x, e) if isinstance(self.change, (ResBlock, PostBlock)) else self.change(x)

    def down(self, x: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:
        for block, mixer in zip(self.blocks, self.mixers):
            x = mixer(block(x, e))
            skips.append(x)
        return self.leave(x, e)

    def up(self, x: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:
        for block, mixer in zip(self.blocks, self.mixers):
            x = mixer(block(torch.cat((x, skips.pop()), dim=1), e))
        return self.leave(x, e)


class UNet(nn.Module):
    """``net(x, t, cond=None)``: x (B, channels, H, W) in [-1, 1], t (B,) steps -> (B, out, H, W).

    channels, out_channels: of the pictures; ``learned_variance`` doubles the output (iDDPM: mean, then variance).
    dim, mults:      width of the first level, and each level's multiple of it; levels halve the resolution.
    blocks:          residual blocks a level, in each direction.
    patch:           p x p pixels become one (space to depth) before the first convolution, and are undone at the end.
    size:            the side of the training pictures; only used to place attention, any other side runs too.
    attention:       sides of the feature maps that get attention; the middle has it as well. None: nowhere.
    heads, head_dim: see :func:`minidiff.nets.attention.head_shape`.
    scale_shift:     True tells a block the time by scale and shift (ADM's AdaGN), False adds it (DDPM).
    resblock_updown: True changes the resolution inside a residual block (ADM), False by a convolution.
    cond_dim:        takes ``cond`` (B, cond_dim), added to the time embedding without a bias: None equals zeros.

    The last convolution of each block and of the net start at zero, so a new net returns exactly 0. Faster on most
    machines after ``net.to(memory_format=torch.channels_last)``. ``UNet(**net.config)`` builds the same net again.
    :class:`~minidiff.nets.lucidrains.LucidrainsUNet` is the other common net, with its own options.
    """

    def __init__(self, channels: int = 3, out_channels: int | None = None, *, dim: int = 64, mults: tuple[int, ...] = (1, 2),
                 blocks: int = 1, patch: int = 2, size: int = 32, attention: tuple[int, ...] | None = (8,),
                 heads: int | None = 4, head_dim: int | None = None, scale_shift: bool = True, resblock_updown: bool = False,
                 dropout: float = 0.0, cond_dim: int | None = None, learned_variance: bool = False) -> None:
        super().__init__()
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.config = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
        self.channels, self.patch, self.cond_dim = channels, patch, cond_dim
        self.factor = patch * 2 ** (len(mults) - 1)
        sides = check_levels(size, mults, patch, blocks, () if attention is None else attention, dropout)
        emb, widths, last = 4 * dim, [dim * m for m in mults], len(mults) - 1
        self.out_channels = (out_channels or channels) * (2 if learned_variance else 1)
        self.time = TimeEmbedding("sinusoidal", dim, emb)
        self.cond = None if cond_dim is None else nn.Linear(cond_dim, emb, bias=False)

        def residual(cin: int, cout: int, change: str | None = None) -> ResBlock:
            return ResBlock(cin, cout, emb, scale_shift=scale_shift, dropout=dropout, resample=change)

        def mixer(width: int, on: bool) -> nn.Module:
            return Attention(width, heads=heads, head_dim=head_dim) if on else nn.Identity()

        def mixers(level: int) -> list[nn.Module]:
            return [mixer(widths[level], attention is not None and sides[level] in attention) for _ in range(blocks)]

        self.stem = nn.Conv2d(channels * patch**2, dim, 3, padding=1)
        self.downs, width = nn.ModuleList(), dim
        for i, wide in enumerate(widths):
            stack = [residual(width if j == 0 else wide, wide) for j in range(blocks)]
            change: nn.Module = nn.Identity()
            if i < last:
                change = residual(wide, wide, "down") if resblock_updown else nn.Conv2d(wide, wide, 3, stride=2, padding=1)
            self.downs.append(Stage(stack, mixers(i), change))
            width = wide
        self.middle = Stage([residual(width, width)], [mixer(width, attention is not None)], residual(width, width))
        self.ups = nn.ModuleList()
        for i, wide in reversed(list(enumerate(widths))):
            stack = [residual((width if j == 0 else wide) + wide, wide) for j in range(blocks)]
            change, width = nn.Identity(), widths[max(i - 1, 0)]
            if i > 0:                                        # narrowed here, where it is cheaper than in the next block
                change = residual(wide, width, "up") if resblock_updown else Upsample(wide, width)
            self.ups.append(Stage(stack, mixers(i), change))
        self.norm = make_norm("group", width)
        self.out = nn.Conv2d(width, self.out_channels * patch**2, 3, padding=1)
        initialise(self, self.out)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        check_call(self, x, t)
        e = self.time(t)
        if cond is not None:
            require(self.cond is not None, "cond", "a condition", "none: this net was built without one", "UNet(..., cond_dim=D)")
            require(isinstance(cond, Tensor) and cond.shape == (len(x), self.cond_dim), "cond",
                    f"shape {tuple(getattr(cond, 'shape', ()))}", f"shape ({len(x)}, {self.cond_dim})")
            e = e + self.cond(cond)
        e = F.silu(e)
        x = self.stem(space_to_depth(x, self.patch))
        skips: list[Tensor] = []
        for stage in self.downs:
            x = stage.down(x, e, skips)
        x = self.middle.down(x, e, [])
        for stage in self.ups:
            x = stage.up(x, e, skips)
        return depth_to_space(self.out(F.silu(self.norm(x))), self.patch)


def check_levels(size: int, mults: Sequence[int], patch: int, blocks: int, attention: Sequence[int], dropout: float) -> list[int]:
    """Refuse numbers that make no U-Net; returns the side of each level's feature maps."""
    require(len(mults) > 0 and blocks > 0, "mults, blocks", (mults, blocks), "at least one level and one block")
    factor = patch * 2 ** (len(mults) - 1)
    require(size % factor == 0, "size", size, f"a multiple of {factor} (patch * 2 ** (levels - 1))",
            f"size={max(1, size // factor) * factor}")
    require(0 <= dropout < 1, "dropout", dropout, "a probability, 0 <= dropout < 1", "dropout=0.1")
    sides = [size // patch // 2**i for i in range(len(mults))]
    for side in attention:
        require(side in sides, "attention", side,
                f"sides of feature maps; with size={size}, patch={patch}, {len(mults)} levels they are {sides}",
                f"attention=({sides[-1]},)")
    return sides


def check_call(net: nn.Module, x: Tensor, t: Tensor) -> None:
    """Refuse pictures that do not fit the channels and levels of ``net``, and times that are not one a picture."""
    check_images("x", x, channels=net.channels, finite=False)
    h, w = x.shape[-2:]
    near = tuple(max(1, round(s / net.factor)) * net.factor for s in (h, w))
    require(h % net.factor == 0 and w % net.factor == 0, "x", f"{h} x {w} pixels",
            f"both sides a multiple of {net.factor} ({len(net.downs)} levels)", f"F.interpolate(x, {near})")
    require(isinstance(t, Tensor), "t", type(t).__name__, "a tensor of one step a picture", "torch.full((len(x),), t)")
    require(t.shape == (len(x),), "t", f"shape {tuple(t.shape)}", f"shape ({len(x)},), one step a picture",
            "t.expand(len(x))" if t.numel() == 1 else "")


def initialise(net: nn.Module, *zeros: nn.Module) -> None:
    """Uniform with variance 2 / (fan in + fan out) and zero biases (Ho et al.), then the layers that start at zero:
    ``zeros``, and what every block of ``net`` names in its own ``zeros``.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in [*zeros, *(z for m in net.modules() for z in getattr(m, "zeros", ()))]:
        nn.init.zeros_(module.weight)
