"""Lesson 20: the measures of its claims, on pictures whose answer is known."""

from __future__ import annotations

import math

import torch

from minidiff.course import compute
from minidiff.lessons.l20_dreambooth_lora.claims import backdrop_bits, entropy, leak
from minidiff.recipes.adapters import ladder, train_shots
from minidiff.world import BACKDROPS, COLOUR_NAMES, Scene, Thing, render


def bears(colours):
    return render([Scene((Thing("bear", colour),)) for colour in colours]).images


def test_entropy_is_that_of_the_colours_drawn():
    assert entropy(bears(["red"] * 4)) == 0
    assert abs(entropy(bears(["red", "blue"] * 3)) - 1) < 1e-6
    assert abs(entropy(bears(COLOUR_NAMES)) - math.log2(9)) < 0.3


def test_bits_of_the_backdrop_do_not_see_the_colours():
    assert backdrop_bits(bears(COLOUR_NAMES)) == 0
    both = render([Scene((Thing("bear", "red"),), backdrop) for backdrop in BACKDROPS[:2] for _ in range(3)]).images
    assert abs(backdrop_bits(both) - 1) < 1e-6


def test_leak_knows_the_subject_among_its_class():
    before = bears(COLOUR_NAMES)
    pandas = train_shots(ladder()["panda"]).images
    assert leak("panda", torch.cat((pandas, before)), before).tolist()[:4] == [True] * 4
    assert int(leak("panda", before, before).sum()) <= 1


def test_merged_is_beside():
    row = compute("20.merged", 2)
    assert row.passed and row.baseline["without the adapter"] > 0.01
