"""The shipped models: `load(name)` checks the hash and gives a model ready to use; `ship` writes one from a training run."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from minidiff.diffusion import X0, Eps, LearnedRange, V, make_schedule
from minidiff.diffusion.ddgan import ddgan_schedule
from minidiff.errors import CheckpointError, require
from minidiff.files import data_folder, replace, replace_folder, sha256
from minidiff.latent.text import ignore_marks
from minidiff.measure.reader import Reader
from minidiff.nets import UNet
from minidiff.nets.adversarial import LatentUNet, SmallVAE
from minidiff.nets.classifier import NoisyClassifier
from minidiff.silence import silence_libraries

__all__ = ["load", "shipped", "ship", "write_net", "card"]

_WRAP = {"eps": Eps, "x0": X0, "v": V}


def shipped() -> list[str]:
    """Names of the models in ``data/``, such as "pixel-ddpm" and "readers/final"."""
    root = data_folder()
    return sorted(str(p.parent.relative_to(root)) for p in root.glob("**/card.json"))


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
    - a folder written by ``save_pretrained`` of a diffusers pipeline, a diffusers model or a transformers CLIP;
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
        return _ready(_pretrained(Path(name), name), device)
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


def _shipped(name: str) -> Any:
    folder = _folder(name)
    promised = _json(folder / "card.json").get("sha256", {})
    for file, mark in (promised or {"model.safetensors": None}).items():
        if not (folder / file).is_file():
            raise CheckpointError("name", f"{name!r} without {file}", "a complete model folder", "git checkout -- data")
        if sha256(folder / file) != mark:
            raise CheckpointError(
                "name",
                f"{name!r}, whose {file} differs from the hash on its card",
                "the file as it was shipped",
                "git checkout -- data, or train it again",
            )
    if (folder / "model_index.json").is_file() or "kind" not in (config := _json(folder / "config.json")):
        return _pretrained(folder, name)
    model = _build(config, name)
    _fill(model, folder / "model.safetensors", name)
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


def _build(config: dict[str, Any], name: str) -> nn.Module:
    kind = config.get("kind")
    if kind == "reader":
        return Reader(**{"edition": 1} | config["net"])       # readers of the first edition do not name it
    if kind == "pixel":
        net = config["net"] | {k: tuple(v) for k, v in config["net"].items() if isinstance(v, list)}
        model = _WRAP[config["predicts"]](UNet(**net), make_schedule(**config["schedule"]))
        return LearnedRange(model) if net.get("learned_variance") else model
    if kind == "noisy-classifier":
        return NoisyClassifier(**config["net"])
    if kind == "ddgan":
        generator = LatentUNet(**config["net"])
        generator.schedule = ddgan_schedule(config["T"])
        return generator
    if kind == "small-vae":
        return SmallVAE(**config["net"])
    kinds = "'reader', 'pixel', 'noisy-classifier', 'ddgan' or 'small-vae'"
    raise CheckpointError("name", f"{name!r} of kind {kind!r}", f"a config.json of kind {kinds}")


def _net(model: nn.Module) -> nn.Module:
    while hasattr(model, "base") or hasattr(model, "net"):
        model = model.base if hasattr(model, "base") else model.net
    return model


def _fill(model: nn.Module, weights: Path, name: str) -> None:
    try:
        state = {k: v.float() for k, v in load_file(weights).items()}
        _net(model).load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            "name",
            f"{name!r}, whose weights do not fit its config ({str(error).splitlines()[0]})",
            "weights and config from the same training run",
            "git checkout -- data",
        ) from None


def write_net(net: nn.Module, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write a pixel model or a reader as :func:`load` reads it: config.json, model.safetensors (fp16). Returns its size."""
    save_file({k: v.detach().cpu().half().contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    replace(folder / "config.json", json.dumps(config, indent=1) + "\n")
    return {"parameters": sum(p.numel() for p in net.parameters())}


def _forget_places(folder: Path) -> None:
    """Take the "_name_or_path" out of all configs: diffusers notes there from which folder of this machine a part came."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def ship(name: str, write: Callable[[Path], Any], facts: dict[str, Any], *, root: Path | None = None) -> Path:
    """Write ``data/NAME`` in one move: what ``write(folder)`` puts there, and card.json with the sha256 of all its weights.

    facts: what the card says (recipe, seed, images, minutes, scores); ``write`` may return more of them, and may be a
    model's or a pipeline's ``save_pretrained``. An older version is replaced whole.
    """
    folder = (root or data_folder()) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    more = write(fresh)
    _forget_places(fresh)
    facts = {"name": name} | facts | (more if isinstance(more, dict) else {}) | {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": datetime.date.today().isoformat(),
        "sha256": {p.relative_to(fresh).as_posix(): sha256(p) for p in sorted(fresh.rglob("*.safetensors"))},
    }
    replace(fresh / "card.json", json.dumps(facts, indent=1) + "\n")
    replace_folder(fresh, folder)
    return folder
