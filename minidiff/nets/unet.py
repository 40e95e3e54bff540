"""The U-Net of diffusion models: Ho et al. 2020, with the choices of ADM and of lucidrains as named options."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import check_choice, check_images, require
from minidiff.nets.attention import Attention, LinearAttention
from minidiff.nets.blocks import RESAMPLES, PostBlock, ResBlock, depth_to_space, make_block, make_down, make_up, space_to_depth
from minidiff.nets.embed import TimeEmbedding
from minidiff.nets.norm import make_norm

__all__ = ["LAYOUTS", "PRESETS", "Stage", "UNet"]

LAYOUTS = ("ddpm", "lucidrains")

PRESETS: dict[str, dict] = {
    "mini": {},
    "ddpm": {"block": "ddpm", "blocks": 2, "patch": 1, "mults": (1, 2, 2), "attention": (16,), "heads": 1},
    "adm": {"block": "adm", "blocks": 2, "patch": 1, "mults": (1, 2, 2), "attention": (16, 8), "heads": None, "head_dim": 64,
            "resample": "biggan", "time": "openai", "learned_variance": True},
    "lucidrains": {"block": "lucidrains", "layout": "lucidrains", "norm": "rms", "blocks": 2, "patch": 1,
                   "mults": (1, 2, 4, 8), "attention": (4,), "linear": (32, 16, 8), "heads": 4, "head_dim": 32,
                   "memory": 4, "resample": "shuffle"},
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
    """``net(x, t, cond=None, self_cond=None)``: x (B, channels, H, W) in [-1, 1], t (B,) steps -> (B, out, H, W).

    channels, out_channels: of the pictures; ``learned_variance`` doubles the output (iDDPM: mean, then variance).
    dim, mults:      width of the first level, and each level's multiple of it; levels halve the resolution.
    blocks:          residual blocks a level, in each direction.
    patch:           p x p pixels become one (space to depth) before the first convolution, and are undone at the end.
    size:            the side of the training pictures; only used to place attention, any other side runs too.
    attention:       sides of the feature maps that get full attention; the middle has it as well. None: nowhere.
    linear:          sides that get linear attention instead.
    heads, head_dim: see :func:`minidiff.nets.attention.head_shape`; ``memory`` adds that many learned keys and values.
    block:           "adm" (scale and shift), "ddpm" (added time) or "lucidrains" (norm after the convolution).
    layout:          "ddpm", or "lucidrains": 7 x 7 stem, down blocks at the width they receive, a skip from stem to end.
    resample:        "conv", "shuffle" (space to depth) or "biggan" (inside a residual block).
    norm, groups:    "group" or "rms".
    time:            "sinusoidal", "openai", "learned" or "random": see :class:`minidiff.nets.embed.TimeEmbedding`.
    cond_dim:        takes ``cond`` (B, cond_dim), added to the time embedding without a bias: None equals zeros.
    self_condition:  takes the last guess of x0 as ``self_cond`` beside x (Chen et al. 2022); None equals zeros.

    The last convolution of each block and of the net start at zero, so a new net returns exactly 0. Faster on most
    machines after ``net.to(memory_format=torch.channels_last)``. ``UNet(**net.config)`` builds the same net again.
    """

    def __init__(self, channels: int = 3, out_channels: int | None = None, *, dim: int = 64, mults: tuple[int, ...] = (1, 2),
                 blocks: int = 1, patch: int = 2, size: int = 32, attention: tuple[int, ...] | None = (8,),
                 linear: tuple[int, ...] = (), heads: int | None = 4, head_dim: int | None = None, memory: int = 0,
                 block: str = "adm", layout: str = "ddpm", resample: str = "conv", norm: str = "group", groups: int = 32,
                 time: str = "sinusoidal", dropout: float = 0.0, cond_dim: int | None = None, self_condition: bool = False,
                 learned_variance: bool = False) -> None:
        super().__init__()
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.config = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
        self.channels, self.patch, self.cond_dim, self.self_condition = channels, patch, cond_dim, self_condition
        self.factor = patch * 2 ** (len(mults) - 1)
        check_choice("layout", layout, LAYOUTS)
        check_choice("resample", resample, RESAMPLES)
        require(len(mults) > 0 and blocks > 0, "mults, blocks", (mults, blocks), "at least one level and one block")
        require(size % self.factor == 0, "size", size, f"a multiple of {self.factor} (patch * 2 ** (levels - 1))",
                f"size={max(1, size // self.factor) * self.factor}")
        require(0 <= dropout < 1, "dropout", dropout, "a probability, 0 <= dropout < 1", "dropout=0.1")
        sides = [size // patch // 2**i for i in range(len(mults))]
        full = () if attention is None else tuple(attention)
        for side in (*full, *linear):
            require(side in sides, "attention" if side in full else "linear", side,
                    f"sides of feature maps; with size={size}, patch={patch}, {len(mults)} levels they are {sides}",
                    f"attention=({sides[-1]},)")
        doubled = set(full) & set(linear)
        require(not doubled, "linear", sorted(doubled), "sides that are not in attention as well")

        emb = 4 * dim
        early = layout == "lucidrains"                       # down blocks keep the width they receive; the change widens
        self.out_channels = (out_channels or channels) * (2 if learned_variance else 1)
        self.time = TimeEmbedding(time, dim, emb)
        self.cond = None if cond_dim is None else nn.Linear(cond_dim, emb, bias=False)

        def residual(cin: int, cout: int, *, change: str | None = None) -> ResBlock | PostBlock:
            return make_block(block, cin, cout, emb, norm=norm, groups=groups, dropout=dropout, resample=change)

        def mixer(width: int, *, on: bool, kind: type = Attention) -> nn.Module:
            return kind(width, heads=heads, head_dim=head_dim, memory=memory, norm=norm, groups=groups) if on else nn.Identity()

        def mixers(width: int, side: int) -> list[nn.Module]:
            kind = LinearAttention if side in linear else Attention
            on = side in (*full, *linear)                    # after each block; lucidrains: after a level's last block
            return [mixer(width, on=on and (not early or j == blocks - 1), kind=kind) for j in range(blocks)]

        widths = [dim * m for m in mults]
        kept = [dim, *widths[:-1]] if early else widths      # width of the down blocks, so of the skips
        last = len(mults) - 1

        stem = 7 if early else 3
        self.stem = nn.Conv2d(channels * (2 if self_condition else 1) * patch**2, dim, stem, padding=stem // 2)
        self.downs, width = nn.ModuleList(), dim
        for i, side in enumerate(sides):
            stack = [residual(width if j == 0 else kept[i], kept[i]) for j in range(blocks)]
            change: nn.Module = nn.Conv2d(kept[i], widths[i], 3, padding=1) if early else nn.Identity()
            if i < last:
                change = (residual(kept[i], widths[i], change="down") if resample == "biggan"
                          else make_down(resample, kept[i], widths[i]))
            self.downs.append(Stage(stack, mixers(kept[i], side), change))
            width = widths[i]
        self.middle = Stage([residual(width, width)], [mixer(width, on=attention is not None)], residual(width, width))
        self.ups = nn.ModuleList()
        for i in reversed(range(len(mults))):
            stack = [residual((width if j == 0 else widths[i]) + kept[i], widths[i]) for j in range(blocks)]
            change = nn.Conv2d(widths[i], dim, 3, padding=1) if early else nn.Identity()
            width = widths[i - 1] if i > 0 else dim if early else widths[0]
            if i > 0:                                        # narrowed here, where it is cheaper than in the next block
                change = (residual(widths[i], width, change="up") if resample == "biggan"
                          else make_up(resample, widths[i], width))
            self.ups.append(Stage(stack, mixers(widths[i], sides[i]), change))
        self.last = residual(width + dim, dim) if early else None
        self.norm = nn.Identity() if early else make_norm(norm, width, groups=groups)
        self.out = nn.Conv2d(width, self.out_channels * patch**2, 1 if early else 3, padding=0 if early else 1)
        self._initialise()

    def _initialise(self) -> None:
        """Uniform with variance 2 / (fan in + fan out) and zero biases (Ho et al.), then the layers that start at zero."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in [self.out, *(z for m in self.modules() for z in getattr(m, "zeros", ()))]:
            nn.init.zeros_(module.weight)

    def _check(self, x: Tensor, t: Tensor, cond: Tensor | None, self_cond: Tensor | None) -> None:
        check_images("x", x, channels=self.channels, finite=False)
        h, w = x.shape[-2:]
        near = [max(1, round(s / self.factor)) * self.factor for s in (h, w)]
        require(h % self.factor == 0 and w % self.factor == 0, "x", f"{h} x {w} pixels",
                f"both sides a multiple of {self.factor} (patch {self.patch}, {len(self.downs)} levels)",
                f"F.interpolate(x, {tuple(near)})")
        require(isinstance(t, Tensor), "t", type(t).__name__, "a tensor of one step a picture", "torch.full((len(x),), t)")
        require(t.shape == (len(x),), "t", f"shape {tuple(t.shape)}", f"shape ({len(x)},), one step a picture",
                "t.expand(len(x))" if t.numel() == 1 else "")
        if cond is not None:
            require(self.cond_dim is not None, "cond", "a condition", "none: this net was built without one",
                    "UNet(..., cond_dim=D)")
            require(isinstance(cond, Tensor) and cond.shape == (len(x), self.cond_dim), "cond",
                    f"shape {tuple(getattr(cond, 'shape', ()))}", f"shape ({len(x)}, {self.cond_dim})")
        if self_cond is not None:
            require(self.self_condition, "self_cond", "a guess of x0", "none: this net was built without it",
                    "UNet(..., self_condition=True)")
            require(self_cond.shape == x.shape, "self_cond", f"shape {tuple(self_cond.shape)}", f"{tuple(x.shape)}, as x")

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, self_cond: Tensor | None = None) -> Tensor:
        self._check(x, t, cond, self_cond)
        if self.self_condition:
            x = torch.cat((torch.zeros_like(x) if self_cond is None else self_cond, x), dim=1)
        e = self.time(t)
        if cond is not None and self.cond is not None:
            e = e + self.cond(cond)
        e = F.silu(e)
        x = first = self.stem(space_to_depth(x, self.patch))
        skips: list[Tensor] = []
        for stage in self.downs:
            x = stage.down(x, e, skips)
        x = self.middle.down(x, e, [])
        for stage in self.ups:
            x = stage.up(x, e, skips)
        if self.last is not None:
            x = self.last(torch.cat((x, first), dim=1), e)
        else:
            x = F.silu(self.norm(x))
        return depth_to_space(self.out(x), self.patch)
