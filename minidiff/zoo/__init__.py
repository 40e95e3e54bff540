"""The shipped models: `load(name)` checks the hash and gives a model ready to use; `ship` writes one from a training run."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from minidiff.errors import CheckpointError, require
from minidiff.files import data_folder
from minidiff.latent.text import ignore_marks
from minidiff.manifest import in_part, models_in, read_card
from minidiff.silence import silence_libraries
from minidiff.zoo import parts
from minidiff.zoo.ours import build, fill
from minidiff.zoo.parts import check_files, write_whole
from minidiff.zoo.ship import ship, write_net

__all__ = ["card", "export", "load", "ship", "shipped", "write_net"]


def shipped() -> list[str]:
    """Names of the models in ``data/``, such as "pixel-ddpm" and "readers/final"."""
    return models_in(data_folder())


def _folder(name: str) -> Path:
    folder = data_folder() / name
    if not ((folder / "config.json").is_file() or (folder / "card.json").is_file()):
        known = ", ".join(shipped()) or "none: data/ is empty"
        raise CheckpointError(
            "name",
            repr(name),
            f"a shipped model ({known})",
            f"minidiff train {name} --out runs/{name}, which makes it from nothing",
        )
    return folder


def card(name: str) -> dict[str, Any]:
    """The card of a shipped model: recipe, seed, device, images seen, minutes, scores, sha256."""
    return json.loads((_folder(name) / "card.json").read_text())


def load(name: str, *, device: torch.device | str = "cpu") -> Any:
    """A model ready to use: in evaluation mode, in float32, without gradients. name is one of three things:

    - a shipped name, checked against the sha256 on its card: "pixel-..." gives a wrapped network (Eps, X0, V or LearnedRange:
      ``model(x, t) -> Prediction``) with its schedule, "readers/..." a :class:`~minidiff.measure.reader.Reader`, "mini-vae"
      and the like a diffusers or transformers model, "mini-sd" a ``StableDiffusionPipeline``;
    - a folder written by ``save_pretrained`` of a diffusers pipeline, a diffusers model or a transformers CLIP, or the folder of
      a run that ``minidiff train`` wrote;
    - an id of the Hugging Face Hub, "owner/name": the only one that touches the network.

    Weights come from safetensors only. Raises CheckpointError when a file is missing, truncated, changed or not ours.
    """
    require(isinstance(name, (str, os.PathLike)) and str(name) != "", "name", repr(name), "the name of a model",
            "load('mini-sd')")
    name = str(name)
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts       # data_folder() / "/a/b" would be /a/b
    ours = data_folder() / name
    if inside and ((ours / "card.json").is_file() or (ours / "config.json").is_file()):
        return _ready(_shipped(name), device)
    if Path(name).is_dir():
        return _ready(_local(Path(name), name), device)
    owner, _, rest = name.partition("/")
    if rest and "/" not in rest and owner not in (".", "..", "~") and not (data_folder() / owner).is_dir():
        return _ready(_from_hub(name), device)
    _folder(name)
    raise AssertionError("unreachable: _folder refuses what is not shipped")


def _ready(model: Any, device: torch.device | str) -> Any:
    if isinstance(model, nn.Module):
        model = nn.Module.float(model)  # diffusers' own cast warns about nothing
        return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    model.set_progress_bar_config(disable=True)
    for part in model.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return model.to(device)


def export(name: str, folder: str | Path) -> Path:
    """Write a shipped model as a new folder with all of its files: a pipeline that is stored as what differs from mini-sd becomes
    one that diffusers reads. Returns the folder. Raises BadInput if it exists, CheckpointError if the model is damaged.
    """
    _folder(name)
    return parts.export(name, folder, data_folder())


def _local(folder: Path, name: str) -> Any:
    """A folder in diffusers' format, or that of a training run, which keeps its model in ``model``."""
    if (folder / "model" / "card.json").is_file():
        check_files("model", folder)
        return _opened_shipped(folder / "model", name)
    if any(folder.glob("step-*/meta.json")):
        raise CheckpointError("name", f"{name!r}, a run that has written no model yet", "a run that has ended or was stopped",
                              "the same training command again: it writes the model when it stops")
    return _pretrained(folder, name)


def _shipped(name: str) -> Any:
    folder = _folder(name)
    check_files(name, data_folder())
    if not in_part(read_card(folder)):
        return _opened_shipped(folder, name)
    with tempfile.TemporaryDirectory(prefix="minidiff-", ignore_cleanup_errors=True) as place:
        return _opened_shipped(write_whole(folder, data_folder(), Path(place)), name)


def _opened_shipped(folder: Path, name: str) -> Any:
    if (folder / "model_index.json").is_file() or "kind" not in (config := _json(folder / "config.json")):
        return _pretrained(folder, name)
    model = build(config, name)
    fill(model, folder / "model.safetensors", name)
    return model


def _pretrained(folder: Path, name: str) -> Any:
    """A folder in the format of diffusers or transformers: which class it is, its own files say."""
    if (folder / "model_index.json").is_file():
        import diffusers

        return _opened(diffusers.DiffusionPipeline, folder, name)
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    library, wanted = ("diffusers", config.get("_class_name")) if "_class_name" in config else (
        "transformers", (config.get("architectures") or [None])[0])
    made = getattr(importlib.import_module(library), wanted, None) if isinstance(wanted, str) else None
    if made is None or not hasattr(made, "from_pretrained"):
        raise CheckpointError("name", f"{name!r}, a folder without a model that diffusers or transformers knows",
                              "a folder with model_index.json or config.json, from save_pretrained")
    return _opened(made, folder, name)


def _opened(made: Any, where: str | Path, name: str) -> Any:
    whole = "a complete folder in diffusers' format with safetensors weights, or an id that the Hub has"
    with silence_libraries(bars=not isinstance(where, Path)) as said:
        try:
            model = made.from_pretrained(where, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise CheckpointError("name", f"{name!r}, which cannot be opened ({str(error).strip().splitlines()[0]})", whole,
                                  "one of " + ", ".join(shipped())) from error
    if any("newly initialized" in text or "MISSING" in text for text in said):     # the libraries would go on with random numbers
        raise CheckpointError("name", f"{name!r}, whose weights do not hold every parameter of its config", whole)
    if hasattr(model, "tokenizer"):
        ignore_marks(model.tokenizer)
    return model


def _from_hub(name: str) -> Any:
    import diffusers

    return _opened(diffusers.DiffusionPipeline, name, name)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "name", f"{path.parent.name!r}, whose {path.name} cannot be read ({error})", "a JSON file", "git checkout -- data"
        ) from None
