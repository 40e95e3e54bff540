"""The procedural toy world: scenes, captions, renderer, data. Every edit in it has a known right answer."""

from .caption import VOCABULARY, Said, agrees, caption, captions, parse
from .data import WorldData
from .folder import ImageFolder
from .render import Rendered, render
from .sample import held_out, held_out_pairs, sample_scenes
from .scene import COLOUR_NAMES, MOOD_INDEX, Scene, Scenes, Thing
from .vocab import ANIMALS, ATTRIBUTES, BACKDROPS, COLOURS, KINDS, MAX_THINGS, MOODS, PATTERNS, SIZE_RANGE, STYLES, WEARS

__all__ = [
    "VOCABULARY",
    "Said",
    "agrees",
    "caption",
    "captions",
    "parse",
    "WorldData",
    "ImageFolder",
    "Rendered",
    "render",
    "held_out",
    "held_out_pairs",
    "sample_scenes",
    "COLOUR_NAMES",
    "MOOD_INDEX",
    "Scene",
    "Scenes",
    "Thing",
    "ANIMALS",
    "ATTRIBUTES",
    "BACKDROPS",
    "COLOURS",
    "KINDS",
    "MAX_THINGS",
    "MOODS",
    "PATTERNS",
    "SIZE_RANGE",
    "STYLES",
    "WEARS",
]
