"""The language of the toy world: every phrase that a caption may hold, and what it says."""

from __future__ import annotations

from minidiff.world.scene import COLOUR_NAMES
from minidiff.world.vocab import KINDS, PATTERNS, STYLES

__all__ = ["BACKDROP_WORDS", "DRESS", "MARKS", "MAX_WORDS", "MOOD_WORDS", "OPENINGS", "PHRASES", "PLAIN_OPENINGS", "RELATIONS",
           "SIZE_WORDS", "SPOTS", "VOCABULARY"]

MAX_WORDS = 30          # the longest caption: 32 tokens with a begin and an end

# the first phrase of each row is the usual one
BACKDROP_WORDS = {"grass": ("on the grass", "in the grass", "in the meadow", "in a field"),
          "beach": ("on the beach", "at the beach", "by the sea", "on the sand"),
          "night": ("at night", "in the night", "in the dark"),
          "snow": ("in the snow", "on the snow", "in winter"),
          "room": ("in a room", "in the room", "indoors"),
          "sunset": ("at sunset", "at the sunset", "in the evening")}
OPENINGS = {"flat": ("flat picture of", "flat drawing of", "flat art of"),
            "outline": ("outline drawing of", "outline of", "outline picture of"),
            "watercolour": ("watercolour of", "watercolour painting of", "watercolour picture of"),
            "pixel": ("pixel art of", "pixel picture of", "pixel image of"),
            "neon": ("neon picture of", "neon art of", "neon image of")}
PLAIN_OPENINGS = ("picture of", "image of", "drawing of", "there is", "picture showing")
MOOD_WORDS = {"happy": ("happy", "smiling"), "sad": ("sad", "unhappy"), "surprised": ("surprised", "amazed")}
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
MARKS = {"striped": "stripes", "dotted": "dots", "checked": "checks"}
DRESS = {"hat": "a hat", "glasses": "glasses", "bow tie": "a bow tie"}
SPOTS = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
         "middle": "in the middle"}
RELATIONS = {"left": ("left of", "to the left of", "on the left of"), "right": ("right of", "to the right of", "on the right of"),
             "above": ("above", "over"), "below": ("below", "under", "beneath")}


def _phrases() -> dict[tuple[str, ...], tuple[str, str]]:
    """Words of a phrase -> (what it is about, what it says)."""
    meanings = {"a": ("article", ""), "an": ("article", ""), "the": ("article", ""), "and": ("join", ""),
            "that is": ("describe", ""), "wearing nothing": ("wears", "nothing")}
    meanings |= {opening: ("opening", "") for opening in PLAIN_OPENINGS}
    for role, words in {"kind": KINDS, "colour": COLOUR_NAMES, "pattern": PATTERNS}.items():
        meanings |= {word: (role, word) for word in words}
    for role, table in {"mood": MOOD_WORDS, "size": SIZE_WORDS, "backdrop": BACKDROP_WORDS, "style": OPENINGS,
                        "relation": RELATIONS}.items():
        meanings |= {phrase: (role, word) for word, phrases in table.items() for phrase in phrases}
    meanings |= {f"in {style} style": ("style", style) for style in STYLES}
    meanings |= {phrase: ("where", spot) for spot, phrase in SPOTS.items()}
    meanings |= {f"{link} {mark}": ("mark", pattern) for pattern, mark in MARKS.items() for link in ("with", "and")}
    meanings |= {f"{link} {dress}": ("wears", worn) for worn, dress in DRESS.items() for link in ("with", "wearing", "in", "and")}
    return {tuple(phrase.split()): meaning for phrase, meaning in meanings.items()}


PHRASES = _phrases()
VOCABULARY = tuple(sorted({word for phrase in PHRASES for word in phrase}))
