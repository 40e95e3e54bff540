"""Prompts whose answer is known, and whether a picture that was read shows what its prompt said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minidiff.errors import BadInput, check_choice, require
from minidiff.world import BACKDROPS, Scene, Scenes, Thing, agrees, parse, sample_scenes
from minidiff.world.grammar import BACKDROP_WORDS, RELATIONS
from minidiff.world.parsing import CaptionFacts, ObjectFacts

__all__ = ["PARTS", "make_prompts", "make_scenes", "prompt_of", "relation", "prompt_accuracy", "two_things"]

PARTS = ("count", "kinds", "attributes", "positions", "backdrop")
_WORDS = ("colour", "pattern", "mood", "wears")


def _thing(t: Thing, mood: bool) -> str:
    words = [*([t.mood] if mood and t.animal else []), t.colour, t.kind]
    return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)


def relation(a: Thing, b: Thing) -> str:
    """Where a stands, seen from b, by the larger of the two gaps: "left", "right", "above" or "below"."""
    x, y = b.x - a.x, b.y - a.y
    if abs(x) >= abs(y):
        return "left" if x > 0 else "right"
    return "above" if y > 0 else "below"


def prompt_of(scene: Scene, *, mood: bool = False, backdrop: bool = True) -> str:
    """"a red cat on the grass"; of two things also where the first stands: "a red cat left of a blue dog on the grass".

    Colour and kind of every thing and the backdrop, in the usual words; mood: also the faces of the animals.
    """
    require(isinstance(scene, Scene), "scene", type(scene).__name__, "a Scene", "prompt_of(scenes[0])")
    require(len(scene.things) <= 2, "scene", f"{len(scene.things)} things", "one or two things")
    phrases = [_thing(t, mood) for t in scene.things]
    if len(phrases) == 2:
        phrases.insert(1, RELATIONS[relation(*scene.things)][0])
    return " ".join([*phrases, *([BACKDROP_WORDS[scene.backdrop][0]] if backdrop else [])])


def two_things(start: int, n: int, *, split: str = "test", seed: int = 0) -> Scenes:
    """The first n scenes with two things among those of level "pairs" from number ``start`` on."""
    found: list[Scenes] = []
    while sum(map(len, found)) < n:
        block = sample_scenes(range(start, start + 256), split=split, seed=seed, level="pairs")
        found.append(block[block.present.sum(1) == 2])
        start += 256
    return Scenes.cat(found)[:n]


def make_scenes(n: int, kind: str = "one", *, split: str = "test", seed: int = 0) -> Scenes:
    """n scenes that nothing was trained on (with split="test"), for prompts.

    kind: "one" (a thing), "two" (things) or "held_out" (one thing whose kind and colour never came together in training).
    """
    check_choice("kind", kind, ("one", "two", "held_out"))
    require(isinstance(n, int) and n >= 1, "n", repr(n), "a whole number, 1 or more")
    if kind == "two":
        return two_things(0, n, split=split, seed=seed)
    return sample_scenes(range(n), split="held_out" if kind == "held_out" else split, seed=seed, level="simple")


def make_prompts(n: int, kind: str = "one", *, split: str = "test", seed: int = 0) -> list[str]:
    """The prompts of :func:`make_scenes`, by :func:`prompt_of`."""
    return [prompt_of(scene) for scene in make_scenes(n, kind, split=split, seed=seed)]


def _partner(facts: ObjectFacts, scene: Scene) -> Thing | None:
    """The thing that a phrase means: the one of its kind."""
    return next((t for t in scene.things if t.kind == facts.kind), None)


def _parts(facts: CaptionFacts, scene: Scene) -> Iterator[bool]:
    """What :data:`PARTS` lists, for one picture."""
    partners = [_partner(s, scene) for s in facts.things]
    yield len(scene.things) == len(facts.things)
    yield all(p is not None for p in partners)
    yield all(p is not None and all(getattr(s, n) in (None, getattr(p, n)) for n in _WORDS)
              for s, p in zip(facts.things, partners, strict=True))
    yield all(partners[i] is not None and partners[j] is not None and _stands(partners[i], word, partners[j])
              for i, word, j in facts.relations)
    yield facts.backdrop in (None, scene.backdrop)


def _stands(a: Thing, word: str, b: Thing) -> bool:
    return {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[word]


def prompt_accuracy(prompts: Sequence[str], scenes: Scenes) -> dict[str, Tensor]:
    """Does each read scene show what its prompt says? name -> (B,) bool.

    "all": everything that is said holds, of a picture with as many things as are said (``world.agrees``). Then the parts,
    for seeing what goes wrong: "count", "kinds" (each kind that is said is there), "attributes" (each on its own thing),
    "positions" (each relation holds), "backdrop". A scene in which nothing was found has no part right but the backdrop.
    """
    require(len(prompts) == len(scenes), "prompts", f"{len(prompts)} prompts", f"one for each of the {len(scenes)} scenes")
    out = {name: torch.zeros(len(prompts), dtype=torch.bool) for name in ("all", *PARTS)}
    found = scenes.present.any(1).tolist()
    for i, prompt in enumerate(prompts):
        facts = parse(prompt)
        if not facts.things:
            raise BadInput("prompts", repr(prompt), "prompts that name at least one thing", "'a red cat on the grass'")
        if not found[i]:
            out["backdrop"][i] = facts.backdrop in (None, BACKDROPS[int(scenes.backdrop[i])])
            continue
        out["all"][i] = agrees(facts, scenes[i])
        for name, holds in zip(PARTS, _parts(facts, scenes[i]), strict=True):
            out[name][i] = holds
    return out
