"""Edits whose right answer is known: pairs of scenes and prompts, and the truth about a set of source pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff.errors import check_choice, check_pictures, require
from minidiff.measure.prompts import prompt_of, two_things
from minidiff.measure.reader import Reader
from minidiff.measure.synthesis import explain
from minidiff.rng import key, uniform
from minidiff.world import (
    ATTRIBUTES,
    BACKDROPS,
    COLOUR_NAMES,
    KINDS,
    Scene,
    Scenes,
    Thing,
    agrees,
    held_out,
    render,
    sample_scenes,
)
from minidiff.world.grammar import BACKDROP_WORDS

__all__ = ["EDITS", "EditPairs", "EditTruth", "edit_pairs"]

_PLACES = ("x", "y", "size")


@dataclass(frozen=True, eq=False)
class EditPairs:
    """n edits. source, target: scenes slot by slot the same but for what is edited; prompts, targets: what is asked for."""

    edit: str
    source: Scenes
    target: Scenes
    prompts: list[str]
    targets: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice | list[int]) -> EditPairs:
        """Some of the edits: ``pairs[:16]``."""
        numbers = list(range(len(self)))[rows] if isinstance(rows, slice) else list(rows)
        return EditPairs(self.edit, self.source[numbers], self.target[numbers], [self.prompts[i] for i in numbers],
                         [self.targets[i] for i in numbers])

    def truth(self, reader: Reader, images: Tensor | None = None, *, steps: int = 24) -> EditTruth:
        """What the right edit of ``images`` (n, 3, S, S) looks like; None: of the rendered source scenes, which are known.

        Sampled pictures have no known scene: each is read and refined by :func:`~minidiff.measure.explain` (``steps``), the edit
        is applied to what was read, and rows whose picture does not show its own prompt do not count (``valid``).
        """
        if images is None:
            return _truth(self.source, self.target, render(self.source).images, torch.ones(len(self), dtype=torch.bool), reader)
        check_pictures("images", images)
        require(len(images) == len(self), "images", f"{len(images)} pictures", f"{len(self)}: one for each prompt")
        images = images.detach().float().cpu()
        found, rows, valid = explain(images, reader, steps=steps), [], []
        for i, prompt in enumerate(self.prompts):
            row = None
            if bool(found.scenes.present[i].any()) and agrees(prompt, found.scenes[i]):
                row = _carried(self.source[i], self.target[i], found.scenes[i])
            valid.append(row is not None)
            rows.append(row or (self.source[i], self.target[i]))
        return _truth(Scenes.of(a for a, _ in rows), Scenes.of(b for _, b in rows), images, torch.tensor(valid), reader)


@dataclass(frozen=True, eq=False)
class EditTruth:
    """The right answer of n edits of the pictures ``images`` (n, 3, S, S).

    source, target: scenes, slot by slot; gold (n, 3, S, S): the target rendered, the counterfactual; source_masks, gold_masks
    (n, 3, S, S) bool, visible parts of the things; changed: attribute -> (n, 3) bool, or (n,) for "backdrop" and "style";
    valid (n,): the rows that count; reader: what scores are read with.
    """

    source: Scenes
    target: Scenes
    images: Tensor
    gold: Tensor
    source_masks: Tensor
    gold_masks: Tensor
    changed: dict[str, Tensor]
    valid: Tensor
    reader: Reader

    @property
    def edited(self) -> Tensor:
        """(n, 3) bool: the things of which something changes; all of them where only the whole picture does."""
        some = torch.stack([self.changed[name] for name in (*ATTRIBUTES, *_PLACES)]).any(0) & self.source.present
        return torch.where(some.any(1, keepdim=True), some, self.source.present)


@torch.no_grad()
def _truth(source: Scenes, target: Scenes, images: Tensor, valid: Tensor, reader: Reader) -> EditTruth:
    size = images.shape[-1]
    before, after = render(source, size), render(target, size)
    changed = {name: getattr(source, name) != getattr(target, name) for name in (*ATTRIBUTES, *_PLACES, "backdrop", "style")}
    return EditTruth(source, target, images, after.images, before.masks > 0.5, after.masks > 0.5, changed, valid, reader)


def _carried(source: Scene, target: Scene, seen: Scene) -> tuple[Scene, Scene] | None:
    """The edit source -> target applied to the scene that was read; things meet by kind. None where one is missing."""
    partners = [next((t for t in seen.things if t.kind == thing.kind), None) for thing in source.things]
    if any(p is None for p in partners) or len(seen.things) != len(source.things):
        return None
    after = []
    for a, b, mine in zip(source.things, target.things, partners, strict=True):
        words = {n: getattr(b, n) for n in ATTRIBUTES if getattr(a, n) != getattr(b, n)}
        moved = {n: min(max(getattr(mine, n) + getattr(b, n) - getattr(a, n), low), high)
                 for n, (low, high) in {"x": (0, 1), "y": (0, 1), "size": (0.05, 0.5)}.items() if getattr(a, n) != getattr(b, n)}
        after.append(mine.replace(**words, **moved))
    whole = {n: getattr(target, n) for n in ("backdrop", "style") if getattr(source, n) != getattr(target, n)}
    order = sorted(range(len(after)), key=lambda j: partners[j].y)
    return (seen.replace(things=tuple(partners[j] for j in order)),
            seen.replace(things=tuple(after[j] for j in order), **whole))


def _other(value: str, choices: tuple[str, ...], u: float, allowed: Callable[[str], bool] = lambda v: True) -> str:
    left = [v for v in choices if v != value and allowed(v)]
    return left[min(int(u * len(left)), len(left) - 1)]


def _colour(scene: Scene, u: list[float], j: int = 0) -> Scene:
    thing = scene.things[j]
    return scene.replace_thing(j, colour=_other(thing.colour, COLOUR_NAMES, u[0], lambda c: not held_out(thing.kind, c)))


def _kind(scene: Scene, u: list[float], j: int = 0) -> Scene:
    thing, there = scene.things[j], {t.kind for t in scene.things}
    kind = _other(thing.kind, KINDS, u[0], lambda k: k not in there and not held_out(k, thing.colour))
    return scene.replace_thing(j, kind=kind)


def _one_of(change: Callable) -> Callable:
    return lambda scene, u: change(scene, u, min(int(u[1] * len(scene.things)), len(scene.things) - 1))


_MOVABLE = 0.28       # half-height: a thing that fills the picture has nowhere to go


def _move(scene: Scene, u: list[float]) -> Scene:
    """To another place at least 0.15 of the picture away, all of it inside the frame."""
    thing = scene.things[0]
    low, high = 1.3 * thing.size, 1 - 1.3 * thing.size
    spots = [(low + (high - low) * a / 4, low + (high - low) * b / 4) for a in range(5) for b in range(5)]
    far = [s for s in spots if (s[0] - thing.x) ** 2 + (s[1] - thing.y) ** 2 > 0.15**2]
    x, y = far[min(int(u[0] * len(far)), len(far) - 1)]
    return scene.replace_thing(0, x=x, y=y)


def _resize(scene: Scene, u: list[float]) -> Scene:
    """0.7 to 0.85 of the size, which always fits where the thing stands."""
    return scene.replace_thing(0, size=scene.things[0].size * (0.7 + 0.15 * u[0]))


def _backdrop(scene: Scene, u: list[float]) -> Scene:
    return scene.replace(backdrop=_other(scene.backdrop, BACKDROPS, u[0]))


def _noun(thing: Thing, colour: bool = True) -> str:
    words = f"{thing.colour} {thing.kind}" if colour else thing.kind
    return ("an " if words[0] in "aeiou" else "a ") + words


def _and(scene: Scene) -> str:
    return " and ".join(map(_noun, scene.things)) + " " + BACKDROP_WORDS[scene.backdrop][0]


def _bare(scene: Scene) -> str:
    return f"{_noun(scene.things[0], colour=False)} {BACKDROP_WORDS[scene.backdrop][0]}"


# edit -> (things in the scene, the change, words of the source, words of the target)
EDITS: dict[str, tuple[int, Callable, Callable, Callable]] = {
    "colour": (1, _colour, prompt_of, prompt_of),
    "add_colour": (1, _colour, _bare, prompt_of),
    "kind": (1, _kind, prompt_of, prompt_of),
    "backdrop": (1, _backdrop, prompt_of, prompt_of),
    "two_colour": (2, _one_of(_colour), _and, _and),
    "two_kind": (2, _one_of(_kind), _and, _and),
    "move": (1, _move, prompt_of, prompt_of),
    "resize": (1, _resize, prompt_of, prompt_of),
}


def edit_pairs(edit: str, n: int, *, split: str = "valid", seed: int = 0) -> EditPairs:
    """n editable scenes with their counterfactuals and prompts, a pure function of (edit, split, seed).

    edit: one of EDITS. "colour", "kind", "backdrop": another word of one thing's prompt; "add_colour": the source prompt leaves
    the colour out; "two_colour", "two_kind": a word of one of two things joined by "and"; "move", "resize": the prompts are
    equal, only the scene changes. Tune on split="valid", score on split="test". Things are plain, happy and wear nothing.
    """
    check_choice("edit", edit, EDITS)
    require(isinstance(n, int) and n >= 1, "n", repr(n), "a whole number, 1 or more")
    things, change, words, target_words = EDITS[edit]
    if things == 2:
        scenes = [s.replace(things=tuple(t.replace(pattern="plain", mood="happy" if t.animal else "none", wears="nothing")
                                         for t in s.things)) for s in two_things(0, n, split=split, seed=seed)]
    else:
        scenes = list(sample_scenes(range(n), split=split, seed=seed, level="simple"))
    if edit == "move":
        scenes = [s.replace_thing(0, size=min(s.things[0].size, _MOVABLE)) for s in scenes]
    draws = uniform(key("edit", edit, seed, split), torch.arange(n), 2).tolist()
    after = [change(scene, u) for scene, u in zip(scenes, draws, strict=True)]
    source, target = Scenes.of(scenes), Scenes.of(after)
    if things == 1 and edit not in ("move", "resize"):       # slots keep the places exactly
        target = dataclasses.replace(target, x=source.x, y=source.y, size=source.size)
    return EditPairs(edit, source, target, [words(s) for s in scenes], [target_words(s) for s in after])
