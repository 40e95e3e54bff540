"""How well a reader reads pictures whose scene is known: the error that every score resting on it inherits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.measure.reader import Reader
from minidiff.measure.reading import read
from minidiff.world import Scenes

__all__ = ["ReaderScore", "score_reader"]


class ReaderScore(NamedTuple):
    """Shares of right answers in [0, 1], over pictures or over things; n counts what each share is over."""

    found: float             # true things with a reading within a tenth of the picture of their centre
    kind: float              # right among the found
    colour: float
    pattern: float
    mood: float
    wears: float
    backdrop: float          # right among the pictures
    style: float
    iou: float               # mean over the found of the overlap of read and true visible mask
    pictures: int
    things: int


def score_reader(reader: Reader, images: Tensor, truth: Scenes, masks: Tensor, *, least: float = 0.25) -> ReaderScore:
    """Compare readings of ``images`` (B, 3, S, S) with ``truth`` and its visible ``masks`` (B, 3, S, S).

    least: things of which a smaller share than this is visible are left out. Each true thing is paired with the
    nearest reading; a reading further than 0.1 of the picture away counts as not found.
    """
    got = read(images, reader)
    size = images.shape[-1]
    visible = truth.present & (masks.sum((2, 3)) > least * 1.6 * (truth.size * size) ** 2)
    far = (truth.x[:, :, None] - got.scenes.x[:, None]) ** 2 + (truth.y[:, :, None] - got.scenes.y[:, None]) ** 2
    far = far + 9.0 * ~got.scenes.present[:, None]
    distance, partner = far.min(-1)
    found = visible & (distance < 0.01)
    row, slot = torch.nonzero(found, as_tuple=True)
    other = partner[row, slot]

    def right(name: str) -> float:
        return float((getattr(got.scenes, name)[row, other] == getattr(truth, name)[row, slot]).double().mean())

    mine, true = got.masks[row, other] > 0.5, masks[row, slot] > 0.5
    iou = (mine & true).sum((1, 2)) / (mine | true).sum((1, 2)).clamp(min=1)
    return ReaderScore(
        float(found.sum() / visible.sum()), right("kind"), right("colour"), right("pattern"), right("mood"), right("wears"),
        float((got.scenes.backdrop == truth.backdrop).double().mean()), float((got.scenes.style == truth.style).double().mean()),
        float(iou.double().mean()), len(images), int(visible.sum()))
