"""The recipes: one row for each model that ships. `minidiff train NAME` remakes it from nothing.

Each recipe names its seed, network, data and budgets; every batch is a pure function of the seed and its number.
"""

from __future__ import annotations

from pathlib import Path

from minidiff.errors import check_choice
from minidiff.latent.stable import assemble
from minidiff.latent.text import make_tokenizer
from minidiff.recipes.clip import CLIPS, clip_recipe
from minidiff.recipes.pixel import PIXEL, PIXEL_NET, SMALL_NET, pixel_recipe
from minidiff.recipes.readers import READERS, reader_recipe
from minidiff.recipes.stable import STABLE, stable_recipe
from minidiff.recipes.vae import AUTOENCODERS, finished, vae_recipe
from minidiff.train import Recipe, load_ema
from minidiff.zoo import load, ship, ship_folder

__all__ = ["RECIPES", "PIXEL", "READERS", "AUTOENCODERS", "STABLE", "CLIPS", "recipe", "config", "publish", "PIXEL_NET",
           "SMALL_NET"]

_TABLES = ((READERS, reader_recipe), (PIXEL, pixel_recipe), (AUTOENCODERS, vae_recipe), (STABLE, stable_recipe),
           (CLIPS, clip_recipe))
RECIPES = tuple(name for table, _ in _TABLES for name in table)


def recipe(name: str) -> Recipe:
    """The recipe called ``name``; an unknown name is an error that lists the nearest ones."""
    check_choice("recipe", name, RECIPES)
    return next(make(name, **table[name]) for table, make in _TABLES if name in table)


def config(name: str) -> dict:
    """The config.json of the pixel model or reader that the recipe ``name`` makes: what :func:`minidiff.load` builds it from."""
    check_choice("recipe", name, (*READERS, *PIXEL))
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
    """Put the averaged weights of a training run into ``data/NAME`` with config and card (see :func:`minidiff.zoo.ship`).

    Latent models are written in the format of diffusers, by their own ``save_pretrained``.
    """
    one = recipe(name)
    net = one.build()
    meta = load_ema(out, net)
    facts = {
        "recipe": name,
        "seed": one.seed,
        "images": meta["images"],
        "plans": meta.get("plans"),
        "batch": one.batch,
        "lr": one.lr,
        "ema": one.ema,
        "minutes": round(meta.get("seconds", 0.0) / 60, 1),
        "made_on": meta.get("made_on"),
        "expect": one.expect,
    }
    if name in READERS or name in PIXEL:
        return ship(name, net, config(name), facts, root=root)
    net = net.eval()
    if name in CLIPS:
        made, parts = net.clip, {"parameters": sum(p.numel() for p in net.clip.parameters())}
    elif name in AUTOENCODERS:
        made = finished(net)
        parts = {"parameters": sum(p.numel() for p in made.parameters())}
    else:
        made = assemble(load(STABLE[name].get("vae", "mini-vae")), net.text_encoder, net.unet)
        sizes = {k: sum(p.numel() for p in m.parameters()) for k, m in made.components.items() if hasattr(m, "parameters")}
        parts = {"parameters": sum(sizes.values()), "parts": sizes}


    def write(folder: Path) -> None:
        # half precision on disk; diffusers loads it as float32. transformers would not, so its models stay float32
        for part in (made.unet, made.vae) if name in STABLE else (made,) if name in AUTOENCODERS else ():
            part.half()
        made.save_pretrained(folder)
        if name in CLIPS:
            make_tokenizer().save_pretrained(folder)

    return ship_folder(name, write, facts | parts, root=root)
