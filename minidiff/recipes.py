"""The recipes: one row for each model that ships. `minidiff train NAME` remakes it from nothing.

Each recipe names its seed, network, data and budgets; every batch is a pure function of the seed and its number.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .counter import generator, key, uniform
from .diffusion import X0, Eps, LearnedRange, V, hybrid_loss, make_schedule, simple_loss
from .errors import check_choice
from .measure.reader import Reader, reader_loss
from .nets import UNet
from .train import Budget, Recipe, load_ema
from .world import Rendered, Scenes, WorldData, render, sample_scenes
from .zoo import load, ship

__all__ = [
    "RECIPES",
    "PIXEL",
    "READERS",
    "recipe",
    "config",
    "publish",
    "PIXEL_NET",
    "SMALL_NET",
    "pixel_recipe",
    "reader_recipe",
]

PIXEL_NET = {"channels": 3, "dim": 48, "mults": (1, 2), "blocks": 1, "patch": 2, "attention": (8,)}
SMALL_NET = {"channels": 3, "dim": 32, "mults": (1, 2), "blocks": 1, "patch": 2, "attention": (8,)}
_BLOCK = 8  # batches rendered at once: many scenes together are painted faster; batch i is still a pure function of i
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
    start: str = "",
    lr: float = 6e-4,
    data: WorldData | None = None,
    images: tuple[int, int] = (240_000, 4_000_000),
    minutes: tuple[float, float] = (90, 6),
    expect: str = "",
) -> Recipe:
    """A recipe for an unconditional pixel model. images, minutes: (laptop, gpu).

    predicts: "eps", "x0" or "v"; learned adds the variance head of iDDPM; gamma weights by min-SNR; start: a shipped
    model of the same network to begin with.
    """
    data = data or WorldData(32)
    table = make_schedule(schedule, 1000)

    def build() -> nn.Module:
        made = UNet(**net, learned_variance=learned)
        if start:
            made.load_state_dict(load(start).net.state_dict())
        return made

    @functools.lru_cache(maxsize=1)
    def block(j: int, n: int, device: torch.device) -> Tensor:
        return data.batch(j, n * _BLOCK, device)[0]

    def draw(i: int, n: int, device: torch.device) -> dict[str, Tensor]:
        x0 = block(i // _BLOCK, n, device)[i % _BLOCK * n :][:n]
        where = generator(seed, "t", i)
        t = torch.randint(0, table.T, (n,), generator=where)
        noise = torch.randn(x0.shape, generator=where)
        return {"x0": x0, "t": t.to(device), "noise": noise.to(device)}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        wrapped = _WRAP[predicts](model, table)
        if learned:
            return hybrid_loss(LearnedRange(wrapped), batch["x0"], batch["t"], batch["noise"])
        return simple_loss(wrapped, batch["x0"], batch["t"], batch["noise"], gamma=gamma)

    return Recipe(
        name=name,
        seed=seed,
        build=build,
        draw=draw,
        loss=loss,
        batch=32,
        lr=lr,
        warmup=3_200,
        ema=0.999,
        budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1])},
        expect=expect,
    )


def _mixed(index: Tensor, size: int, seed: int, portions: tuple[tuple[str, int, float], ...]) -> tuple[Scenes, Tensor, Tensor]:
    """Scenes of several levels, rendered at several sizes and brought to one; the share of each level is fixed by rows."""
    scenes, images, masks, start = [], [], [], 0
    for number, (level, side, share) in enumerate(portions):
        stop = len(index) if number == len(portions) - 1 else start + int(share * len(index))
        part = sample_scenes(index[start:stop], split="train", seed=seed, level=level)
        picture = render(part, side)
        scenes.append(part)
        images.append(F.interpolate(picture.images, size=(size, size), mode="bilinear") if side != size else picture.images)
        masks.append(F.interpolate(picture.masks, size=(size // 2, size // 2), mode="area"))
        start = stop
    return Scenes.cat(scenes), torch.cat(images), torch.cat(masks)


def _blemish(x: Tensor, seed: int, i: int, strength: float) -> Tensor:
    """What a reader must put up with: noise, a lost half of the resolution, a change of brightness or contrast."""
    n = len(x)
    dice = uniform(key(seed, "blemish"), torch.arange(i * n, (i + 1) * n), 5).to(x)[:, :, None, None, None]
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
    x = torch.where(dice[:, 0] < 0.25, soft, x)
    x = x * (1 + 0.1 * (dice[:, 1] - 0.5)) + 0.1 * (dice[:, 2] - 0.5)
    noise = torch.randn(x.shape, generator=generator(seed, "blemish", i)).to(x.device)
    return x + strength * dice[:, 3] * (dice[:, 4] < 0.6) * noise


def reader_recipe(name: str, *, seed: int, strength: float) -> Recipe:
    """A recipe for one reader: its own seed, its own scenes and its own blemishes (noise up to ``strength``)."""
    portions = (("simple", 32, 0.25), ("pairs", 64, 0.25), ("full", 64, 0.5))
    fields = [f.name for f in dataclasses.fields(Scenes)]

    @functools.lru_cache(maxsize=1)
    @torch.no_grad()
    def block(j: int, n: int, device: torch.device) -> tuple[Scenes, Tensor, Tensor]:
        index = torch.arange(j * n * _BLOCK, (j + 1) * n * _BLOCK, device=device)
        scenes, images, masks = _mixed(index, 64, seed, portions)
        mix = torch.randperm(len(index), generator=generator(seed, "mix", j)).to(device)
        return scenes[mix], images[mix], masks[mix]

    def draw(i: int, n: int, device: torch.device) -> dict[str, Tensor]:
        scenes, images, masks = block(i // _BLOCK, n, device)
        rows = torch.arange(i % _BLOCK * n, (i % _BLOCK + 1) * n, device=device)
        scenes = scenes[rows]
        batch = {"images": _blemish(images[rows], seed, i, strength), "masks": masks[rows]}
        return batch | {name: getattr(scenes, name) for name in fields}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        scenes = Scenes(**{name: batch[name] for name in fields})
        return reader_loss(model(batch["images"]), scenes, Rendered(batch["images"], batch["masks"], batch["masks"]))

    return Recipe(
        name=name,
        seed=seed,
        build=lambda: Reader(16),
        draw=draw,
        loss=loss,
        batch=32,
        lr=2e-3,
        warmup=3_200,
        ema=0.998,
        budgets={"laptop": Budget(80_000, 15), "gpu": Budget(600_000, 3)},
        expect="kind and colour >= 99 %, backdrop >= 99.5 %, mask IoU >= 0.9 on clean held-out scenes",
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
        "images": (40_000, 4_000_000),
        "minutes": (12, 6),
        "expect": "validity >= 90 %",
    },
    "pixel-small-eps": _SMALL,
    "pixel-small-x0": _SMALL | {"predicts": "x0"},
    "pixel-small-v": _SMALL | {"predicts": "v"},
    "pixel-small-learned": _SMALL | {"learned": True},
    "pixel-small-cosine": _SMALL | {"schedule": "cosine"},
}

# name -> what reader_recipe is called with
READERS: dict[str, dict] = {
    "readers/guide": {"seed": 11, "strength": 0.25},
    "readers/develop": {"seed": 12, "strength": 0.20},
    "readers/final": {"seed": 13, "strength": 0.15},
}

RECIPES = (*READERS, *PIXEL)


def recipe(name: str) -> Recipe:
    """The recipe called ``name``; an unknown name is an error that lists the nearest ones."""
    check_choice("recipe", name, RECIPES)
    return reader_recipe(name, **READERS[name]) if name in READERS else pixel_recipe(name, **PIXEL[name])


def config(name: str) -> dict:
    """The config.json of the model that the recipe ``name`` makes: what :func:`minidiff.load` builds it from."""
    check_choice("recipe", name, RECIPES)
    if name in READERS:
        return {"kind": "reader", "net": recipe(name).build().config}
    row = PIXEL[name]
    return {
        "kind": "pixel",
        "net": recipe(name).build().config,
        "predicts": row.get("predicts", "eps"),
        "schedule": {"name": row.get("schedule", "linear"), "T": 1000},
        "size": 32,
    }


def publish(name: str, out: str | Path, *, root: Path | None = None) -> Path:
    """Put the averaged weights of a training run into ``data/NAME`` with config and card (see :func:`minidiff.zoo.ship`)."""
    one = recipe(name)
    net = one.build()
    meta = load_ema(out, net)
    facts = {
        "recipe": name,
        "seed": one.seed,
        "images": meta["images"],
        "of": meta.get("total"),
        "batch": one.batch,
        "lr": one.lr,
        "ema": one.ema,
        "minutes": round(meta.get("seconds", 0.0) / 60, 1),
        "made_on": meta.get("made_on"),
        "expect": one.expect,
    }
    return ship(name, net, config(name), facts, root=root)
