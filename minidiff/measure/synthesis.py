"""Analysis by synthesis: is there a scene whose rendering looks like this picture?

The reader's prediction is rendered, its places and sizes are refined by gradient through the renderer, and what is left
over is the residual. A cross-fade of two things, a chimera or a smear has no scene that explains it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_choice, check_images, require
from minidiff.measure.reader import Reader
from minidiff.measure.reading import Reading, read
from minidiff.world import ANIMALS, Scene, Scenes, morph, render
from minidiff.world.blend import Blend, colour_rgb, pattern_colour

__all__ = ["Explanation", "explain", "explain_between", "residual", "VALID_BELOW", "BETWEEN_BELOW"]

# A picture counts as valid when its residual is below this; set from clean held-out pictures with a little noise
# (99 % pass) and from broken ones (cross-fades, missing parts); `minidiff score 00.validity` prints both again.
VALID_BELOW = 0.20
BETWEEN_BELOW = 0.12  # the same for explain_between: frames of the gold morph leave at most 0.03, ghosts 0.14 and more (N 80)


class Explanation(NamedTuple):
    """The scene that explains each of B pictures best, and how much it leaves over."""

    scenes: Scenes
    residual: Tensor      # (B,) root mean square difference in the worst window, pixel values in [-1, 1]
    valid: Tensor         # (B,) bool
    reading: Reading


def residual(images: Tensor, rendered: Tensor) -> Tensor:
    """Root mean square difference in the worst window of a quarter of the side, (B,); a speck counts, noise averages out."""
    side = images.shape[-1]
    square = ((images - rendered) ** 2).mean(1, keepdim=True)
    return F.avg_pool2d(square, side // 4, side // 8).amax((1, 2, 3)).sqrt()


FREE = ("place", "colour", "kind", "backdrop")


def explain(images: Tensor, reader: Reader, *, steps: int = 24, lr: float = 0.01, chunk: int = 256,
            free: Sequence[str] = ("place",)) -> Explanation:
    """Read pictures (B, 3, S, S), refine the scenes by Adam on the squared difference, report the residual.

    steps: gradient steps; 0 keeps the reader's own places. free: what the gradient may change. "place" (always): x, y and
    size. "colour", "kind", "backdrop": how far a thing (the backdrop) is on its way to the second likeliest one. The scenes
    of the answer then carry a ``blend``. Freedom has a price: one pale thing and one half-transparent thing may be the
    same picture. Where both ends of a morph are known, :func:`explain_between` does not have to guess.
    """
    check_images("images", images, channels=3)
    require(steps >= 0, "steps", steps, "a whole number >= 0")
    for name in free:
        check_choice("free", name, FREE)
    parts = [_explain(part, reader, steps, lr, frozenset(free)) for part in images.split(chunk)]
    scenes = Scenes.cat([p.scenes for p in parts])
    reading = Reading(scenes, torch.cat([p.reading.masks for p in parts]), torch.cat([p.reading.confidence for p in parts]),
                      {k: torch.cat([p.reading.probs[k] for p in parts]) for k in parts[0].reading.probs})
    left = torch.cat([p.residual for p in parts])
    return Explanation(scenes, left, torch.cat([p.valid for p in parts]), reading)


def explain_between(images: Tensor, first: Scene, other: Scene, *, steps: int = 24, lr: float = 0.01) -> Explanation:
    """Explain frames (n, 3, S, S) of a morph from ``first`` to ``other`` as in-betweens of just these two scenes.

    Free are place, size, and the shares of colour, kind and backdrop; colours stay on the line between the two ends, so
    that half a thing is not taken for a pale one (unless the other end is as pale as the backdrop). Each frame is tried
    from three starts on the way, the best one counts. No reader is asked: ``reading`` is that of
    the gold frame, with no probabilities.
    """
    check_images("images", images, channels=3)
    found: Explanation | None = None
    for t in (0.15, 0.5, 0.85):
        scenes = morph(first, other, [t] * len(images))
        blank = Reading(scenes, torch.zeros(len(images), 3, *images.shape[2:]), scenes.present.float(), {})
        ends = tuple(morph(first, other, [end] * len(images)).blend for end in (0.0, 1.0))
        one = _fit(images, scenes, blank, steps, lr, frozenset(FREE), ends)
        if found is None:
            found = one
            continue
        rows = torch.nonzero(one.residual < found.residual).squeeze(1)
        order = torch.arange(len(images))
        order[rows] = rows + len(images)
        scenes = Scenes.cat([found.scenes, one.scenes])[order]
        found = Explanation(scenes, torch.minimum(one.residual, found.residual), one.valid | found.valid, found.reading)
    return found


def _loosened(reading: Reading, free: frozenset[str]) -> tuple[Scenes, tuple[Blend, Blend]]:
    """The reader's scenes with a blend on the way to the second likeliest words that are free, and both ends of it."""
    scenes = reading.scenes.blended()
    near, far = scenes.blend, scenes.blend
    share, backdrop_share = near.share, near.backdrop_share
    if "colour" in free:
        rgb = colour_rgb(reading.probs["colour"].topk(2, -1).indices[..., 1])
        far = far.replace(rgb=rgb, second=pattern_colour(rgb))
    if "kind" in free:
        p, kind = reading.probs["kind"].topk(2, -1)
        face = kind[..., 1] < len(ANIMALS)
        mood = torch.where(face & (scenes.mood > 0), scenes.mood, face.long())
        near, share = near.replace(kind=kind[..., 1], mood=mood), (p[..., 1] / p.sum(-1)).clamp(0.02, 0.5)
    if "backdrop" in free:
        p, backdrop = reading.probs["backdrop"].topk(2, -1)
        near, backdrop_share = near.replace(backdrop=backdrop[:, 1]), (p[:, 1] / p.sum(-1)).clamp(0.02, 0.5)
    return dataclasses.replace(scenes, blend=near.replace(share=share, backdrop_share=backdrop_share)), (near, far)


