"""Folders that try to run code, to reach the network or to exhaust the memory, each given to ``load`` (or to diffusers alone).

    python tests/kit/hostile.py FOLDER            what load makes of each: JSON, {case: {"error", "ran", "asked"}};
                                                  "control": what an id of the Hub asks for
    python tests/kit/hostile.py FOLDER --plain    as a control, those that do not exhaust the machine
                                                  by DiffusionPipeline.from_pretrained alone

FOLDER is empty and is filled. For another diffusers put its packages first on PYTHONPATH; the oldest that pyproject.toml allows:

    pip install --no-deps --target OLD diffusers==0.42.0 transformers==5.17.0 huggingface-hub==1.33.0
    PYTHONPATH=OLD:. python tests/kit/hostile.py FOLDER
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

__all__ = ["HOSTILE", "main"]

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Bomb:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _code(mark: Path) -> str:
    return f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n" \
           "from diffusers import UNet2DConditionModel as Mine, StableDiffusionPipeline as Pipe\n"


def _pickled(folder: Path, mark: Path, name: str, *, gone: bool = True) -> None:
    if gone:
        (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / name).write_bytes(pickle.dumps(Bomb(mark)))


def _part_of_code(folder: Path, mark: Path) -> None:
    (folder / "unet" / "mine.py").write_text(_code(mark))
    _edit(folder / "model_index.json", unet=["mine", "Mine"])


def _pipeline_of_code(folder: Path, mark: Path) -> None:
    (folder / "pipe.py").write_text(_code(mark))
    _edit(folder / "model_index.json", _class_name=["pipe", "Pipe"])


def _foreign(folder: Path, mark: Path) -> None:
    (folder.parent / "foreign_lib.py").write_text(_code(mark))
    _edit(folder / "model_index.json", unet=["foreign_lib", "Mine"])


def _secret(folder: Path) -> Path:
    secret = folder.parent / "secret.safetensors"
    shutil.copyfile(folder / "unet" / WEIGHTS, secret)
    return secret


def _indexed(folder: Path, to: Callable[[Path], str]) -> None:
    secret = _secret(folder)
    names = list(load_file(folder / "unet" / WEIGHTS))
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, to(secret))}))


def _link(folder: Path) -> None:
    secret = _secret(folder)
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / WEIGHTS).symlink_to(secret)


def _link_folder(folder: Path) -> None:
    shutil.move(folder / "vae", folder.parent / "elsewhere")
    (folder / "vae").symlink_to(folder.parent / "elsewhere")


def _config(part: str, **changes: Any) -> Callable[[Path, Path], None]:
    file = "scheduler_config.json" if part == "scheduler" else "tokenizer_config.json" if part == "tokenizer" else "config.json"
    return lambda folder, mark: _edit(folder / part / file, **changes)


def _index(**changes: Any) -> Callable[[Path, Path], None]:
    return lambda folder, mark: _edit(folder / "model_index.json", **changes)


def _more_words(folder: Path) -> None:
    from transformers import CLIPTokenizer
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    tokenizer.add_tokens(["beyond"])
    tokenizer.save_pretrained(folder / "tokenizer")


def _nan(folder: Path) -> None:
    state = load_file(folder / "vae" / WEIGHTS)
    next(iter(state.values())).view(-1)[0] = float("nan")
    save_file(state, folder / "vae" / WEIGHTS, {"format": "pt"})


def _fifo(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    os.mkfifo(folder / "unet" / WEIGHTS)


def _variant(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")


def _huge_file(folder: Path) -> None:
    with open(folder / "unet" / "config.json", "r+b") as file:
        file.truncate(2**36)                                  # 64 GB of zeros that take no room


def _carded(folder: Path, mark: Path, **facts: Any) -> None:
    """Code, with a card that is right about every file."""
    from minidiff.manifest import write_card
    (folder / "unet" / "modeling.py").write_text(_code(mark))
    write_card(folder, facts)


def _shared_pickle(folder: Path, mark: Path) -> None:
    """A card by which a part's weights are a pickle in a folder beside this one."""
    from minidiff.files import sha256
    from minidiff.manifest import write_card
    other = folder.parent / "other"
    other.mkdir()
    _pickled(folder, mark, "../../other/weights.bin")
    name = "unet/diffusion_pytorch_model.bin"
    write_card(folder, {"shared": {name: {"from": "other/weights.bin", "sha256": sha256(other / "weights.bin")}}})


HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "a part of code": _part_of_code,
    "a pipeline of code": _pipeline_of_code,
    "a code file that nothing names": lambda f, m: (f / "unet" / "modeling.py").write_text(_code(m)) and None,
    "compiled code": lambda f, m: (f / "unet" / "modeling.so").write_bytes(b"\x7fELF") and None,
    "a module on the path": _foreign,
    "a module of Python": _index(unet=["subprocess", "Popen"]),
    "a module of diffusers that is no part": _index(unet=["diffusers.utils", "logging"]),
    "a function of a library": _index(unet=["transformers", "pipeline"]),
    "a class that chooses another": _index(text_encoder=["transformers", "AutoModel"]),
    "a class that is no string": _index(unet=["diffusers", ["UNet2DConditionModel"]]),
    "a pipeline that is no string": _index(_class_name={"a": 1}),
    "a pipeline that is not there": _index(_class_name="EvilPipeline"),
    "a custom pipeline": _index(custom_pipeline="evil/pipeline"),
    "a part above the folder": _index(**{"../secret": ["diffusers", "AutoencoderKL"]}),
    "a pickle": lambda f, m: _pickled(f, m, "diffusion_pytorch_model.bin"),
    "a pickle beside the weights": lambda f, m: _pickled(f, m, "diffusion_pytorch_model.bin", gone=False),
    "a pickle called safetensors": lambda f, m: _pickled(f, m, WEIGHTS),
    "a link to a file": lambda f, m: _link(f),
    "a link to a folder": lambda f, m: _link_folder(f),
    "a FIFO": lambda f, m: _fifo(f),
    "an index to another path": lambda f, m: _indexed(f, lambda s: f"../../{s.name}"),
    "an index to an absolute path": lambda f, m: _indexed(f, str),
    "an index to nothing": lambda f, m: _indexed(f, lambda s: "model-00001-of-00002.safetensors"),
    "an adapter of the Hub": lambda f, m: (f / "text_encoder" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "evil/base", "peft_type": "LORA", "task_type": None})) and None,
    "remote code": _config("text_encoder", auto_map={"AutoModel": "evil/repo--modeling.Evil"}),
    "a kernel of the Hub": _config("text_encoder", _attn_implementation="evil/kernel"),
    "a quantiser": _config("unet", quantization_config={"quant_method": "bitsandbytes"}),
    "weights of another name": _config("text_encoder", transformers_weights="../../secret.safetensors"),
    "only a variant": lambda f, m: _variant(f),
    "a wide U-Net": _config("unet", block_out_channels=[64_000, 64_000]),
    "a wide text encoder": _config("text_encoder", hidden_size=64_000, intermediate_size=128_000),
    "a large vocabulary": _config("text_encoder", vocab_size=10**12),
    "a deep text encoder": _config("text_encoder", num_hidden_layers=10**5),
    "a deep U-Net": _config("unet", layers_per_block=10**5),
    "a long schedule": _config("scheduler", num_train_timesteps=10**12),
    "a long prompt": _config("tokenizer", model_max_length=10**9),
    "numbers that are none": lambda f, m: (f / "vae" / "config.json").write_text(
        (f / "vae" / "config.json").read_text().replace('"force_upcast"', '"scaling_factor": NaN, "force_upcast"')) and None,
    "a tokenizer of more words": lambda f, m: _more_words(f),
    "weights that are NaN": lambda f, m: _nan(f),
    "a config nested without end": lambda f, m: (f / "unet" / "config.json").write_text("[" * 10**5) and None,
    "a config of 64 GB": lambda f, m: _huge_file(f),
    "a config that is a list": lambda f, m: (f / "unet" / "config.json").write_text("[]") and None,
    "a card that vouches for code": lambda f, m: _carded(f, m),
    "a card that shares a pickle": _shared_pickle,
    "a card nested without end": lambda f, m: (f / "card.json").write_text("[" * 10**5) and None,
    "a card of 64 GB": lambda f, m: os.truncate(os.open(f / "card.json", os.O_CREAT | os.O_WRONLY), 2**36),
    "a card that is a list": lambda f, m: (f / "card.json").write_text("[]") and None,
    "a card above the folder": lambda f, m: (f / "card.json").write_text(json.dumps({"sha256": {"../secret": "0"}})) and None,
    "a part that is missing": lambda f, m: shutil.rmtree(f / "unet"),
}


def main(place: Path, plain: bool = False) -> dict[str, dict[str, Any]]:
    """Try every case; "ran": its code left a mark, "asked": addresses that were looked up, "error": what was raised, or None."""
    for word in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(word, None)
    asked: list[str] = []

    def nobody(host: object, *more: object, **words: object) -> Any:
        asked.append(str(host))
        raise OSError("no network here")

    socket.getaddrinfo = nobody
    from diffusers import DiffusionPipeline

    from minidiff import load
    from minidiff.errors import CheckpointError
    from minidiff.silence import silence_libraries
    from tests.pipelines import CASES, make

    with silence_libraries():
        make(CASES[1]).save_pretrained(place / "good")
    load(place / "good")
    sys.path.insert(0, str(place / "lib"))
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    heavy = ("a wide", "a deep", "a long", "a large", "a FIFO", "a config")           # the libraries alone do not survive them
    for i, (case, plant) in enumerate(HOSTILE.items()):
        if plain and case.startswith(heavy):
            continue
        mark, folder = place / f"ran-{i}", place / f"case-{i}" / "model"
        shutil.copytree(place / "good", folder)
        plant(folder, mark)
        (folder.parent / "foreign_lib.py").exists() and sys.path.insert(0, str(folder.parent))
        error = None
        try:
            DiffusionPipeline.from_pretrained(folder) if plain else load(folder)
        except CheckpointError as caught:
            error = str(caught)
        except BaseException as caught:  # noqa: BLE001  whatever comes out that is not ours
            error = f"RAW {type(caught).__name__}: {caught}"
        found[case] = {"error": error, "ran": mark.exists(), "asked": sorted(set(asked))}
        asked.clear()
    try:
        load("nobody/nothing-here")
    except CheckpointError:
        found["control"] = {"asked": sorted(set(asked))}
    found["memory"] = {"megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), "--plain" in sys.argv)))
