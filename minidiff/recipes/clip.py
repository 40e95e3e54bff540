"""Recipe of mini-clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.latent.clip import Contrastive, make_clip
from minidiff.latent.text import make_tokenizer, token_ids
from minidiff.recipes.blocks import Blocks, Draw, mixed_batch, mixed_identity
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.world import captions

__all__ = ["CLIPS", "clip_recipe"]

_PORTIONS = (("simple", 64, 0.2), ("pairs", 64, 0.4), ("full", 64, 0.4))
_KEPT = 100_000


def clip_recipe(name: str, *, seed: int, images: tuple[int, int] = (100_000, 2_000_000), minutes: tuple[float, float] = (15, 3),
                expect: str = "") -> Recipe:
    """A recipe for a contrastive model of pictures and captions. images, minutes: (laptop, gpu).

    The other rows of a batch are the wrong answers, so on several processes each one sees fewer of them.
    """
    tokenizer = make_tokenizer()

    def make(index: Tensor, number: int) -> Draw:
        scenes, images, _ = mixed_batch(index, 64, seed, _PORTIONS)
        mix = torch.randperm(len(index), generator=generator(seed, "mix", number)).to(index.device)
        ids = token_ids(tokenizer, captions(scenes, index, seed=seed)).to(index.device)
        return {"x": images[mix], "ids": ids[mix]}

    draw = Blocks(make, keep=_KEPT).rows

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        return model(**batch)

    return Recipe(name=name, seed=seed, build=lambda: Contrastive(make_clip(tokenizer)), draw=draw, loss=loss, batch=128, lr=1e-3,
                  warmup=6_400, ema=0.99, budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1])},
                  expect=expect, export=_export,
                  identity={"data": mixed_identity(_PORTIONS), "objective": "contrastive"})


def _export(net: Contrastive, folder: Path) -> dict[str, Any]:
    """As transformers saves it, in half precision, which ``load`` makes float32. The tokenizer stands beside it."""
    net.clip.half().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in net.clip.parameters())}


# name -> what clip_recipe is called with
CLIPS: dict[str, dict] = {"mini-clip": {"seed": 61, "expect": "finds the right caption among 32 in at least 80 % of pictures"}}
