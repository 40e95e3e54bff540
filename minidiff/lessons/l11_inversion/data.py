"""The pictures of lesson 11: rendered ones, from the world that the model was trained in."""

from __future__ import annotations

import dataclasses

import torch

from minidiff.measure import EditPairs
from minidiff.world import Scenes
from minidiff.zoo import card

__all__ = ["as_in_training"]


def as_in_training(pairs: EditPairs, model: str = "mini-sd") -> EditPairs:
    """The pairs with backdrops and sizes that ``model`` was trained on, so that what a method does is not mixed with what the
    model never saw. For a model of the world's first edition: backdrops that do not vary, sizes 0.13 to 0.30."""
    if card(model)["world_edition"] > 1:
        return pairs

    def known(scenes: Scenes) -> Scenes:
        size = torch.where(scenes.present, scenes.size.clamp(0.13, 0.30), scenes.size)
        return dataclasses.replace(scenes, vary=torch.zeros_like(scenes.vary), size=size)

    return dataclasses.replace(pairs, source=known(pairs.source), target=known(pairs.target))
