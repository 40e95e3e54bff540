"""Held-out pictures of the small world, by what they show."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.recipes.few import FEW_COLOURS, FEW_KINDS, FewData, labels
from minidiff.world import render

__all__ = ["examples"]


def examples(kind: str, colour: str, n: int) -> Tensor:
    """The first n held-out pictures (n, 3, 32, 32) in [-1, 1] that show a thing of this kind and colour.

    Raises BadInput where there are none: red stars are left out of training and of its held-out pictures.
    """
    scenes = FewData(32, "test").scenes(range(60 * n))
    kinds, colours, _ = labels(scenes)
    rows = torch.nonzero((kinds == FEW_KINDS.index(kind)) & (colours == FEW_COLOURS.index(colour)))[:n, 0]
    require(len(rows) == n, "kind, colour", (kind, colour), "a pair that is in training", "examples('star', 'blue', 8)")
    return render(scenes[rows], 32).images
