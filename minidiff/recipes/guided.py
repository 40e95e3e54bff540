"""Recipes of lessons 04 and 05: a conditional pixel model that can also do without its condition, and a noisy classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.diffusion import X0, make_schedule, q_sample, simple_loss
from minidiff.nets import UNet
from minidiff.nets.classifier import NoisyClassifier
from minidiff.recipes.blocks import Blocks, Draw, noise, sample_t
from minidiff.recipes.few import FEW_BACKDROPS, FEW_COLOURS, FEW_KINDS, FewData, condition, drop, labels
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.zoo import write_net

__all__ = ["CLASSIFIERS", "CLASSIFIER_NET", "GUIDED", "GUIDED_NET", "classifier_recipe", "guided_recipe"]

GUIDED_NET = {"channels": 3, "dim": 48, "mults": (1, 2), "blocks": 1, "patch": 2, "attention": (8,),
              "cond_dim": len(FEW_KINDS) + len(FEW_COLOURS)}
CLASSIFIER_NET = {"classes": {"kind": len(FEW_KINDS), "colour": len(FEW_COLOURS), "backdrop": len(FEW_BACKDROPS)}}


def _blocks(seed: int) -> Blocks:
    """Pictures of the small world with their kinds, colours, backdrops and condition vectors."""
    def make(index: Tensor, number: int) -> Draw:
        x0, scenes = FewData(32, seed=seed).batch(number, len(index), index.device)
        kind, colour, backdrop = labels(scenes)
        return {"x0": x0, "kind": kind, "colour": colour, "backdrop": backdrop, "cond": condition(kind, colour)}

    return Blocks(make)


def guided_recipe(name: str, *, seed: int, images: tuple[int, int], minutes: tuple[float, float], expect: str = "") -> Recipe:
    """pixel-guided: a U-Net that predicts x0 from kind and colour, each dropped now and then. images, minutes: (laptop, gpu)."""
    table, blocks = make_schedule("linear", 1000), _blocks(seed)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        made = blocks.rows(i, n, device)
        rng = generator(seed, "t", i, device=device)
        t, u = sample_t(n, table.T, rng, "mixture"), torch.rand(n, generator=rng, device=device)
        return {"x0": made["x0"], "t": t, "noise": noise(made["x0"].shape, rng), "cond": drop(made["cond"], u)}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        return simple_loss(X0(model, table), batch["x0"], batch["t"], batch["noise"], cond=batch["cond"], gamma=5.0)

    def export(net: nn.Module, folder: Path) -> dict[str, Any]:
        config = {"kind": "pixel", "net": net.config, "predicts": "x0", "schedule": {"name": "linear", "T": 1000}, "size": 32}
        return write_net(net, config, folder)

    return Recipe(name=name, seed=seed, build=lambda: UNet(**GUIDED_NET), draw=draw, loss=loss, batch=16, lr=5e-4, warmup=1_600,
                  ema=0.9995, expect=expect, export=export,
                  identity={"predicts": "x0", "schedule": "linear", "t_sampling": "mixture", "gamma": 5.0,
                            "data": FewData(32, seed=seed).identity},
                  budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=256, lr=1e-3)})


def classifier_recipe(name: str, *, seed: int, images: tuple[int, int], minutes: tuple[float, float], expect: str = "") -> Recipe:
    """noisy-classifier: kind, colour and backdrop of q_sample(x0, t), cross-entropy summed over the three."""
    table, blocks = make_schedule("linear", 1000), _blocks(seed)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        made = blocks.rows(i, n, device)
        rng = generator(seed, "t", i, device=device)
        t = sample_t(n, table.T, rng)
        return {"x_t": q_sample(made["x0"], t, noise(made["x0"].shape, rng), table), "t": t,
                **{name: made[name] for name in CLASSIFIER_NET["classes"]}}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        return sum(F.cross_entropy(logits, batch[name], reduction="none")
                   for name, logits in model(batch["x_t"], batch["t"]).items())

    def export(net: nn.Module, folder: Path) -> dict[str, Any]:
        config = {"kind": "noisy-classifier", "net": net.config, "schedule": {"name": "linear", "T": 1000}, "size": 32}
        return write_net(net, config, folder)

    return Recipe(name=name, seed=seed, build=lambda: NoisyClassifier(**CLASSIFIER_NET), draw=draw, loss=loss, batch=32, lr=1e-3,
                  warmup=3_200, ema=0.998, weight_decay=0.05, expect=expect, export=export,
                  identity={"objective": "cross-entropy", "schedule": "linear", "t_sampling": "uniform",
                            "data": FewData(32, seed=seed).identity},
                  budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=256)})


# name -> what guided_recipe is called with
GUIDED: dict[str, dict] = {"pixel-guided": {
    "seed": 51, "images": (80_000, 2_000_000), "minutes": (20, 3),
    "expect": "with guidance, kind and colour asked for are what a reader sees in most pictures (laptop), in 97 % (gpu)"}}
CLASSIFIERS: dict[str, dict] = {"noisy-classifier": {
    "seed": 52, "images": (64_000, 1_000_000), "minutes": (5, 1),
    "expect": "kind, colour and backdrop of noised pictures, each far above chance over the first half of the chain"}}
