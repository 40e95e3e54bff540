"""Claims of lesson 19: what a single vector can say, what it cannot, and what stays as it was."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import shipped
from minidiff.measure import bootstrap, read, wilson
from minidiff.personal import dreambooth, pictures
from minidiff.recipes.adapters import WORD, load_adapter, new_prompts, subject_of, train_shots
from minidiff.world import COLOUR_NAMES, KINDS
from minidiff.zoo import load

__all__ = ["STEPS", "dreambooth_of", "drawn_as", "named_right"]

STEPS = 10                                     # DDIM steps of every picture that is scored, guidance 4
_INSIDE = {"inside-word": ("rabbit", "pink"), "cat-word": ("cat", "purple"), "dog-word": ("dog", "orange"),
           "bear-word": ("bear", "yellow")}
_WHY = ("of sixteen pictures each the yellow bear is right in 16, the pink rabbit in 13, the purple cat in 12 (the others read "
        "as rabbits, which differ from cats in the ears alone), the orange dog in 9 (the others are yellow)")


def named_right(images: Tensor, kind: str, colour: str) -> Tensor:
    """(B,) bool: the reader finds one thing, of this kind and this colour."""
    scenes = read(images, shipped("readers/final")).scenes
    first = (scenes.kind[:, 0] == KINDS.index(kind)) & (scenes.colour[:, 0] == COLOUR_NAMES.index(colour))
    return first & (scenes.present.sum(1) == 1)


@functools.lru_cache(maxsize=16)
def drawn_as(adapter: str, what: str, n: int, seed: int = 21) -> Tensor:
    """n pictures of ``what`` on backdrops that were not learnt from; adapter: a shipped one, or "" for mini-sd alone."""
    pipe = load("mini-sd")
    if adapter:
        load_adapter(pipe, adapter)
    return pictures(pipe, new_prompts(what, n), seed=seed, steps=STEPS)


@claim("19.inside", "Textual Inversion (Gal et al. 2023): of a subject inside the model's world one vector is enough; share of "
       "pictures with its kind and its colour, of four pairs that training never showed",
       unit="share right", target=">= 0.9", n=64, small=8, reader="final")
def _inside(n: int) -> Outcome:
    each = -(-n // len(_INSIDE))
    right = torch.cat([named_right(drawn_as(name, WORD, each), *words) for name, words in _INSIDE.items()])
    plain = torch.cat([named_right(drawn_as("", words[0], each), *words) for words in _INSIDE.values()])
    said = torch.cat([named_right(drawn_as("", f"{colour} {kind}", each), kind, colour) for kind, colour in _INSIDE.values()])
    estimate = wilson(int(right.sum()), len(right))
    return Outcome(estimate.value, estimate.low, estimate.high, baseline={"the class word": float(plain.double().mean())},
                   floor={"colour and class said in words": float(said.double().mean())}, why=_WHY)


@functools.lru_cache(maxsize=4)
def dreambooth_of(rung: str, n: int, seed: int = 21) -> Tensor:
    """n pictures on new backdrops by DreamBooth (all weights of the U-Net, 120 iterations, no prior loss)."""
    subject, pipe = subject_of(rung), load("mini-sd")
    shots = train_shots(subject)
    _, loop = dreambooth(pipe, shots.images, word=WORD, class_word=subject.word, captions=shots.captions)
    for _ in loop:
        pass
    return pictures(pipe, new_prompts(f"{WORD} {subject.word}", n), seed=seed, steps=STEPS)


@claim("19.new_look", "a new look is beyond one vector: distance of identity of Textual Inversion minus that of DreamBooth (Ruiz "
       "et al. 2023), panda and owl on new backdrops", unit="distance (RMS, -1 to 1)", target=">= 0.10", n=32, small=4)
def _new_look(n: int) -> Outcome:
    arms: dict[str, list[Tensor]] = {"Textual Inversion": [], "DreamBooth": [], "class word": []}
    for rung in ("panda", "owl"):
        subject, each = subject_of(rung), -(-n // 2)
        ti, db = (subject.identity(x).distance for x in (drawn_as(f"{rung}-word", WORD, each), dreambooth_of(rung, each)))
        plain = subject.identity(drawn_as("", subject.word, each)).distance
        for arm, distance in zip(arms.values(), (ti, db, plain), strict=True):
            arm.append(distance)
    ti, db, plain = (torch.cat(arm) for arm in arms.values())
    estimate = bootstrap(torch.mean, ti - db)
    levels = {f"{name}, {rung}": float(x.mean()) for name, arm in arms.items()
              for rung, x in zip(("panda", "owl"), arm, strict=True)}
    return Outcome(estimate.value, estimate.low, estimate.high,
                   baseline={"class word minus DreamBooth": float((plain - db).mean())}, settings=levels)


@claim("19.unchanged", "a word that Textual Inversion learnt leaves all other prompts as they were: largest change of a "
       "picture",
       unit="difference", target="<= 0.0", n=8, small=4)
def _unchanged(n: int) -> Outcome:
    pipe, prompts = load("mini-sd"), new_prompts("red cat", n // 2) + new_prompts("rabbit", n - n // 2)
    before = pictures(pipe, prompts, seed=3, steps=6)
    load_adapter(pipe, "inside-word")
    change = float((pictures(pipe, prompts, seed=3, steps=6) - before).abs().max())
    other = float((pictures(pipe, [p.replace("rabbit", WORD) for p in prompts], seed=3, steps=6) - before).abs().max())
    return Outcome(change, change, change, baseline={"prompts with the word": other})
