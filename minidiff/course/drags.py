"""What a drag did, picture by picture: handles as tracked, the thing as a reader finds it, and whether it is still itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff.course.editions import as_in_training
from minidiff.course.samples import shipped
from minidiff.editing import drag, paste_moved, swept
from minidiff.errors import check_choice
from minidiff.measure import EditPairs, Reader, edit_pairs, read
from minidiff.personal import picture_lora
from minidiff.world import Scenes, render

__all__ = ["DRAGS", "Dragged", "asked_handles", "drag_pairs", "drag_score", "dragged", "free_region"]

DRAGS = ("drag", "drag with LoRA", "paste and SDEdit", "paste alone", "nothing")
MODEL, SIDE, ARM, REACH, CHUNK = "mini-sd", 64, 0.45, 1.35, 16       # ARM, REACH: in half-heights of the thing


class Dragged(NamedTuple):
    """n drags. handles (n,): mean distance of the handles, as tracked, to their targets, in pixels, NaN where none were tracked;
    thing (n,): of the thing that the reader finds to its place in the counterfactual, inf where it finds none; kept (n,) bool:
    it reads as the same kind and colour; iou (n,): of its mask with that of the counterfactual; gold (n,): mean square error to
    the counterfactual; images (n, 3, H, W)."""

    handles: Tensor
    thing: Tensor
    kept: Tensor
    iou: Tensor
    gold: Tensor
    images: Tensor


def drag_pairs(n: int, *, split: str = "test") -> EditPairs:
    """n whole-thing moves of at least 0.15 of the picture, in the world that the model was trained in."""
    pairs = edit_pairs("move", n, split=split)
    return dataclasses.replace(pairs, source=as_in_training(pairs.source, MODEL), target=as_in_training(pairs.target, MODEL))


def _centres(scenes: Scenes) -> Tensor:
    return torch.stack([scenes.x[:, 0], scenes.y[:, 0]], -1)


def asked_handles(pairs: EditPairs) -> tuple[Tensor, Tensor]:
    """(handles, targets), each (n, 5, 2): the thing's centre and four points 0.45 half-heights from it, before and after.

    One handle in the middle is not enough: a thing that is pulled at one point leaves its edge behind.
    """
    arms = torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    handles = _centres(pairs.source)[:, None] + ARM * pairs.source.size[:, :1, None] * arms
    return handles, handles + (_centres(pairs.target) - _centres(pairs.source))[:, None]


def free_region(pairs: EditPairs, size: int = SIDE) -> Tensor:
    """(n, 1, size, size): 1 within 1.35 half-heights of the way that the thing is to go, what a person would paint."""
    start, end = _centres(pairs.source)[:, None], _centres(pairs.target)[:, None]
    return torch.cat([swept(a[None], b[None], REACH * float(s), size)
                      for a, b, s in zip(start, end, pairs.source.size[:, 0], strict=True)])


def drag_score(pairs: EditPairs, images: Tensor, reader: Reader, handles: Tensor | None = None) -> Dragged:
    """Read pictures (n, 3, H, W) that are to show ``pairs.target``. handles (n, K, 2): where they were tracked last."""
    seen, gold = read(images, reader), render(pairs.target, images.shape[-1])
    there = seen.scenes.present[:, 0]
    away = images.shape[-1] * (_centres(seen.scenes) - _centres(pairs.target)).norm(dim=-1)
    same = [getattr(seen.scenes, name)[:, 0] == getattr(pairs.source, name)[:, 0] for name in ("kind", "colour")]
    mine, wanted = seen.masks[:, 0] > 0.5, gold.masks[:, 0] > 0.5
    iou = (mine & wanted).sum((1, 2)) / (mine | wanted).sum((1, 2)).clamp(min=1)
    off = torch.full((len(images),), float("nan")) if handles is None else \
        images.shape[-1] * (handles - asked_handles(pairs)[1]).norm(dim=-1).mean(1)
    return Dragged(off, away.masked_fill(~there, float("inf")), same[0] & same[1] & there, iou * there,
                   (images - gold.images).square().mean((1, 2, 3)), images)


def _made(pipe: Any, pairs: EditPairs, how: str) -> tuple[Tensor, Tensor | None]:
    source = render(pairs.source, SIDE)
    if how == "nothing":
        return source.images, None
    handles, targets = asked_handles(pairs)
    if how.startswith("paste"):
        strength = 0.4 if "SDEdit" in how else 0.0
        made = paste_moved(pipe, pairs.prompts, source.images, source.masks[:, :1], (targets - handles)[:, 0],
                           strength=strength, steps=20)
        return made.images["edit" if strength else "pasted"], None
    made = drag(pipe, pairs.prompts, source.images, handles, targets, free=free_region(pairs))
    return made.edit, made.details["handles"]


@functools.lru_cache(maxsize=8)
def dragged(n: int, how: str = "drag", *, split: str = "test", reader: str = "readers/final") -> Dragged:
    """The first n drags in one of the ways DRAGS, scored. "drag with LoRA": each picture with an adapter of its own, one by one.

    CPU seconds a picture on one core: drag 2.4, with LoRA 9, paste and SDEdit 0.3.
    """
    check_choice("how", how, DRAGS)
    pipe, pairs, parts = shipped(MODEL), drag_pairs(n, split=split), []
    alone = how == "drag with LoRA"
    for i in range(0, n, 1 if alone else CHUNK):
        part = pairs[i:i + (1 if alone else CHUNK)]
        if alone:
            with picture_lora(pipe, render(part.source, SIDE).images, part.prompts[0]):
                images, handles = _made(pipe, part, how)
        else:
            images, handles = _made(pipe, part, how)
        parts.append(drag_score(part, images, shipped(reader), handles))
    return joined(parts)


def joined(parts: Sequence[Dragged]) -> Dragged:
    """Several scores as one."""
    return Dragged(*(torch.cat(column) for column in zip(*parts, strict=True)))
