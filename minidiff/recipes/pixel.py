"""Recipes of the pixel models: unconditional 32 x 32 U-Nets, one row for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.diffusion import X0, Eps, LearnedRange, V, hybrid_loss, make_schedule, simple_loss
from minidiff.errors import check_choice
from minidiff.nets import UNet
from minidiff.recipes.blocks import T_SAMPLINGS, Blocks, Draw, noise, sample_t
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.world import WorldData
from minidiff.zoo import write_net

__all__ = ["PIXEL", "PIXEL_NET", "SMALL_NET", "pixel_recipe"]

PIXEL_NET = {"channels": 3, "dim": 56, "mults": (1, 2), "blocks": 1, "patch": 2, "attention": (8,)}
SMALL_NET = {"channels": 3, "dim": 32, "mults": (1, 2), "blocks": 1, "patch": 2, "attention": (8,)}
_WRAP = {"eps": Eps, "x0": X0, "v": V}


def pixel_recipe(
    name: str,
    *,
    seed: int,
    net: dict,
    predicts: str = "eps",
    schedule: str = "linear",
    learned: bool = False,
    gamma: float | None = None,
    t_sampling: str = "uniform",
    batch: int = 16,
    lr: float = 5e-4,
    lr_shape: str = "linear",
    warmup: int = 3_200,
    ema: float = 0.999,
    data: WorldData | None = None,
    images: tuple[int, int] = (240_000, 4_000_000),
    minutes: tuple[float, float] = (90, 6),
    expect: str = "",
) -> Recipe:
    """A recipe for an unconditional pixel model. images, minutes: (laptop, gpu).

    predicts: "eps", "x0" or "v"; learned adds the variance head of iDDPM; gamma weights by min-SNR; t_sampling: see
    :func:`~minidiff.recipes.blocks.sample_t`; batch, lr, lr_shape, warmup, ema: see :class:`~minidiff.train.Recipe`.
    """
    check_choice("predicts", predicts, _WRAP)
    check_choice("t_sampling", t_sampling, T_SAMPLINGS)
    data = data or WorldData(32)
    table = make_schedule(schedule, 1000)

    def make(index: Tensor, number: int) -> Draw:
        return {"x0": data.batch(number, len(index), index.device)[0]}

    blocks = Blocks(make)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        batch = blocks.rows(i, n, device)
        rng = generator(seed, "t", i, device=device)
        return batch | {"t": sample_t(n, table.T, rng, t_sampling), "noise": noise(batch["x0"].shape, rng)}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        wrapped = _WRAP[predicts](model, table)
        if learned:
            return hybrid_loss(LearnedRange(wrapped), batch["x0"], batch["t"], batch["noise"])
        return simple_loss(wrapped, batch["x0"], batch["t"], batch["noise"], gamma=gamma)

    def export(made: nn.Module, folder: Path) -> dict[str, Any]:
        config = {"kind": "pixel", "net": made.config, "predicts": predicts, "schedule": {"name": schedule, "T": table.T},
                  "size": data.size}
        return write_net(made, config, folder)

    return Recipe(
        name=name,
        seed=seed,
        build=lambda: UNet(**net, learned_variance=learned),
        draw=draw,
        loss=loss,
        batch=batch,
        lr=lr,
        lr_shape=lr_shape,
        warmup=warmup,
        ema=ema,
        budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=128, lr=2 * lr)},
        expect=expect,
        identity={"predicts": predicts, "schedule": schedule, "learned": learned, "gamma": gamma, "t_sampling": t_sampling,
                  "data": data.identity},
        export=export,
    )


_SMALL: dict = {"net": SMALL_NET, "seed": 31, "batch": 32, "lr": 6e-4, "lr_shape": "cosine", "images": (16_000, 1_000_000),
                "minutes": (4, 2)}
_LARGE: dict = {"net": PIXEL_NET, "gamma": 5.0, "t_sampling": "mixture", "ema": 0.9995, "images": (300_000, 4_000_000),
                "minutes": (60, 3)}

# name -> what pixel_recipe is called with; the small ones differ from pixel-small-eps in one thing each
PIXEL: dict[str, dict] = {
    # x0 rather than eps or v: a network that cuts pictures into patches need not carry the noise of every pixel through them
    "pixel-ddpm": _LARGE | {"seed": 22, "predicts": "x0", "expect": "validity >= 90 %"},
    "pixel-eps": _LARGE | {"seed": 21, "expect": "the same network, predicting the noise"},
    "pixel-small-eps": _SMALL,
    "pixel-small-x0": _SMALL | {"predicts": "x0"},
    "pixel-small-v": _SMALL | {"predicts": "v"},
    "pixel-small-learned": _SMALL | {"learned": True},
    "pixel-small-cosine": _SMALL | {"schedule": "cosine"},
}
