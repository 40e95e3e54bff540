"""Lesson 19: its panel over its whole range, and the helpers of its claims."""

from __future__ import annotations

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.lessons.l19_textual_inversion.claims import named_right
from minidiff.lessons.l19_textual_inversion.panels import Frames
from minidiff.rng import normal
from minidiff.show import panel, slider, sweep
from minidiff.world import Scene, Thing, render


def sets():
    return {i: (normal((3, 3, 8, 8), "frames", i).clamp(-1, 1), f"step {i}") for i in (0, 10, 40)}


def test_a_panel_of_frames_shows_each_of_them():
    frames = Frames(sets(), scale=2)
    shown = panel(frames.render, slider("iteration", 0, 40, 10), alt="frames")
    texts = set()
    for values in sweep(shown):
        picture, text = frames.render(**values)
        assert picture.ndim == 3 and picture.dtype.name == "uint8"
        texts.add(text)
    assert texts == {"step 0", "step 10", "step 40"}
    assert (frames.render(iteration=0)[0] != frames.render(iteration=10)[0]).any()
    assert frames.render(iteration=12)[1] == "step 10" and frames.render(iteration=31)[1] == "step 40"


def test_frames_refuse_what_they_cannot_show():
    with pytest.raises(BadInput, match="one size"):
        Frames({0: (torch.zeros(2, 3, 8, 8), ""), 1: (torch.zeros(3, 3, 8, 8), "")})
    with pytest.raises(BadInput, match="value"):
        Frames({"a": (torch.zeros(2, 3, 8, 8), "")}).render(rung="b")


def test_named_right_wants_one_thing_of_that_kind_and_colour():
    cat, dog = Thing("cat", "red"), Thing("dog", "blue", size=0.15, x=0.2, y=0.25)
    both = Scene((dog, cat.replace(x=0.7, y=0.7, size=0.16)))
    pictures = render([Scene((cat,)), Scene((cat.replace(colour="blue"),)), both]).images
    assert named_right(pictures, "cat", "red").tolist() == [True, False, False]
