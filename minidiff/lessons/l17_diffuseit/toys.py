"""The toy of lesson 17: a grid of unit keys in the plane, a thing on a backdrop, and descents of losses on the keys alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.rng import normal

__all__ = ["angles", "descend", "key_grid", "turned"]


def key_grid(rows: int = 5, columns: int = 6, *, thing: float = 1.9, backdrop: float = 0.3) -> Tensor:
    """Unit keys (1, rows * columns, 2): those of the thing, a block in the middle, at one angle, the others at another; angles in
    radians, with a slow change from left to right so that no two columns are quite alike."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    inside = (y >= 1) & (y < rows - 1) & (x >= 1) & (x < columns - 2)
    turn = torch.where(inside, thing, backdrop) + 0.05 * x
    return torch.stack([turn.cos(), turn.sin()], -1).reshape(1, -1, 2).double()


def angles(keys: Tensor, rows: int = 5) -> Tensor:
    """(B, rows, columns): the angle of each key (B, rows * columns, 2) of the plane, in radians from 0 to 2 pi."""
    turn = torch.atan2(keys[..., 1], keys[..., 0]) % (2 * math.pi)
    return turn.reshape(len(keys), rows, -1)


def turned(keys: Tensor, by: float) -> Tensor:
    """Keys (B, N, 2) of the plane, all turned by an angle in radians."""
    a = torch.tensor([[math.cos(by), math.sin(by)], [-math.sin(by), math.cos(by)]], dtype=keys.dtype)
    return keys @ a


def descend(loss: Callable[[Tensor, Tensor], Tensor], source: Tensor, *, start: Tensor | None = None, steps: int = 300,
            rate: float = 0.05, seed: int = 0) -> Tensor:
    """Unit keys like ``source`` after ``steps`` of Adam down ``loss(keys, source)`` (B,), from ``start`` or from random ones."""
    require(steps >= 0, "steps", steps, "a whole number, 0 or more")
    keys = normal(tuple(source.shape), "lesson 17 toy", seed, dtype=source.dtype) if start is None else start.detach().clone()
    keys.requires_grad_()
    with torch.enable_grad():
        move = torch.optim.Adam([keys], rate)
        for _ in range(steps):
            move.zero_grad()
            loss(keys, source).sum().backward()
            move.step()
    return torch.nn.functional.normalize(keys.detach(), dim=-1)
