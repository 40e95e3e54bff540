"""Recipes of the three readers: each with its own seed, scenes and blemishes."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.measure.reader import Reader, reader_loss
from minidiff.recipes.blocks import Blocks, Draw, mixed_batch, mixed_identity, noise
from minidiff.rng import generator, key, uniform
from minidiff.train import Budget, Recipe
from minidiff.world import Rendered, Scenes
from minidiff.zoo import write_net

__all__ = ["READERS", "reader_recipe"]


def augment(x: Tensor, seed: int, i: int, strength: float) -> Tensor:
    """What a reader must put up with: noise, a lost half of the resolution, a change of brightness or contrast."""
    n = len(x)
    draw = uniform(key(seed, "blemish"), torch.arange(i * n, (i + 1) * n, device=x.device), 5).to(x)[:, :, None, None, None]
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
    x = torch.where(draw[:, 0] < 0.25, soft, x)
    x = x * (1 + 0.1 * (draw[:, 1] - 0.5)) + 0.1 * (draw[:, 2] - 0.5)
    return x + strength * draw[:, 3] * (draw[:, 4] < 0.6) * noise(x.shape, generator(seed, "blemish", i, device=x.device))


def reader_recipe(name: str, *, seed: int, strength: float) -> Recipe:
    """A recipe for one reader: its own seed, its own scenes and its own blemishes (noise up to ``strength``)."""
    portions = (("simple", 32, 0.25), ("pairs", 64, 0.25), ("full", 64, 0.5))
    fields = [f.name for f in dataclasses.fields(Scenes) if f.name != "blend"]      # what the splits use

    def make(index: Tensor, number: int) -> Draw:
        scenes, images, masks = mixed_batch(index, 64, seed, portions)
        mix = torch.randperm(len(index), generator=generator(seed, "mix", number)).to(index.device)
        return {"images": images[mix], "masks": masks[mix]} | {name: getattr(scenes, name)[mix] for name in fields}

    blocks = Blocks(make)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        batch = blocks.rows(i, n, device)
        return batch | {"images": augment(batch["images"], seed, i, strength)}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        scenes = Scenes(**{name: batch[name] for name in fields})
        return reader_loss(model(batch["images"]), scenes, Rendered(batch["images"], batch["masks"], batch["masks"]))

    return Recipe(
        name=name,
        seed=seed,
        build=Reader,
        draw=draw,
        loss=loss,
        batch=32,
        lr=2e-3,
        warmup=3_200,
        ema=0.998,
        budgets={"laptop": Budget(80_000, 15), "gpu": Budget(600_000, 3, batch=128, lr=3e-3)},
        expect="kind and colour >= 99 %, backdrop >= 99.5 %, mask IoU >= 0.9 on clean held-out scenes",
        identity={"strength": strength, "data": mixed_identity(portions), "objective": "scene"},
        export=lambda net, folder: write_net(net, {"kind": "reader", "net": net.config}, folder),
    )


# name -> what reader_recipe is called with
READERS: dict[str, dict] = {
    "readers/guide": {"seed": 11, "strength": 0.25},
    "readers/develop": {"seed": 12, "strength": 0.20},
    "readers/final": {"seed": 13, "strength": 0.15},
}
