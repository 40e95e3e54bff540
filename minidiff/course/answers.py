"""Looking at an answer: call a learner's function, compare what comes back, and name the mistake that it smells of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Mistake", "call", "expect", "expect_number", "fits", "number"]


class Mistake(Exception):
    """What a check smells in an answer, in one sentence addressed to the learner."""


def call(
    fn: Callable, *args: Any, shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None, **kwargs: Any
) -> Tensor:
    """Call a learner's function on copies and look at what comes back: a finite tensor, inputs untouched.

    shape, dtype: what the result must have where they are given; ``torch.int64`` stands for whole numbers of any width. Python
    numbers become 0-d tensors, lists of numbers 1-d ones. Returns float64 where the answer is floating point.
    """
    given, named = [_copy(a) for a in args], {k: _copy(v) for k, v in kwargs.items()}
    out = fn(*given, **named)
    for number, (before, after) in enumerate(zip((*args, *kwargs.values()), (*given, *named.values()), strict=True)):
        if not _same(before, after):
            raise Mistake(f"It changes its input number {number + 1} in place; work on a copy.")
    if out is None or out is Ellipsis:
        raise Mistake("It returns nothing; is a return missing?")
    if not isinstance(out, Tensor):
        try:
            plain, out = out, torch.as_tensor(out)
            if isinstance(plain, float | list | tuple) and out.is_floating_point():
                out = torch.tensor(plain, dtype=torch.float64)                     # Python's floats are float64
        except (TypeError, ValueError, RuntimeError):
            raise Mistake(f"It returns {type(out).__name__}, but a tensor is expected.") from None
    if shape is not None and tuple(out.shape) != tuple(shape):
        raise Mistake(f"The shape is {tuple(out.shape)}, but {tuple(shape)} is expected.")
    if dtype is not None:
        whole = not out.is_floating_point() and not out.is_complex() and out.dtype is not torch.bool
        if dtype is torch.int64 and not whole:
            raise Mistake(f"The result is {out.dtype}, but whole numbers are expected.")
        if dtype is not torch.int64 and out.dtype is not dtype:
            raise Mistake(f"The result is {out.dtype}, but {dtype} is expected.")
    if out.is_floating_point():
        if not torch.isfinite(out).all():
            raise Mistake("The result has values that are NaN or infinite.")
        out = out.double()
    return out


def _copy(x: Any) -> Any:
    """A learner's own copy of an argument: tensors and what holds them; functions and models are handed on."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, list | tuple):
        return type(x)(_copy(item) for item in x)
    return {key: _copy(value) for key, value in x.items()} if isinstance(x, dict) else x


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return a is b or bool(a == b)


def expect(
    got: Tensor, want: Tensor, *, wrong: Mapping[str, Tensor] | None = None, otherwise: str = "", tol: float = 2e-5
) -> None:
    """Raise Mistake unless ``got`` equals ``want`` within tol (relative to the largest value of want).

    wrong: message -> what a known mistake gives; the first that matches is named. otherwise: the message when none does.
    """

    def close(a: Tensor, b: Tensor) -> bool:
        scale = max(float(b.double().abs().max()), 1e-12)
        return a.shape == b.shape and float((a.double() - b.double()).abs().max()) <= tol * scale

    if tuple(got.shape) != tuple(want.shape):
        raise Mistake(f"The shape is {tuple(got.shape)}, but {tuple(want.shape)} is expected.")
    if close(got, want):
        return
    for message, value in (wrong or {}).items():
        if close(got, value):
            raise Mistake(message)
    worst = float((got.double() - want.double()).abs().max())
    raise Mistake(otherwise or f"The numbers are off by up to {worst:.2g}.")


def expect_number(got: Any, want: float, *, tol: float, wrong: Mapping[str, float] | None = None, otherwise: str = "") -> None:
    """The same for an answer that is one number; tol is absolute."""
    try:
        value = float(got)
    except (TypeError, ValueError):
        raise Mistake(f"The answer is one number, not {type(got).__name__}.") from None
    if abs(value - want) <= tol:
        return
    for message, other in (wrong or {}).items():
        if abs(value - other) <= tol:
            raise Mistake(message)
    raise Mistake(otherwise or f"{value:g} is not it.")


def fits(wrong: dict[str, Tensor], want: Tensor) -> dict[str, Tensor]:
    """Those of the known mistakes that give finite numbers of the right shape, and not by chance the right ones."""
    return {k: v for k, v in wrong.items()
            if v.shape == want.shape and bool(torch.isfinite(v).all()) and not torch.allclose(v.double(), want.double())}


def number(value: float) -> Tensor:
    """A 0-d float64 tensor: works with ** 0.5, .sqrt() and math.sqrt alike."""
    return torch.tensor(value, dtype=torch.float64)
