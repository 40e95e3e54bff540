"""What a folder in the format of diffusers or transformers may hold, looked at before either of them opens it.

Both libraries have imported what a folder names and run what it holds, in versions that people still have, so nothing here
rests on theirs: no code, no pickle, no link out of the folder, only classes of the two libraries, no config that sends them to
another place, and no sizes that the weights in the folder do not have.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from minidiff.errors import CheckpointError
from minidiff.manifest import CARD

__all__ = ["check_folder", "check_index", "check_tokens", "count_weights", "model_class", "own_class", "read_json"]

LIBRARIES = ("diffusers", "transformers")
SAFETY_CHECKER = ["stable_diffusion", "StableDiffusionSafetyChecker"]       # a part of diffusers, under its old name
CODE = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"}
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".msgpack", ".h5"}
ELSEWHERE = {"auto_map", "custom_pipelines", "custom_pipeline", "quantization_config", "transformers_weights"}
JSON_BYTES, FILES, LONGEST, LARGEST = 64 * 2**20, 10_000, 100_000, 2**17
_VARIANT = re.compile(r"(?:diffusion_pytorch_)?model\.([A-Za-z0-9_]+)(?:-\d+-of-\d+)?\.safetensors")
_PLAIN = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?\.safetensors")


def _refuse(name: str, what: str, expected: str, instead: str = "") -> CheckpointError:
    return CheckpointError("name", f"{name!r}, {what}", expected, instead)


def check_folder(folder: Path, name: str, *, cache: Path | None = None) -> None:
    """Raise CheckpointError unless ``folder`` is a model or a pipeline whose parts the two libraries may read.

    cache: where files of the Hub lie, which its folders link to and where pickles may stand beside the weights, unread.
    """
    for path in _all_files(folder, name):
        shown = path.relative_to(folder).as_posix()
        if path.is_symlink() and not path.resolve().is_relative_to((cache or folder).resolve()):
            raise _refuse(name, f"where {shown} links out of the folder", "files that lie in it", f"cp -rL {name} copy")
        if not path.is_file():
            raise _refuse(name, f"where {shown} is no plain file", "plain files only")
        if path.suffix.lower() in CODE:
            raise _refuse(name, f"with code in {shown}", "a folder without code; it would be run", f"a copy without {shown}")
        if path.suffix.lower() in PICKLES and cache is None:
            raise _refuse(name, f"with a pickle, {shown}", "weights in safetensors only; pickles run code when opened",
                          f"a copy without {shown}")
        if path.name == "adapter_config.json":
            raise _refuse(name, f"with {shown}, an adapter, which names a base model that would be fetched", "a whole model",
                          "pipe = load(base), then pipe.load_lora_weights(folder)")
    card = read_json(folder / CARD, name) if (folder / CARD).is_file() else {}
    if card.get("shared") or card.get("differs"):
        raise _refuse(name, "which holds only what differs from another model", "a shipped name or a whole folder",
                      f"load({folder.name!r}), or minidiff export {folder.name} DIR")
    if (folder / "model_index.json").is_file():
        for part, made in check_index(read_json(folder / "model_index.json", name), name).items():
            if not (folder / part).is_dir():
                raise _refuse(name, f"which lacks its part {part}/", "a folder with all that model_index.json names")
            _check_part(folder / part, made, name)
    else:
        config = read_json(folder / "config.json", name) if (folder / "config.json").is_file() else {}
        _check_part(folder, None if "kind" in config else own_class(config, name), name)


def _all_files(folder: Path, name: str) -> Iterator[Path]:
    count = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if one != ".git"]
        for file in sorted([*files, *(one for one in folders if (Path(place) / one).is_symlink())]):
            count += 1
            if count > FILES:
                raise _refuse(name, f"with more than {FILES:,} files", "the folder of one model")
            yield Path(place) / file


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object from a file of a model, its numbers finite. Raises CheckpointError for anything else."""
    def constant(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        if path.stat().st_size > JSON_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=constant)
        deep = sum(1 for _ in _walk(found))                   # a RecursionError for one that is nested without end
        if deep > 10_000_000:
            raise ValueError(f"{deep:,} values")
    except (OSError, ValueError, RecursionError) as error:
        raise _refuse(name, f"whose {path.name} cannot be read ({error or type(error).__name__})", "a JSON file") from None
    if not isinstance(found, dict):
        raise _refuse(name, f"whose {path.name} holds a {type(found).__name__}", "a JSON object")
    return found


