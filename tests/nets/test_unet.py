"""The U-Net against closed formulas, hand-written references, diffusers and the published lucidrains net."""

from __future__ import annotations

import importlib
import inspect
import json
import math

import pytest
import torch
from torch.nn import functional as F

from minidiff.errors import BadInput
from minidiff.nets import PRESETS, LucidrainsUNet, UNet, features, multiply_adds, parameters
from minidiff.nets.attention import Attention, LinearAttention
from minidiff.nets.blocks import PostBlock, ResBlock, SpaceToDepth, depth_to_space, space_to_depth
from minidiff.nets.embed import Fourier, TimeEmbedding, sinusoid
from minidiff.nets.norm import RMSNorm, make_norm

OPTIONS: dict[str, dict] = {
    "plain": {}, "added time": {"scale_shift": False}, "biggan": {"resblock_updown": True},
    "two blocks": {"blocks": 2}, "three levels": {"mults": (1, 2, 2), "attention": (4, 8)},
    "patch 1": {"patch": 1, "attention": (16,)},
    "patch 4": {"patch": 4, "attention": (4,)}, "no attention": {"attention": None}, "middle only": {"attention": ()},
    "heads": {"heads": 2, "head_dim": 12}, "adm heads": {"heads": None, "head_dim": 4}, "cond": {"cond_dim": 5},
    "variance": {"learned_variance": True}, "grey to two": {"channels": 1, "out_channels": 2}, "dropout": {"dropout": 0.3},
}
LUCIDRAINS: dict[str, dict] = {
    "as published": {}, "full attention": {"attention": (32, 16)}, "linear alone": {"attention": ()}, "no memory": {"memory": 0},
    "learned": {"time": "learned"}, "random": {"time": "random"}, "self": {"self_condition": True},
    "variance": {"learned_variance": True}, "grey to two": {"channels": 1, "out_channels": 2}, "dropout": {"dropout": 0.3},
}
EVERY = [*((UNet, name) for name in OPTIONS), *((LucidrainsUNet, name) for name in LUCIDRAINS)]


def options_of(kind: type, name: str) -> dict:
    return {"dim": 16, **OPTIONS[name]} if kind is UNet else {"dim": 8, "mults": (1, 2), **LUCIDRAINS[name]}


def build(seed: int = 0, kind: type = UNet, **options) -> UNet | LucidrainsUNet:
    """A small net with every zero start perturbed, so that a wrong wire changes the output."""
    torch.manual_seed(seed)
    net = kind(**{"dim": 16, **options}).double()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    return net


def inputs(net: UNet | LucidrainsUNet, batch: int = 2, side: tuple[int, int] = (32, 32)) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(batch, net.channels, *side, generator=g, dtype=torch.float64)
    given = {"x": x, "t": torch.tensor([3.0, 700.0])[:batch]}
    if getattr(net, "cond_dim", None):
        given["cond"] = torch.randn(batch, net.cond_dim, generator=g, dtype=torch.float64)
    if getattr(net, "self_condition", False):
        given["self_cond"] = x.flip(0)
    return given


# Sizes -----------------------------------------------------------------------------------------------------------------

def conv(i: int, o: int, k: int = 3) -> int:
    return i * o * k * k + o


def resblock(i: int, o: int, emb: int) -> int:
    """norm, conv, scale and shift, norm, conv, and a 1 x 1 shortcut where the width changes."""
    return 2 * i + conv(i, o) + conv(emb, 2 * o, 1) + 2 * o + conv(o, o) + (conv(i, o, 1) if i != o else 0)


def attention(c: int) -> int:
    return 2 * c + 3 * c * c + conv(c, c, 1)


