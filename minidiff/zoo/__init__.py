"""The shipped models: `load(name)` checks every file and gives a model ready to use; `ship` writes one from a training run."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minidiff.errors import BadInput, CheckpointError, require
from minidiff.files import data_folder
from minidiff.guard import guard
from minidiff.latent.text import ignore_marks
from minidiff.manifest import CARD, in_part, models_in, read_card
from minidiff.silence import silence_libraries
from minidiff.zoo import parts
from minidiff.zoo.check import check_folder, check_index, check_tokens, count_weights, model_class, own_class, read_json
from minidiff.zoo.ours import build, fill
from minidiff.zoo.parts import check_files, write_whole
from minidiff.zoo.ship import ship, write_net

__all__ = ["card", "export", "load", "ship", "shipped", "write_net"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WHOLE = "a complete folder in diffusers' format with safetensors weights, or an id that the Hub has"


def shipped() -> list[str]:
    """Names of the models in ``data/``, such as "pixel-ddpm" and "readers/final"."""
    return models_in(data_folder())


def _known() -> set[str]:
    """All names that are ours, those that are not here included: none of them is ever an id of the Hub."""
    from minidiff.recipes import RECIPES
    from minidiff.recipes.adapters import ADAPTERS
    from minidiff.recipes.directions import DIRECTIONS
    small = (*ADAPTERS, *(f"{name}-direction" for name in DIRECTIONS))
    return {*RECIPES, *(f"adapters/{name}" for name in small), *shipped()}


def _folder(name: str) -> Path:
    folder = data_folder() / name
    if name in shipped() or folder.is_dir() and name in _known():
        return folder
    here = ", ".join(one for one in shipped() if not one.startswith("adapters/")) or f"none: {data_folder()} is empty"
    if name in _known():
        raise CheckpointError("name", f"{name!r}, which is not in {data_folder()}", f"a model that is there ({here})",
                              "git checkout -- data in a checkout of the course; elsewhere set the environment variable "
                              "MINIDIFF_DATA to the data folder of one")
    near = difflib.get_close_matches(name, sorted(_known()), n=3, cutoff=0.5)
    raise CheckpointError("name", repr(name), f"a shipped model ({here}), a folder, or an id of the Hub, 'owner/name'",
                          " or ".join(f"load({one!r})" for one in near) or "load('mini-sd')")


def card(name: str) -> dict[str, Any]:
    """The card of a shipped model: recipe, seed, device, images seen, minutes, scores, sha256."""
    return json.loads((_folder(name) / CARD).read_text(encoding="utf-8"))


def load(name: str | os.PathLike[str], *, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A model ready to use: in evaluation mode, all of it in ``dtype``, without gradients. name is one of three things:

    - a shipped name, each of its files checked against the sha256 on its card: "pixel-..." gives a wrapped network (Eps, X0, V
      or LearnedRange: ``model(x, t) -> Prediction``) with its schedule, "readers/..." a
      :class:`~minidiff.measure.reader.Reader`, "mini-vae" and the like a diffusers or transformers model, "mini-sd" a
      ``StableDiffusionPipeline``;
    - a folder written by ``save_pretrained`` of a diffusers pipeline, a diffusers model or a transformers CLIP, by
      :func:`export` (then held to its card), or by ``minidiff train``. A Path, "./name", "name/" and "~/name" are folders always;
    - an id of the Hugging Face Hub, "owner/name": the only one that touches the network.

    device: a torch.device or its name. dtype: torch.float32, float64, float16 or bfloat16, whatever the files hold. Weights
    come from safetensors only, and no code that a folder brings is run (:mod:`minidiff.zoo.check`). Raises CheckpointError
    when a file is missing, truncated, changed, not ours or not finite, BadInput for a device that is not there.
    """
    require(isinstance(name, (str, os.PathLike)) and os.fspath(name) != "", "name", repr(name), "the name of a model",
            "load('mini-sd')")
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    require(dtype in floats, "dtype", repr(dtype), f"one of {', '.join(map(str, floats))}", "dtype=torch.float32")
    place, text = _device(device), os.fspath(name)
    if isinstance(name, os.PathLike) or _is_path(text):
        model = _from_path(text)
    elif text in shipped():
        model = _with_card(_folder(text), data_folder(), text)
    elif text not in _known() and Path(text).is_dir():
        model = _from_path(text)
    elif text not in _known() and _HUB_ID.fullmatch(text) and not _is_here(text.partition("/")[0]):
        model = _from_hub(text)
    elif "/" in text and text not in _known() and Path(text).parent.is_dir():
        model = _from_path(text)
    else:
        model = _with_card(_folder(text), data_folder(), text)
    _check_finite(model, text)
    return _ready(model, place, dtype)


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.endswith("/") or "\\" in text or Path(text).is_absolute()


def _is_here(owner: str) -> bool:
    """Whether what stands before the "/" is a folder, of the learner's or of the shipped models: then it is no one on the Hub."""
    return Path(owner).is_dir() or any(name.startswith(owner + "/") for name in _known())


def _device(device: Any) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError, ImportError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *["mps"] * torch.backends.mps.is_available()]
        raise BadInput("device", repr(device), f"a device of this machine: {', '.join(there)}", "device='cpu'") from None
    require(place.type != "meta", "device", repr(device), "a device that holds numbers", "device='cpu'")
    return place


