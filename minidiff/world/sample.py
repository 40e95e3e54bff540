"""Random scenes: scene i of a split is a pure function of (seed, split, level, i), whatever the batch or the device."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.errors import check_choice, require
from minidiff.rng import key, uniform
from minidiff.world.scene import COLOUR_NAMES, MOOD_INDEX, Scenes
from minidiff.world.vocab import ANIMALS, BACKDROPS, KINDS, MAX_THINGS, PATTERNS, STYLES, VARY, WEARS

__all__ = ["LEVELS", "SIZES", "SPLITS", "held_out", "held_out_pairs", "sample_scenes"]

SPLITS = ("train", "valid", "test", "held_out")
LEVELS = ("simple", "pairs", "full")

_COUNTS = {"simple": (1, 1), "pairs": (1, 2), "full": (1, 3)}
SIZES = ((0.20, 0.30), (0.15, 0.20), (0.13, 0.18))     # half-heights when there are one, two, three things
_REACH, _TALL, _DRESSED = 1.14, 1.06, 1.30              # half-width, half-height, half-height with something worn, in sizes
# (left, right, top, bottom) of each thing's cell; cells overlap by 0.08, so that things cover each other now and then
_ALL, _LOW, _HIGH, _MID = (0.0, 1.0), (0.0, 0.54), (0.46, 1.0), (0.23, 0.77)
_ONE = [[(*_ALL, *_ALL)] * 3]
_TWO = [[(*_LOW, *_ALL), (*_HIGH, *_ALL)]] * 2 + [[(*_ALL, *_LOW), (*_ALL, *_HIGH)]]
_THREE = [
    [(*_LOW, *_HIGH), (*_HIGH, *_HIGH), (*_MID, *_LOW)], [(*_LOW, *_LOW), (*_HIGH, *_LOW), (*_MID, *_HIGH)],
    [(*_LOW, *_LOW), (*_LOW, *_HIGH), (*_HIGH, *_MID)], [(*_HIGH, *_LOW), (*_HIGH, *_HIGH), (*_LOW, *_MID)],
]


def _held_colour(kind: Tensor | int) -> Tensor | int:
    """The one colour that each kind never has in training: every colour is held out for one or two kinds."""
    return (5 * kind + 5) % len(COLOUR_NAMES)


def held_out(kind: str, colour: str) -> bool:
    """True for the pairs (1 in 9) that never occur in train, valid or test: a purple cat, an orange dog, ..."""
    check_choice("kind", kind, KINDS)
    check_choice("colour", colour, COLOUR_NAMES)
    return COLOUR_NAMES.index(colour) == _held_colour(KINDS.index(kind))


def held_out_pairs() -> list[tuple[str, str]]:
    """The twelve (kind, colour) pairs that only the split "held_out" shows."""
    return [(kind, COLOUR_NAMES[_held_colour(i)]) for i, kind in enumerate(KINDS)]


def _pick(u: Tensor, n: int) -> Tensor:
    """0 .. n-1, each equally likely, from uniform numbers in [0, 1)."""
    return (u * n).long().clamp(max=n - 1)


def _kinds(u: Tensor) -> Tensor:
    """Three different kinds, all orders equally likely: (B, 3) uniform -> (B, 3) int64."""
    a = _pick(u[:, 0], 12)
    b = _pick(u[:, 1], 11)
    b = b + (b >= a).long()
    c = _pick(u[:, 2], 10)
    c = c + (c >= torch.minimum(a, b)).long()
    return torch.stack([a, b, c + (c >= torch.maximum(a, b)).long()], 1)


def _cells(count: Tensor, u: Tensor) -> Tensor:
    """The cell of each thing: count (B,) 1..3, u (B,) -> (B, 3, 4) float64 as (left, right, top, bottom)."""
    empty = (*_ALL, *_ALL)
    table = torch.tensor([[[*layout, *[empty] * (3 - len(layout))] for layout in layouts * (12 // len(layouts))]
                          for layouts in (_ONE, _TWO, _THREE)], dtype=torch.float64)
    return table.to(u.device)[count - 1, _pick(u, 12)]


def _index(index: Tensor | range) -> Tensor:
    if isinstance(index, range):
        return torch.arange(index.start, index.stop, index.step)
    ok = isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1
    got = f"{index.dtype} of shape {tuple(index.shape)}" if isinstance(index, Tensor) else repr(index)
    require(ok, "index", got, "a range or a 1-D int64 tensor of scene numbers", "range(16)")
    return index


def sample_scenes(index: Tensor | range, *, split: str = "train", seed: int = 0, level: str = "simple") -> Scenes:
    """Scenes number ``index`` of a split, on the device of ``index`` (a range gives the CPU).

    index: (B,) int64 or a range. Levels:
    "simple": one plain thing in flat style, half-height 0.20 to 0.30, animals happy, nothing worn;
    "pairs":  one or two things in flat style with every pattern, mood and thing worn;
    "full":   one to three things in every style.
    The things of a scene have different kinds, lie inside the frame, overlap a little at most, and come back to front
    (the lower in the picture, the nearer). Half of the animals and three quarters of the other things wear nothing.
    "held_out" has, in each scene, exactly one thing from :func:`held_out_pairs`; the other splits have none.

    Raises BadInput for an unknown split or level, or an index of another type.
    """
    check_choice("split", split, SPLITS)
    check_choice("level", level, LEVELS)
    index = _index(index)
    require(isinstance(seed, int), "seed", repr(seed), "a whole number", "seed=0")
    u = uniform(key("scenes", seed, split, level), index, 6 + 8 * MAX_THINGS + VARY)
    one, each, vary = u[:, :6], u[:, 6:-VARY].reshape(-1, 8, MAX_THINGS), (2 * u[:, -VARY:] - 1).float()
    low, high = _COUNTS[level]
    count = low + _pick(one[:, 0], high - low + 1)
    present = torch.arange(MAX_THINGS, device=u.device) < count[:, None]
    plain, zero = level == "simple", torch.zeros_like(present, dtype=torch.int64)

    kind = _kinds(each[:, 0])
    banned = _held_colour(kind)
    colour = _pick(each[:, 1], len(COLOUR_NAMES) - 1)
    colour = colour + (colour >= banned).long()
    if split == "held_out":
        chosen = torch.arange(MAX_THINGS, device=u.device) == (one[:, 1] * count).long()[:, None]
        colour = torch.where(chosen, banned, colour)
    animal = kind < len(ANIMALS)
    mood = torch.where(animal, 1 + (zero if plain else _pick(each[:, 3], len(MOOD_INDEX) - 1)), zero)
    dress = _pick(each[:, 4], 12)                       # of twelve: animals 6 nothing, 2 2 2; others 9 nothing, 3 hat
    wears = zero if plain else torch.where(animal, (dress - 4).clamp(min=0) // 2, (dress >= 9).long())
    pattern = zero if plain else _pick(each[:, 2], len(PATTERNS))

    limits = torch.tensor(SIZES, dtype=torch.float64).to(u.device)[count - 1]
    size = limits[:, :1] + (limits[:, 1:] - limits[:, :1]) * each[:, 5]
    cell = _cells(count, one[:, 2])
    tall = torch.where((wears == WEARS.index("hat")) | (wears == WEARS.index("bow tie")), _DRESSED, _TALL)
    x = _within(cell[..., 0], cell[..., 1], _REACH * size, each[:, 6])
    y = _within(cell[..., 2], cell[..., 3], tall * size, each[:, 7])

    order = (y + 9.0 * ~present).argsort(dim=1, stable=True)
    words = {"kind": kind, "colour": colour, "pattern": pattern, "mood": mood, "wears": wears}
    place = {"x": (x, 0.5), "y": (y, 0.5), "size": (size, 0.22)}
    columns = {n: torch.where(present, v.gather(1, order), 0) for n, v in words.items()}
    columns |= {n: torch.where(present, v.gather(1, order), rest).float() for n, (v, rest) in place.items()}
    style = _pick(one[:, 4], len(STYLES)) if level == "full" else zero[:, 0]
    return Scenes(backdrop=_pick(one[:, 3], len(BACKDROPS)), style=style, present=present, vary=vary, **columns)


def _within(low: Tensor, high: Tensor, reach: Tensor, u: Tensor) -> Tensor:
    """A centre in [low + reach, high - reach], or the middle where there is no room."""
    return (low + high) / 2 + (2 * u - 1) * ((high - low) / 2 - reach).clamp(min=0)
