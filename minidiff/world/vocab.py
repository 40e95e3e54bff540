"""The words of the toy world: every attribute, its values and its colours."""

from __future__ import annotations

__all__ = ["KINDS", "ANIMALS", "COLOURS", "PATTERNS", "BACKDROPS", "STYLES", "MOODS", "WEARS", "MAX_THINGS",
           "SIZE_RANGE", "VARY", "ATTRIBUTES", "WORLD_EDITION"]

WORLD_EDITION = 2              # 1: sizes .13-.30, every backdrop drawn the same; a model's card says which one it saw

ANIMALS = ("cat", "dog", "rabbit", "bear")
KINDS = (*ANIMALS, "fish", "bird", "flower", "tree", "star", "heart", "house", "mushroom")

# sRGB in 0..255; chosen far apart in lightness and hue, and away from every backdrop.
COLOURS = {
    "red": (214, 48, 49), "orange": (243, 140, 28), "yellow": (250, 215, 50), "green": (46, 158, 75),
    "blue": (41, 98, 214), "purple": (130, 70, 185), "pink": (246, 140, 180), "brown": (128, 78, 44),
    "white": (246, 246, 240),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
BACKDROPS = ("grass", "beach", "night", "snow", "room", "sunset")
STYLES = ("flat", "outline", "watercolour", "pixel", "neon")
MOODS = ("happy", "sad", "surprised")          # animals only; other kinds have mood "none"
WEARS = ("nothing", "hat", "glasses", "bow tie")   # hats fit every kind; glasses and bow ties fit animals

MAX_THINGS = 3
SIZE_RANGE = (0.10, 0.36)                       # half-height of a thing, as a fraction of the picture
VARY = 5                                        # numbers that say how a backdrop differs from picture to picture
ATTRIBUTES = ("kind", "colour", "pattern", "mood", "wears")