def check_index(index: dict[str, Any], name: str) -> dict[str, Any]:
    """The parts that a model_index.json names, with their classes; CheckpointError unless all are of the two libraries."""
    import diffusers

    made = index.get("_class_name")
    if not (isinstance(made, str) and isinstance(kind := getattr(diffusers, made, None), type)
            and issubclass(kind, diffusers.DiffusionPipeline)):
        raise _refuse(name, f"whose model_index.json names the pipeline {made!r}", "a pipeline that diffusers has")
    parts = {}
    for part, what in index.items():
        if not isinstance(what, list):
            if part in ELSEWHERE or isinstance(what, dict) or part.startswith("_") and not isinstance(what, str):
                raise _refuse(name, f"whose model_index.json says {part}: {what!r}", "parts and plain settings")
            continue
        if what == [None, None]:
            continue
        if not (len(what) == 2 and all(isinstance(word, str) for word in what) and part.isidentifier()):
            raise _refuse(name, f"whose model_index.json says {part}: {what!r}", "a library and a class for each part")
        if what[0] not in LIBRARIES and what != SAFETY_CHECKER:
            raise _refuse(name, f"whose part {part} is of {what[0]!r}", "parts of diffusers and transformers only")
        parts[part] = model_class(*what, name)
    return parts


def own_class(config: dict[str, Any], name: str) -> Any:
    """The class that the config.json of a single model names."""
    kinds = config.get("architectures")
    if "_class_name" in config:
        return model_class("diffusers", config["_class_name"], name)
    return model_class("transformers", kinds[0] if isinstance(kinds, list) and kinds else None, name)


def model_class(library: str, wanted: object, name: str) -> Any:
    """The class ``wanted`` of diffusers or transformers, one that opens a folder and does not choose another."""
    import diffusers
    import transformers

    if [library, wanted] == SAFETY_CHECKER:
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        return StableDiffusionSafetyChecker
    home = {"diffusers": diffusers, "transformers": transformers}[library]
    made = getattr(home, wanted, None) if isinstance(wanted, str) and wanted.isidentifier() else None
    chooses = isinstance(wanted, str) and re.match(r"Auto[A-Z]", wanted)
    if not isinstance(made, type) or chooses or not hasattr(made, "from_pretrained"):
        raise _refuse(name, f"of the class {wanted!r}, a folder without a model that {library} knows",
                      "a folder with model_index.json or config.json, from save_pretrained")
    return made


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    yield key, value
    for inner, one in value.items() if isinstance(value, dict) else ((key, v) for v in value) if isinstance(value, list) else ():
        yield from _walk(one, inner)


