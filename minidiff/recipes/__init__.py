"""The recipes: one row for each model that ships. `minidiff train NAME` remakes it from nothing.

Each recipe names its seed, network, data and budgets, and writes what ships; every batch is a pure function of the seed and
its number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidiff.errors import check_choice, require
from minidiff.guard import guard
from minidiff.recipes.adversarial import DDGANS, VAES, ddgan_recipe, small_vae_recipe
from minidiff.recipes.clip import CLIPS, clip_recipe
from minidiff.recipes.control import CONTROLS, control_recipe
from minidiff.recipes.guided import CLASSIFIERS, GUIDED, classifier_recipe, guided_recipe
from minidiff.recipes.parasol import STYLED, TOKENS, styled_recipe, tokens_recipe
from minidiff.recipes.pixel import PIXEL, PIXEL_NET, SMALL_NET, pixel_recipe
from minidiff.recipes.readers import READERS, reader_recipe
from minidiff.recipes.stable import STABLE, stable_recipe
from minidiff.recipes.vae import AUTOENCODERS, vae_recipe
from minidiff.rng import seeded_rng
from minidiff.train import Recipe, load_ema
from minidiff.world import WORLD_EDITION, ImageFolder
from minidiff.zoo import ship

__all__ = ["RECIPES", "PIXEL", "READERS", "AUTOENCODERS", "STABLE", "CONTROLS", "CLIPS", "GUIDED", "CLASSIFIERS", "recipe",
           "publish", "pixel_recipe", "PIXEL_NET", "SMALL_NET"]

_TABLES = ((READERS, reader_recipe), (PIXEL, pixel_recipe), (AUTOENCODERS, vae_recipe), (STABLE, stable_recipe),
           (CONTROLS, control_recipe), (CLIPS, clip_recipe), (GUIDED, guided_recipe), (CLASSIFIERS, classifier_recipe),
           (DDGANS, ddgan_recipe), (VAES, small_vae_recipe), (TOKENS, tokens_recipe), (STYLED, styled_recipe))
RECIPES = tuple(name for table, _ in _TABLES for name in table)


_OWN = {name: size for table, size in ((PIXEL, 32), (AUTOENCODERS, 64), ({"mini-sd": {}}, 64)) for name in table}


def recipe(name: str, *, data: str | Path | ImageFolder | None = None, caption_column: str | None = None, vae: str | None = None,
           log: Callable[[str], None] = print) -> Recipe:
    """The recipe called ``name``; an unknown name is an error that lists the nearest ones.

    data: a folder of your own pictures in place of the world's, for the pixel models, the autoencoders and mini-sd (which needs
    captions, and with vae= a run of your own autoencoder). caption_column, log: see :class:`~minidiff.world.ImageFolder`.
    """
    check_choice("recipe", name, RECIPES)
    own: dict[str, Any] = {}
    if data is not None:
        require(name in _OWN, "data", repr(str(data)), f"the world itself, of which {name!r} must know the truth",
                f"one of {', '.join(_OWN)} with data=")
        if not isinstance(data, ImageFolder):
            data = ImageFolder(data, size=_OWN[name], caption_column=caption_column, log=log)
        require((data.size, data.channels) == (_OWN[name], 3), "data", repr(data), f"3 x {_OWN[name]} x {_OWN[name]} pictures",
                f"ImageFolder(path, size={_OWN[name]})")
        own["data"] = data
    if vae is not None:
        require(data is not None and name == "mini-sd", "vae", repr(vae), "recipe('mini-sd', data=...) alone has a choice")
        own["vae"] = vae
    return next(make(name, **(table[name] | own)) for table, make in _TABLES if name in table)


def publish(which: str | Recipe, out: str | Path, *, root: Path | None = None, as_name: str | None = None) -> Path:
    """Put the averaged weights of the run in ``out`` into ``data/NAME``, as its recipe exports them, with a card.

    root, as_name: another folder than ``data``, another name than the recipe's.

    The card states what the run was really made with (batch, learning rate, cycles, images, hardware), as its checkpoint says.
    """
    one = recipe(which) if isinstance(which, str) else which
    require(one.export is not None, "recipe", repr(one.name), "a recipe with export=, which says how its network ships")
    with seeded_rng(one.seed, "build"):                             # its weights come from the run
        net = one.build()
    meta = load_ema(out, net)
    made = {key: value for key, value in meta["settings"].items() if key not in ("images", "network")}
    facts = made | {
        "name": one.name,
        "images": meta["images"],
        "schedule_history": meta["schedule_history"],
        "minutes": round(meta["seconds"] / 60, 1),
        "hardware": meta["hardware"],
        "expect": one.expect,
        "world_edition": WORLD_EDITION,
    }
    return ship(as_name or one.name, functools.partial(one.export, net.eval()), facts, root=root,
                base=one.identity.get("start") or "")


guard(globals(), __all__)