def _modules(model: Any) -> dict[str, nn.Module]:
    found = {"": model} if isinstance(model, nn.Module) else model.components
    return {part: module for part, module in found.items() if isinstance(module, nn.Module)}


def _check_finite(model: Any, name: str) -> None:
    for part, module in _modules(model).items():
        for key, x in (*module.named_parameters(), *module.named_buffers()):
            if x.is_floating_point() and not torch.isfinite(x).all():
                where = ".".join(filter(None, (part, key)))
                raise CheckpointError("name", f"{name!r}, whose weights {where} are NaN or infinite", "finite weights",
                                      "the folder as it was before they were saved")


def _ready(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    for module in _modules(model).values():
        nn.Module.to(module, device, dtype)                   # diffusers' own cast warns about nothing
        nn.Module.to(module, memory_format=torch.channels_last)
        module.eval().requires_grad_(False)
    if not isinstance(model, nn.Module):
        model.set_progress_bar_config(disable=True)
    return model


def export(name: str, folder: str | Path) -> Path:
    """Write a shipped model as a new folder with all of its files: a pipeline that is stored as what differs from mini-sd becomes
    one that diffusers reads. Returns the folder. Raises BadInput if it exists, CheckpointError if the model is damaged.
    """
    _folder(name)
    return parts.export(name, folder, data_folder())


def _with_card(folder: Path, root: Path, text: str, **what: str) -> Any:
    """A model of ``root``, once each of its files is as its card says; text, what: how it was asked for."""
    check_files(folder.relative_to(root).as_posix(), root, **what)
    if not in_part(read_card(folder)):
        return _opened(folder, text)
    with tempfile.TemporaryDirectory(prefix="minidiff-", ignore_cleanup_errors=True) as place:
        return _opened(write_whole(folder, root, Path(place)), text)


def _from_path(text: str) -> Any:
    folder = Path(text).expanduser()
    if not folder.is_dir():
        plain = text.removeprefix("./").rstrip("/")
        what = "no such folder" if not folder.exists() else "a file, not a folder"
        raise CheckpointError("name", f"{text!r}, {what}", _WHOLE,
                              f"load({plain!r}) for the shipped model" if plain in _known() else "")
    if (folder / "model" / CARD).is_file():                   # a run keeps its model there
        return _with_card(folder / "model", folder, text, run=text)
    if any(folder.glob("step-*/meta.json")):
        raise CheckpointError("name", f"{text!r}, a run that has written no model yet", "a run that has ended or was stopped",
                              "the same training command again: it writes the model when it stops")
    if (folder / CARD).is_file():
        return _with_card(folder, folder.parent, text, path=text)
    return _opened(folder, text)


def _opened(folder: Path, name: str, *, cache: Path | None = None) -> Any:
    """A folder, ours or in the format of diffusers or transformers: which class it is, its own files say.

    A network of our own needs neither library, and imports neither: they take seconds.
    """
    if not (folder / "model_index.json").is_file() and (folder / "config.json").is_file():
        config = read_json(folder / "config.json", name)
        if "kind" in config:
            check_folder(folder, name, cache=cache)
            model = build(config, count_weights(folder, name)[0], name)
            fill(model, folder / "model.safetensors", name)
            return model
    with silence_libraries() as said, _offline():
        check_folder(folder, name, cache=cache)
        if (folder / "model_index.json").is_file():
            made = model_class("diffusers", read_json(folder / "model_index.json", name)["_class_name"], name)
        else:
            made = own_class(read_json(folder / "config.json", name), name)
        said.clear()
        try:
            model = made.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except Exception as error:  # noqa: BLE001  the libraries raise whatever theirs raise, tokenizers a bare Exception
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError("name", f"{name!r}, which cannot be opened ({first})", _WHOLE) from error
    if any("newly initialized" in text or "MISSING" in text for text in said):     # the libraries would go on with random numbers
        raise CheckpointError("name", f"{name!r}, whose weights do not hold every parameter of its config", _WHOLE)
    check_tokens(model, name)
    if hasattr(model, "tokenizer"):
        ignore_marks(model.tokenizer)
    return model


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Opening a folder asks nobody, whatever its files name."""
    from huggingface_hub import constants
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _from_hub(name: str) -> Any:
    """Fetch the parts that the pipeline's index names, weights as safetensors, and open them as any other folder."""
    from huggingface_hub import hf_hub_download, snapshot_download

    with silence_libraries(bars=True):
        try:
            index = Path(hf_hub_download(name, "model_index.json"))
            named = check_index(read_json(index, name), name)
            kinds = ("json", "txt", "model", "safetensors")
            folder = Path(snapshot_download(
                name, allow_patterns=["model_index.json", *(f"{part}/*.{kind}" for part in named for kind in kinds)],
                ignore_patterns=["*.fp16.*", "*.bf16.*", "*non_ema*"]))
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001  every way in which a network fails
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError("name", f"{name!r}, which cannot be opened ({first})", _WHOLE,
                                  "one of " + ", ".join(shipped())) from error
    return _opened(folder, name, cache=folder.parents[1])


guard(globals(), __all__)
