"""Recipes of lesson 18: tokens of style and content, learned from the text encoder, and a U-Net that is tuned to them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.diffusion import Eps, make_schedule, simple_loss
from minidiff.editing.style_tokens import StyleTokens, content_code, info_nce, style_statistics
from minidiff.editing.triplets import rendered_triplets
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import TextUNet
from minidiff.latent.stable import assemble, snr_weight
from minidiff.latent.text import token_ids
from minidiff.measure.prompts import prompt_of
from minidiff.recipes.blocks import Blocks, Draw, fingerprint, noise
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.world import STYLES, WORLD_EDITION, render
from minidiff.zoo import card, load, write_net

__all__ = ["STYLED", "TOKENS", "styled_recipe", "tokens_recipe"]

_BASE, _READER, _T = "mini-sd", "readers/guide", 1000
STYLE_DROP, CONTENT_DROP, BOTH_DROP = 0.12, 0.15, 0.05
_KEPT_ON_CPU = 1_536  # triplets that a CPU draws and encodes once: that takes as long as a step of learning


@functools.lru_cache(maxsize=2)
def _frozen(device: torch.device) -> dict[str, Any]:
    """What both recipes look through: reader, text encoder and autoencoder of the shipped models."""
    pipe = load(_BASE, device=device)
    return {"reader": load(_READER, device=device), "pipe": pipe, "edition": card(_BASE)["world_edition"]}


def tokens_recipe(name: str, *, seed: int, images: tuple[int, int], minutes: tuple[float, float], expect: str = "") -> Recipe:
    """Style encoder and projectors. The encoder learns to tell styles apart (InfoNCE); the projectors, to say of a picture what
    the text encoder says of its caption: of y, in whatever style, "a red cat on the grass"; of s "in watercolour style"."""

    def encoded(texts: list[str], device: torch.device) -> Tensor:
        pipe = _frozen(device)["pipe"]
        return pipe.text_encoder(token_ids(pipe.tokenizer, texts).to(device))[0]

    def build() -> nn.Module:
        net = StyleTokens()
        net.empty.copy_(encoded([""], torch.device("cpu"))[0])
        return net

    def make(index: Tensor, number: int) -> Draw:
        known = _frozen(index.device)
        _, y, s = rendered_triplets(index, seed=seed, edition=known["edition"])
        return {
            "statistics": style_statistics(known["reader"], render(s, 64).images),
            "content": content_code(known["reader"], render(y, 64).images),
            "style": s.style,
            "style_said": encoded([f"in {STYLES[k]} style" for k in s.style.tolist()], index.device),
            "content_said": encoded([prompt_of(one) for one in y], index.device),
        }

    blocks = Blocks(make)

    def loss(net: StyleTokens, batch: Draw) -> Tensor:
        code = net.style_code(batch["statistics"])
        made = net.context(code, batch["content"])
        target = torch.cat((batch["content_said"][:, : net.positions], batch["style_said"][:, net.positions :]), 1)
        return 0.1 * info_nce(code, batch["style"]) + (made - target).square().mean((1, 2))

    return Recipe(
        name=name,
        seed=seed,
        build=build,
        draw=blocks.rows,
        loss=loss,
        batch=64,
        lr=3e-3,
        warmup=640,
        ema=0.99,
        expect=expect,
        export=lambda net, folder: write_net(net, {"kind": "style-tokens", "net": net.config}, folder),
        budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=256)},
        identity={
            "objective": "text encoder",
            "begins_with": lambda: fingerprint(load(_BASE).text_encoder),
            "reader": lambda: fingerprint(load(_READER)),
            "data": {"world": WORLD_EDITION, "level": "simple"},
        },
    )


def dropped(net: StyleTokens, style: Tensor, content: Tensor, u: Tensor) -> Tensor:
    """The context (B, length, width) with one uniform number a row, u (B,): the style is left out where u < STYLE_DROP, then the
    content, then both."""
    both = STYLE_DROP + CONTENT_DROP + BOTH_DROP
    no_style = (u < STYLE_DROP) | ((u >= STYLE_DROP + CONTENT_DROP) & (u < both))
    no_content = (u >= STYLE_DROP) & (u < both)
    whole, bare = net.context(style, content), net.context(n=len(u))
    first = torch.arange(whole.shape[1], device=u.device) < net.positions
    return torch.where(torch.where(first, no_content[:, None], no_style[:, None])[..., None], bare, whole)


class StyledUNet(nn.Module):
    """The U-Net in training, of which only those weights learn in whose names a word of ``learns`` stands.

    conv_in must be among them: torch 2.13 on a CPU crashes in the backward pass of a group norm whose channels-last input needs
    no gradient.
    """

    def __init__(self, unet: nn.Module, learns: tuple[str, ...]) -> None:
        super().__init__()
        self.unet = unet
        for name, weight in unet.named_parameters():
            weight.requires_grad_(any(part in name for part in learns))
        self.schedule = make_schedule("scaled_linear", _T)

    def forward(self, z: Tensor, t: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Losses (B,): noise prediction, weighted as mini-sd's own."""
        abar = self.schedule.at(t)
        loss = simple_loss(Eps(TextUNet(self.unet), self.schedule), z, t, noise, cond=context)
        return loss * snr_weight(abar / (1 - abar)).to(loss)


def styled_recipe(
    name: str,
    *,
    seed: int,
    images: tuple[int, int],
    minutes: tuple[float, float],
    tokens: str = "parasol-tokens",
    learns: tuple[str, ...] = ("conv_in", "attentions", "norm"),
    lr: float = 3e-4,
    expect: str = "",
) -> Recipe:
    """mini-sd's U-Net tuned to the tokens of rendered triplets: x from y and s, each left out now and then. images, minutes:
    (laptop, gpu); learns: parts of the names of the weights that are tuned, the others stay mini-sd's and are stored once."""

    def build() -> nn.Module:
        return StyledUNet(load(_BASE).unet, learns)

    @functools.lru_cache(maxsize=1)
    def projectors(device: torch.device) -> StyleTokens:
        return load(tokens, device=device)

    def make(index: Tensor, number: int) -> Draw:
        known = _frozen(index.device)
        x, y, s = rendered_triplets(index, seed=seed, edition=known["edition"])
        style = projectors(index.device).style_code(style_statistics(known["reader"], render(s, 64).images))
        return {
            "z": encode(known["pipe"].vae, render(x, 64).images, chunk=64),
            "style": style,
            "content": content_code(known["reader"], render(y, 64).images),
        }

    blocks = Blocks(make, keep=200_000, keep_on_cpu=_KEPT_ON_CPU)

    @torch.no_grad()
    def draw(i: int, n: int, device: torch.device) -> Draw:
        batch = blocks.rows(i, n, device)
        rng = generator(seed, "t", i, device=device)
        u, late, die = (torch.rand(n, generator=rng, device=device) for _ in range(3))
        t = (torch.where(late < 0.4, 0.7 + 0.3 * u, u) * _T).long().clamp(max=_T - 1)
        context = dropped(projectors(device), batch["style"], batch["content"], die)
        return {"z": batch["z"], "context": context, "t": t, "noise": noise(batch["z"].shape, rng)}

    def export(net: StyledUNet, folder: Path) -> dict[str, Any]:
        pipe = load(_BASE)
        made = assemble(pipe.vae, pipe.text_encoder, net.unet, pipe.tokenizer)
        for part in (made.unet, made.vae):
            part.half()
        made.save_pretrained(folder)
        sizes = {part: sum(p.numel() for p in getattr(made, part).parameters()) for part in ("vae", "text_encoder", "unet")}
        return {
            "parameters": sum(sizes.values()),
            "parts": sizes,
            "tokens": tokens,
            "learns": list(learns),
            "world_edition": card(_BASE)["world_edition"],
        }

    return Recipe(
        name=name,
        seed=seed,
        build=build,
        draw=draw,
        loss=lambda net, batch: net(**batch),
        batch=16,
        lr=lr,
        warmup=800,
        lr_shape="linear",
        ema=0.998,
        expect=expect,
        export=export,
        budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=32, lr=1.4 * lr)},
        identity={
            "start": _BASE,
            "tokens": tokens,
            "learns": list(learns),
            "drop": [STYLE_DROP, CONTENT_DROP, BOTH_DROP],
            "schedule": "scaled_linear",
            "weighting": "snr_weight",
            "data": {"world": WORLD_EDITION, "level": "simple"},
            "begins_with": lambda: fingerprint(load(_BASE).unet),
            "projectors": lambda: fingerprint(load(tokens)),
        },
    )


# name -> what tokens_recipe and styled_recipe are called with
TOKENS: dict[str, dict] = {
    "parasol-tokens": {
        "seed": 61,
        "images": (12_800, 400_000),
        "minutes": (4, 0.5),
        "expect": "nearest neighbour in the style code has the same style >= 95 %",
    }
}
STYLED: dict[str, dict] = {
    "mini-parasol": {"seed": 62, "images": (4_800, 400_000), "minutes": (6, 2), "expect": "style >= .85 and content >= .85"}
}
