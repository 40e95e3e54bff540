"""Other words for the same picture: what the reader holds for next likeliest is rendered too, and the picture decides."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.measure.fit import squared_error
from minidiff.measure.reading import Reading
from minidiff.world import ANIMALS, MAX_THINGS, Scenes

__all__ = ["doubts", "put", "try_words"]

_ROWS = 1024              # scenes rendered at once
_TOGETHER = 4             # words changed at most
_THINGS = ("kind", "colour", "pattern", "mood", "wears")
_WHOLE = ("style", "backdrop")


def _columns(probs: dict[str, Tensor]) -> list[tuple[str, int, int]]:
    """(attribute, slot, value) of every column of :func:`doubts`; ("present", slot, 0 or 1) turns a thing off or on."""
    out = [(name, k, v) for name in _THINGS for k in range(MAX_THINGS) for v in range(probs[name].shape[-1])]
    out += [(name, 0, v) for name in _WHOLE for v in range(probs[name].shape[-1])]
    return out + [("present", k, v) for k in range(MAX_THINGS) for v in (0, 1)]


def doubts(reading: Reading) -> Tensor:
    """How much less likely than its own word the reader holds each other, (B, columns): log odds, infinity if it cannot be."""
    scenes, parts = reading.scenes, []
    for name in _THINGS + _WHOLE:
        logs = reading.probs[name].clamp(min=1e-30).log()
        gap = logs.amax(-1, keepdim=True) - logs
        gap = gap.masked_fill((gap == 0) | (reading.probs[name] < 1e-20), float("inf"))
        if name in _THINGS:
            gap = gap.masked_fill(~scenes.present[..., None], float("inf"))
        parts.append(gap.flatten(1))
    sure = reading.confidence.clamp(1e-6, 1 - 1e-6).logit()
    off = sure.masked_fill(~scenes.present | (scenes.present.sum(1, keepdim=True) < 2), float("inf"))
    on = (-sure).masked_fill(scenes.present, float("inf"))
    return torch.cat([*parts, torch.stack([off, on], -1).flatten(1)], 1)


def _changed(scenes: Scenes, columns: list[tuple[str, int, int]], chosen: Tensor) -> Scenes:
    """Scenes with the words of the chosen columns, (B, columns) bool; a face goes with an animal, as the world has it."""
    new = {name: getattr(scenes, name).clone() for name in (*_THINGS, *_WHOLE, "present")}
    for c, (name, slot, value) in enumerate(columns):
        field = new[name] if name in _WHOLE else new[name][:, slot]
        field[chosen[:, c]] = value
    animal = new["kind"] < len(ANIMALS)
    new["mood"] = torch.where(animal, new["mood"].clamp(min=1), 0)
    new["wears"] = torch.where(animal | (new["wears"] < 2), new["wears"], 0)
    return scenes.replace(**new)


@torch.no_grad()
def try_words(images: Tensor, scenes: Scenes, error: Tensor, reading: Reading, *, first: int,
              count: int) -> tuple[Scenes, Tensor]:
    """Render ``count`` other scenes of each picture, each with one word changed, and keep what comes closer to the picture.

    The words are those the reader doubts most, number ``first`` to ``first + count - 1`` of :func:`doubts`. The best word of each
    attribute of each thing that helps alone is then taken over in turn, as long as it still helps.
    scenes, error: the best so far; returns the new best.
    """
    columns = _columns(reading.probs)
    gaps, order = doubts(reading).sort(1)
    order, possible = order[:, first:first + count], gaps[:, first:first + count].isfinite()
    pairs = possible.nonzero()
    if len(pairs) == 0:
        return scenes, error
    row, column = pairs[:, 0], order[pairs[:, 0], pairs[:, 1]]
    tried = torch.full((len(images), len(columns)), float("inf"), device=images.device)
    for part in torch.arange(len(row), device=row.device).split(_ROWS):
        one = torch.zeros(len(part), len(columns), dtype=torch.bool, device=images.device)
        one[torch.arange(len(part), device=row.device), column[part]] = True
        tried[row[part], column[part]] = squared_error(images[row[part]], _changed(scenes[row[part]], columns, one))
    tried = tried.masked_fill(tried >= error[:, None], float("inf"))
    groups: dict[tuple[str, int], list[int]] = {}
    for c, (name, slot, _) in enumerate(columns):
        groups.setdefault((name, slot), []).append(c)
    best = [tried[:, mine].min(1) for mine in groups.values()]
    which = torch.stack([torch.tensor(mine, device=row.device)[b.indices]
                         for mine, b in zip(groups.values(), best, strict=True)], 1)
    helped, turn = torch.stack([b.values for b in best], 1).sort(1)
    for j in range(_TOGETHER):                                # one after another: what helped alone may not help any more
        rows = torch.nonzero(helped[:, j].isfinite()).squeeze(1)
        if len(rows) == 0:
            break
        one = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=row.device)
        one[torch.arange(len(rows), device=row.device), which[rows, turn[rows, j]]] = True
        other = _changed(scenes[rows], columns, one)
        new = squared_error(images[rows], other)
        good = new < error[rows]
        scenes, error = put(scenes, rows[good], other[good]), error.index_copy(0, rows[good], new[good])
    return scenes, error


def put(scenes: Scenes, rows: Tensor, other: Scenes) -> Scenes:
    """Scenes whose ``rows`` (n,) are replaced by the n scenes of ``other``."""
    if len(rows) == 0:
        return scenes
    order = torch.arange(len(scenes), device=rows.device)
    order[rows] = len(scenes) + torch.arange(len(rows), device=rows.device)
    return Scenes.cat([scenes, other])[order]
