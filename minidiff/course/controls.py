"""How well a ControlNet follows its silhouettes: overlap of the hint with what a reader finds in the picture, row by row."""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor

from minidiff.course.editions import as_in_training
from minidiff.course.samples import shipped
from minidiff.editing import control_images, silhouettes
from minidiff.errors import check_choice
from minidiff.latent import text_to_image
from minidiff.measure import Reader, read, silhouette_iou
from minidiff.measure.prompts import make_scenes, prompt_of
from minidiff.world import Scenes, render

__all__ = ["HINTS", "Controlled", "control_scenes", "control_score", "controlled"]

HINTS = ("hint", "no hint", "another's hint", "the world's own")
MODEL, BASE, SIDE, STEPS, GUIDANCE = "mini-control", "mini-sd", 64, 25, 4.0


class Controlled(NamedTuple):
    """n pictures. iou (n,): of the silhouette with the masks that the reader finds; right (n,) bool: the thing reads as the kind
    and colour that the prompt names; images (n, 3, H, W)."""

    iou: Tensor
    right: Tensor
    images: Tensor


def control_scenes(n: int, *, split: str = "test") -> tuple[Scenes, list[str], Tensor]:
    """(scenes, prompts, hints (n, 3, 64, 64)) of one thing each, in the world that the model was trained in."""
    scenes = as_in_training(make_scenes(n, "one", split=split), BASE)
    return scenes, [prompt_of(scene) for scene in scenes], silhouettes(render(scenes, SIDE).masks)


@functools.lru_cache(maxsize=8)
def controlled(n: int, how: str = "hint", *, split: str = "test", reader: str = "readers/final", scale: float = 1.0,
               model: str = MODEL) -> Controlled:
    """The first n prompts with their silhouettes, or what stands beside that, all from the same noise.

    how: one of HINTS; "no hint" is plain sampling of the same prompts; "another's hint": drawn after the silhouette of the next
    scene and scored with its own, the floor of following nothing; "the world's own": the rendered scenes, the reader's ceiling.
    CPU seconds a picture on one core: 0.4 with a hint, 0.3 without.
    """
    check_choice("how", how, HINTS)
    scenes, prompts, hint = control_scenes(n, split=split)
    if how == "the world's own":
        images = render(scenes, SIDE).images
    elif how == "no hint":
        images = text_to_image(shipped(BASE), prompts, steps=STEPS, guidance=GUIDANCE)
    else:
        seen = hint.roll(-1, 0) if how == "another's hint" else hint
        images = control_images(shipped(model), prompts, seen, steps=STEPS, guidance=GUIDANCE, scale=scale)
    return control_score(scenes, hint, images, shipped(reader))


def control_score(scenes: Scenes, hint: Tensor, images: Tensor, reader: Reader) -> Controlled:
    """Score pictures (n, 3, H, W) that were drawn after the hints of ``scenes``."""
    seen = read(images, reader).scenes
    same = [getattr(seen, name)[:, 0] == getattr(scenes, name)[:, 0] for name in ("kind", "colour")]
    return Controlled(silhouette_iou(images, hint, reader), same[0] & same[1] & seen.present[:, 0], images)
