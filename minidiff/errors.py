"""Errors that teach: which argument, what came, what was expected, what to write instead."""

from __future__ import annotations

import difflib
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

__all__ = ["BadInput", "CheckpointError", "RangeWarning", "require", "checks_first", "check_images", "check_pictures",
           "check_choice", "check_finite", "check_share"]

_HERE = str(Path(__file__).resolve().parent)
_BEYOND, _CONTRAST = 8.0, 0.2                 # no picture, noised to unit variance or decoded, reaches the first
P = ParamSpec("P")
T = TypeVar("T")


class BadInput(ValueError):
    """An argument that cannot be used; raised before any work starts."""

    def __init__(self, argument: str, got: object, expected: str, instead: str = "") -> None:
        message = f"{argument}: got {got}; expected {expected}."
        super().__init__(message + (f" Write instead: {instead}" if instead else ""))
        self.argument, self.got, self.expected, self.instead = argument, got, expected, instead


class CheckpointError(BadInput):
    """A model file or folder that is missing, truncated, foreign or changed."""


class RangeWarning(UserWarning):
    """Pictures that may be in [0, 1] where [-1, 1] is meant."""


def require(condition: bool, argument: str, got: object, expected: str, instead: str = "") -> None:
    """Raise :class:`BadInput` unless ``condition`` holds."""
    if not condition:
        raise BadInput(argument, got, expected, instead)


def checks_first(loop: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """A generator function whose checks run at the call: its body runs to its first, bare ``yield``; the rest as it is asked.

        @checks_first
        def count(n):
            require(n > 0, "n", n, "a positive number")
            yield               # the arguments are good
            yield from range(n)
    """

    @functools.wraps(loop)
    def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        running = loop(*args, **kwargs)
        if next(running, call) is not None:
            raise RuntimeError(f"{loop.__name__}: the first yield of a loop under @checks_first must be bare")
        return running

    return call


def check_choice(argument: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless ``value`` is one of ``choices``, words or numbers; the error names the nearest of them."""
    known = list(choices)
    if value not in known:
        said = {str(choice): choice for choice in known}
        near = difflib.get_close_matches(str(value), list(said), n=3, cutoff=0.5)
        hint = f"{argument}={(said[near[0]] if near else known[0])!r}"
        raise BadInput(argument, repr(value), f"one of {', '.join(map(repr, known))}", hint)


def check_share(argument: str, value: object) -> None:
    """Raise unless ``value`` is a share of the steps, a number from 0 to 1."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    require(good, argument, repr(value), "a share of the steps, a number from 0 to 1", f"{argument}=0.5")


def check_finite(argument: str, x: torch.Tensor) -> None:
    """Raise if ``x`` holds NaN or infinity; not while a CUDA graph is recorded, since an answer would make the GPU wait."""
    if x.is_meta or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise BadInput(argument, f"{bad} values that are NaN or infinite", "finite numbers only",
                       f"torch.isfinite({argument}).all() to find where they first appear")


def check_images(argument: str, x: object, *, channels: int | None = None, finite: bool = True) -> None:
    """Raise unless ``x`` is a float tensor of shape (B, C, H, W)."""
    require(isinstance(x, torch.Tensor), argument, type(x).__name__, "a torch tensor of shape (B, C, H, W)",
            f"torch.as_tensor({argument}, dtype=torch.float32)")
    assert isinstance(x, torch.Tensor)
    require(x.ndim == 4, argument, f"shape {tuple(x.shape)}", "shape (B, C, H, W)",
            f"{argument}[None] if it is one picture")
    require(x.is_floating_point(), argument, f"dtype {x.dtype}", "a floating point tensor in [-1, 1]",
            f"{argument}.float() / 127.5 - 1 for bytes")
    require(len(x) > 0, argument, "an empty batch", "at least one picture")
    if channels is not None:
        require(x.shape[1] == channels, argument, f"{x.shape[1]} channels", f"{channels} channels")
    if finite:
        check_finite(argument, x)


def check_pictures(argument: str, x: object) -> None:
    """:func:`check_images` for three channels in [-1, 1], and a look at the range.

    Values of 0 to 255 are refused. A batch without one value below 0 gets a RangeWarning, no more: pictures in [0, 1] look so,
    and so does now and then an honest pale one (of the world's, one in 250). Without contrast, as one grey, it passes in silence.
    """
    check_images(argument, x, channels=3)
    assert isinstance(x, torch.Tensor)
    if x.is_meta or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    require(max(-low, high) <= _BEYOND, argument, f"values from {low:.4g} to {high:.4g}", "pictures in [-1, 1]",
            f"{argument} / 127.5 - 1 if they are in 0..255")
    if low >= 0 and high <= 1 and high - low > _CONTRAST:
        depth, frame = 1, sys._getframe(1)
        while frame.f_back is not None and any(part in frame.f_code.co_filename for part in (_HERE, "-packages")):
            depth, frame = depth + 1, frame.f_back            # to the line that was written by the reader
        warnings.warn(f"{argument}: no value lies below 0 ({low:.2f} to {high:.2f}), so as pictures in [-1, 1] they are pale. "
                      f"If they are in [0, 1], write {argument} * 2 - 1.", RangeWarning, stacklevel=depth + 1)
