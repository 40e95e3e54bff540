"""Counter-based randomness: every draw is a pure function of (seed, stream, index).

Nothing here has state (:func:`seeded_rng` borrows torch's and gives it back), so a run can be resumed at any batch,
split over processes, or read in any order, and scene 17 is the same scene whatever the batch size or the device.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator

import torch

__all__ = ["key", "uniform", "generator", "normal", "normal_rows", "seeded_rng"]

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(z: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014) on a Python integer."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def key(*parts: int | str) -> int:
    """One 64-bit key from integers and words; the same on every machine and in every process."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else int(part)
        value = _mix((value + (number & _MASK) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & _MASK)
    return value


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def uniform(seed_key: int, index: torch.Tensor, columns: int) -> torch.Tensor:
    """Uniform numbers in [0, 1): row b depends only on (seed_key, index[b]).

    index: (B,) int64 on any device. Returns (B, columns) float64 on the same device.
    """
    column = torch.arange(columns, device=index.device)
    z = index[:, None] * _signed(0xD1B54A32D192ED03) + column[None] * _signed(0x9E3779B97F4A7C15)
    z = z + _signed(seed_key)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift(z, 31)
    z = (z ^ _shift(z, 33)) * _signed(0xFF51AFD7ED558CCD)
    z = z ^ _shift(z, 33)
    return _shift(z, 11).double() / float(1 << 53)


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator seeded by :func:`key`, for bulk noise that no one needs row by row."""
    return torch.Generator(device=device).manual_seed(key(*parts) & ((1 << 63) - 1))


def normal(shape: tuple[int, ...], *parts: int | str, device: torch.device | str = "cpu",
           dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal noise drawn on the CPU, then moved: the same picture on every device."""
    return torch.randn(shape, generator=generator(*parts), dtype=dtype).to(device)


def normal_rows(seed_key: int, index: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers (B, *shape), float64: row b depends only on (seed_key, index[b]) and shape.

    index: (B,) int64. From two uniform numbers, two normal ones (Box and Muller 1958): sqrt(-2 ln(1 - u)) cos, sin of 2 pi v.
    """
    count = math.prod(shape)
    u, v = uniform(seed_key, index, 2 * ((count + 1) // 2)).chunk(2, dim=1)
    radius, angle = (-2 * torch.log1p(-u)).sqrt(), 2 * math.pi * v
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)[:, :count].reshape(len(index), *shape)


@contextlib.contextmanager
def seeded_rng(*parts: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, torch's own generator (first weights, dropout) is seeded by :func:`key`; outside, nobody notices."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key(*parts) & ((1 << 63) - 1))
        yield