D = 16                                                    # width of the tested nets; E of their time embedding
E = 4 * D
BASE = (conv(D, E, 1) + conv(E, E, 1)                     # time
        + conv(3 * 4, D)                                  # stem on 2 x 2 patches
        + resblock(D, D, E) + conv(D, D)                  # 16 x 16, then stride 2
        + resblock(D, 2 * D, E) + attention(2 * D)        # 8 x 8
        + 2 * resblock(2 * D, 2 * D, E) + attention(2 * D)                    # middle
        + resblock(4 * D, 2 * D, E) + attention(2 * D) + conv(2 * D, D)       # 8 x 8, then up and narrower
        + resblock(2 * D, D, E)                           # 16 x 16
        + 2 * D + conv(D, 3 * 4))                         # norm and out
OUTS = D + 2 * D + 2 * 2 * D + 2 * D + D                                      # widths of all the blocks

DELTA = {
    "plain": 0, "added time": -(E + 1) * OUTS,
    "biggan": resblock(D, D, E) - conv(D, D) + resblock(2 * D, D, E) - conv(2 * D, D),
    "two blocks": resblock(D, D, E) + resblock(2 * D, 2 * D, E) + resblock(4 * D, 2 * D, E) + resblock(2 * D, D, E)
    + 2 * attention(2 * D),
    "three levels": conv(2 * D, 2 * D) + 2 * resblock(2 * D, 2 * D, E) + resblock(2 * D + 2 * D, 2 * D, E)
    - resblock(2 * D, 2 * D, E) + 2 * attention(2 * D) + conv(2 * D, 2 * D),
    "patch 1": conv(3, D) - conv(12, D) + conv(D, 3) - conv(D, 12),
    "patch 4": conv(48, D) - conv(12, D) + conv(D, 48) - conv(D, 12),
    "no attention": -3 * attention(2 * D), "middle only": -2 * attention(2 * D),
    "heads": 3 * 4 * 2 * D * (24 - 2 * D), "adm heads": 0, "cond": 5 * E, "variance": conv(D, 24) - conv(D, 12),
    "grey to two": conv(4, D) - conv(12, D) + conv(D, 8) - conv(D, 12), "dropout": 0,
}
assert DELTA.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", DELTA)
def test_parameters_by_formula(name: str) -> None:
    assert parameters(UNet(dim=D, **OPTIONS[name])) == BASE + DELTA[name]


@pytest.mark.parametrize("options, published", [({}, 722_707), ({"self_condition": True}, 725_059),
                                                ({"learned_variance": True}, 722_758), ({"time": "learned"}, 722_779)])
def test_parameters_of_the_published_lucidrains_net(options: dict, published: int) -> None:
    """denoising-diffusion-pytorch 2.3.4: Unet(16, dim_mults=(1, 2, 4), full_attn=(True,) * 3) with the same option."""
    assert parameters(LucidrainsUNet(dim=16, mults=(1, 2, 4), attention=(32, 16, 8), **options)) == published


def test_multiply_adds_of_the_plain_net() -> None:
    net = UNet(dim=D)
    full, half = 256, 64                                  # pixels at 16 x 16 and at 8 x 8

    def block(i: int, o: int, n: int) -> int:
        return n * (9 * i * o + 9 * o * o + (i * o if i != o else 0)) + E * 2 * o

    def attend(c: int) -> int:
        return 4 * c * c * half + 2 * half * half * c
    hand = (D * E + E * E + 9 * 12 * D * full + block(D, D, full) + 9 * D * D * half + block(D, 2 * D, half)
            + 2 * block(2 * D, 2 * D, half) + block(4 * D, 2 * D, half) + 3 * attend(2 * D) + 9 * 2 * D * D * full
            + block(2 * D, D, full) + 9 * D * 12 * full)
    x, t = torch.zeros(1, 3, 32, 32), torch.zeros(1)
    net.train()
    assert multiply_adds(net, x, t) == hand and net.training
    assert multiply_adds(net, x.expand(3, -1, -1, -1), t.expand(3)) == 3 * hand


def test_the_shipped_size() -> None:
    net = UNet(dim=64)
    assert 1e6 < parameters(net) < 2.4e6
    assert parameters(net) - parameters(net.requires_grad_(False)) == 2_225_164
    assert multiply_adds(net, torch.zeros(1, 3, 32, 32), torch.zeros(1)) < 180e6


