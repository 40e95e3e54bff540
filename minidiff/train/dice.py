"""Torch's own generator, seeded for one piece of work and given back as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from minidiff.rng import key

__all__ = ["dice"]


@contextlib.contextmanager
def dice(*parts: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, first weights and dropout are a pure function of ``parts``; outside, nobody notices."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key(*parts) & ((1 << 63) - 1))
        yield
