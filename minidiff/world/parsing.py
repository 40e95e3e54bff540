"""Reading captions: what a caption says, whether a scene agrees with it, and a scene that does."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from minidiff.errors import BadInput, check_choice, require
from minidiff.rng import key
from minidiff.world.grammar import PHRASES, VOCABULARY
from minidiff.world.sample import LEVELS, SIMPLE_SIZES, SIZES, sample_scenes
from minidiff.world.scene import Scene, Thing
from minidiff.world.vocab import ANIMALS, MAX_THINGS

__all__ = ["CaptionFacts", "ObjectFacts", "agrees", "parse"]

_LONGEST = max(map(len, PHRASES))
_WORDS = ("kind", "colour", "pattern", "mood", "wears")


@dataclass(frozen=True)
class ObjectFacts:
    """What a caption says of one thing; None where it says nothing. where: left, right, top, bottom, middle."""

    kind: str
    colour: str | None = None
    pattern: str | None = None
    mood: str | None = None
    wears: str | None = None
    size: str | None = None
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaptionFacts:
    """What a caption says. relations: (i, word, j) for "thing i is left of / right of / above / below thing j".

    A caption that names things names all of them; one without any says nothing about how many there are.
    """

    things: tuple[ObjectFacts, ...] = ()
    backdrop: str | None = None
    style: str | None = None
    relations: tuple[tuple[int, str, int], ...] = ()

    def scene(self, seed: int = 0, *, level: str = "simple") -> Scene:
        """A scene that agrees; what is not said is drawn as in ``sample_scenes(level=level)``, a pure function of seed.

        With level "simple" all that is not said stays plain: flat style, plain, happy, nothing worn.
        Raises BadInput when the places that are said contradict each other.
        """
        check_choice("level", level, LEVELS)
        crowded = None
        for start in range(0, 480, 96):
            drawn = list(sample_scenes(range(start, start + 96), seed=key("said", seed), level="full"))
            for base in drawn:
                enough = len(base.things) == len(self.things or drawn[0].things)
                if enough and (scene := self._settle(base, drawn, level)):
                    if not _crowded(scene):
                        return scene
                    crowded = crowded or scene
        if crowded:
            return crowded
        raise BadInput("caption", "places that cannot all hold at once", "one place for each thing")

    def _settle(self, base: Scene, drawn: list[Scene], level: str) -> Scene | None:
        """The said things upon the places of ``base``, in the first order that makes all of it clearly true, if any."""
        made = self._upon(base, drawn, level)
        for order in itertools.permutations(made.things):
            scene = made.replace(things=tuple(_inside(dataclasses.replace(t, x=place.x, y=place.y))
                                              for t, place in zip(made.things, order, strict=True)))
            if _agrees(self, scene, 0.04):
                return scene.replace(things=tuple(sorted(scene.things, key=lambda t: t.y)))
        return None

    def _upon(self, base: Scene, drawn: list[Scene], level: str) -> Scene:
        """All that is said, upon the layout of ``base``; each thing's other words from a drawn thing of its kind."""
        pool = [thing for scene in drawn for thing in scene.things]
        things = []
        for i, place in enumerate(base.things):
            facts = self.things[i] if self.things else ObjectFacts(place.kind)
            donors = [t for t in pool if t.kind == facts.kind] or [place.replace(kind=facts.kind)]
            thing = dataclasses.replace(donors[i % len(donors)], x=place.x, y=place.y, size=place.size)
            if level == "simple":
                thing = thing.replace(pattern="plain", wears="nothing", mood="happy" if thing.animal else "none")
            thing = thing.replace(size=_half_height(place.size, facts.size, len(base.things), level))
            things.append(thing.replace(**{n: v for n in _WORDS if (v := getattr(facts, n)) is not None}))
        style = self.style or (base.style if level == "full" else "flat")
        return Scene(tuple(things), self.backdrop or base.backdrop, style, base.vary)


def _half_height(drawn: float, word: str | None, number: int, level: str) -> float:
    """The drawn half-height, of the level's range, or clearly big or small for that number of things."""
    low, high = SIZES[number - 1]
    middle, share = (low + high) / 2, (drawn - low) / (high - low)
    if level == "simple" and number == 1:
        low, high = SIMPLE_SIZES
    if word == "big":
        low = 1.08 * middle
    elif word == "small":
        high = 0.92 * middle
    return low + share * (high - low)


def _crowded(scene: Scene) -> bool:
    """Two things whose boxes share more than a third of the smaller one's width and height."""
    return any(all(abs(p - q) < a.size + b.size - 0.7 * min(a.size, b.size) for p, q in ((a.x, b.x), (a.y, b.y)))
               for a, b in itertools.combinations(scene.things, 2))


def _inside(t: Thing) -> Thing:
    """Moved so that all of it, with a hat, is in the picture."""
    across, down = 1.14 * t.size, 1.31 * t.size
    return dataclasses.replace(t, x=min(max(t.x, across), 1 - across), y=min(max(t.y, down), 1 - down))


def agrees(facts: CaptionFacts | str, scene: Scene) -> bool:
    """True when nothing that the caption says is false of the scene.

    A named thing must be one of the scene's, each a different one, and the scene has no others. "Big" and "small" compare
    with the middle size for that number of things; "left" compares centres, with each other or with the picture's.
    """
    return _agrees(parse(facts) if isinstance(facts, str) else facts, scene, 0.0)


