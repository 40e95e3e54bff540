"""How a model is shipped: written beside the old one, listed file by file on its card, and put in place in one move."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minidiff.errors import CheckpointError, require
from minidiff.files import data_folder, replace, replace_folder
from minidiff.manifest import CARD, write_card
from minidiff.silence import silence_libraries
from minidiff.zoo.parts import settle, slim

__all__ = ["ship", "write_net"]


def write_net(net: nn.Module, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write a pixel model or a reader as :func:`load` reads it: config.json, model.safetensors (fp16). Returns its size."""
    require(folder.is_dir(), "folder", repr(str(folder)), "a folder that exists")
    save_file({k: v.detach().cpu().half().contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    replace(folder / "config.json", json.dumps(config, indent=1) + "\n")
    return {"parameters": sum(p.numel() for p in net.parameters())}


def _forget_places(folder: Path) -> None:
    """Take the "_name_or_path" out of all configs: diffusers notes there from which folder of this machine a part came."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_finite(folder: Path, name: str) -> None:
    for path in sorted(folder.rglob("*.safetensors")):
        for key, x in load_file(path).items():
            if x.is_floating_point() and not torch.isfinite(x).all():
                shutil.rmtree(folder)
                raise CheckpointError("name", f"{name!r}, whose weights {key} are NaN or infinite", "finite weights",
                                      "an earlier checkpoint of the run")


def ship(name: str, write: Callable[[Path], Any], facts: dict[str, Any], *, root: Path | None = None, base: str = "") -> Path:
    """Write ``data/NAME`` in one move: what ``write(folder)`` puts there, and card.json with the sha256 of every file.

    facts: what the card says (recipe, seed, images, minutes, scores); ``write`` may return more of them, and may be a
    model's or a pipeline's ``save_pretrained``. base: a shipped model that this one was tuned from; what both have is then
    stored once. An older version is replaced whole; models that were stored as what differs from it are made whole first.
    """
    root = root or data_folder()
    folder = root / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError("root", f"{str(root)!r} ({error.strerror})", "a folder that is there or can be made") from None
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    with silence_libraries() if "transformers" in sys.modules else contextlib.nullcontext():       # no bars of one file
        more = write(fresh)
    _forget_places(fresh)
    _check_finite(fresh, name)
    write_card(fresh, {"name": name} | facts | (more if isinstance(more, dict) else {}) | {
        "torch": torch.__version__, "machine": platform.machine(), "date": datetime.date.today().isoformat()})
    if base and (root / base / CARD).is_file():
        slim(fresh, base, root)
    settle(name, fresh, root)
    replace_folder(fresh, folder)
    return folder
