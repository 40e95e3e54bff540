"""The shipped models: `load(name)` checks the hash and gives a model ready to use; `ship` writes one from a training run."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .diffusion import X0, Eps, LearnedRange, V, make_schedule
from .errors import CheckpointError
from .files import data_folder, replace, sha256
from .measure.reader import Reader
from .nets import UNet

__all__ = ["load", "shipped", "ship", "card"]

_WRAP = {"eps": Eps, "x0": X0, "v": V}


def shipped() -> list[str]:
    """Names of the models in ``data/``, such as "pixel-ddpm" and "readers/final"."""
    root = data_folder()
    return sorted(str(p.parent.relative_to(root)) for p in root.glob("**/config.json"))


def _folder(name: str) -> Path:
    folder = data_folder() / name
    if not (folder / "config.json").is_file():
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
    """Load a shipped model after checking its sha256, in evaluation mode, without gradients.

    "pixel-..." gives a wrapped network (Eps, X0, V or LearnedRange: ``model(x, t) -> Prediction``) with its schedule;
    "readers/..." a :class:`~minidiff.measure.reader.Reader`. Raises CheckpointError when a file is missing, truncated,
    changed or not ours.
    """
    folder = _folder(name)
    config = _json(folder / "config.json")
    weights, promised = folder / "model.safetensors", _json(folder / "card.json").get("sha256", {}).get("model.safetensors")
    if not weights.is_file():
        raise CheckpointError("name", f"{name!r} without model.safetensors", "a complete model folder", "git checkout -- data")
    if sha256(weights) != promised:
        raise CheckpointError(
            "name",
            f"{name!r}, whose model.safetensors differs from the hash on its card",
            "the file as it was shipped",
            "git checkout -- data, or train it again",
        )
    model = _build(config, name)
    _fill(model, weights, name)
    return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


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
        return Reader(**config["net"])
    if kind == "pixel":
        net = config["net"] | {k: tuple(v) for k, v in config["net"].items() if isinstance(v, list)}
        model = _WRAP[config["predicts"]](UNet(**net), make_schedule(**config["schedule"]))
        return LearnedRange(model) if net.get("learned_variance") else model
    raise CheckpointError("name", f"{name!r} of kind {kind!r}", "a config.json of kind 'reader' or 'pixel'")


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


def ship(name: str, net: nn.Module, config: dict[str, Any], facts: dict[str, Any], *, root: Path | None = None) -> Path:
    """Write ``data/NAME`` in one move: config.json, model.safetensors (fp16) and card.json with its sha256.

    facts: what the card says (recipe, seed, device, images, minutes, scores). An older version is replaced whole.
    """
    folder = (root or data_folder()) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old.tmp")
    for stale in (fresh, old):
        shutil.rmtree(stale, ignore_errors=True)
    fresh.mkdir()
    save_file({k: v.detach().cpu().half().contiguous() for k, v in net.state_dict().items()}, fresh / "model.safetensors")
    facts = facts | {
        "name": name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": datetime.date.today().isoformat(),
        "sha256": {"model.safetensors": sha256(fresh / "model.safetensors")},
    }
    replace(fresh / "config.json", json.dumps(config, indent=1) + "\n")
    replace(fresh / "card.json", json.dumps(facts, indent=1) + "\n")
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder
