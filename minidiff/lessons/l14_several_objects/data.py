"""What lesson 14 draws: prompts of three things and of two held-out pairs, and what of them a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.measure import read
from minidiff.measure.reader import Reader
from minidiff.rng import normal
from minidiff.world import BACKDROPS, COLOUR_NAMES, KINDS, Scene, held_out_pairs, sample_scenes
from minidiff.world.grammar import BACKDROP_WORDS

__all__ = ["Requested", "Shown", "held_out_twos", "sentence", "shown", "threes"]

BLOCK = 256


class Requested(NamedTuple):
    """n prompts of K things each. kinds, colours: (n, K) words; positions: (n, K, 2), where a thing stands in the world's own
    scene, in shares of the side, and NaN where there is none; parts: one prompt a thing, with the same backdrop."""

    prompts: list[str]
    kinds: list[list[str]]
    colours: list[list[str]]
    positions: Tensor
    parts: list[list[str]]

    def first(self, n: int) -> Requested:
        """The first n rows."""
        return Requested(*(column[:n] for column in self))

    @property
    def things(self) -> list[tuple[str, ...]]:
        """The phrases of each prompt: ("red cat", "blue dog", ...)."""
        return [tuple(f"{c} {k}" for k, c in zip(*row, strict=True)) for row in zip(self.kinds, self.colours, strict=True)]


class Shown(NamedTuple):
    """What the reader finds of each thing that was asked for, (n, K): is its kind there; is it there in its colour; does a thing
    of another kind wear its colour that was not asked to; where it is (n, K, 2), in shares of the side, NaN where it is not."""

    present: Tensor
    right: Tensor
    borrowed: Tensor
    positions: Tensor


def sentence(colours: Sequence[str], kinds: Sequence[str], backdrop: str) -> str:
    """"a flat picture of a red cat and a blue dog on the grass": the style is said, for pictures of three things come in all."""
    things = [("an " if c[0] in "aeiou" else "a ") + f"{c} {k}" for c, k in zip(colours, kinds, strict=True)]
    return f"a flat picture of {' and '.join(things)} {BACKDROP_WORDS[backdrop][0]}"


def _requested(rows: Sequence[tuple[list[str], list[str], str, list[tuple[float, float]]]]) -> Requested:
    kinds, colours, backdrops, positions = (list(column) for column in zip(*rows, strict=True))
    rows = list(zip(colours, kinds, backdrops, strict=True))
    parts = [[sentence([c], [k], b) for c, k in zip(cs, ks, strict=True)] for cs, ks, b in rows]
    prompts = [sentence(*row) for row in zip(colours, kinds, backdrops, strict=True)]
    return Requested(prompts, kinds, colours, torch.tensor(positions), parts)


def threes(n: int, *, split: str = "test") -> Requested:
    """n prompts of three things, with the places that they have in the scenes of level "full" that name them."""
    found: list[Scene] = []
    for start in range(0, 100 * BLOCK, BLOCK):
        block = sample_scenes(range(start, start + BLOCK), split=split, level="full")
        found += list(block[block.present.sum(1) == 3])
        if len(found) >= n:
            break
    return _requested([([t.kind for t in s.things], [t.colour for t in s.things], s.backdrop, [(t.x, t.y) for t in s.things])
                   for s in found[:n]])


def held_out_twos(n: int, *, split: str = "test") -> Requested:
    """n prompts of two things, each in the colour that its kind never had in training; no places."""
    pairs, rows = held_out_pairs(), []
    for i in range(n):
        u = normal((len(pairs) + len(BACKDROPS),), "held-out twos", split, i)
        (kind, colour), (other, tint) = (pairs[k] for k in u[:len(pairs)].argsort()[:2].tolist())
        rows.append(([kind, other], [colour, tint], BACKDROPS[int(u[len(pairs):].argmax())], [(float("nan"),) * 2] * 2))
    return _requested(rows)


def shown(images: Tensor, requested: Requested, reader: Reader) -> Shown:
    """Read pictures (n, 3, H, W) and look for each thing that was asked for."""
    found, (n, k) = read(images, reader).scenes, requested.positions.shape[:2]
    out = Shown(*(torch.zeros(n, k, dtype=torch.bool) for _ in range(3)), torch.full((n, k, 2), float("nan")))
    for i in range(n):
        seen = [(KINDS[int(found.kind[i, s])], COLOUR_NAMES[int(found.colour[i, s])], s)
                for s in found.present[i].nonzero().flatten().tolist()]
        wanted = list(zip(requested.kinds[i], requested.colours[i], strict=True))
        for j, (kind, colour) in enumerate(wanted):
            out.borrowed[i, j] = any(c == colour and (k_, c) not in wanted for k_, c, _ in seen)
            slots = sorted((c != colour, s) for k_, c, s in seen if k_ == kind)          # one in its colour first
            if slots:
                wrong, slot = slots[0]
                out.present[i, j], out.right[i, j] = True, not wrong
                out.positions[i, j] = torch.stack([found.x[i, slot], found.y[i, slot]])
    return out
