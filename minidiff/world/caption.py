"""Captions: several ways to say what a scene shows, in about a hundred words; and reading them back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from minidiff.errors import require
from minidiff.rng import key
from minidiff.world.grammar import (
    BACKDROP_WORDS,
    DRESS,
    MARKS,
    MAX_WORDS,
    MOOD_WORDS,
    OPENINGS,
    PLAIN_OPENINGS,
    RELATIONS,
    SIZE_WORDS,
    SPOTS,
    VOCABULARY,
)
from minidiff.world.parsing import CaptionFacts, ObjectFacts, agrees, parse
from minidiff.world.sample import SIZES
from minidiff.world.scene import COLOUR_NAMES, MOOD_INDEX, Scene, Scenes
from minidiff.world.vocab import BACKDROPS, KINDS, MAX_THINGS, PATTERNS, STYLES, WEARS

__all__ = ["MAX_WORDS", "VOCABULARY", "CaptionFacts", "ObjectFacts", "agrees", "caption", "captions", "parse"]


class _Item(NamedTuple):
    """A thing in words; the part of a Thing that captions need."""

    kind: str
    colour: str
    pattern: str
    mood: str
    wears: str
    x: float
    y: float
    size: float


class _Draws:
    """Random choices for one caption, a pure function of (seed, number). Only random(), which is the same in every Python."""

    def __init__(self, seed: int, index: int) -> None:
        self.roll = random.Random(key("caption", seed, index)).random

    def flip(self, p: float) -> bool:
        return self.roll() < p

    def pick(self, words: Sequence[str]) -> str:
        return words[int(self.roll() * len(words))]

    def usual(self, words: Sequence[str]) -> str:
        """The first word half of the time, else any."""
        return words[0] if self.roll() < 0.5 else self.pick(words)

    def shuffle(self, words: list[str]) -> list[str]:
        return [word for _, word in sorted((self.roll(), word) for word in words)]


def caption(scene: Scene, index: int = 0, *, seed: int = 0) -> str:
    """One caption of a scene: a pure function of (scene, index, seed), at most MAX_WORDS words, all in VOCABULARY.

    Every thing is named; its other attributes, the backdrop, the style and the places are said or left out at random.
    """
    require(isinstance(scene, Scene), "scene", type(scene).__name__, "a Scene", "captions(scenes, range(len(scenes)))")
    things = [_Item(*(getattr(t, n) for n in _Item._fields)) for t in scene.things]
    return _caption(things, scene.backdrop, scene.style, _Draws(seed, int(index)))


def captions(scenes: Scenes | Iterable[Scene], index: Iterable[int] | Tensor | None = None, *, seed: int = 0) -> list[str]:
    """One caption a scene. index: the number of each scene (0, 1, 2, ... when left out), as in sample_scenes."""
    scenes = scenes if isinstance(scenes, Scenes) else Scenes.of(scenes)
    numbers = range(len(scenes)) if index is None else index.tolist() if isinstance(index, Tensor) else list(index)
    require(len(numbers) == len(scenes), "index", f"{len(numbers)} numbers", f"one for each of the {len(scenes)} scenes")
    table = {n: v.tolist() for n, v in scenes.tensors().items()}
    out = []
    for i, number in enumerate(numbers):
        things = [_Item(KINDS[table["kind"][i][j]], COLOUR_NAMES[table["colour"][i][j]], PATTERNS[table["pattern"][i][j]],
                        MOOD_INDEX[table["mood"][i][j]], WEARS[table["wears"][i][j]], table["x"][i][j], table["y"][i][j],
                        table["size"][i][j]) for j in range(MAX_THINGS) if table["present"][i][j]]
        out.append(_caption(things, BACKDROPS[table["backdrop"][i]], STYLES[table["style"][i]], _Draws(seed, number)))
    return out


def _caption(things: list[_Item], backdrop: str, style: str, rng: _Draws) -> str:
    """Tries again with less to say until the caption is short enough."""
    for detail in (1.0, 0.6, 0.3, 0.0):
        words = _sentence(things, backdrop, style, rng, detail if len(things) < 3 else 0.7 * detail).split()
        if len(words) <= MAX_WORDS:
            break
    return " ".join(words)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _sentence(things: list[_Item], backdrop: str, style: str, rng: _Draws, detail: float) -> str:
    parts = [_things(things, rng, detail)]
    opening = ""
    if rng.flip(detail * (0.25 if style == "flat" else 0.7)):
        opening = f"in {style} style" if rng.flip(0.4) else rng.usual(OPENINGS[style])
    elif rng.flip(0.25 * detail):
        opening = rng.pick(PLAIN_OPENINGS)
    if rng.flip(0.75 * detail):
        place = rng.usual(BACKDROP_WORDS[backdrop])
        parts = [place, *parts] if not opening and rng.flip(0.2) else [*parts, place]
    if opening.endswith("style"):
        return " ".join([*parts, opening])
    if opening:
        parts.insert(0, opening if " art " in opening or opening == "there is" else _article(opening))
    return " ".join(parts)


def _things(things: list[_Item], rng: _Draws, detail: float) -> str:
    """The noun phrases, in any order, joined by a relation, by places or by "and"."""
    order = sorted((rng.roll(), i) for i in range(len(things)))
    things = [things[i] for _, i in order]
    middle = sum(SIZES[len(things) - 1]) / 2
    phrases = [_noun(t, middle, rng, detail) for t in things]
    if len(things) == 1:
        where = _spots(things[0]) if rng.flip(0.35 * detail) else []
        return " ".join([phrases[0], *([rng.pick(where)] if where else [])])
    if len(things) == 2:
        a, b = things
        true = [word for word, gap in {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}.items()
                if gap > 0.15]
        if true and rng.flip(0.5 * detail):
            return f"{phrases[0]} {rng.usual(RELATIONS[rng.pick(true)])} {phrases[1]}"
        if rng.flip(0.3 * detail):
            spots = [[s for s in _spots(t) if s != SPOTS["middle"]] for t in things]
            phrases = [" ".join([s, *([rng.pick(w)] if w else [])]) for s, w in zip(phrases, spots, strict=True)]
    return " and ".join(phrases)


def _spots(t: _Item) -> list[str]:
    """Phrases for where a thing clearly is."""
    x, y = t.x - 0.5, t.y - 0.5
    true = {"left": x < -0.07, "right": x > 0.07, "top": y < -0.07, "bottom": y > 0.07, "middle": max(abs(x), abs(y)) < 0.06}
    return [SPOTS[spot] for spot, holds in true.items() if holds]


def _noun(t: _Item, middle: float, rng: _Draws, detail: float) -> str:
    """"a happy red cat wearing a hat", with each attribute said or left out."""
    before, after = [], []
    if abs(t.size / middle - 1) > 0.07 and rng.flip(0.25 * detail):
        before.append(rng.usual(SIZE_WORDS["big" if t.size > middle else "small"]))
    if t.mood != "none" and rng.flip(detail * (0.35 if t.mood == "happy" else 0.7)):
        before.append(rng.usual(MOOD_WORDS[t.mood]))
    if rng.flip(detail * (0.15 if t.pattern == "plain" else 0.7)):
        if t.pattern != "plain" and rng.flip(0.25):
            after.append(f"with {MARKS[t.pattern]}")
        else:
            before.append(t.pattern)
    if rng.flip(0.85 * detail if detail < 1 else 0.9):
        before.append(t.colour)
    if t.wears != "nothing" and rng.flip(0.75 * detail):
        link = "and" if after else rng.pick(("with", "wearing") if t.wears == "glasses" else ("with", "wearing", "in"))
        after.append(f"{link} {DRESS[t.wears]}")
    elif t.wears == "nothing" and t.mood != "none" and not after and rng.flip(0.06 * detail):
        after.append("wearing nothing")
    if len(before) > 1 and rng.flip(0.3):
        before = rng.shuffle(before)
    if before and rng.flip(0.12):
        return " ".join([_article(t.kind), "that is", " and ".join(before), *after])
    return " ".join([_article(" ".join([*before, t.kind])), *after])
