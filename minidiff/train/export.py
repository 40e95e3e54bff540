"""From a training run to the weights that ship."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from minidiff.errors import CheckpointError
from minidiff.files import replace
from minidiff.train.checkpoint import checkpoints, plain, read_ema, unusable
from minidiff.train.files import disk

__all__ = ["newest", "load_ema", "export"]


def newest(out: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """EMA weights by name, and meta, of the newest usable checkpoint in ``out``. Only reads; CheckpointError if there is none."""
    out = Path(out)
    bad: dict[Path, Exception] = {}
    for folder in checkpoints(out):
        try:
            return read_ema(folder)
        except Exception as error:  # whatever a damaged file makes a parser raise
            bad[folder] = error
    if bad:
        raise unusable(out, bad)
    raise CheckpointError("out", f"{str(out)!r}, which holds no checkpoint", "the folder of a training run",
                          "fit(recipe, out=...) first, or minidiff train RECIPE --out FOLDER")


def load_ema(out: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Fill ``model`` with the EMA weights of the newest usable checkpoint in ``out``; returns its meta (step, images, settings).

    Raises CheckpointError, and leaves ``model`` as it was, if the names or shapes do not match.
    """
    weights, meta = newest(out)
    mine = {name: x.shape for name, x in model.state_dict().items()}
    theirs = {name: x.shape for name, x in weights.items()}
    wrong = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError("model", f"a network that differs in {', '.join(wrong[:3])}{more}",
                              f"the network of recipe {meta['settings'].get('recipe')!r}", "model = recipe.build()")
    model.load_state_dict(weights)
    return meta


def export(out: str | os.PathLike[str], folder: str | os.PathLike[str], *, half: bool = False) -> dict[str, Any]:
    """Write the newest EMA weights of the run in ``out`` to ``folder/model.safetensors``, at once or not at all; returns meta.

    half: store float weights as float16 (half the size; ``load_state_dict`` casts back).
    """
    weights, meta = newest(out)
    if half:
        weights = {name: x.half() if x.is_floating_point() else x for name, x in weights.items()}
    folder = Path(folder)
    with disk(folder, lambda: "nothing has been overwritten"):
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "model.safetensors", safetensors.torch.save(plain(weights)))
    return meta
