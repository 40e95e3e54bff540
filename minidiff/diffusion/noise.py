"""The noise of a row: a function of (seed, row number, t), so that a batch equals a loop of singles."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff import rng
from minidiff.errors import require

__all__ = ["check_rows", "row_noise"]


def check_rows(seed: object, rows: Sequence[int] | None, n: int) -> tuple[int, list[int]]:
    """(seed, row numbers): whole numbers, one row number for each of n rows; rows None is 0 .. n-1."""
    require(hasattr(seed, "__index__"), "seed", repr(seed), "a whole number", "seed=0")
    given = range(n) if rows is None else list(rows)
    require(all(hasattr(row, "__index__") for row in given), "rows", given, "whole numbers", f"rows=range({n})")
    require(len(given) == n, "rows", f"{len(given)} row numbers", f"one for each of the {n} rows of x", f"rows=range({n})")
    return operator.index(seed), [operator.index(row) for row in given]


def row_noise(shape: Sequence[int], *, seed: int, t: int, rows: Sequence[int] | None = None, dtype: torch.dtype = torch.float32,
              device: torch.device | str = "cpu", stream: str = "step") -> Tensor:
    """Standard normal noise of ``shape`` (B, ...): row b is a function of (seed, rows[b], t) and of the shape of one row alone.

    Drawn on the CPU in float64, then cast and moved: the same on every device. rows: None is 0 .. B-1. stream: a word that
    keeps the noises of different uses apart ("step": what the samplers add at t).
    """
    seed, numbers = check_rows(seed, rows, shape[0])
    key = rng.key("row noise", stream, seed, operator.index(t))
    return rng.normal_rows(key, torch.tensor(numbers), tuple(shape[1:])).to(device, dtype)
