"""The gold morph: the shortest way from one scene to another, every frame of which is a drawing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.world.blend import Blend
from minidiff.world.scene import Scene, Scenes

__all__ = ["morph"]

_SEED = 0.04  # half-height of a thing that has just come, or is about to go: the smallest that a Thing may have


def morph(first: Scene, other: Scene, t: Sequence[float] | Tensor) -> Scenes:
    """The scenes at ``t`` (n numbers in [0, 1]) on the way from ``first`` (t = 0) to ``other`` (t = 1), one a row.

    Thing i becomes thing i: place, size, colour and the backdrop's vary go in a straight line, kind, pattern, face and what
    is worn by the distances of their parts, the backdrop pixel by pixel. A thing without a partner shrinks to nothing or
    grows from it.
    Both scenes have one style: there is no half-way between flat and neon.

    ``render(morph(a, b, torch.linspace(0, 1, 9))).images`` are nine frames.
    """
    t = torch.as_tensor(t, dtype=torch.float32).reshape(-1)
    require(len(t) > 0 and bool(((t >= 0) & (t <= 1)).all()), "t", t.tolist(), "numbers from 0 to 1", "[0, 0.5, 1]")
    require(first.style == other.style, "other", f"style {other.style!r}", f"the style of the first scene, {first.style!r}",
            f"other.replace(style={first.style!r})")
    slots = max(len(first.things), len(other.things))
    a, b = (Scenes.of([_filled(s, o, slots)]).blended() for s, o in ((first, other), (other, first)))

    def mix(name: str) -> Tensor:
        x, y = getattr(a, name), getattr(b, name)
        return torch.where(x == y, x, torch.lerp(x, y, t[:, None]))

    def colours(name: str) -> Tensor:
        return torch.lerp(getattr(a.blend, name), getattr(b.blend, name), t[:, None, None])

    words = {n: v.repeat(len(t), *[1] * (v.ndim - 1)) for n, v in a.tensors().items() if n not in ("x", "y", "size", "vary")}
    to = {n: getattr(b, n).repeat(len(t), 1) for n in ("kind", "pattern", "mood", "wears")}
    blend = Blend(rgb=colours("rgb"), second=colours("second"), **to, share=t[:, None].repeat(1, words["kind"].shape[1]),
                  backdrop=b.backdrop.repeat(len(t)), backdrop_share=t)
    made = Scenes(**words, x=mix("x"), y=mix("y"), size=mix("size"), vary=mix("vary"), blend=blend)
    gone = torch.zeros_like(made.present)
    for j in range(slots):
        gone[:, j] = (t == 0) if j >= len(first.things) else (t == 1) if j >= len(other.things) else torch.zeros_like(t).bool()
    return made.replace(present=made.present & ~gone)


def _filled(scene: Scene, other: Scene, slots: int) -> Scene:
    """The scene with a seed in the place of each thing that only the other scene has."""
    seeds = [dataclasses.replace(t, size=_SEED) for t in other.things[len(scene.things):slots]]
    return scene.replace(things=(*scene.things, *seeds))