def _check_part(folder: Path, made: Any, name: str) -> None:
    """One part: its configs, and for a model that their sizes are those of the weights."""
    weights, tensors = count_weights(folder, name)
    for path in sorted(folder.glob("*.json")):
        if path.name in ("tokenizer.json", "vocab.json", CARD) or path.name.endswith(".index.json"):
            continue
        config = read_json(path, name)
        most = max(weights, LARGEST)
        for key, value in _walk(config):
            if key in ELSEWHERE or key.endswith("attn_implementation") and value not in (None, "eager", "sdpa"):
                raise _refuse(name, f"whose {path.name} says {key}: {value!r}", "a config that sends nobody elsewhere")
            size = len(value) if isinstance(value, (list, dict)) else 0
            number = abs(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
            limit = tensors if weights and "layers" in key else most
            if size > LONGEST or number > limit and path.name != "tokenizer_config.json":
                raise _refuse(name, f"whose {path.name} says {key}: {max(size, number):,}",
                              f"at most {limit:,}, which fits what its weights hold")
        if path.name == "config.json" and made is not None:
            _check_sizes(made, config, weights, name)
    if made is not None and issubclass(made, nn.Module) and not (weights and (folder / "config.json").is_file()):
        lacks = f"no {'config.json' if weights else 'safetensors weights'} for its {made.__name__}"
        raise _refuse(name, f"which cannot be opened: {lacks}", "a folder as save_pretrained writes it")


def count_weights(folder: Path, name: str) -> tuple[int, int]:
    """How many numbers and how many tensors the files of weights in a folder say they hold; (0, 0) where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [path for path in files if _PLAIN.fullmatch(path.name)]
    variants = {found[1] for path in files if (found := _VARIANT.fullmatch(path.name))}
    if variants and not plain:
        one = sorted(variants)[0]
        raise _refuse(name, f"which holds only the variant {one!r} of its weights", "weights without a variant in their name",
                      f"pipe = DiffusionPipeline.from_pretrained({name!r}, variant={one!r}); pipe.save_pretrained('whole')")
    for path in folder.glob("*.safetensors.index.json"):
        table = read_json(path, name).get("weight_map")
        names = set(table.values()) if isinstance(table, dict) and all(isinstance(v, str) for v in table.values()) else {None}
        if not names <= {file.name for file in plain}:
            raise _refuse(name, f"whose {path.name} names files that are not beside it", "an index of the files beside it")
    numbers = tensors = 0
    for path in plain:
        try:
            with safe_open(path, framework="pt") as opened:
                shapes = [opened.get_slice(key).get_shape() for key in opened.keys()]  # noqa: SIM118  it is no dict
        except (SafetensorError, OSError, ValueError) as error:
            raise _refuse(name, f"which cannot be opened ({path.name}: {error})", "whole safetensors weights") from None
        numbers, tensors = numbers + sum(torch.Size(shape).numel() for shape in shapes), tensors + len(shapes)
    return numbers, tensors


def _check_sizes(made: Any, config: dict[str, Any], weights: int, name: str) -> None:
    """Build the network without memory and compare its size with that of the weights."""
    if not issubclass(made, nn.Module):
        return
    try:
        with torch.device("meta"):
            theirs = getattr(made, "config_class", None)      # transformers has a class for the config, diffusers a dict
            model = made.from_config(config) if theirs is None else made(theirs.from_dict(config))
        size = sum(p.numel() for p in model.parameters())
    except Exception as error:  # noqa: BLE001  whatever a library raises for a config that makes no sense
        raise _refuse(name, f"whose config.json describes no {made.__name__} ({str(error).splitlines()[:1]})",
                      "the config that was saved with the weights") from None
    if size > 2 * weights + 1_000_000:
        raise _refuse(name, f"whose config.json describes a {made.__name__} of {size:,} weights", f"the {weights:,} in its files")


def check_tokens(model: Any, name: str) -> None:
    """Raise where a tokenizer gives ids that the text encoder beside it has no vector for, or more of them than it takes."""
    for kind in ("", "_2", "_3"):
        tokenizer, encoder = getattr(model, "tokenizer" + kind, None), getattr(model, "text_encoder" + kind, None)
        if tokenizer is None or encoder is None:
            continue
        largest, rows = max(tokenizer.get_vocab().values()), encoder.get_input_embeddings().weight.shape[0]
        if largest >= rows:
            raise _refuse(name, f"whose tokenizer gives ids up to {largest}, beyond the {rows} vectors of its text encoder",
                          "the tokenizer that the text encoder was trained with")
        places = getattr(encoder.config, "max_position_embeddings", None)
        if isinstance(places, int) and tokenizer.model_max_length > places:
            raise _refuse(name, f"whose tokenizer makes {tokenizer.model_max_length} tokens of a prompt, where its text encoder "
                          f"takes {places}", "the tokenizer that the text encoder was trained with")
