"""What the training loop yields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

__all__ = ["TrainState"]


@dataclass
class TrainState:
    """One step of a run, after it was taken.

    step: steps taken. images, total: images seen and to be seen. loss: 0-d tensor on the device, the mean of this
    step's batch (reading it makes a GPU wait). recent: mean loss of the last steps that were read (a float; NaN before
    the first reading). rate: images a second. model, ema: the networks. preview: the picture just written, or None.
    """

    step: int
    images: int
    total: int
    loss: torch.Tensor
    recent: float
    rate: float
    model: nn.Module
    ema: nn.Module
    preview: Path | None = None

    @property
    def seconds_left(self) -> float:
        return (self.total - self.images) / self.rate if self.rate > 0 else float("nan")
