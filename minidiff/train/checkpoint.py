"""Checkpoints: a folder that appears whole or not at all, checked by hash before it is used.

    out/step-00001200/model.safetensors ema.safetensors optimiser.pt meta.json
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from minidiff.errors import CheckpointError
from minidiff.files import remove_folder, sync_folder, write_file

__all__ = ["CheckpointStore", "Snapshot", "newest", "to_cpu"]

_FILES = ("model.safetensors", "ema.safetensors", "optimiser.pt")
_NAME = re.compile(r"step-(\d{8,})")
_STALE = re.compile(r"step-\d{8,}(\.old)?\.tmp")
_KEEP = 2


@dataclass
class Snapshot:
    """A run at one step, on the CPU. model, ema: tensors by name. optimiser: {name of weight: {moment: tensor}}."""

    step: int
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimiser: dict[str, dict[str, torch.Tensor]]
    meta: dict[str, Any]


def to_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU in plain memory order, so that tied or channels-last weights are stored like any other."""
    return {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}


def _folders(out: Path) -> list[Path]:
    """Folders that are named like checkpoints, newest first."""
    found = [p for p in out.iterdir() if _NAME.fullmatch(p.name)] if out.is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    """The meta.json of a checkpoint; ValueError says what is wrong with it."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("meta.json is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"meta.json cannot be read ({type(error).__name__})") from None
    ours = isinstance(meta, dict) and isinstance(meta.get("sha256"), dict) and isinstance(meta.get("settings"), dict)
    if not ours or not {"recipe", "seed"} <= meta["settings"].keys():
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
    if _sha256(data) != meta["sha256"].get(name):
        raise ValueError(f"{name} is truncated or changed ({len(data):,} bytes, another sha256 than in meta.json)")
    return data


def _read(folder: Path) -> Snapshot:
    meta = _read_meta(folder)
    model, ema, optimiser = (_read_file(folder, name, meta) for name in _FILES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a strange file is an error or it is not
        moments = torch.load(io.BytesIO(optimiser), map_location="cpu", weights_only=True)
    return Snapshot(meta["step"], safetensors.torch.load(model), safetensors.torch.load(ema), moments, meta)


def _read_ema(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    meta = _read_meta(folder)
    return safetensors.torch.load(_read_file(folder, "ema.safetensors", meta)), meta


def _first_whole(out: Path, read: Callable[[Path], Any]) -> tuple[Any, dict[Path, Exception]]:
    """What ``read`` makes of the newest checkpoint that is whole (None without any), and why newer ones are not."""
    bad: dict[Path, Exception] = {}
    for folder in _folders(out):
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
    found, _ = _first_whole(Path(out), _read_ema)
    if found is None:
        raise CheckpointError("out", f"{str(Path(out))!r}, which holds no checkpoint", "the folder of a training run",
                              "fit(recipe, out=...) first, or minidiff train RECIPE --out FOLDER")
    return found


class CheckpointStore:
    """The checkpoints of one run. Opening only reads; :meth:`load` comes before :meth:`save`. ``.saved``: its newest step.

    extend: the run in the folder may have been planned for another number of images.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, say: Callable[[str], None] = print,
                 extend: bool = False) -> None:
        self.out, self.settings, self.say = out, dict(settings), say
        self.saved: int | None = None
        with self.disk():
            self._check_settings({"images"} if extend else set())

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Turns a failure to write into an error that says what to do and what is still there."""
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                want, instead = "room on the disk", f"free some room, then run the same command again ({self.kept()})"
            else:
                want, instead = "a folder that can be written", f"out='another/folder', or change its permissions ({self.kept()})"
            raise CheckpointError("out", f"{str(self.out)!r}, where writing failed with: {why}", want, instead) from error

    def kept(self) -> str:
        """What is still there, for the end of an error message."""
        return "nothing has been overwritten" if self.saved is None else f"the checkpoint of step {self.saved} is whole"

    def _check_settings(self, may_differ: set[str]) -> None:
        """Refuse to go on from a run with other settings."""
        for folder in _folders(self.out):
            try:
                there = _read_meta(folder)["settings"]
            except ValueError:
                continue
            names = sorted(k for k in (there.keys() & self.settings.keys()) - may_differ if there[k] != self.settings[k])
            if names:
                odds = ", ".join(f"{k} is {there[k]!r} there and {self.settings[k]!r} here" for k in names)
                longer = ", or extend=True to plan the rest of that run anew" if names == ["images"] else ""
                raise CheckpointError("out", f"{str(self.out)!r}, which holds another run: {odds}",
                                      "an empty folder, or the settings of the run in it",
                                      f"out={str(self.out) + '-2'!r}{longer}")
            may_differ = {"images"}  # before the run was extended it was planned for another number

    def load(self) -> Snapshot | None:
        """The newest usable checkpoint, or None in an empty folder. Unusable ones are named and set aside, not deleted."""
        snapshot, bad = _first_whole(self.out, _read)
        with self.disk():
            for stale in self.out.glob("step-*.tmp"):
                if _STALE.fullmatch(stale.name):
                    remove_folder(stale)
            for folder, error in bad.items():
                aside = _free(folder.with_name(folder.name + ".unusable"))
                os.rename(folder, aside)
                self.say(f"{folder.name} cannot be used: {error}. It is now called {aside.name}; the one of step "
                         f"{snapshot.step} is used.")
            self._prune()
        self.saved = None if snapshot is None else snapshot.step
        return snapshot

    def _prune(self) -> None:
        for old in _folders(self.out)[_KEEP:]:
            remove_folder(old)

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint; if anything fails the ones before it are untouched. Keeps the newest two."""
        final = self.out / f"step-{snapshot.step:08d}"
        part = final.with_name(final.name + ".tmp")
        try:
            with self.disk():
                part.mkdir()
                hashes = {}
                for name, data in zip(_FILES, _encode(snapshot)):
                    hashes[name] = _sha256(data)
                    write_file(part / name, data)
                versions = {"python": platform.python_version(), "torch": torch.__version__,
                            "safetensors": safetensors.__version__}
                meta = {**snapshot.meta, "step": snapshot.step, "settings": self.settings, "sha256": hashes, "versions": versions}
                write_file(part / "meta.json", (json.dumps(meta, indent=1) + "\n").encode())
                sync_folder(part)
                os.rename(part, final)
                self.saved = snapshot.step
                sync_folder(self.out)
                self._prune()
        except BaseException:
            with contextlib.suppress(OSError):
                remove_folder(part)
            raise


def _encode(snapshot: Snapshot) -> Iterator[bytes]:
    """The contents of _FILES, one at a time."""
    yield safetensors.torch.save(to_cpu(snapshot.model))
    yield safetensors.torch.save(to_cpu(snapshot.ema))
    buffer = io.BytesIO()
    torch.save({name: to_cpu(state) for name, state in snapshot.optimiser.items()}, buffer)
    yield buffer.getvalue()


def _free(path: Path) -> Path:
    """``path``, or the first of path-2, path-3, ... that does not exist."""
    tries = (path.with_name(f"{path.name}-{n}") for n in range(2, 10_000))
    return path if not path.exists() else next(p for p in tries if not p.exists())