# Shapes, starts and wires ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_option(kind: type, name: str) -> None:
    """Shape, exact zero at the start, gradient to every parameter, and the same net again from its config."""
    torch.manual_seed(0)
    fresh = kind(**options_of(kind, name)).double().eval()
    given = inputs(fresh)
    out = fresh(**given)
    assert out.shape == (2, fresh.out_channels, 32, 32) and out.dtype == torch.float64
    assert torch.count_nonzero(out) == 0

    net = build(kind=kind, **options_of(kind, name)).eval()
    out = net(**given)
    assert torch.isfinite(out).all() and out.std() > 0
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)).sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or float(p.grad.abs().max()) < 1e-9]
    assert not silent

    assert net.config.keys() == inspect.signature(kind).parameters.keys()
    again = kind(**json.loads(json.dumps(net.config))).double().eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(**given), out)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str) -> None:
    net = UNet(dim=32, **PRESETS[preset])
    assert net(torch.randn(1, 3, 32, 64), torch.tensor([5])).shape == (1, net.out_channels, 32, 64)


def test_half_precision() -> None:
    """Under autocast, as the training loop runs it, and with bfloat16 weights: 1 to 3 per cent off."""
    for kind, name in ((UNet, "plain"), (UNet, "added time"), (UNet, "biggan"), (LucidrainsUNet, "learned")):
        net = build(kind=kind, **options_of(kind, name)).float()
        given = {"x": torch.randn(2, 3, 32, 32), "t": torch.tensor([3, 900])}
        exact = net(**given)
        with torch.autocast("cpu", torch.bfloat16):
            near = net(**given)
        low = net.bfloat16()(given["x"].bfloat16(), given["t"])
        for out in (near, low):
            assert out.dtype == torch.bfloat16 and (out.float() - exact).std() < 0.1 * exact.std()


def test_out_channels() -> None:
    assert UNet(dim=16).out_channels == 3
    assert UNet(dim=16, learned_variance=True).out_channels == 6
    assert UNet(dim=16, channels=4, out_channels=1, learned_variance=True).out_channels == 2


def test_other_sizes_and_formats() -> None:
    net = build()
    wide = inputs(net, side=(16, 44))
    assert net(**wide).shape == (2, 3, 16, 44)
    last = build().to(memory_format=torch.channels_last)
    assert torch.allclose(last(**wide), net(**wide), atol=1e-10)
    assert torch.allclose(net.float()(wide["x"].float(), wide["t"]).double(), last(**wide), atol=1e-4)


def test_rows_do_not_mix() -> None:
    for kind, name in ((UNet, "cond"), (UNet, "biggan"), (LucidrainsUNet, "self"), (LucidrainsUNet, "learned")):
        net = build(kind=kind, **options_of(kind, name))
        given = inputs(net)
        alone = torch.cat([net(**{k: v[i:i + 1] for k, v in given.items()}) for i in range(2)])
        assert torch.allclose(net(**given), alone, atol=1e-10)


def test_time_and_condition_are_heard() -> None:
    for net in (build(cond_dim=5), build(scale_shift=False, cond_dim=5), build(kind=LucidrainsUNet, mults=(1, 2))):
        given = inputs(net)
        base = net(**given)
        assert (net(**{**given, "t": given["t"] + 40}) - base).abs().max() > 1e-3
        if "cond" in given:
            assert (net(**{**given, "cond": -given["cond"]}) - base).abs().max() > 1e-3


def test_time_survives_the_norm_in_narrow_nets() -> None:
    """One channel a group would take the added time away again."""
    for width in (16, 32, 48, 64):
        norm = make_norm("group", width)
        assert width / norm.num_groups >= 4 and width % norm.num_groups == 0
    assert make_norm("group", 128).num_groups == 32 and make_norm("group", 3).num_groups == 1
    block = ResBlock(32, 32, 8, scale_shift=False).double()
    torch.nn.init.normal_(block.conv2.weight)
    x = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    e = torch.randn(2, 1, 8, dtype=torch.float64)
    assert (block(x, e[0]) - block(x, e[1])).abs().max() > 1e-2


