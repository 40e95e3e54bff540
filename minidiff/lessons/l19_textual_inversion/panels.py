"""The panels of lesson 19: pictures made beforehand, one set for each place of a knob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from minidiff.errors import require
from minidiff.show.tiles import lay_out, pixels

__all__ = ["Frames"]


class Frames:
    """A set of pictures and a line of text for each value of one knob: a training run, a walk between words, a ladder.

    frames: value -> (pictures (n, 3, S, S) in [-1, 1], text). All sets have one size. ``render(NAME=value)`` gives the pixels of
    the value (the nearest one, of numbers) and its text; labels stand below the pictures.
    """

    def __init__(self, frames: Mapping[Any, tuple[Tensor, str]], *, labels: tuple[str, ...] = (), scale: int = 2) -> None:
        require(len(frames) > 0, "frames", "none", "value -> (pictures, text)", "{0: (images, 'before training')}")
        shapes = {tuple(images.shape) for images, _ in frames.values()}
        require(len(shapes) == 1, "frames", f"pictures of shapes {sorted(shapes)}", "sets of one size")
        self.frames = {value: (pixels(((images.clamp(-1, 1) + 1) * 15).round() / 15 - 1), text)      # 31 levels: smaller pictures
                       for value, (images, text) in frames.items()}
        self.labels, self.scale = labels, scale

    def render(self, **knob: Any) -> tuple[np.ndarray, str]:
        """The pictures and the text of one value."""
        (value,) = knob.values()
        if value not in self.frames:
            require(isinstance(value, (int, float)), "value", repr(value), f"one of {list(self.frames)}")
            value = min(self.frames, key=lambda known: abs(known - value))
        shown, text = self.frames[value]
        return lay_out([shown], self.scale, labels=self.labels), text
