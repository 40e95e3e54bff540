"""Random scenes: scene i of a split is a pure function of (seed, split, level, i), whatever the batch or the device."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.errors import check_choice, require
from minidiff.rng import key, uniform
from minidiff.world.scene import COLOUR_NAMES, MOOD_INDEX, Scenes
from minidiff.world.vocab import ANIMALS, BACKDROPS, KINDS, MAX_THINGS, PATTERNS, STYLES, VARY, WEARS

__all__ = ["LEVELS", "SIMPLE_SIZES", "SIZES", "SPLITS", "held_out", "held_out_pairs", "sample_scenes"]

SPLITS = ("train", "valid", "test", "held_out")
LEVELS = ("simple", "pairs", "full")

_COUNTS = {"simple": (1, 1), "pairs": (1, 2), "full": (1, 3)}
SIZES = ((0.14, 0.36), (0.10, 0.28), (0.10, 0.28))     # half-heights when there are one, two, three things
SIMPLE_SIZES = (0.20, 0.36)                             # of level "simple": a face can be read at 32 x 32 pixels
_REACH, _TALL, _DRESSED = 1.14, 1.06, 1.31              # half-width, half-height, half-height with something worn, in sizes
_OVERLAP = 0.10                                         # of two neighbours' cells: things cover each other now and then


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


def _places(count: Tensor, limits: Tensor, tall: Tensor, layout: Tensor, each: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres and half-heights x, y, size (B, 3): things 0 and 1 side by side or one above the other, thing 2 beside the pair.

    count (B,); limits (B, 2): the smallest and largest half-height; tall (B, 3): half-height that a thing needs, in sizes;
    layout (B, 2) and each (B, 3, 3) uniform. One of the pair, by the toss of a coin, takes any size; the others what room
    it leaves. Each has a cell in proportion to what it needs, and lies anywhere in it.
    """
    three, alone = count == 3, (count == 1)[:, None]
    form = _pick(layout[:, 0], 12)
    upright = torch.where(three, form >= 6, form >= 8)[:, None]            # the pair is one above the other
    single_first = torch.div(form, 3, rounding_mode="floor") % 3 == 0      # thing 2 is above or left of the pair
    along, aside = torch.where(upright, tall, _REACH), torch.where(upright, _REACH, tall)
    room = (1 + _OVERLAP) / 2
    low, high = limits[:, :1], limits[:, 1:]

    size = low + (high - low) * each[:, 0]                                # as if each had the picture to itself
    beside = low + ((room - along[:, :2] * size[:, :2]).flip(1) / along[:, :2]).clamp(max=high).sub(low) * each[:, 0, :2]
    coin = (layout[:, 1] < 0.5)[:, None] == torch.arange(2, device=size.device)
    pair = torch.where(alone | coin, size[:, :2], beside)
    needs, deep = along[:, :2] * pair, (aside[:, :2] * pair).amax(1, keepdim=True)
    third = low + ((room - deep) / aside[:, 2:]).clamp(max=high).sub(low) * each[:, 0, 2:]
    size = torch.cat((pair, third), 1)

    zero, one = torch.zeros_like(low), torch.ones_like(low)
    part = 2 * room * needs[:, :1] / needs.sum(1, keepdim=True)            # thing 0's cell of the pair's line
    first = torch.cat((zero, torch.where(alone, zero, 1 - 2 * room + part), zero), 1)
    last = torch.cat((torch.where(alone, one, part), one, one), 1)
    part = 2 * room * deep / (deep + aside[:, 2:] * third)                 # the pair's cell across
    start, stop = torch.where(single_first[:, None], 1 - part, zero), torch.where(single_first[:, None], one, part)
    start_of_third, end_of_third = (torch.where(single_first[:, None], zero, part - (2 * room - 1)),
                                    torch.where(single_first[:, None], 2 * room - part, one))
    top = torch.where(three[:, None], torch.cat((start, start, start_of_third), 1), zero)
    bottom = torch.where(three[:, None], torch.cat((stop, stop, end_of_third), 1), one)
    on, across = _within(first, last, along * size, each[:, 1]), _within(top, bottom, aside * size, each[:, 2])
    return torch.where(upright, across, on), torch.where(upright, on, across), size


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
    "simple": one plain thing in flat style, half-height 0.20 to 0.36 (a face can be read at 32 x 32), animals happy,
              nothing worn;
    "pairs":  one or two things in flat style with every pattern, mood and thing worn;
    "full":   one to three things in every style.
    Half-heights, but for "simple", are 0.14 to 0.36 for one thing and 0.10 to 0.28 for two or three; the second and the third
    take what room is left. Every backdrop differs a little from the usual one: ``vary`` is uniform in [-1, 1].
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

    limits = torch.tensor([SIMPLE_SIZES] * 3 if plain else SIZES, dtype=torch.float64).to(u.device)[count - 1]
    tall = torch.where((wears == WEARS.index("hat")) | (wears == WEARS.index("bow tie")), _DRESSED, _TALL).double()
    x, y, size = _places(count, limits, tall, one[:, [2, 5]], each[:, 5:8])

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
