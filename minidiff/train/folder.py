"""The folder of a run: one writer at a time, checkpoints, the loss of every step, previews; and the weights read from it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import nn

from minidiff.errors import CheckpointError
from minidiff.files import read_plain, replace, sha256_of
from minidiff.train.checkpoint import CheckpointStore
from minidiff.train.stored import Snapshot, folders, newest, newest_losses

__all__ = ["LossLog", "RunFolder", "load_ema", "read_losses"]

_LOSSES = "losses.f32"
_HALF = re.compile(r"\.(losses\.f32|\d{10}\.png)-\w+\.tmp")       # what a kill leaves of files.replace


class RunFolder:
    """Everything that one run writes. ``.snapshot``: where an earlier run with the same settings got to, or None.

    Opening checks the settings, takes the lock (the system lets go of it when the process ends, however it ends), then reads.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, log: Callable[[str], None] = print,
                 extend: bool = False) -> None:
        self.out, self._say = out, log
        self._store = CheckpointStore(out, settings, log=log, extend=extend)
        self._lock = filelock.FileLock(out / ".lock", blocking=False, thread_local=False)
        with self._store.disk():
            out.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise CheckpointError("out", f"{str(out)!r}, where another run is writing now", "a folder for this run alone",
                                      "wait for the other run to end, or out='another/folder'") from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some network disks have no locks: go on without one
                    raise
        try:
            self.snapshot = self._store.load()
            self._previews: dict[str, str] = {} if self.snapshot is None else dict(self.snapshot.meta.get("previews", {}))
            with self._store.disk():
                self._log = LossLog(out, b"" if self.snapshot is None else self.snapshot.losses, log=log)
                self._look_around()
        except BaseException:
            self._lock.release()
            raise

    def _look_around(self) -> None:
        """Remove half-written files that a kill left, and name what is not as this run left it."""
        pictures = self.out / "previews"
        for path in [*self.out.glob(".*.tmp"), *pictures.glob(".*.tmp")]:
            if _HALF.fullmatch(path.name):
                path.unlink()
        for name, mark in list(self._previews.items()):
            found = read_plain(pictures / name) if (pictures / name).is_file() else None
            if found is None or sha256_of(found) != mark:
                self._say(f"previews/{name} is {'gone' if found is None else 'no longer the picture that was written'}; only the "
                          "picture is lost.")
                del self._previews[name]
        mine = {".lock", _LOSSES, "previews", "model", *(p.name for p in folders(self.out))}
        later = "" if self.snapshot is None else f"{self.snapshot.meta.get('images', 0):010d}.png"
        strange = [p.name for p in self.out.iterdir() if p.name not in mine and ".unusable" not in p.name]
        strange += [f"previews/{p.name}" for p in pictures.glob("*") if p.name not in self._previews and p.name <= later]
        if strange:
            self._say(f"Not of this run, and left alone: {', '.join(sorted(strange))}.")

    @property
    def step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._store.saved

    def kept(self) -> str:
        """What is still there, for the end of an error message."""
        return self._store.kept()

    def add_losses(self, losses: torch.Tensor) -> None:
        with self._store.disk():
            self._log.append(losses)

    def last_loss(self) -> torch.Tensor:
        return read_losses(self.out)[-1]

    def save(self, snapshot: Snapshot) -> None:
        """Losses first, so that a checkpoint is never ahead of them."""
        with self._store.disk():
            snapshot.losses = self._log.sync()
        snapshot.meta["previews"] = self._previews
        self._store.save(snapshot)

    def preview(self, images: torch.Tensor, seen: int) -> Path:
        """Write a grid of (B, C, H, W) pictures, enlarged by a whole number to at most 512 pixels a side where they fit."""
        from minidiff.show import save_grid

        columns = math.ceil(math.sqrt(len(images)))
        path = self.out / "previews" / f"{seen:010d}.png"
        with self._store.disk():
            path.parent.mkdir(exist_ok=True)
            save_grid(path, images.clamp(-1, 1), columns=columns, scale=max(1, 512 // (columns * images.shape[-1])))
            self._previews[path.name] = sha256_of(read_plain(path))
        return path

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported when it happened
            self._log.close()
        self._lock.release()


class LossLog:
    """Appends float32 numbers (little-endian) to ``out/losses.f32``; number s is the mean loss of step s, from 0.

    kept: those of the checkpoint that the run goes on from. A file that does not begin with them is mended, and said to be.
    """

    def __init__(self, out: Path, kept: bytes, *, log: Callable[[str], None] = print) -> None:
        path = out / _LOSSES
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "not a plain file", str(path))
        there = read_plain(path) if path.exists() else b""
        if not there.startswith(kept):
            log(f"{_LOSSES} was {'damaged' if there else 'gone'}; its {len(kept) // 4} losses are those of the checkpoint again.")
        if there != kept or not path.exists():  # also what a killed run wrote after its checkpoint
            replace(path, kept)
        self._all = bytearray(kept)
        self._file = open(path, "ab")  # noqa: SIM115 (open for the length of the run)

    def append(self, losses: torch.Tensor) -> None:
        """losses: (steps,) on the CPU."""
        data = losses.to(torch.float32).numpy().astype("<f4").tobytes()
        self._all += data
        self._file.write(data)
        self._file.flush()

    def sync(self) -> bytes:
        """Reach the disk; called before each checkpoint, so that the log is never behind it. Returns all of it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return bytes(self._all)

    def close(self) -> None:
        self._file.close()


def read_losses(out: str | os.PathLike[str]) -> torch.Tensor:
    """(steps,) float32: the loss of every step of the run in ``out``; empty if there is none.

    Raises CheckpointError where losses.f32 does not begin with the losses that the newest checkpoint keeps under its hash.
    """
    path, kept = Path(out) / _LOSSES, newest_losses(out)
    try:
        data = read_plain(path) if path.exists() else b""
    except OSError as error:
        raise CheckpointError("out", f"{str(path)!r}, {error.strerror}", "a file that fit wrote") from None
    if not data.startswith(kept):
        raise CheckpointError("out", f"{str(path)!r}, which is damaged", f"the {len(kept) // 4} losses of the newest checkpoint",
                              "run the same training command again: it mends the file")
    return torch.from_numpy(np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").astype(np.float32))


def load_ema(out: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Fill ``model`` with the EMA weights of the newest usable checkpoint in ``out``; returns its meta (step, images, settings).

    Raises CheckpointError, and leaves ``model`` as it was, if the names or shapes do not match.
    """
    weights, meta = newest(out)
    mine = {name: x.shape for name, x in model.state_dict().items()}
    theirs = {name: x.shape for name, x in weights.items()}
    wrong = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError("model", f"a network that differs in {', '.join(wrong[:3])}{more}",
                              f"the network of recipe {meta['settings'].get('recipe')!r}", "model = recipe.build()")
    model.load_state_dict(weights)
    return meta