def test_int_and_float_times_agree() -> None:
    net = build()
    given = inputs(net)
    assert torch.equal(net(given["x"], given["t"]), net(given["x"], given["t"].long()))


def test_absent_equals_zeros() -> None:
    net = build(cond_dim=5)
    x, t, cond = inputs(net).values()
    assert torch.equal(net(x, t), net(x, t, torch.zeros(2, 5).double())) and not torch.allclose(net(x, t), net(x, t, cond))
    net = build(kind=LucidrainsUNet, mults=(1, 2), self_condition=True)
    x, t, guess = inputs(net).values()
    assert torch.equal(net(x, t), net(x, t, torch.zeros_like(x))) and not torch.allclose(net(x, t), net(x, t, guess))


def test_self_condition_comes_first() -> None:
    """Channels are [guess, x], lucidrains' order: swapping the stem's two halves swaps the two inputs."""
    options = {"kind": LucidrainsUNet, "mults": (1, 2), "self_condition": True}
    net = build(**options)
    x, guess = torch.randn(2, 1, 3, 32, 32, dtype=torch.float64)
    t = torch.tensor([5.0])
    before = net(x, t, self_cond=guess)
    only_x = build(**options)
    with torch.no_grad():
        only_x.stem.weight[:, :3] = 0
        net.stem.weight.copy_(net.stem.weight.roll(3, dims=1))
    assert torch.equal(only_x(x, t, self_cond=guess), only_x(x, t))
    assert torch.allclose(net(guess, t, self_cond=x), before, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"kind": LucidrainsUNet, "mults": (1, 2)}], ids=["ours", "lucidrains"])
def test_dropout(options: dict) -> None:
    off, on = build(**options).train(), build(**options, dropout=0.5).train()
    given = inputs(off)
    assert torch.equal(off(**given), off.eval()(**given))
    assert not torch.allclose(on(**given), off(**given))
    assert torch.equal(on.eval()(**given), off(**given))


def test_the_start_is_repeatable() -> None:
    torch.manual_seed(3)
    a = LucidrainsUNet(dim=16, time="random").state_dict()
    torch.manual_seed(3)
    b = LucidrainsUNet(dim=16, time="random").state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()
    bound = math.sqrt(6 / (9 * 16 + 9 * 16))              # uniform with variance 2 / (fan in + fan out)
    w = UNet(dim=16).downs[0].blocks[0].conv1.weight
    assert 0.98 * bound < w.abs().max() <= bound and abs(w.std() / (bound / math.sqrt(3)) - 1) < 0.05


def test_skips_pair_equal_sizes_last_in_first_out() -> None:
    """A change of one down block's output reaches the up path through its own level even with the middle cut."""
    net = build(mults=(1, 2, 2), attention=None, blocks=2).eval()
    seen: list[torch.Size] = []
    for stage in net.ups:
        for block in stage.blocks:
            block.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1:]))
    net(**inputs(net))
    assert seen == [(64, 4, 4), (64, 4, 4), (64, 8, 8), (64, 8, 8), (32, 16, 16), (32, 16, 16)]


def test_whole_net_by_hand() -> None:
    net = build(cond_dim=5)
    given = inputs(net)
    e = silu(net.time(given["t"]) + given["cond"] @ net.cond.weight.T)
    (high, low), mid, (back, top) = net.downs, net.middle, net.ups
    a = high.blocks[0](net.stem(F.pixel_unshuffle(given["x"], 2)), e)
    b = low.mixers[0](low.blocks[0](high.change(a), e))
    c = mid.change(mid.mixers[0](mid.blocks[0](b, e)), e)
    d = back.change(back.mixers[0](back.blocks[0](torch.cat((c, b), 1), e)))
    f = top.blocks[0](torch.cat((d, a), 1), e)
    assert torch.allclose(net(**given), F.pixel_shuffle(net.out(silu(net.norm(f))), 2), atol=1e-10)


