"""Types of command-line arguments: what cannot be meant is refused while the line is read, before anything is loaded."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

__all__ = ["AnyOrder", "device", "number", "path", "whole"]


class AnyOrder(argparse.ArgumentParser):
    """A parser whose options may also stand between two positional arguments: ``notebooks run --timeout 900 FILE``."""

    _mixing = False

    def parse_known_args(self, args=None, namespace=None):
        """As argparse has it. Its intermixed parsing calls this method again."""
        if self._mixing:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


def whole(low: int, high: int = 2**62) -> Callable[[str], int]:
    """A whole number from ``low`` to ``high``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            more = f", {low} or more" if high == 2**62 else f" from {low} to {high}"
            raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number{more}")
        return value

    return read


def number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A finite number from ``low`` to ``high``; above: more than ``low``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            least = f"more than {low:g}" if above else f"{low:g} or more"
            raise argparse.ArgumentTypeError(f"got {text!r}; expected a number, {least}"
                                             + (f", at most {high:g}" if math.isfinite(high) else ""))
        return value

    return read


def path(text: str) -> str:
    """A path that is not empty."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a path")
    return text


def device(text: str) -> str:
    """A device that torch knows and that this machine has."""
    from minidiff.errors import BadInput
    from minidiff.train.speed import pick_device
    try:
        return str(pick_device(text))
    except BadInput as error:
        raise argparse.ArgumentTypeError(f"got {error.got}; expected {error.expected}") from None