def _agrees(facts: CaptionFacts, scene: Scene, margin: float) -> bool:
    """:func:`agrees`, with places true by more than ``margin``."""
    if facts.backdrop not in (None, scene.backdrop) or facts.style not in (None, scene.style):
        return False
    if not facts.things:
        return True
    if len(facts.things) != len(scene.things):
        return False
    middle = sum(SIZES[len(scene.things) - 1]) / 2
    return any(all(_fits(s, t, middle, margin) for s, t in zip(facts.things, order, strict=True))
               and all(_stands(order[i], word, order[j], margin) for i, word, j in facts.relations)
               for order in itertools.permutations(scene.things))


def _fits(facts: ObjectFacts, thing: Thing, middle: float, margin: float) -> bool:
    if any(getattr(facts, n) not in (None, getattr(thing, n)) for n in _WORDS):
        return False
    if facts.size is not None and (thing.size > middle) != (facts.size == "big"):
        return False
    x, y = thing.x - 0.5, thing.y - 0.5
    truth = {"left": x < -margin, "right": x > margin, "top": y < -margin, "bottom": y > margin,
             "middle": max(abs(x), abs(y)) < 0.1 - margin}
    return all(truth[spot] for spot in facts.where)


def _stands(a: Thing, word: str, b: Thing, margin: float) -> bool:
    x, y = b.x - a.x, b.y - a.y
    return {"left": x, "right": -x, "above": y, "below": -y}[word] > 2 * margin


def _phrases(words: list[str]) -> Iterator[tuple[str, str, str]]:
    """(what about, what is said, the words), longest phrase first."""
    i = 0
    while i < len(words):
        for n in range(min(_LONGEST, len(words) - i), 0, -1):
            if (meaning := PHRASES.get(tuple(words[i:i + n]))) is not None:
                yield *meaning, " ".join(words[i:i + n])
                i += n
                break
        else:
            before = " ".join(words[max(0, i - 3):i])
            _refuse(f"{' '.join(words[i:i + 3])!r}" + (f" after {before!r}" if before else " at the start"))


def _refuse(got: str, expected: str = "a description of one to three things") -> NoReturn:
    raise BadInput("caption", got, expected, "'a happy red cat wearing a hat on the grass'")


def parse(text: str) -> CaptionFacts:
    """What a caption says. Case, commas and full stops do not matter; an empty caption says nothing.

    Raises BadInput for a word outside VOCABULARY (naming the nearest known words), for words that do not hang together,
    for contradictions ("a red blue cat"), for more than three things, and for faces or glasses on what has no face.
    """
    require(isinstance(text, str), "caption", type(text).__name__, "a string", "'a red cat on the grass'")
    words = "".join(" " if c in ",.;:" else c for c in text.lower()).split()
    for word in words:
        if word not in VOCABULARY:
            near = difflib.get_close_matches(word, VOCABULARY, n=3, cutoff=0.6)
            raise BadInput("caption", f"the unknown word {word!r}", f"words of the toy world ({len(VOCABULARY)} in all)",
                           " or ".join(map(repr, near)) or f"words such as {', '.join(VOCABULARY[4:60:8])}")
    return _Reader().read(words)


class _Reader:
    """Gathers phrases; ``ahead`` holds adjectives whose noun has not come yet."""

    def __init__(self) -> None:
        self.things: list[dict] = []
        self.whole: dict[str, str] = {}
        self.ahead: dict[str, str] = {}
        self.relations: list[tuple[int, str, int]] = []
        self.waiting = ""                # a relation whose second thing has not come yet
        self.describing = False          # after "that is"

    def read(self, words: list[str]) -> CaptionFacts:
        for role, value, phrase in _phrases(words):
            if role == "article":
                self.describing = False
            elif role == "kind":
                self.noun(value)
            elif role in ("colour", "pattern", "mood", "size"):
                self.put(self.things[-1] if self.describing else self.ahead, role, value)
            elif role in ("backdrop", "style"):
                self.put(self.whole, role, value)
            elif role in ("wears", "mark", "where", "relation", "describe"):
                if not self.things or self.ahead or self.waiting:
                    _refuse(f"{phrase!r} without a thing before it")
                self.after(role, value)
        if self.ahead or self.waiting:
            _refuse(f"{' '.join(self.ahead.values()) or self.waiting!r} without a thing after it")
        things = tuple(ObjectFacts(**{**t, "where": tuple(t.get("where", ()))}) for t in self.things)
        for t in things:
            bare = t.kind not in ANIMALS and (t.mood is not None or t.wears in ("glasses", "bow tie"))
            require(not bare, "caption", f"{t.mood or t.wears!r} for a {t.kind}",
                    f"moods, glasses and bow ties only for animals ({', '.join(ANIMALS)})")
        return CaptionFacts(things, self.whole.get("backdrop"), self.whole.get("style"), tuple(self.relations))

    def put(self, where: dict, role: str, value: str) -> None:
        if where.setdefault(role, value) != value:
            _refuse(f"both {where[role]!r} and {value!r}", f"one {role} for each {'picture' if where is self.whole else 'thing'}")

    def noun(self, kind: str) -> None:
        self.things.append({"kind": kind, **self.ahead})
        require(len(self.things) <= MAX_THINGS, "caption", f"{len(self.things)} things", f"at most {MAX_THINGS}")
        if self.waiting:
            self.relations.append((len(self.things) - 2, self.waiting, len(self.things) - 1))
        self.ahead, self.waiting, self.describing = {}, "", False

    def after(self, role: str, value: str) -> None:
        if role == "describe":
            self.describing = True
        elif role == "relation":
            self.waiting = value
        elif role == "where":
            self.things[-1].setdefault("where", []).append(value)
        else:
            self.put(self.things[-1], "pattern" if role == "mark" else role, value)
