"""``minidiff edit METHOD``: edits of prompts or of a folder of pictures, and a contact sheet of all of them."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.editing.key_losses import clip_features
from minidiff.errors import BadInput, check_choice, require
from minidiff.guard import guarded
from minidiff.show import grid, plural, save_grid
from minidiff.world import ImageFolder
from minidiff.world.picture_file import read_image
from minidiff.zoo import load

__all__ = ["METHODS", "edit", "options_of"]

# name on the command line -> where it is; a method takes (pipe, source[, target]) and seed=, image=, steps=, guidance=
METHODS = {"prompt-to-prompt": "minidiff.editing.prompt_to_prompt:prompt_to_prompt",
           "diffuseit": "minidiff.editing.diffuseit:diffuseit",
           "pix2pix-zero": "minidiff.editing.sentence_bank:edit_words",
           "plug-and-play": "minidiff.editing.plug_and_play:plug_and_play",
           "attend-and-excite": "minidiff.editing.attend:attend_and_excite",
           "self-guidance": "minidiff.editing.self_guidance:self_guidance",
           "h-space": "minidiff.recipes.directions:edit_towards",
           "swap-prompt": "minidiff.editing.prompt_swap:swap_prompt"}
COMMON = ("pipe", "source", "prompt", "target", "seed", "image", "trajectory", "latents", "steps", "guidance", "size", "maps",
          "features", "like", "toward")


def _method(name: str) -> Callable[..., Any]:
    check_choice("METHOD", name, METHODS)
    module, function = METHODS[name].split(":")
    found = guarded(getattr(importlib.import_module(module), function))
    features = inspect.signature(found).parameters.get("features")
    if features is not None and features.default is inspect.Parameter.empty:   # a network to look with: the one that ships
        found = functools.partial(found, features=clip_features(load("mini-clip")))
    return found


def options_of(function: Callable[..., Any], given: Sequence[str], *, fixed: Sequence[str] = COMMON) -> dict[str, Any]:
    """``["cross=0.6", "blend=cat"]`` as keywords of a method: Python values where they are some, else words.

    fixed: its arguments that the command sets itself.
    """
    known = [name for name in inspect.signature(function).parameters if name not in fixed]
    out = {}
    for text in given:
        name, equals, value = text.partition("=")
        require(bool(equals), "--set", repr(text), "NAME=VALUE", "--set cross=0.6")
        check_choice("--set", name, known)
        try:
            out[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            out[name] = value
    return out


def _pictures(folder: str, size: int) -> tuple[Tensor, list[str] | None, list[str]]:
    """Every picture of a folder at ``size`` (n, 3, size, size), the captions of its metadata.jsonl or None, their names."""
    found = ImageFolder(folder, size=size)
    images = torch.stack([read_image(found.path / name, size=size, channels=3) for name in found.files]).float() / 127.5 - 1
    return images, found.captions, found.files


def edit(given: Namespace) -> int:
    """Run a method over all rows, write NNN_BRANCH.png and sheet.png into the folder --out."""
    function = _method(given.method)
    takes = inspect.signature(function).parameters
    options, out = options_of(function, given.set), Path(given.out)
    require(given.seeds >= 1, "--seeds", given.seeds, "a whole number, 1 or more", "--seeds 4")
    require(given.steps >= 1, "--steps", given.steps, "a whole number, 1 or more", "--steps 25")
    require(bool(given.source.strip()), "SOURCE", repr(given.source), "the prompt of the source", '"a red cat on the grass"')
    require("target" not in takes or given.target is not None, "TARGET", "none", f"a prompt to edit to: {given.method} needs one")
    known = ", ".join(name for name in takes if name not in COMMON)
    require("target" in takes or given.target is None, "TARGET", repr(given.target), f"none: {given.method} has no target prompt",
            f"--set NAME=VALUE, with one of {known}")
    pipe = load(given.model)
    require(hasattr(pipe, "unet") and hasattr(pipe, "tokenizer"), "--model", f"{given.model!r}, a {type(pipe).__name__}",
            "a text-to-image pipeline", "--model mini-sd")
    if given.images is not None:
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        images, captions, names = _pictures(given.images, side)
        prompts = captions if given.source == "-" and captions is not None else [given.source] * len(images)
        empty = [name for name, prompt in zip(names, prompts, strict=True) if prompt in ("", "-")]
        if empty:
            raise BadInput("SOURCE", f"no caption for {empty[0]}", "a source prompt, or - and captions in metadata.jsonl")
        rows = [{"image": images[k:k + 1]} for k in range(len(images))]
    else:
        prompts, rows = [given.source] * given.seeds, [{"seed": given.seed + k} for k in range(given.seeds)]
        names = [f"seed {given.seed + k}" for k in range(given.seeds)]
    shown: list[Tensor] = []
    for k, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        texts = (prompt, given.target) if "target" in takes else (prompt,)
        made = function(pipe, *texts, steps=given.steps, guidance=given.guidance, **row, **options)
        out.mkdir(parents=True, exist_ok=True)
        branches = list(made.images)
        for branch in branches:
            save_grid(out / f"{k:03d}_{branch}.png", made.images[branch])
        shown.append(torch.cat([made.images[branch] for branch in branches]))
        print(f"{out / f'{k:03d}_edit.png'}: {names[k]}, {' -> '.join(map(repr, texts))}", flush=True)
    sheet = grid(shown, row_labels=names, column_labels=branches,
                 alt=f"{given.method}: {plural(len(shown), 'row')} of {', '.join(branches)}.")
    print(f"{sheet.save(out / 'sheet.png')}: {plural(len(shown), 'edit')} by {given.method}")
    return 0
