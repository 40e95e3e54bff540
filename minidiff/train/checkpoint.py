"""Checkpoints: a folder that appears whole or not at all, checked by hash before it is used.

    out/step-00001200/model.safetensors ema.safetensors optimiser.pt meta.json
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from minidiff.errors import CheckpointError
from minidiff.train.files import Lock, disk_error, remove_folder, replace_file, sha256, sync_folder, write_file

__all__ = ["Snapshot", "Store", "newest", "load_ema", "export"]

_FILES = ("model.safetensors", "ema.safetensors", "optimiser.pt")
_NAME = re.compile(r"step-(\d{8,})")
_KEEP = 2


@dataclass
class Snapshot:
    """A run at one step, on the CPU. model, ema: tensors by name. optimiser: {name of weight: {moment: tensor}}."""

    step: int
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimiser: dict[str, dict[str, torch.Tensor]]
    meta: dict[str, Any]


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU in plain memory order, so that tied or channels-last weights are stored like any other."""
    return {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}


def _steps(out: Path) -> list[Path]:
    """Folders that are named like checkpoints, newest first."""
    if not out.is_dir():
        return []
    found = [p for p in out.iterdir() if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def _read_meta(folder: Path) -> dict[str, Any]:
    """The meta.json of a checkpoint; ValueError says what is wrong with it."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("meta.json is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"meta.json cannot be read ({type(error).__name__})") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("settings"), dict) or not isinstance(meta.get("sha256"), dict):
        raise ValueError("meta.json was not written by minidiff")
    if meta.get("step") != int(folder.name[5:]):
        raise ValueError(f"meta.json speaks of step {meta.get('step')}")
    return meta


def _read_file(folder: Path, name: str, meta: Mapping[str, Any]) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from None
    if sha256(data) != meta["sha256"].get(name):
        raise ValueError(f"{name} is truncated or changed ({len(data):,} bytes, another sha256 than in meta.json)")
    return data


def _read(folder: Path) -> Snapshot:
    meta = _read_meta(folder)
    model, ema, optimiser = (_read_file(folder, name, meta) for name in _FILES)
    return Snapshot(meta["step"], safetensors.torch.load(model), safetensors.torch.load(ema),
                    torch.load(io.BytesIO(optimiser), map_location="cpu", weights_only=True), meta)


def _unusable(out: Path, bad: list[str]) -> CheckpointError:
    return CheckpointError("out", f"{str(out)!r}, where no checkpoint can be used: {'; '.join(bad)}", "at least one whole checkpoint",
                           "out='another/folder' to start afresh, or move those folders away")


class Store:
    """The folder of one run. Opening it takes the lock and changes nothing else; :meth:`load` must come before :meth:`save`."""

    def __init__(self, out: Path, settings: Mapping[str, Any], *, say: Callable[[str], None] = print) -> None:
        self.out, self.settings, self.say = out, dict(settings), say
        self.saved: int | None = None
        self._check_settings()
        try:
            out.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(out)
        except OSError as error:
            raise disk_error(out, error, self.kept()) from error

    def kept(self) -> str:
        """What is still there, for the end of an error message."""
        if self.saved is None:
            return "nothing has been overwritten"
        return f"the checkpoint of step {self.saved} is whole"

    def _check_settings(self) -> None:
        """Refuse to go on from a run with other settings; nothing has been written yet."""
        for folder in _steps(self.out):
            try:
                there = _read_meta(folder)["settings"]
            except ValueError:
                continue
            names = sorted(k for k in there.keys() | self.settings.keys() if there.get(k) != self.settings.get(k))
            if names:
                got = ", ".join(f"{k} is {there.get(k)!r} there and {self.settings.get(k)!r} here" for k in names)
                raise CheckpointError("out", f"{str(self.out)!r}, which holds another run: {got}", "an empty folder, or the same settings as before",
                                      f"out={str(self.out) + '-2'!r} for this run")

    def load(self) -> Snapshot | None:
        """The newest usable checkpoint, or None in an empty folder. Unusable ones are named and set aside, not deleted."""
        try:
            for stale in self.out.glob("*.tmp"):
                remove_folder(stale) if stale.is_dir() else stale.unlink()
            bad = []
            for folder in _steps(self.out):
                try:
                    snapshot = _read(folder)
                except Exception as error:  # whatever a damaged file makes a parser raise
                    bad.append(f"{folder.name}: {error}")
                    continue
                break
            else:
                if bad:
                    raise _unusable(self.out, bad)
                return None
            for line in bad:
                name = line.split(":")[0]
                os.rename(self.out / name, _free(self.out / f"{name}.unusable"))
                self.say(f"{line}. Set aside as {name}.unusable; going on from step {snapshot.step}.")
        except OSError as error:
            raise disk_error(self.out, error, self.kept()) from error
        self.saved = snapshot.step
        return snapshot

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint; if anything fails the ones before it are untouched. Keeps the newest two."""
        if snapshot.step == self.saved:
            return
        final = self.out / f"step-{snapshot.step:08d}"
        part = final.with_name(final.name + ".tmp")
        try:
            part.mkdir()
            hashes = {}
            for name, data in zip(_FILES, _encode(snapshot)):
                hashes[name] = sha256(data)
                write_file(part / name, data)
            meta = {**snapshot.meta, "step": snapshot.step, "settings": self.settings, "sha256": hashes, "versions": _versions()}
            write_file(part / "meta.json", (json.dumps(meta, indent=1) + "\n").encode())
            sync_folder(part)
            os.rename(part, final)
            sync_folder(self.out)
            self.saved = snapshot.step
            for old in _steps(self.out)[_KEEP:]:
                remove_folder(old)
        except BaseException as error:
            if part.is_dir():
                with contextlib.suppress(OSError):
                    remove_folder(part)
            if isinstance(error, OSError):
                raise disk_error(self.out, error, self.kept()) from error
            raise

    def close(self) -> None:
        self.lock.release()


def _encode(snapshot: Snapshot):
    yield safetensors.torch.save(_plain(snapshot.model))
    yield safetensors.torch.save(_plain(snapshot.ema))
    buffer = io.BytesIO()
    torch.save({name: _plain(state) for name, state in snapshot.optimiser.items()}, buffer)
    yield buffer.getvalue()


def _free(path: Path) -> Path:
    """``path``, or the first of path-2, path-3, ... that does not exist."""
    tries = (path.with_name(f"{path.name}-{n}") for n in range(2, 10_000))
    return path if not path.exists() else next(p for p in tries if not p.exists())


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "safetensors": safetensors.__version__}


