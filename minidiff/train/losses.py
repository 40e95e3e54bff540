"""The list of losses: four bytes a step in an append-only file, cut back to the checkpoint when a run goes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

__all__ = ["LossLog", "read_losses"]

_NAME = "losses.f32"


class LossLog:
    """Appends float32 numbers (little-endian) to ``out/losses.f32``; number s is the mean loss of step s, from 0."""

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / _NAME
        size = self.path.stat().st_size if self.path.exists() else 0
        self._file = open(self.path, "ab")  # noqa: SIM115 (open for the length of the run)
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
    path = Path(out) / _NAME
    data = path.read_bytes() if path.exists() else b""
    return torch.from_numpy(np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").astype(np.float32))
