"""Scenes as a model's training drew them: a row about what a model was trained to do is scored in the world of its card."""

from __future__ import annotations

import dataclasses

import torch

from minidiff.world import Scenes
from minidiff.world.vocab import WEARS
from minidiff.zoo import card

__all__ = ["as_in_training", "first_edition"]

_SIZES = torch.tensor([(0.20, 0.30), (0.15, 0.20), (0.13, 0.18)])      # half-heights of one, two, three things in edition 1
_WIDE, _TALL, _DRESSED = 1.14, 1.06, 1.31          # half-width, half-height, half-height with a hat or bow tie, in sizes


def first_edition(scenes: Scenes) -> Scenes:
    """The same scenes within the limits of the world's first edition: backdrops that do not vary, half-heights 0.20 to 0.30,
    0.15 to 0.20 or 0.13 to 0.18 where there are one, two or three things; a thing that grew is moved back into the frame."""
    limits = _SIZES[scenes.present.sum(1).clamp(1, 3) - 1]                                   # (B, 2)
    size = scenes.size.clamp(limits[:, :1], limits[:, 1:])
    dressed = (scenes.wears == WEARS.index("hat")) | (scenes.wears == WEARS.index("bow tie"))
    tall = torch.where(dressed, _DRESSED, _TALL)
    moved = {"x": scenes.x.clamp(_WIDE * size, 1 - _WIDE * size), "y": scenes.y.clamp(tall * size, 1 - tall * size), "size": size}
    kept = {name: torch.where(scenes.present, value, getattr(scenes, name)) for name, value in moved.items()}
    return dataclasses.replace(scenes, vary=torch.zeros_like(scenes.vary), **kept)


def as_in_training(scenes: Scenes, model: str) -> Scenes:
    """Scenes that ``model`` (a shipped name) could have met in training: as they are, or as :func:`first_edition` has them where
    its card says ``world_edition`` 1. A row that asks for more than that measures the step between two worlds as well."""
    return scenes if card(model)["world_edition"] > 1 else first_edition(scenes)
