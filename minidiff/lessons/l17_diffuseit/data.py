"""The edits of lesson 17: all of a thing and its backdrop change, the layout stays; and what a loss prefers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.editing.key_losses import Features, structure_loss
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.measure import EditPairs, edit_pairs
from minidiff.measure.prompts import prompt_of
from minidiff.measure.reader import Reader
from minidiff.world import Scenes, held_out, render

__all__ = ["displaced", "layout_edits", "patches", "preferred", "reader_features"]

FAR = 0.15         # of the picture's side: how far at least the thing is put from its place


def layout_edits(n: int, *, split: str = "valid", seed: int = 0) -> EditPairs:
    """n edits of one thing's kind and colour and of the backdrop at once; place and size stay. Nothing of the source's words
    is left but their order, and pairs of a kind and a colour that were held out of training are passed over."""
    parts = {edit: edit_pairs(edit, 2 * n + 8, split=split, seed=seed) for edit in ("kind", "colour", "backdrop")}
    first = parts["kind"]
    target = dataclasses.replace(first.target, colour=parts["colour"].target.colour, backdrop=parts["backdrop"].target.backdrop)
    rows = [i for i in range(len(first)) if not held_out(target[i].things[0].kind, target[i].things[0].colour)][:n]
    return EditPairs("layout", first.source[rows], target[rows], [first.prompts[i] for i in rows],
                     [prompt_of(target[i]) for i in rows])


def displaced(scenes: Scenes) -> Scenes:
    """The same scenes of one thing, which stands at the nearest of 25 places that is at least FAR from its own."""
    x, y = scenes.x.clone(), scenes.y.clone()
    for i, size in enumerate(scenes.size[:, 0].tolist()):
        low, high = 1.1 * size, 1 - 1.1 * size
        at = [low + (high - low) * k / 4 for k in range(5)]
        gap = {(a, b): (a - float(x[i, 0])) ** 2 + (b - float(y[i, 0])) ** 2 for a in at for b in at}
        x[i, 0], y[i, 0] = min((p for p in gap if gap[p] >= FAR**2), key=lambda p: gap[p], default=max(gap, key=lambda p: gap[p]))
    return dataclasses.replace(scenes, x=x, y=y)


def patches(images: Tensor, *, side: int = 8) -> Features:
    """Features without a network: the pixels of side x side patches as keys, all of them as the pooled vector."""
    return Features(F.unfold(images, side, stride=side).mT, images.flatten(1))


def reader_features(reader: Reader) -> Callable[[Tensor], Features]:
    """Features of a reader's last layer, with gradients: its 8 x 8 places as keys (64 pixels), their mean as the pooled vector.

    A reader was trained on where things are and what they are; mini-clip has only ever seen pictures with captions.
    """
    def features(images: Tensor) -> Features:
        last = reader(images).layers[-1]
        return Features(last.flatten(2).mT, last.mean((2, 3)))
    return features


@torch.no_grad()
def preferred(features: Callable[[Tensor], Features], n: int, *, loss: Callable[[Tensor, Tensor], Tensor] = structure_loss,
              split: str = "valid", model: str = "mini-sd") -> Tensor:
    """(n, 2): the loss of two pictures against the keys of a source: the right answer of a :func:`layout_edits`, and the same
    with its thing at another place. Rendered in the world that ``model`` was trained in."""
    pairs = as_in_training(layout_edits(n, split=split), model)
    source, right, wrong = (features(render(x).images).keys for x in (pairs.source, pairs.target, displaced(pairs.target)))
    return torch.stack([loss(right, source), loss(wrong, source)], 1).double()
