"""Checkpoints: a folder that appears whole or not at all, checked by hash before it is used.

    out/step-00001200/model.safetensors ema.safetensors optimiser.pt losses.f32 meta.json SHA256SUMS

``sha256sum -c SHA256SUMS`` in that folder checks it without minidiff. This module reads them; ``checkpoint`` writes them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from minidiff.errors import CheckpointError
from minidiff.files import read_plain, sha256_of

__all__ = ["FILES", "SUMS", "Snapshot", "first_whole", "folders", "newest", "newest_losses", "newest_meta",
           "read_checkpoint", "read_meta"]

FILES = ("model.safetensors", "ema.safetensors", "optimiser.pt", "losses.f32", "meta.json")
SUMS = "SHA256SUMS"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass
class Snapshot:
    """A run at one step, on the CPU. model, ema: tensors by name. optimiser: {name of weight: {moment: tensor}}. losses: of all
    steps, as bytes of little-endian float32.
    """

    step: int
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimiser: dict[str, dict[str, torch.Tensor]]
    meta: dict[str, Any]
    losses: bytes = b""


def folders(out: Path) -> list[Path]:
    """Folders that are named like checkpoints, newest first."""
    found = [p for p in out.iterdir() if _NAME.fullmatch(p.name)] if out.is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def _sums(folder: Path) -> dict[str, str]:
    """{file: sha256} of a checkpoint; ValueError where it does not hold exactly what minidiff writes."""
    text = _bytes(folder, SUMS).decode("latin-1")
    sums = {name: mark for mark, _, name in (line.partition("  ") for line in text.split("\n")[:-1])}
    if sums.keys() != set(FILES) or text != "".join(f"{mark}  {name}\n" for name, mark in sums.items()):
        raise ValueError(f"{SUMS} is truncated or changed")
    strange = sorted(p.name for p in folder.iterdir() if p.name not in (*FILES, SUMS) and not p.name.startswith("."))
    if strange:
        raise ValueError(f"{strange[0]} in it was not written by minidiff")
    return sums


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return read_plain(folder / name)
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from None


def _read_file(folder: Path, name: str, sums: Mapping[str, str]) -> bytes:
    data = _bytes(folder, name)
    if sha256_of(data) != sums[name]:
        raise ValueError(f"{name} is truncated or changed ({len(data):,} bytes, another sha256 than in {SUMS})")
    return data


def read_meta(folder: Path, sums: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The meta.json of a checkpoint; ValueError says what is wrong with it."""
    meta = json.loads(_read_file(folder, "meta.json", _sums(folder) if sums is None else sums))
    ours = isinstance(meta, dict) and isinstance(meta.get("settings"), dict)
    if not ours or not {"recipe", "seed"} <= meta["settings"].keys():
        raise ValueError("meta.json was not written by minidiff")
    if meta.get("step") != int(folder.name[5:]):
        raise ValueError(f"meta.json speaks of step {meta.get('step')}")
    return meta


def read_checkpoint(folder: Path) -> Snapshot:
    """All of a checkpoint; an error of any kind says what is wrong with it."""
    sums = _sums(folder)
    meta = read_meta(folder, sums)
    model, ema, optimiser, losses = (_read_file(folder, name, sums) for name in FILES[:4])
    if len(losses) != 4 * meta["step"]:
        raise ValueError(f"losses.f32 holds {len(losses) // 4} losses")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a strange file is an error or it is not
        moments = torch.load(io.BytesIO(optimiser), map_location="cpu", weights_only=True)
    return Snapshot(meta["step"], safetensors.torch.load(model), safetensors.torch.load(ema), moments, meta, losses)


def _read_ema(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    sums = _sums(folder)
    return safetensors.torch.load(_read_file(folder, "ema.safetensors", sums)), read_meta(folder, sums)


def _first(out: Path, read: Callable[[Path], Any], default: Any) -> Any:
    """What ``read`` makes of the newest checkpoint in which it finds nothing wrong, else ``default``."""
    for folder in folders(out):
        with contextlib.suppress(ValueError):
            return read(folder)
    return default


def newest_meta(out: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The meta.json of the newest checkpoint in ``out`` whose meta.json is whole, or None."""
    return _first(Path(out), read_meta, None)


def newest_losses(out: str | os.PathLike[str]) -> bytes:
    """The losses (little-endian float32) of the newest checkpoint in ``out`` that has them whole; empty without one."""
    return _first(Path(out), lambda folder: _read_file(folder, "losses.f32", _sums(folder)), b"")


def first_whole(out: Path, read: Callable[[Path], Any]) -> tuple[Any, dict[Path, Exception]]:
    """What ``read`` makes of the newest checkpoint that is whole (None without any), and why newer ones are not."""
    bad: dict[Path, Exception] = {}
    for folder in folders(out):
        try:
            return read(folder), bad
        except Exception as error:  # whatever a damaged file makes a parser raise
            bad[folder] = error
    if bad:
        why = "; ".join(f"{folder.name}: {error}" for folder, error in bad.items())
        raise CheckpointError("out", f"{str(out)!r}, where no checkpoint can be used ({why})", "at least one whole checkpoint",
                              "out='another/folder' to start afresh, or move those folders away")
    return None, bad


def newest(out: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """EMA weights by name, and meta, of the newest usable checkpoint in ``out``. Only reads; CheckpointError if there is none."""
    found, _ = first_whole(Path(out), _read_ema)
    if found is None:
        raise CheckpointError("out", f"{str(Path(out))!r}, which holds no checkpoint", "the folder of a training run",
                              "fit(recipe, out=...) first, or minidiff train RECIPE --out FOLDER")
    return found
