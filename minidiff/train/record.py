"""Everything that a run writes: checkpoints, losses, previews, in one folder that belongs to it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from minidiff.train.checkpoint import Snapshot, Store
from minidiff.train.files import disk
from minidiff.train.losses import LossLog, read_losses

__all__ = ["Record"]


class Record:
    """The folder of one run, locked. ``.snapshot`` is where an earlier run with the same settings got to, or None."""

    def __init__(self, out: Path, settings: Mapping[str, Any], *, say: Callable[[str], None], extend: bool = False) -> None:
        self.out = out
        self._store = Store(out, settings, say=say, extend=extend)
        try:
            self.snapshot = self._store.load()
            with self._disk():
                self._log = LossLog(out, self.step or 0)
        except BaseException:
            self._store.close()
            raise

    def _disk(self) -> contextlib.AbstractContextManager[None]:
        return disk(self.out, self._store.kept)

    @property
    def step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._store.saved

    def kept(self) -> str:
        """What is still there, for the end of an error message."""
        return self._store.kept()

    def add_losses(self, losses: torch.Tensor) -> None:
        with self._disk():
            self._log.append(losses)

    def last_loss(self) -> torch.Tensor:
        return read_losses(self.out)[-1]

    def save(self, snapshot: Snapshot) -> None:
        """Losses first, so that a checkpoint is never ahead of them."""
        with self._disk():
            self._log.sync()
        self._store.save(snapshot)

    def preview(self, images: torch.Tensor, seen: int) -> Path:
        """Write a grid of (B, C, H, W) pictures, enlarged by a whole number to at most 512 pixels a side where they fit."""
        from minidiff.show import save_grid

        columns = math.ceil(math.sqrt(len(images)))
        path = self.out / "previews" / f"{seen:010d}.png"
        with self._disk():
            path.parent.mkdir(exist_ok=True)
        return save_grid(path, images.clamp(-1, 1), columns=columns, scale=max(1, 512 // (columns * images.shape[-1])))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported when it happened
            self._log.close()
        self._store.close()
