"""Fit a scene to a picture by gradient through the renderer: places, sizes, how the backdrop varies, shares of a blend."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from minidiff.measure.reading import Reading
from minidiff.world import ANIMALS, SIZE_RANGE, Scenes, render
from minidiff.world.blend import colour_rgb, pattern_colour

__all__ = ["FREE", "Ends", "fit", "loosened", "squared_error"]

FREE = ("place", "colour", "kind", "backdrop")
Ends = tuple[Scenes, Scenes]       # between which colours and ``vary`` have to stay


def squared_error(images: Tensor, scenes: Scenes) -> Tensor:
    """Mean squared difference (B,) of pictures (B, 3, S, S) in [-1, 1] and the renderings of scenes."""
    return ((render(scenes, images.shape[-1]).images - images) ** 2).mean((1, 2, 3))


def loosened(reading: Reading, free: frozenset[str]) -> tuple[Scenes, Ends]:
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
    low, high = torch.full_like(scenes.vary, -1.0), torch.full_like(scenes.vary, 1.0)
    ends = (dataclasses.replace(scenes, vary=low, blend=near), dataclasses.replace(scenes, vary=high, blend=far))
    return dataclasses.replace(scenes, blend=near.replace(share=share, backdrop_share=backdrop_share)), ends


def _with(scenes: Scenes, ends: Ends | None, numbers: dict[str, Tensor]) -> Scenes:
    """The scenes with these places, sizes, variations and shares, each kept in its range."""
    x, y, size = numbers["place"].unbind(1)
    vary = numbers["vary"].clamp(-1, 1)
    if ends is not None:
        vary = torch.minimum(torch.maximum(vary, torch.minimum(ends[0].vary, ends[1].vary)),
                             torch.maximum(ends[0].vary, ends[1].vary))
    # between two ends a thing may grow from nothing; alone it has a size of the world
    size = size.clamp(*SIZE_RANGE) if ends is None else size.clamp(0.04, SIZE_RANGE[1])
    scenes = dataclasses.replace(scenes, x=x.clamp(0, 1), y=y.clamp(0, 1), size=size, vary=vary)
    if ends is None:
        return scenes
    changes = {n: numbers[n].clamp(0, 1) for n in ("share", "backdrop_share") if n in numbers}
    if "colour" in numbers:
        t = numbers["colour"].clamp(0, 1)[..., None].expand(-1, -1, 3)
        changes |= {n: torch.lerp(getattr(ends[0].blend, n), getattr(ends[1].blend, n), t) for n in ("rgb", "second")}
    return dataclasses.replace(scenes, blend=scenes.blend.replace(**changes))


def fit(images: Tensor, scenes: Scenes, *, steps: int, lr: float, free: frozenset[str] = frozenset(),
        ends: Ends | None = None) -> tuple[Scenes, Tensor]:
    """The best scenes that Adam passed in ``steps`` steps on the squared difference, and their squared errors (B,).

    Always free: x, y, size and ``vary``. With ``ends`` also what ``free`` names (see :func:`minidiff.measure.explain`), and
    colours and ``vary`` stay between the two ends. steps = 0 only measures.
    """
    start = {"place": torch.stack([scenes.x, scenes.y, scenes.size], 1), "vary": scenes.vary}
    rates = {"place": lr, "vary": 5 * lr, "colour": 5 * lr, "share": 5 * lr, "backdrop_share": 5 * lr}
    if "kind" in free:
        start["share"] = scenes.blend.share
    if "colour" in free:
        start["colour"] = scenes.blend.share.clamp(0.1, 0.9)
    if "backdrop" in free:
        start["backdrop_share"] = scenes.blend.backdrop_share
    numbers = {name: value.detach().clone().requires_grad_(True) for name, value in start.items()}
    groups = [{"params": [v], "lr": rates[n], "rate": rates[n]} for n, v in numbers.items()]
    optimiser = torch.optim.Adam(groups, betas=(0.8, 0.95))
    best = torch.full((len(images),), float("inf"), device=images.device)
    kept = {name: value.detach().clone() for name, value in numbers.items()}
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            error = squared_error(images, _with(scenes, ends, numbers))
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
    return _with(scenes, ends, kept), best