def newest(out: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """EMA weights by name, and meta, of the newest usable checkpoint in ``out``. Only reads; CheckpointError if there is none."""
    out = Path(out)
    bad = []
    for folder in _steps(out):
        try:
            meta = _read_meta(folder)
            return safetensors.torch.load(_read_file(folder, "ema.safetensors", meta)), meta
        except Exception as error:
            bad.append(f"{folder.name}: {error}")
    if bad:
        raise _unusable(out, bad)
    raise CheckpointError("out", f"{str(out)!r}, which holds no checkpoint", "the folder of a training run", "minidiff train RECIPE --out FOLDER")


def load_ema(out: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Fill ``model`` with the EMA weights of the newest usable checkpoint in ``out``; returns its meta (step, images, settings).

    Raises CheckpointError, and leaves ``model`` as it was, if the names or shapes do not match.
    """
    weights, meta = newest(out)
    mine = model.state_dict()
    wrong = [n for n in sorted(mine.keys() | weights.keys()) if n not in mine or n not in weights or mine[n].shape != weights[n].shape]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError("model", f"a network that differs in {', '.join(wrong[:3])}{more}",
                              f"the network that recipe {meta['settings'].get('recipe')!r} builds", "model = recipe.build()")
    model.load_state_dict(weights)
    return meta


def export(out: str | os.PathLike[str], folder: str | os.PathLike[str], *, half: bool = False) -> dict[str, Any]:
    """Write the newest EMA weights of the run in ``out`` to ``folder/model.safetensors``, at once or not at all; returns meta.

    half: store float weights as float16 (half the size; loading casts back).
    """
    weights, meta = newest(out)
    if half:
        weights = {name: x.half() if x.is_floating_point() else x for name, x in weights.items()}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "model.safetensors", safetensors.torch.save(_plain(weights)))
    except OSError as error:
        raise disk_error(folder, error, "nothing has been overwritten") from error
    return meta
