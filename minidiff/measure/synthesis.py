"""Analysis by synthesis: is there a scene whose rendering looks like this picture?

The reader's prediction is rendered, its places, sizes and backdrop are refined by gradient through the renderer, the words
it doubts most are tried, and what is left over is the residual. A picture is valid when little is left over and everything in
the scene is seen: a cross-fade, a chimera or a smear has no scene that explains it, and an empty backdrop has nothing to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_choice, check_images, check_pictures, require
from minidiff.measure.fit import FREE, fit, loosened
from minidiff.measure.reader import Reader
from minidiff.measure.reading import Reading, read
from minidiff.measure.search import put, try_words
from minidiff.world import Scene, Scenes, morph, render

__all__ = ["BETWEEN_BELOW", "SEEN_ABOVE", "VALID_BELOW", "Explanation", "explain", "explain_between", "gain", "judge", "residual"]

# A picture is valid when its residual is below the first and the gain of each of its things above the second.
# `minidiff.measure.validity.calibrate` prints both from clean and from broken pictures; `minidiff score 00.validity` tests them.
VALID_BELOW = 0.12
SEEN_ABOVE = 0.9
BETWEEN_BELOW = 0.12  # the residual for explain_between: frames of the gold morph leave at most 0.03, ghosts 0.14 and more (N 80)
_WORDS, _MORE = 8, 24     # other words tried for each picture, and for those that leave more than _LOOK_AGAIN then
_LOOK_AGAIN = 0.07


class Explanation(NamedTuple):
    """The scene that explains each of B pictures best, and how much it leaves over."""

    scenes: Scenes
    residual: Tensor      # (B,) root mean square difference in the worst window, pixel values in [-1, 1]
    valid: Tensor         # (B,) bool
    reading: Reading
    gain: Tensor          # (B, 3) share of the squared difference inside its mask that each thing explains; 1 for empty slots


def residual(images: Tensor, rendered: Tensor) -> Tensor:
    """Root mean square difference in the worst window of a quarter of the side, (B,); a speck counts, noise averages out."""
    check_images("images", images)
    check_images("rendered", rendered)
    side = images.shape[-1]
    square = ((images - rendered) ** 2).mean(1, keepdim=True)
    return F.avg_pool2d(square, side // 4, side // 8).amax((1, 2, 3)).sqrt()


@torch.no_grad()
def gain(images: Tensor, scenes: Scenes) -> Tensor:
    """What each thing explains, (B, 3): 1 - (squared difference with it) / (squared difference without), in its visible mask.

    1: the picture there is this thing and nothing else. 0 or less: the same scene without the thing is as good, so there is no
    such thing, or only the ghost of one. Slots without a thing have 1.
    """
    check_pictures("images", images)
    size = images.shape[-1]
    whole = render(scenes, size)
    error = ((whole.images - images) ** 2).mean(1)
    out = torch.ones_like(scenes.size)
    for k in range(out.shape[1]):
        if not bool(scenes.present[:, k].any()):
            continue
        rest = scenes.present.clone()
        rest[:, k] = False
        without = ((render(scenes.replace(present=rest), size).images - images) ** 2).mean(1)
        mask = whole.masks[:, k]
        one = 1 - (mask * error).sum((1, 2)) / (mask * without).sum((1, 2)).clamp(min=1e-6)
        out[:, k] = torch.where(scenes.present[:, k], one, out[:, k])
    return out


def judge(residuals: Tensor, gains: Tensor, scenes: Scenes, *, below: float = VALID_BELOW, above: float = SEEN_ABOVE) -> Tensor:
    """Valid (B,): the scene has a thing, each of its things is seen, and nothing that it does not explain is left over."""
    return (residuals < below) & scenes.present.any(1) & (gains > above).all(1)


def explain(images: Tensor, reader: Reader, *, steps: int = 24, lr: float = 0.01, chunk: int = 256,
            free: Sequence[str] = ("place",)) -> Explanation:
    """Read pictures (B, 3, S, S), refine the scenes by Adam on the squared difference, report the residual.

    steps: gradient steps; 0 keeps the reader's own words and places. free: what the gradient may change. "place" (always): x, y
    and size, within what the world draws, and ``vary``. Half-way the words that the reader doubts most are tried. "colour",
    "kind", "backdrop" instead of that: how far a thing (the backdrop) is on its way to the second likeliest one. The scenes
    of the answer then carry a ``blend``. Freedom has a price: one pale thing and one half-transparent thing may be the
    same picture. Where both ends of a morph are known, :func:`explain_between` does not have to guess.
    """
    check_pictures("images", images)
    require(steps >= 0, "steps", steps, "a whole number >= 0")
    for name in free:
        check_choice("free", name, FREE)
    parts = [_explain(part, reader, steps, lr, frozenset(free)) for part in images.split(chunk)]
    scenes = Scenes.cat([p.scenes for p in parts])
    reading = Reading(Scenes.cat([p.reading.scenes for p in parts]), torch.cat([p.reading.masks for p in parts]),
                      torch.cat([p.reading.confidence for p in parts]),
                      {k: torch.cat([p.reading.probs[k] for p in parts]) for k in parts[0].reading.probs})
    left, gains = torch.cat([p.residual for p in parts]), torch.cat([p.gain for p in parts])
    return Explanation(scenes, left, torch.cat([p.valid for p in parts]), reading, gains)


def _explain(images: Tensor, reader: Reader, steps: int, lr: float, free: frozenset[str]) -> Explanation:
    reading = read(images, reader)
    if free - {"place"}:
        scenes, ends = loosened(reading, free)
        scenes, _ = fit(images, scenes, steps=steps, lr=lr, free=free, ends=ends)
    else:
        scenes, error = fit(images, reading.scenes, steps=steps // 2, lr=lr)
        if steps > 0:
            scenes, error = try_words(images, scenes, error, reading, first=0, count=_WORDS)
            scenes, error = fit(images, scenes, steps=steps - steps // 2, lr=lr / 2)
            left = residual(images, _draw(scenes, images))
            rows = torch.nonzero(left > _LOOK_AGAIN).squeeze(1)
            if len(rows) > 0:
                again, worse = try_words(images[rows], scenes[rows], error[rows], reading[rows], first=_WORDS, count=_MORE)
                again, _ = fit(images[rows], again, steps=steps // 2, lr=lr)
                scenes = put(scenes, rows, again)
    left, gains = residual(images, _draw(scenes, images)), gain(images, scenes)
    return Explanation(scenes, left, judge(left, gains, scenes), reading, gains)


@torch.no_grad()
def _draw(scenes: Scenes, images: Tensor) -> Tensor:
    return render(scenes, images.shape[-1]).images


def explain_between(images: Tensor, first: Scene, other: Scene, *, steps: int = 24, lr: float = 0.01) -> Explanation:
    """Explain frames (n, 3, S, S) of a morph from ``first`` to ``other`` as in-betweens of just these two scenes.

    Free are place, size, and the shares of colour, kind and backdrop; colours and ``vary`` stay between the two ends, so
    that half a thing is not taken for a pale one (unless the other end is as pale as the backdrop). Each frame is tried
    from three starts on the way, the best one counts. No reader is asked: ``reading`` is that of
    the gold frame, with no probabilities.
    """
    require(steps >= 1, "steps", steps, "at least 1", "steps=24")
    require(lr > 0, "lr", lr, "a positive number", "lr=0.01")
    check_pictures("images", images)
    ends = tuple(morph(first, other, [end] * len(images)) for end in (0.0, 1.0))
    scenes, left = morph(first, other, [0.15] * len(images)), None
    blank = Reading(scenes, torch.zeros(len(images), 3, *images.shape[2:]), scenes.present.float(), {})
    for t in (0.15, 0.5, 0.85):
        one, _ = fit(images, morph(first, other, [t] * len(images)), steps=steps, lr=lr, free=frozenset(FREE), ends=ends)
        new = residual(images, _draw(one, images))
        if left is None:
            scenes, left = one, new
            continue
        rows = torch.nonzero(new < left).squeeze(1)
        scenes, left = put(scenes, rows, one[rows]), torch.minimum(left, new)
    return Explanation(scenes, left, (left < BETWEEN_BELOW) & scenes.present.any(1), blank, gain(images, scenes))
