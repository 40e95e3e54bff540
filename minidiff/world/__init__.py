"""The procedural toy world: scenes, captions, renderer, data. Every edit in it has a known right answer."""

from minidiff.guard import guard
from minidiff.world.blend import Blend
from minidiff.world.caption import VOCABULARY, CaptionFacts, agrees, caption, captions, parse
from minidiff.world.data import WorldData
from minidiff.world.folder import ImageFolder
from minidiff.world.identity import Identity
from minidiff.world.ladder import subjects
from minidiff.world.morph import morph
from minidiff.world.render import Rendered, render
from minidiff.world.sample import held_out, held_out_pairs, sample_scenes
from minidiff.world.scene import COLOUR_NAMES, MOOD_INDEX, Scene, Scenes, Thing
from minidiff.world.subject import Shots, Subject
from minidiff.world.vocab import (
    ANIMALS,
    ATTRIBUTES,
    BACKDROPS,
    COLOURS,
    KINDS,
    MAX_THINGS,
    MOODS,
    PATTERNS,
    SIZE_RANGE,
    STYLES,
    WEARS,
    WORLD_EDITION,
)

__all__ = [
    "VOCABULARY",
    "CaptionFacts",
    "agrees",
    "caption",
    "captions",
    "parse",
    "WorldData",
    "ImageFolder",
    "Blend",
    "morph",
    "Rendered",
    "render",
    "held_out",
    "held_out_pairs",
    "sample_scenes",
    "Identity",
    "Shots",
    "Subject",
    "subjects",
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
    "WORLD_EDITION",
    "STYLES",
    "WEARS",
]

guard(globals(), __all__)
