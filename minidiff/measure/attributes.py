"""Do the pictures show what the world shows, as often as it does? And are they copies of the training pictures?"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.errors import check_finite, require
from minidiff.measure.distance import nearest
from minidiff.world.scene import COLOUR_NAMES, MOOD_INDEX, Scenes
from minidiff.world.vocab import BACKDROPS, KINDS, MAX_THINGS, PATTERNS, STYLES, WEARS

__all__ = ["Memorisation", "attribute_tv", "histogram", "memorisation", "total_variation"]

VALUES = {"count": MAX_THINGS + 1, "backdrop": len(BACKDROPS), "style": len(STYLES), "kind": len(KINDS),
          "colour": len(COLOUR_NAMES), "pattern": len(PATTERNS), "mood": len(MOOD_INDEX), "wears": len(WEARS)}
_WHOLE = ("count", "backdrop", "style")


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of |p - q| of two histograms of one shape, each scaled to sum 1: 0 the same, 1 nothing in common."""
    for name, h in (("p", p), ("q", q)):
        require(isinstance(h, Tensor) and bool((h >= 0).all()) and float(h.sum()) > 0, name, "a histogram without counts",
                "a tensor of counts or shares, none below zero, not all zero")
    require(p.shape == q.shape, "q", f"shape {tuple(q.shape)}", f"shape {tuple(p.shape)}, that of p")
    p, q = p.double().cpu(), q.double().cpu()
    return float((p / p.sum() - q / q.sum()).abs().sum() / 2)


def histogram(scenes: Scenes, *names: str) -> Tensor:
    """Counts of the values of one attribute, or joint counts of several: (values of the first, of the second, ...) float64.

    Attributes of things count every thing that is present; "count" (how many things), "backdrop" and "style" count scenes
    when alone, and things when joined with an attribute of things.
    """
    require(bool(names) and set(names) <= set(VALUES) and len(set(names)) == len(names), "names", repr(names),
            f"different ones of {', '.join(VALUES)}", "histogram(scenes, 'kind', 'colour')")
    present = scenes.present
    of_things = not set(names) <= set(_WHOLE)
    flat = torch.zeros_like(present if of_things else scenes.backdrop, dtype=torch.int64)
    for name in names:
        value = present.sum(1) if name == "count" else getattr(scenes, name)
        flat = flat * VALUES[name] + (value[:, None] if of_things and name in _WHOLE else value)
    flat = flat[present] if of_things else flat
    sizes = [VALUES[name] for name in names]
    return torch.bincount(flat.cpu(), minlength=int(torch.tensor(sizes).prod())).double().reshape(sizes)


def attribute_tv(made: Scenes, real: Scenes, *, pairs: bool = True) -> dict[str, float]:
    """Total variation between what two sets of scenes show: one entry an attribute, and one a pair, "kind+colour".

    made: usually the reading of generated pictures; real: scenes of the world, or the reading of real pictures (then the
    reader's own errors are on both sides). Attributes with one value only in both sets are left out. With N samples and K
    values the floor is about sqrt(K / (pi N)) for equally likely values: compute it as attribute_tv(real_1, real_2).
    """
    for name, scenes in (("made", made), ("real", real)):
        require(isinstance(scenes, Scenes) and bool(scenes.present.any()), name, "scenes without things", "Scenes with things")
    single = {name: (histogram(made, name), histogram(real, name)) for name in VALUES}
    shown = [name for name, (p, q) in single.items() if int(((p + q) > 0).sum()) > 1]
    out = {name: total_variation(*single[name]) for name in shown}
    for names in itertools.combinations(shown, 2) if pairs else ():
        out["+".join(names)] = total_variation(histogram(made, *names), histogram(real, *names))
    return out


class Memorisation(NamedTuple):
    """Median distances to the nearest training picture (root mean square a value), and how often made is nearer.

    closer: the chance that a made picture is nearer to the training set than a held-out one is, ties counted half.
    0.5: as new as held-out pictures; near 1: copies.
    """

    made: float
    held_out: float
    closer: float


def memorisation(made: Tensor, train: Tensor, held_out: Tensor, *, chunk: int = 256) -> Memorisation:
    """How near made pictures come to the training pictures, against how near held-out ones come (Meehan et al. 2020).

    made (N, ...), train (T, ...), held_out (M, ...): pictures or features, all with the same shape of a row.
    """
    for name, x in (("made", made), ("train", train), ("held_out", held_out)):
        ok = isinstance(x, Tensor) and x.ndim >= 2 and x.is_floating_point() and len(x) >= 2
        require(ok, name, f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__, "at least two float rows")
        require(x.shape[1:] == train.shape[1:], name, f"rows of shape {tuple(x.shape[1:])}", f"{tuple(train.shape[1:])}")
        check_finite(name, x)
    scale = train[0].numel() ** 0.5
    near = [nearest(x.flatten(1), train.flatten(1), chunk=chunk) / scale for x in (made, held_out)]
    a, b = (x[:, None] if i == 0 else x[None] for i, x in enumerate(near))
    closer = ((a < b).double() + 0.5 * (a == b).double()).mean()
    return Memorisation(float(near[0].median()), float(near[1].median()), float(closer))
