"""Recipe of mini-clip."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.latent.clip import Contrastive, make_clip
from minidiff.latent.text import make_tokenizer, token_ids
from minidiff.recipes.blocks import mixed_batch
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.world import captions

__all__ = ["CLIPS", "clip_recipe"]

_PORTIONS = (("simple", 64, 0.2), ("pairs", 64, 0.4), ("full", 64, 0.4))
_BLOCK = 2


def clip_recipe(name: str, *, seed: int, images: tuple[int, int] = (100_000, 2_000_000), minutes: tuple[float, float] = (15, 3),
                expect: str = "") -> Recipe:
    """A recipe for a contrastive model of pictures and captions. images, minutes: (laptop, gpu).

    The other rows of a batch are the wrong answers, so on several processes each one sees fewer of them.
    """
    tokenizer = make_tokenizer()

    @functools.lru_cache(maxsize=1)
    @torch.no_grad()
    def block(j: int, n: int, device: torch.device) -> dict[str, Tensor]:
        index = torch.arange(j * n * _BLOCK, (j + 1) * n * _BLOCK, device=device)
        scenes, images, _ = mixed_batch(index, 64, seed, _PORTIONS)
        mix = torch.randperm(len(index), generator=generator(seed, "mix", j)).to(device)
        return {"x": images[mix], "ids": token_ids(tokenizer, captions(scenes, index, seed=seed)).to(device)[mix]}

    def draw(i: int, n: int, device: torch.device) -> dict[str, Tensor]:
        rows = slice(i % _BLOCK * n, (i % _BLOCK + 1) * n)
        return {name: value[rows] for name, value in block(i // _BLOCK, n, device).items()}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(**batch)

    return Recipe(name=name, seed=seed, build=lambda: Contrastive(make_clip(tokenizer)), draw=draw, loss=loss, batch=128, lr=1e-3,
                  warmup=6_400, ema=0.99, budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1])},
                  expect=expect, export=_export)


def _export(net: Contrastive, folder: Path) -> dict[str, Any]:
    """As transformers saves it, in float32: it would keep half precision in use. The tokenizer stands beside it."""
    net.clip.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in net.clip.parameters())}


# name -> what clip_recipe is called with
CLIPS: dict[str, dict] = {"mini-clip": {"seed": 61, "expect": "finds the right caption among 32 in at least 80 % of pictures"}}
