"""Recipes of the pixel models: unconditional 32 x 32 U-Nets, one row for each."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.diffusion import X0, Eps, LearnedRange, V, hybrid_loss, make_schedule, simple_loss
from minidiff.errors import check_choice
from minidiff.nets import UNet
from minidiff.recipes.blocks import BLOCK, T_SAMPLINGS, sample_t
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.world import WorldData
from minidiff.zoo import load, write_net

__all__ = ["PIXEL", "PIXEL_NET", "SMALL_NET", "pixel_recipe"]

PIXEL_NET = {"channels": 3, "dim": 48, "mults": (1, 2), "blocks": 1, "patch": 2, "attention": (8,)}
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
    start: str = "",
    batch: int = 32,
    lr: float = 6e-4,
    lr_shape: str = "cosine",
    warmup: int = 3_200,
    ema: float = 0.999,
    data: WorldData | None = None,
    images: tuple[int, int] = (240_000, 4_000_000),
    minutes: tuple[float, float] = (90, 6),
    expect: str = "",
) -> Recipe:
    """A recipe for an unconditional pixel model. images, minutes: (laptop, gpu).

    predicts: "eps", "x0" or "v"; learned adds the variance head of iDDPM; gamma weights by min-SNR; t_sampling: see
    :func:`~minidiff.recipes.blocks.sample_t`; start: a shipped model of the same network to begin with; batch, lr, lr_shape,
    warmup, ema: see :class:`~minidiff.train.Recipe`.
    """
    check_choice("predicts", predicts, _WRAP)
    check_choice("t_sampling", t_sampling, T_SAMPLINGS)
    data = data or WorldData(32)
    table = make_schedule(schedule, 1000)

    def build() -> nn.Module:
        made = UNet(**net, learned_variance=learned)
        if start:
            made.load_state_dict(load(start).net.state_dict())
        return made

    @functools.lru_cache(maxsize=1)
    def block(j: int, n: int, device: torch.device) -> Tensor:
        return data.batch(j, n * BLOCK, device)[0]

    def draw(i: int, n: int, device: torch.device) -> dict[str, Tensor]:
        x0 = block(i // BLOCK, n, device)[i % BLOCK * n :][:n]
        rng = generator(seed, "t", i)
        t = sample_t(n, table.T, rng, t_sampling)
        noise = torch.randn(x0.shape, generator=rng)
        return {"x0": x0, "t": t.to(device), "noise": noise.to(device)}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
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
        build=build,
        draw=draw,
        loss=loss,
        batch=batch,
        lr=lr,
        lr_shape=lr_shape,
        warmup=warmup,
        ema=ema,
        budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1])},
        expect=expect,
        identity={"predicts": predicts, "schedule": schedule, "learned": learned, "gamma": gamma, "t_sampling": t_sampling,
                  "start": start, "data": repr(data) if isinstance(data, WorldData) else f"{len(data)} of {data.path.name}"},
        export=export,
    )


_SMALL: dict = {"net": SMALL_NET, "seed": 31, "images": (16_000, 1_000_000), "minutes": (4, 2)}

# name -> what pixel_recipe is called with; the small ones differ from pixel-small-eps in one thing each
PIXEL: dict[str, dict] = {
    # v after eps: near pure noise an error of eps is an error of x0 a hundred times as large, and small networks pick the
    # wrong brightness there; what eps has taught the trunk is kept
    "pixel-eps": {"seed": 21, "net": PIXEL_NET, "gamma": 5.0, "expect": "the first stage of pixel-ddpm"},
    "pixel-ddpm": {
        "seed": 22,
        "net": PIXEL_NET,
        "predicts": "v",
        "start": "pixel-eps",
        "lr": 5e-4,
        # eight times as many were tried, and a network of 64 channels that predicts x0: hardly better samples
        "images": (40_000, 4_000_000),
        "minutes": (10, 6),
        "expect": "validity >= 90 %",
    },
    "pixel-small-eps": _SMALL,
    "pixel-small-x0": _SMALL | {"predicts": "x0"},
    "pixel-small-v": _SMALL | {"predicts": "v"},
    "pixel-small-learned": _SMALL | {"learned": True},
    "pixel-small-cosine": _SMALL | {"schedule": "cosine"},
}
