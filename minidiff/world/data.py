"""The world as training data: batches that are a pure function of (seed, split, level, number)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minidiff.world.render import render
from minidiff.world.sample import sample_scenes
from minidiff.world.scene import Scenes
from minidiff.world.vocab import WORLD_EDITION

__all__ = ["WorldData"]


@dataclass(frozen=True)
class WorldData:
    """Pictures of the toy world, rendered when asked for; nothing is stored.

    size: pixels along one side. level: "simple" (one plain thing), "pairs" or "full" (see sample_scenes).
    """

    size: int = 32
    split: str = "train"
    level: str = "simple"
    seed: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What makes these pictures the ones they are, as JSON values; a run is resumed only with the same."""
        return {"world": WORLD_EDITION, **dataclasses.asdict(self)}

    def scenes(self, i: int, n: int, device: torch.device | str = "cpu") -> Scenes:
        """The scenes of batch i with n rows: numbers i * n to i * n + n - 1."""
        index = torch.arange(i * n, (i + 1) * n, device=device)
        return sample_scenes(index, split=self.split, seed=self.seed, level=self.level)

    @torch.no_grad()
    def batch(self, i: int, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, Scenes]:
        """Images (n, 3, size, size) in [-1, 1] and their scenes."""
        scenes = self.scenes(i, n, device)
        return render(scenes, self.size).images, scenes

    def images(self, n: int, start: int = 0, chunk: int = 512) -> Tensor:
        """The first n pictures from number ``start`` on, on the CPU."""
        index = torch.arange(start, start + n)
        with torch.no_grad():
            return torch.cat([render(sample_scenes(part, split=self.split, seed=self.seed, level=self.level), self.size).images
                              for part in index.split(chunk)])
