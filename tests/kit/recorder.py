"""What a check shows to a function: every value of a number, every size of a tensor, over all its calls."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Recorder"]


class Recorder:
    """``watch(fn)`` is fn, watched; ``narrow()`` then says which arguments and sizes took one value only.

    Noted of each argument: a number, word or truth value itself; the sizes of a tensor, whether its last two sizes ever
    differed and whether all its sizes ever did at once; of whole numbers in a tensor whether they were ever other
    than 0, 1, 2, ...; lengths of lists; and the same of what lists, mappings and ``config`` objects hold.
    """

    def __init__(self) -> None:
        self.seen: dict[str, set[Any]] = defaultdict(set)
        self.calls = 0

    def watch(self, fn: Callable) -> Callable:
        signature = inspect.signature(fn)

        @functools.wraps(fn)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, value in bound.arguments.items():
                self._note(name, value)
            return fn(*args, **kwargs)

        return watched

    def _note(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if value.ndim == 0:
                self.seen[name].add(round(float(value.detach()), 9))
                return
            for i, size in enumerate(value.shape):
                self.seen[f"{name}, axis {i}"].add(size)
            wide = [size for size in value.shape if size != 1]
            if value.ndim >= 3 and value.shape[-1] != 1 and value.shape[-2] != 1:
                self.seen[f"{name}, square"].add(value.shape[-1] == value.shape[-2])
            if len(wide) >= 2:
                self.seen[f"{name}, sizes that are equal"].add(len(set(wide)) < len(wide))
            if value.ndim == 1 and not value.is_floating_point() and value.dtype is not torch.bool:
                self.seen[f"{name}, counts up from 0"].add(torch.equal(value, torch.arange(len(value))))
        elif isinstance(value, str | bool | numbers.Number):
            self.seen[name].add(value)
        elif isinstance(value, Mapping):
            self.seen[f"{name}, length"].add(len(value))
        elif isinstance(value, Sequence):
            self.seen[f"{name}, length"].add(len(value))
            for item in value:
                self._note(f"{name}, items", item)
        elif hasattr(value, "config"):
            for key, inside in vars(value.config).items():
                self._note(f"{name}.config.{key}", inside)

    def narrow(self) -> list[str]:
        """What took one value only: ``"gamma: 5.0"``; for the flags of tensors, those that never were False."""
        out = []
        for key, values in sorted(self.seen.items()):
            if key.endswith((", square", ", sizes that are equal", ", counts up from 0")):
                if False not in values:
                    out.append(key)
            elif len(values) == 1 and not (values == {1} and ", axis " in key and not key.endswith("axis 0")):
                out.append(f"{key}: {next(iter(values))}")
        return out
