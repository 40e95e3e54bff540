"""What lesson 21 morphs: pairs of scenes that differ in one respect, or in all, with the prompts that say them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.measure.prompts import make_scenes, prompt_of
from minidiff.world import ANIMALS, BACKDROPS, COLOUR_NAMES, KINDS, Scene, held_out, render

__all__ = ["CHANGES", "Pair", "drawn", "pairs"]

CHANGES = ("place", "colour", "kind", "all")
_SMALL = 0.2                                    # half-height of what moves: there must be room for it


class Pair(NamedTuple):
    """Two scenes of one thing, and in which respect they differ: one of CHANGES."""

    first: Scene
    other: Scene
    change: str

    @property
    def prompts(self) -> tuple[str, str]:
        """What both scenes show, in words; a place has no words."""
        return prompt_of(self.first), prompt_of(self.other)


def _next(words: tuple[str, ...] | list[str], word: str, step: int) -> str:
    return words[(words.index(word) + step) % len(words)]


def _changed(scene: Scene, change: str, i: int) -> tuple[Scene, Scene]:
    thing = scene.things[0]
    if change == "place":
        left, right = (scene.replace_thing(0, x=x, y=0.5 + 0.1 * s, size=_SMALL) for x, s in ((0.27, 1), (0.73, -1)))
        return (left, right) if i % 8 < 4 else (right, left)
    kinds = [k for k in KINDS if k != thing.kind and k not in ("fish",)]
    kind = kinds[(5 * i + 1) % len(kinds)] if change != "colour" else thing.kind
    colour = _next(list(COLOUR_NAMES), thing.colour, 1 + i % 7) if change != "kind" else thing.colour
    while held_out(kind, colour):
        colour = _next(list(COLOUR_NAMES), colour, 1)
    other = scene.replace_thing(0, kind=kind, colour=colour, mood="happy" if kind in ANIMALS else "none")
    if change == "all":
        other = other.replace(backdrop=_next(list(BACKDROPS), scene.backdrop, 1 + i % 5))
    return scene, other


def pairs(n: int, *, split: str = "test") -> list[Pair]:
    """n pairs that nothing was trained on, the four CHANGES in turn; pair i is a function of (split, i)."""
    scenes = make_scenes(n, "one", split=split)
    return [Pair(*_changed(scenes[i], CHANGES[i % 4], i), CHANGES[i % 4]) for i in range(n)]


def drawn(chosen: list[Pair]) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """The pictures of the first and of the other ends, (n, 3, 64, 64) each, and their prompts."""
    with torch.no_grad():
        a, b = (render([getattr(p, end) for p in chosen]).images for end in ("first", "other"))
    first, other = zip(*(p.prompts for p in chosen), strict=True)
    return a, b, list(first), list(other)
