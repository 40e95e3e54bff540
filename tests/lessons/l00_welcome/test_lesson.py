"""The pictures behind the panels of lesson 00, over the whole range of their knobs."""

import numpy as np
import torch

from minidiff.lessons.l00_welcome.claims import damaged, spearman
from minidiff.lessons.l00_welcome.panels import CHOICES, cover, draw_scene, share_interval, show_fade
from minidiff.world import WorldData, parse

START = {
    "kind": "cat",
    "colour": "red",
    "pattern": "plain",
    "wears": "nothing",
    "backdrop": "grass",
    "style": "flat",
    "x": 0.5,
    "size": 0.28,
}


def test_every_knob_of_the_scene_builder_changes_the_picture():
    first, words = draw_scene(**START)
    assert "cat" in words and parse(words)
    for name, values in CHOICES.items():
        for value in values:
            picture, words = draw_scene(**START | {name: value})
            assert picture.shape == first.shape and picture.dtype == np.uint8
            assert (value == START[name]) == bool((picture == first).all()), (name, value)
    for name, values in {"x": (0.2, 0.8), "size": (0.13, 0.3)}.items():
        assert all((draw_scene(**START | {name: v})[0] != first).any() for v in values)
    assert "no face for the glasses" in draw_scene(**START | {"kind": "house", "wears": "glasses"})[1]


def test_the_fade_is_valid_at_its_ends_only():
    words = [show_fade(share=k)[1] for k in range(11)]
    assert "not valid" not in words[0] and "not valid" not in words[10] and all("not valid" in words[k] for k in (4, 5, 6))


def test_intervals_shrink():
    widths = [int((share_interval(n=n, percent=90)[0][18] == (120, 170, 225)).all(-1).sum()) for n in (5, 40, 400)]
    assert widths == sorted(widths, reverse=True) and widths[-1] > 0


def test_damage_is_damage():
    x = WorldData(32, "test").images(8)
    for name, steps in damaged(x).items():
        errors = [float((y - x).square().mean()) for y in steps]
        assert len(steps) == 4 and errors == sorted(errors) and errors[0] > 0, name
        assert all(y.abs().max() <= 1 + 1e-5 for y in steps)
    a = torch.tensor([1.0, 5.0, 3.0, 9.0])
    for b, want in ((a**3, 1.0), (-a, -1.0), (torch.tensor([1.0, 3.0, 5.0, 9.0]), 0.8)):
        assert abs(spearman(a, b) - want) < 1e-9


def test_the_cover_fits_a_page():
    assert cover().width <= 760
