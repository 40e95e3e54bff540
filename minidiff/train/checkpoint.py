"""Writing checkpoints: two are kept, and nothing is lost when the disk, a file or a person fails. ``stored`` reads them."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from minidiff.errors import CheckpointError
from minidiff.files import remove_folder, sha256_of, sync_folder, write_file
from minidiff.train.stored import FILES, SUMS, Snapshot, first_whole, folders, read_checkpoint, read_meta

__all__ = ["CheckpointStore", "to_cpu"]

_STALE = re.compile(r"step-\d{8,}(\.old)?\.tmp")
_KEEP = 2


def to_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU in plain memory order, so that tied or channels-last weights are stored like any other."""
    return {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}


class CheckpointStore:
    """The checkpoints of one run. Opening only reads; :meth:`load` comes before :meth:`save`. ``.saved``: its newest step.

    extend: the run in the folder may have been planned for another number of images.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, log: Callable[[str], None] = print,
                 extend: bool = False) -> None:
        self.out, self.settings, self.log = out, dict(settings), log
        self.saved: int | None = None
        with self.disk():
            self._check_settings({"images"} if extend else set())

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Turns a failure to write into an error that says what to do and what is still there."""
        try:
            yield
        except OSError as error:
            why, kept = os.strerror(error.errno) if error.errno else str(error), self.kept()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                want, instead = "room on the disk", "free some room, then run the same command again"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                want, instead = "a folder that can be written", "out='another/folder', or change its permissions"
            elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL):
                name = f", {str(error.filename)!r}" if error.filename else ""
                want, instead = "a folder that can be written", f"out='another/folder', or move away what is in the way{name}"
            elif error.errno == errno.ENOENT:
                want, instead = "a folder that stays while the run lasts", "run the same command again: it makes the folder anew"
            else:
                want, instead = "a folder that can be written", "out='another/folder'"
            raise CheckpointError("out", f"{str(self.out)!r}, where writing failed with: {why}", want,
                                  f"{instead} ({kept})") from error

    def kept(self) -> str:
        """What is still there, for the end of an error message: looked up, not remembered."""
        if self.saved is None:
            return "nothing has been overwritten"
        for folder in folders(self.out):
            with contextlib.suppress(Exception):  # whatever a damaged file makes a parser raise
                return f"the checkpoint of step {read_checkpoint(folder).step} is whole"
        return f"the checkpoint of step {self.saved} is gone"

    def _check_settings(self, may_differ: set[str]) -> None:
        """Refuse to go on from a run with other settings."""
        for folder in folders(self.out):
            try:
                there = read_meta(folder)["settings"]
            except ValueError:
                continue
            here, none = self.settings, "not said"
            names = sorted(k for k in (there.keys() | here.keys()) - may_differ if there.get(k, none) != here.get(k, none))
            if names:
                odds = ", ".join(f"{k} is {there.get(k, none)!r} there and {here.get(k, none)!r} here" for k in names)
                longer = ", or extend=True to plan the rest of that run anew" if names == ["images"] else ""
                raise CheckpointError("out", f"{str(self.out)!r}, which holds another run: {odds}",
                                      "an empty folder, or the settings of the run in it",
                                      f"out={str(self.out) + '-2'!r}{longer}")
            may_differ = {"images"}  # before the run was extended it was planned for another number

    def load(self) -> Snapshot | None:
        """The newest usable checkpoint, or None in an empty folder. Unusable ones are named and set aside, not deleted."""
        snapshot, bad = first_whole(self.out, read_checkpoint)
        with self.disk():
            for stale in self.out.glob("step-*.tmp"):
                if _STALE.fullmatch(stale.name):
                    remove_folder(stale)
            for folder, error in bad.items():
                aside = _free(folder.with_name(folder.name + ".unusable"))
                os.rename(folder, aside)
                self.log(f"{folder.name} cannot be used: {error}. It is now called {aside.name}; the one of step "
                         f"{snapshot.step} is used.")
            self._prune()
        self.saved = None if snapshot is None else snapshot.step
        return snapshot

    def _prune(self) -> None:
        for old in folders(self.out)[_KEEP:]:
            remove_folder(old)

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint; if anything fails the ones before it are untouched. Keeps the newest two."""
        final = self.out / f"step-{snapshot.step:08d}"
        part = final.with_name(final.name + ".tmp")
        try:
            with self.disk():
                part.mkdir()
                sums = ""
                for name, data in zip(FILES, self._encode(snapshot)):
                    sums += f"{sha256_of(data)}  {name}\n"
                    write_file(part / name, data)
                write_file(part / SUMS, sums.encode())
                sync_folder(part)
                os.rename(part, final)
                self.saved = snapshot.step
                sync_folder(self.out)
                self._prune()
        except BaseException:
            with contextlib.suppress(OSError):
                remove_folder(part)
            raise

    def _encode(self, snapshot: Snapshot) -> Iterator[bytes]:
        """The contents of FILES, one at a time."""
        yield safetensors.torch.save(to_cpu(snapshot.model))
        yield safetensors.torch.save(to_cpu(snapshot.ema))
        buffer = io.BytesIO()
        torch.save({name: to_cpu(state) for name, state in snapshot.optimiser.items()}, buffer)
        yield buffer.getvalue()
        yield snapshot.losses
        versions = {"python": platform.python_version(), "torch": torch.__version__, "safetensors": safetensors.__version__}
        meta = {**snapshot.meta, "step": snapshot.step, "settings": self.settings, "versions": versions}
        yield (json.dumps(meta, indent=1) + "\n").encode()


def _free(path: Path) -> Path:
    """``path``, or the first of path-2, path-3, ... that does not exist."""
    tries = (path.with_name(f"{path.name}-{n}") for n in range(2, 10_000))
    return path if not path.exists() else next(p for p in tries if not p.exists())
