"""One thing of the toy world in words, and the checks of its numbers and names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from minidiff.errors import check_choice, require
from minidiff.world.vocab import ANIMALS, COLOURS, KINDS, MOODS, PATTERNS, WEARS

__all__ = ["COLOUR_NAMES", "MOOD_INDEX", "PLACE", "SIZE_LIMITS", "WORDS", "Thing", "known_names", "number"]

MOOD_INDEX = ("none", *MOODS)      # the order of Scenes.mood: 0 is "no face"
COLOUR_NAMES = tuple(COLOURS)
SIZE_LIMITS = (0.04, 0.5)          # what a Thing accepts; sampled scenes keep to vocab.SIZE_RANGE
WORDS = {"kind": KINDS, "colour": COLOUR_NAMES, "pattern": PATTERNS, "mood": MOOD_INDEX, "wears": WEARS}
PLACE = ("x", "y", "size")


def number(name: str, value: object, low: float, high: float) -> float:
    """The value as a float; refused outside [low, high]."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    require(ok, name, repr(value), f"a number from {low:g} to {high:g}", f"{name}={(low + high) / 2:g}")
    return float(value)  # type: ignore[arg-type]


def known_names(where: str, given: Iterable[str], fields: Iterable[str]) -> None:
    """Refuses names that are not among the fields."""
    known = list(fields)
    for name in given:
        check_choice(where, name, known)


@dataclass(frozen=True)
class Thing:
    """One object. x, y: centre in [0, 1], y downwards. size: half its height as a fraction of the picture.

    mood is for animals only ("none" becomes "happy" for them); glasses and bow ties need an animal, hats fit every kind.
    """

    kind: str
    colour: str
    pattern: str = "plain"
    size: float = 0.22
    x: float = 0.5
    y: float = 0.5
    mood: str = "none"
    wears: str = "nothing"

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            check_choice(name, getattr(self, name), words)
        for name, (low, high) in {"size": SIZE_LIMITS, "x": (0.0, 1.0), "y": (0.0, 1.0)}.items():
            object.__setattr__(self, name, number(name, getattr(self, name), low, high))
        if self.animal and self.mood == "none":
            object.__setattr__(self, "mood", "happy")
        require(self.animal or self.mood == "none", "mood", f"{self.mood!r} on a {self.kind}",
                f"a mood only on an animal ({', '.join(ANIMALS)})", "mood='none'")
        require(self.animal or self.wears in ("nothing", "hat"), "wears", f"{self.wears!r} on a {self.kind}",
                f"glasses and bow ties only on an animal ({', '.join(ANIMALS)})", "wears='hat'")

    @property
    def animal(self) -> bool:
        """True for the kinds that have a face."""
        return self.kind in ANIMALS

    def replace(self, **changes: object) -> Thing:
        """A changed copy. A new kind keeps the mood and what is worn where it can, and drops them where it cannot."""
        known_names("replace", changes, (f.name for f in dataclasses.fields(self)))
        if changes.get("kind", self.kind) not in ANIMALS:
            changes.setdefault("mood", "none")
            if self.wears not in ("nothing", "hat"):
                changes.setdefault("wears", "nothing")
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