def _with(scenes: Scenes, ends: tuple[Blend, Blend] | None, numbers: dict[str, Tensor]) -> Scenes:
    """The scenes with these places, sizes and shares, each kept in its range."""
    x, y, size = numbers["place"]
    scenes = dataclasses.replace(scenes, x=x.clamp(0, 1), y=y.clamp(0, 1), size=size.clamp(0.05, 0.45))
    if ends is None:
        return scenes
    changes = {n: numbers[n].clamp(0, 1) for n in ("share", "backdrop_share") if n in numbers}
    if "colour" in numbers:
        t = numbers["colour"].clamp(0, 1)[..., None].expand(-1, -1, 3)
        changes |= {n: torch.lerp(getattr(ends[0], n), getattr(ends[1], n), t) for n in ("rgb", "second")}
    return dataclasses.replace(scenes, blend=scenes.blend.replace(**changes))


def _explain(images: Tensor, reader: Reader, steps: int, lr: float, free: frozenset[str]) -> Explanation:
    reading = read(images, reader)
    if free <= {"place"}:
        return _fit(images, reading.scenes, reading, steps, lr, free)
    scenes, ends = _loosened(reading, free)
    return _fit(images, scenes, reading, steps, lr, free, ends)


def _fit(images: Tensor, scenes: Scenes, reading: Reading, steps: int, lr: float, free: frozenset[str],
         ends: tuple[Blend, Blend] | None = None) -> Explanation:
    start = {"place": torch.stack([scenes.x, scenes.y, scenes.size]).transpose(0, 1)}
    rates = {"place": lr, "colour": 5 * lr, "share": 5 * lr, "backdrop_share": 5 * lr}
    if "kind" in free:
        start["share"] = scenes.blend.share
    if "colour" in free:
        start["colour"] = scenes.blend.share.clamp(0.1, 0.9)
    if "backdrop" in free:
        start["backdrop_share"] = scenes.blend.backdrop_share
    numbers = {name: value.clone().requires_grad_(True) for name, value in start.items()}
    groups = [{"params": [v], "lr": rates[n], "rate": rates[n]} for n, v in numbers.items()]
    optimiser = torch.optim.Adam(groups, betas=(0.8, 0.95))
    best = torch.full((len(images),), float("inf"), device=images.device)
    kept = {name: value.clone() for name, value in start.items()}

    def now(values: dict[str, Tensor]) -> Scenes:
        return _with(scenes, ends, values | {"place": values["place"].transpose(0, 1)})

    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            error = ((render(now(numbers), images.shape[-1]).images - images) ** 2).mean((1, 2, 3))
        better = error.detach() < best
        best = torch.where(better, error.detach(), best)
        for name, value in numbers.items():
            kept[name] = torch.where(better.reshape(-1, *[1] * (value.ndim - 1)), value.detach(), kept[name])
        if step < steps and error.requires_grad:
            for group in optimiser.param_groups:
                group["lr"] = group["rate"] * (1 - step / steps) + 0.1 * lr
            optimiser.zero_grad()
            error.sum().backward()
            optimiser.step()
    scenes = now(kept)
    with torch.no_grad():
        left = residual(images, render(scenes, images.shape[-1]).images)
    below = VALID_BELOW if reading.probs else BETWEEN_BELOW
    return Explanation(scenes, left, (left < below) & scenes.present.any(1), reading)