def test_whole_lucidrains_net_by_hand() -> None:
    """Theirs line by line; 2.3.4 with its weights copied into ours gave the same numbers (full attention, SiLU in the MLP)."""
    net = build(kind=LucidrainsUNet, mults=(1, 2), attention=(32, 16))
    x, t = inputs(net).values()
    e = silu(net.time(t))
    x = first = net.stem(x)
    kept = []
    for stage in net.downs:
        x = stage.blocks[0](x, e)
        kept.append(x)
        x = stage.mixers[1](stage.blocks[1](x, e))
        kept.append(x)
        x = stage.change(x)
    x = net.middle.change(net.middle.mixers[0](net.middle.blocks[0](x, e)), e)
    for stage in net.ups:
        x = stage.blocks[0](torch.cat((x, kept.pop()), 1), e)
        x = stage.mixers[1](stage.blocks[1](torch.cat((x, kept.pop()), 1), e))
        x = stage.change(x)
    by_hand = net.out(net.last(torch.cat((x, first), 1), e))
    assert torch.allclose(net(**inputs(net)), by_hand, atol=1e-10)


# Parts against hand-written references ---------------------------------------------------------------------------------

def group_norm(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    size = x.shape[1] // groups
    for b in range(len(x)):
        for g in range(groups):
            part = x[b, g * size:(g + 1) * size]
            out[b, g * size:(g + 1) * size] = (part - part.mean()) / torch.sqrt(part.var(unbiased=False) + 1e-6)
    return out * weight[None, :, None, None] + bias[None, :, None, None]


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def perturbed(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(5)
    for p in module.double().parameters():
        torch.nn.init.normal_(p, std=0.4)
    return module


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_resblock(scale_shift: bool, resample: str | None) -> None:
    block = perturbed(ResBlock(8, 16, 6, scale_shift=scale_shift, resample=resample))
    x, e = torch.randn(2, 8, 4, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)

    def change(z: torch.Tensor) -> torch.Tensor:
        if resample == "up":
            return z.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if resample == "down":
            return (z[:, :, ::2, ::2] + z[:, :, 1::2, ::2] + z[:, :, ::2, 1::2] + z[:, :, 1::2, 1::2]) / 4
        return z

    h = change(silu(group_norm(x, 2, block.norm1.weight, block.norm1.bias)))
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    told = e @ block.emb.weight.T + block.emb.bias
    if scale_shift:
        h = group_norm(h, 4, block.norm2.weight, block.norm2.bias)
        h = h * (1 + told[:, :16, None, None]) + told[:, 16:, None, None]
    else:
        h = group_norm(h + told[:, :, None, None], 4, block.norm2.weight, block.norm2.bias)
    h = F.conv2d(silu(h), block.conv2.weight, block.conv2.bias, padding=1)
    hand = h + torch.einsum("oi,bihw->bohw", block.skip.weight[:, :, 0, 0], change(x)) + block.skip.bias[None, :, None, None]
    assert torch.allclose(block(x, e), hand, atol=1e-10)


def test_postblock() -> None:
    block = perturbed(PostBlock(4, 4, 6))
    x, e = torch.randn(2, 4, 5, 5, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)

    def rms(z: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return z / z.square().mean(1, keepdim=True).sqrt() * gain

    told = (e @ block.emb.weight.T + block.emb.bias)[:, :, None, None]
    h = rms(F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1), block.norm1.gain) * (1 + told[:, :4]) + told[:, 4:]
    h = rms(F.conv2d(silu(h), block.conv2.weight, block.conv2.bias, padding=1), block.norm2.gain)
    assert torch.allclose(block(x, e), x + silu(h), atol=1e-10)


def test_rms_norm_counts_channels_not_width() -> None:
    x = torch.randn(2, 6, 3, 11, dtype=torch.float64)
    assert torch.allclose(RMSNorm(6).double()(x).square().mean(1), torch.ones(2, 3, 11, dtype=torch.float64))


@pytest.mark.parametrize("memory", [0, 3])
@pytest.mark.parametrize("kind", [Attention, LinearAttention])
def test_attention(kind: type, memory: int) -> None:
    """Both attentions, pixel by pixel with explicit softmaxes."""
    net = perturbed(kind(8, heads=2, head_dim=3, memory=memory))
    x = torch.randn(2, 8, 2, 4, dtype=torch.float64)
    normed = group_norm(x, 2, net.norm.weight, net.norm.bias)
    hand = x.clone()
    for b in range(2):
        pixels = normed[b].reshape(8, 8).T                                        # row-major pixels, channels
        q, k, v = (pixels @ net.qkv.weight[6 * i:6 * i + 6].T for i in range(3))
        heads = []
        for h in range(2):
            qh, kh, vh = (z[:, 3 * h:3 * h + 3] for z in (q, k, v))
            if memory:
                kh, vh = torch.cat((net.memory[0, h], kh)), torch.cat((net.memory[1, h], vh))
            rows = []
            for i in range(8):
                if kind is Attention:
                    a = torch.exp(kh @ qh[i] / math.sqrt(3))
                    rows.append((a / a.sum()) @ vh)
                else:
                    key = torch.exp(kh) / torch.exp(kh).sum(0)                    # each channel sums to 1 over the positions
                    query = torch.exp(qh[i]) / torch.exp(qh[i]).sum()
                    rows.append(sum((query @ key[n]) * vh[n] for n in range(len(kh))) / math.sqrt(3))
            heads.append(torch.stack(rows))
        hand[b] += (torch.cat(heads, 1) @ net.out.weight.T + net.out.bias).T.reshape(8, 2, 4)
    assert torch.allclose(net(x), hand, atol=1e-10)


def test_attention_at_the_start_is_the_identity() -> None:
    for net, count in ((UNet(dim=16, **OPTIONS["adm heads"]), 3), (LucidrainsUNet(dim=16, mults=(1, 2)), 5)):
        layers = [m for m in net.modules() if isinstance(m, (Attention, LinearAttention))]
        assert len(layers) == count
        for layer in layers:
            x = torch.randn(2, layer.out.out_features, 4, 4)
            assert torch.equal(layer(x), x)


@pytest.mark.parametrize("name", ["plain", "added time", "biggan"])
def test_blocks_at_the_start_are_their_shortcut(name: str) -> None:
    blocks = [m for m in UNet(dim=16, **OPTIONS[name]).modules() if isinstance(m, ResBlock)]
    assert len(blocks) == (8 if name == "biggan" else 6)
    for block in blocks:
        x = torch.randn(2, block.conv1.in_channels, 4, 4)
        short = {"up": lambda z: F.interpolate(z, scale_factor=2), "down": lambda z: F.avg_pool2d(z, 2), None: lambda z: z}
        assert torch.equal(block(x, torch.randn(2, 64)), block.skip(short[block.resample](x)))


def test_attention_lands_on_the_named_sides() -> None:
    def sides(net: torch.nn.Module) -> list[tuple[str, int]]:
        seen = []
        for m in net.modules():
            if isinstance(m, (Attention, LinearAttention)):
                m.register_forward_pre_hook(lambda mod, args: seen.append((type(mod).__name__, args[0].shape[-1])))
        net(torch.zeros(1, 3, 32, 32), torch.zeros(1))
        return seen
    three = {"dim": 16, "mults": (1, 2, 2)}
    assert sides(UNet(**three, attention=(16,))) == [("Attention", 16), ("Attention", 4), ("Attention", 16)]
    assert sides(UNet(**three, attention=())) == [("Attention", 4)] and sides(UNet(**three, attention=None)) == []
    assert len(sides(UNet(**three, attention=(8,), blocks=2))) == 5
    down = [("LinearAttention", 32), ("LinearAttention", 16), ("Attention", 8)]
    assert sides(LucidrainsUNet(**three)) == [*down, ("Attention", 8), *reversed(down)]
    down = [("LinearAttention", 32), ("Attention", 16), ("LinearAttention", 8)]
    assert sides(LucidrainsUNet(**three, attention=(16,))) == [*down, ("Attention", 8), *reversed(down)]


def test_patches() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    packed = space_to_depth(x, 2)
    assert torch.equal(packed, F.pixel_unshuffle(x, 2))
    assert torch.equal(depth_to_space(packed, 2), x)
    layer = perturbed(SpaceToDepth(3, 5))
    w = layer.conv.weight.reshape(5, 3, 2, 2)             # a 2 x 2 convolution with stride 2 in other words
    assert torch.allclose(layer(x.double()), F.conv2d(x.double(), w, layer.conv.bias, stride=2), atol=1e-10)


def test_time_embedding_against_diffusers() -> None:
    from diffusers.models.embeddings import get_timestep_embedding
    t = torch.tensor([0, 1, 17, 500, 999])
    for dim in (8, 64):
        ho = get_timestep_embedding(t, dim, flip_sin_to_cos=False, downscale_freq_shift=1)
        openai = get_timestep_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        assert torch.allclose(sinusoid(t, dim), ho, atol=1e-4)           # their float32 angles reach 999
        assert torch.allclose(sinusoid(t.double(), dim, convention="openai").float(), openai, atol=1e-4)
        assert (ho - openai).abs().max() > 0.5


def test_time_embedding_by_hand() -> None:
    t = torch.tensor([0.0, 2.5], dtype=torch.float64)
    row = sinusoid(t, 6)[1]
    hand = [f(2.5 * 10_000 ** (-i / 2)) for f in (math.sin, math.cos) for i in range(3)]
    assert torch.allclose(row, torch.tensor(hand, dtype=torch.float64), atol=1e-12)
    features = Fourier(4, learned=True).double()
    u, w = 0.0025, features.weights.detach().tolist()
    hand = [u, *(math.sin(2 * math.pi * a * u) for a in w), *(math.cos(2 * math.pi * a * u) for a in w)]
    assert torch.allclose(features(t)[1], torch.tensor(hand, dtype=torch.float64), atol=1e-12)
    assert isinstance(features.weights, torch.nn.Parameter)
    assert "weights" in dict(Fourier(4).named_buffers())


def test_time_embedding_keeps_float64() -> None:
    net = TimeEmbedding("sinusoidal", 16, 64).double()
    whole, near = net(torch.tensor([999, 999])), net(torch.tensor([999.0, 999.0 + 1e-9], dtype=torch.float64))
    assert torch.equal(whole[0], near[0]) and not torch.equal(near[0], near[1])


# Bad inputs ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, argument, says", [
    ({"attention": (7,)}, "attention", r"\[16, 8\]"), ({"size": 30}, "size", "multiple of 4"),
    ({"dropout": 1.0}, "dropout", "0.1"),
    ({"dim": 18, "heads": 8}, "heads", "divisor"), ({"heads": None, "head_dim": 64}, "head_dim", "divisor"),
    ({"heads": None}, "heads", "head_dim"), ({"mults": ()}, "mults, blocks", "level"), ({"dim": 15, "heads": 1}, "dim", "even"),
    ({"kind": LucidrainsUNet, "time": "sinus"}, "time", "sinusoidal"),
    ({"kind": LucidrainsUNet, "attention": (64,)}, "attention", r"\[32, 16, 8, 4\]"),
    ({"kind": LucidrainsUNet, "size": 20}, "size", "multiple of 8"),
])
def test_bad_options(options: dict, argument: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        build(**options)
    assert caught.value.argument == argument


@pytest.mark.parametrize("change, argument, says", [
    ({"x": torch.zeros(2, 3, 30, 32)}, "x", r"multiple of 4.*interpolate\(x, \((28|32), 32\)"),
    ({"x": torch.zeros(2, 4, 32, 32)}, "x", "3 channels"),
    ({"x": torch.zeros(3, 32, 32)}, "x", "B, C, H, W"), ({"x": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, "x", "127.5"),
    ({"t": 5}, "t", "torch.full"), ({"t": torch.tensor(5)}, "t", "expand"), ({"t": torch.zeros(3)}, "t", r"\(2,\)"),
    ({"cond": torch.zeros(2, 5)}, "cond", "cond_dim"),
])
def test_bad_inputs(change: dict, argument: str, says: str) -> None:
    net = UNet(dim=16)
    with pytest.raises(BadInput, match=says) as caught:
        net(**{"x": torch.zeros(2, 3, 32, 32), "t": torch.zeros(2), **change})
    assert caught.value.argument == argument


def test_bad_conditions() -> None:
    net, x, t = UNet(dim=16, cond_dim=5), torch.zeros(2, 3, 32, 32), torch.zeros(2)
    for cond in (torch.zeros(2, 4), torch.zeros(5), torch.zeros(1, 5), 3):
        with pytest.raises(BadInput, match=r"\(2, 5\)"):
            net(x, t, cond)
    small = {"dim": 8, "mults": (1, 2)}
    with pytest.raises(BadInput, match="self_condition=True"):
        LucidrainsUNet(**small)(x, t, self_cond=x)
    with pytest.raises(BadInput, match="as x"):
        LucidrainsUNet(**small, self_condition=True)(x, t, self_cond=x[:1])


# The table of features ---------------------------------------------------------------------------------------------------

# Every item of the checklist of denoising-diffusion-pytorch, in its own words: (part, words that one row's name holds).
CHECKLIST = [
    *(("unet", w) for w in ("dim,", "init_dim", "out_dim", "dim_mults", "channels", "7 x 7 stem", "2 blocks a level",
                            "downsample", "last level 3 x 3", "middle", "skip concat", "nearest", "global skip", "1 x 1 out",
                            "RMSNorm",
                            "scale and shift", "SiLU", "dropout", "time MLP", "sinusoidal", "theta", "learned or random",
                            "dim 16", "linear attention", "full_attn", "heads 4 x 32", "4 memory", "flash", "self_condition",
                            "learned_variance", "downsample_factor")),
    *(("adm", w) for w in ("AdaGN", "BigGAN", "64 channels a head", "class embedding", "sqrt 2", "several resolutions")),
    *(("diffusion", w) for w in ("noise, x0, v", "linear, cosine, sigmoid", "sampling_timesteps", "eta", "auto-normalise",
                                 "offset noise", "min-SNR", "immiscible", "self-conditioning", "return_all_timesteps",
                                 "interpolate", "non-square", "float64", "loss_reduction", "times override")),
    *(("trainer", w) for w in ("split batches", "fp16", "betas", "lr", "batch of 16", "100 pictures", "clip", "EMA",
                               "sample grid", "resume", "FID", "best or latest", "flips", "colour-mode")),
    *(("side", w) for w in ("hybrid", "log-SNR, learned", "v-param", "Heun", "DPM", "weighted objective", "U-ViT", "shifted",
                            "Karras", "1D variant", "classifier guidance", "classifier-free", "rescale", "parallel", "CFG++",
                            "RePaint", "XM")),
]


@pytest.mark.parametrize("part, words", CHECKLIST)
def test_features_hold_the_whole_checklist(part: str, words: str) -> None:
    assert any(words in f.name for f in features.rows(part))


@pytest.mark.parametrize("feature", features.FEATURES, ids=lambda f: f.name[:40])
def test_features_are_where_the_table_says(feature: features.Feature) -> None:
    assert feature.where or feature.note, "left out without a reason"
    for where in feature.where:
        module, name = where.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name)
    if feature.use.startswith(("UNet(", "LucidrainsUNet(")):
        assert eval(feature.use, {"UNet": UNet, "LucidrainsUNet": LucidrainsUNet}) is not None


def test_features_as_a_table() -> None:
    assert len({(f.part, f.name) for f in features.rows()}) == len(features.FEATURES)
    assert {f.part for f in features.rows()} == set(features.PARTS)
    lines = features.markdown("unet").splitlines()
    assert len(lines) == 2 + len(features.rows("unet"))
    assert all(line.count("|") == 4 for line in features.markdown().splitlines())
    with pytest.raises(BadInput, match="trainer"):
        features.rows("trainers")
