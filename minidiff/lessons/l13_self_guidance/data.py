"""What lesson 13 moves: prompts of two things, shifts that the world could draw, and where things are in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.latent.sample import denoise, initial_noise
from minidiff.measure import read
from minidiff.measure.prompts import make_scenes, prompt_of
from minidiff.measure.reader import Reader
from minidiff.world import KINDS

__all__ = ["Requested", "SIDE", "clear", "colours_of", "noise_of", "positions", "requested", "two_nouns"]

SIDE = 64                                  # pixels of a picture of mini-sd
AMOUNTS = (8, 12, 6, 10)                   # pixels asked for, in turn; where there is no room for it, 6 or 4
WAYS = ((1, 0), (0, 1), (-1, 0), (0, -1))
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}     # from the first thing to the second


class Requested(NamedTuple):
    """n rows: prompts, the thing to move and the one to keep, shifts (n, 2) in shares of the side, noise; their places before."""

    prompts: list[str]
    moved: tuple[str, ...]
    kept: tuple[str, ...]
    shifts: Tensor
    noise: Tensor
    before: dict[str, Tensor]               # "moved", "kept" -> (n, 3): x, y, size in shares of the side
    images: Tensor


def two_nouns(n: int, *, split: str = "test", start: int = 0) -> tuple[list[str], list[str], list[str]]:
    """n prompts of two things, and the noun of the first and of the second."""
    scenes = make_scenes(start + n, "two", split=split)[start:]
    nouns = [[KINDS[int(k)] for k in scenes.kind[:, j]] for j in (0, 1)]
    return [prompt_of(scene) for scene in scenes], *nouns


def positions(images: Tensor, nouns: Sequence[str], reader: Reader) -> Tensor:
    """Where the reader finds each picture's noun: (n, 3) x, y and size in shares of the side, NaN where it finds none."""
    found, out = read(images, reader).scenes, torch.full((len(nouns), 3), float("nan"))
    for i, noun in enumerate(nouns):
        slots = (found.present[i] & (found.kind[i] == KINDS.index(noun))).nonzero()
        if len(slots):
            j = int(slots[0])
            out[i] = torch.stack([found.x[i, j], found.y[i, j], found.size[i, j]])
    return out


def colours_of(images: Tensor, nouns: Sequence[str], reader: Reader) -> list[str | None]:
    """The colour in which the reader finds each noun, None where it finds none."""
    from minidiff.world import COLOUR_NAMES

    found, out = read(images, reader).scenes, []
    for i, noun in enumerate(nouns):
        slots = (found.present[i] & (found.kind[i] == KINDS.index(noun))).nonzero()
        out.append(COLOUR_NAMES[int(found.colour[i, int(slots[0])])] if len(slots) else None)
    return out


def clear(prompt: str, thing: Sequence[float], other: Sequence[float], shift: Sequence[float]) -> bool:
    """May the thing (x, y, size) move by ``shift``? Inside the frame, clear of the other, and what the prompt says stays true."""
    x, y, size = thing[0] + shift[0], thing[1] + shift[1], thing[2]
    inside = min(x, y, 1 - x, 1 - y) >= 1.1 * size
    apart = (x - other[0]) ** 2 + (y - other[1]) ** 2 >= (1.1 * (size + other[2])) ** 2
    true = all((other[0] - x) * dx + (other[1] - y) * dy >= 1 / 16 for words, (dx, dy) in RELATIONS.items() if words in prompt)
    return inside and apart and true


def _shift(i: int, prompt: str, thing: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    for amount in (AMOUNTS[i % len(AMOUNTS)], 6, 4):
        for k in range(4):
            dx, dy = (amount * way / SIDE for way in WAYS[(i + k) % 4])
            if clear(prompt, thing, other, (dx, dy)):
                return dx, dy
    return None


def noise_of(pipe: object, rows: Sequence[int], seed: int) -> Tensor:
    """The rows of a large batch of noise, each a function of (seed, its number)."""
    every = initial_noise(pipe, max(rows) + 1, seed=seed)
    return every[list(rows)]


@torch.no_grad()
def requested(pipe: object, n: int, reader: Reader, *, split: str = "test", seed: int = 0, steps: int = 20, guidance: float = 4.0,
          chunk: int = 16) -> Requested:
    """The first n rows of ``two_nouns`` whose picture shows both things, with a shift of the first that the world could draw.

    A row without room for 4 pixels in any direction, or whose picture lacks one of the two things, is passed over: what is
    measured is moving, not drawing.
    """
    from minidiff.editing.result import decode_images

    kept: list[tuple] = []
    pictures, start = [], 0
    while len(kept) < n:
        prompts, first, second = two_nouns(chunk, split=split, start=start)
        z = noise_of(pipe, range(start, start + chunk), seed)
        images = decode_images(pipe, list(denoise(pipe, prompts, latents=z, steps=steps, guidance=guidance))[-1].x)
        a, b = positions(images, first, reader), positions(images, second, reader)
        for i in range(chunk):
            there = not bool((a[i] + b[i]).isnan().any())
            shift = _shift(start + i, prompts[i], a[i].tolist(), b[i].tolist()) if there and first[i] != second[i] else None
            if shift and len(kept) < n:
                kept.append((prompts[i], first[i], second[i], shift, z[i], a[i], b[i]))
                pictures.append(images[i])
        start += chunk
    prompts, first, second, shifts, z, a, b = zip(*kept, strict=True)
    return Requested(list(prompts), first, second, torch.tensor(shifts), torch.stack(z),
                 {"moved": torch.stack(a), "kept": torch.stack(b)}, torch.stack(pictures))
