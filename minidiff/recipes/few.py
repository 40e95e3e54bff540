"""The small world of lessons 04 to 06: four kinds, four colours, three backdrops, one thing a picture.

Two slow cores can learn it. Red stars are left out of training, as everywhere in the course (``world.held_out``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.errors import check_choice, require
from minidiff.rng import key, uniform
from minidiff.world import BACKDROPS, COLOURS, KINDS, WORLD_EDITION, Scenes, render, sample_scenes

__all__ = ["FEW_KINDS", "FEW_COLOURS", "FEW_BACKDROPS", "FewData", "condition", "drop", "labels"]

FEW_KINDS = ("star", "heart", "fish", "mushroom")
FEW_COLOURS = ("red", "yellow", "blue", "white")
FEW_BACKDROPS = ("grass", "night", "room")
_COLOUR_NAMES = tuple(COLOURS)
_KIND = torch.tensor([KINDS.index(k) for k in FEW_KINDS])
_COLOUR = torch.tensor([_COLOUR_NAMES.index(c) for c in FEW_COLOURS])
_BACKDROP = torch.tensor([BACKDROPS.index(b) for b in FEW_BACKDROPS])


@dataclass(frozen=True)
class FewData:
    """Pictures of the small world; picture i of a split is a pure function of (seed, split, i).

    size: pixels along one side. split: "train", "valid", "test" (no red star) or "held_out" (red stars only).
    """

    size: int = 32
    split: str = "train"
    seed: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What makes these pictures the ones they are, as JSON values."""
        return {"world": WORLD_EDITION, "few": [FEW_KINDS, FEW_COLOURS, FEW_BACKDROPS], **dataclasses.asdict(self)}

    def scenes(self, index: Tensor | range) -> Scenes:
        """The scenes number ``index``, on its device."""
        index = torch.arange(index.start, index.stop, index.step) if isinstance(index, range) else index
        base = sample_scenes(index, split="train", seed=self.seed, level="simple")
        u = uniform(key("few", self.seed, self.split), index, 6)
        cell = (u[:, 0] * 15).long().clamp(max=14) + 1                   # 0 would be the red star
        cell = torch.zeros_like(cell) if self.split == "held_out" else cell
        first = torch.arange(base.kind.shape[1], device=index.device) == 0

        def put(table: Tensor, number: Tensor, old: Tensor) -> Tensor:
            return torch.where(first, table.to(index.device)[number][:, None], old)

        # the things of "simple" lie inside the frame at any place; its place is drawn anew so that splits differ
        size = 0.22 + 0.08 * u[:, 2]
        x, y = (0.5 + (2 * u[:, i] - 1) * (0.5 - 1.14 * size) for i in (3, 4))
        return base.replace(
            kind=put(_KIND, cell // 4, base.kind), colour=put(_COLOUR, cell % 4, base.colour), mood=torch.zeros_like(base.mood),
            backdrop=_BACKDROP.to(index.device)[(u[:, 5] * 3).long().clamp(max=2)],
            size=torch.where(first, size[:, None].float(), base.size), x=torch.where(first, x[:, None].float(), base.x),
            y=torch.where(first, y[:, None].float(), base.y))

    @torch.no_grad()
    def batch(self, i: int, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, Scenes]:
        """Images (n, 3, size, size) in [-1, 1] and scenes of numbers i n to i n + n - 1."""
        scenes = self.scenes(torch.arange(i * n, (i + 1) * n, device=device))
        return render(scenes, self.size).images, scenes


def labels(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """(kind, colour, backdrop) of the first thing as numbers of the small world, each (B,); -1 for anything else."""
    def number(table: Tensor, value: Tensor) -> Tensor:
        hit = value[:, None] == table.to(value.device)
        return torch.where(hit.any(1), hit.long().argmax(1), -1)

    return number(_KIND, scenes.kind[:, 0]), number(_COLOUR, scenes.colour[:, 0]), number(_BACKDROP, scenes.backdrop)


def condition(kind: Tensor | str | None = None, colour: Tensor | str | None = None, *, n: int | None = None) -> Tensor:
    """The condition vector (B, 8): one of four kinds, then one of four colours; zeros where one is not given.

    kind, colour: a word (repeated n times), or (B,) whole numbers in [-1, 3] where -1 is "not given", or None.
    """
    def part(name: str, value: Tensor | str | None, words: tuple[str, ...], rows: int) -> Tensor:
        if value is None:
            return torch.zeros(rows, len(words))
        if isinstance(value, str):
            check_choice(name, value, words)
            value = torch.full((rows,), words.index(value))
        return F.one_hot(value.clamp(min=0), len(words)).float() * (value >= 0)[:, None]

    sizes = {len(v) for v in (kind, colour) if isinstance(v, Tensor)} | ({n} if n is not None else set())
    require(len(sizes) == 1, "n", sorted(sizes) or None, "one number of rows", "condition('star', 'red', n=16)")
    rows = sizes.pop()
    return torch.cat([part("kind", kind, FEW_KINDS, rows), part("colour", colour, FEW_COLOURS, rows)], 1)


def drop(cond: Tensor, u: Tensor, *, kind: float = 0.1, colour: float = 0.1, both: float = 0.15) -> Tensor:
    """Condition dropout with one uniform number a row (InstructPix2Pix's scheme): zeros in the place of what is dropped.

    cond: (B, 8); u: (B,) in [0, 1). u < kind drops the kind, then the colour, then both.
    """
    u = u[:, None].to(cond)
    no_kind = (u < kind) | ((u >= kind + colour) & (u < kind + colour + both))
    no_colour = (u >= kind) & (u < kind + colour + both)
    return torch.cat([cond[:, :4] * ~no_kind, cond[:, 4:] * ~no_colour], 1)
