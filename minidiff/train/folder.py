"""The folder of a run: one writer at a time, checkpoints, the loss of every step, previews; and the weights read from it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import nn

from minidiff.errors import CheckpointError
from minidiff.train.checkpoint import CheckpointStore, Snapshot, newest

__all__ = ["LossLog", "RunFolder", "load_ema", "read_losses"]

_LOSSES = "losses.f32"


class RunFolder:
    """Everything that one run writes. ``.snapshot``: where an earlier run with the same settings got to, or None.

    Opening checks the settings, takes the lock (the system lets go of it when the process ends, however it ends), then reads.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, say: Callable[[str], None] = print,
                 extend: bool = False) -> None:
        self.out = out
        self._store = CheckpointStore(out, settings, say=say, extend=extend)
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
            with self._store.disk():
                self._log = LossLog(out, self.step or 0)
        except BaseException:
            self._lock.release()
            raise

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
            self._log.sync()
        self._store.save(snapshot)

    def preview(self, images: torch.Tensor, seen: int) -> Path:
        """Write a grid of (B, C, H, W) pictures, enlarged by a whole number to at most 512 pixels a side where they fit."""
        from minidiff.show import save_grid

        columns = math.ceil(math.sqrt(len(images)))
        path = self.out / "previews" / f"{seen:010d}.png"
        with self._store.disk():
            path.parent.mkdir(exist_ok=True)
        return save_grid(path, images.clamp(-1, 1), columns=columns, scale=max(1, 512 // (columns * images.shape[-1])))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported when it happened
            self._log.close()
        self._lock.release()


class LossLog:
    """Appends float32 numbers (little-endian) to ``out/losses.f32``; number s is the mean loss of step s, from 0."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / _LOSSES
        size = path.stat().st_size if path.exists() else 0
        self._file = open(path, "ab")  # noqa: SIM115 (open for the length of the run)
        self._file.truncate(min(size // 4, step) * 4)  # what a killed run wrote after its checkpoint
        if size // 4 < step:  # somebody removed the log: the weights are what matters, so mark the gap and go on
            self.append(torch.full((step - size // 4,), torch.nan))

    def append(self, losses: torch.Tensor) -> None:
        """losses: (steps,) on the CPU."""
        self._file.write(losses.to(torch.float32).numpy().astype("<f4").tobytes())
        self._file.flush()

    def sync(self) -> None:
        """Reach the disk; called before each checkpoint, so that the log is never behind it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_losses(out: str | os.PathLike[str]) -> torch.Tensor:
    """(steps,) float32: the loss of every step of the run in ``out``; empty if there is none."""
    path = Path(out) / _LOSSES
    data = path.read_bytes() if path.exists() else b""
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
