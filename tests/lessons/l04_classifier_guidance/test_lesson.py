"""Lesson 04: pictures over the range of their knobs, claims that need no trained network at a small size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidiff.course import claims
from minidiff.lessons.l04_classifier_guidance import panels, pictures


@pytest.mark.parametrize("scale", [0.0, 4.0, 8.0])
def test_modes_view(scale: float) -> None:
    array, text = panels.modes_view(scale)
    assert array.dtype == np.uint8 and f"scale {scale:g}" in text


@pytest.mark.parametrize("kind", ["star", "mushroom"])
def test_classifier_view(kind: str) -> None:
    array, text = panels.classifier_view(4.0, kind)
    assert array.shape[2] == 3 and kind in text


def test_claims_at_a_small_size() -> None:
    known = claims()
    assert abs(known["04.recovers"].run(400).value - 1) < 0.1
    for scale, mean in ((2, 1.19), (4, 1.40), (8, 1.66)):
        assert abs(known[f"04.overshoot_{scale}"].run(300).value - mean) < 0.08
    assert known["04.noisy_classifier"].run(64).value > 0.35


def test_entropy_of_a_free_colour_is_that_within_each_kind() -> None:
    even = torch.tensor([(kind, colour) for kind in range(4) for colour in range(4)])
    assert abs(pictures.free_colour(even) - 2) < 1e-9
    tied = torch.tensor([(kind, kind) for kind in range(4)] * 3)            # all colours occur, one a kind
    assert abs(pictures.free_colour(tied)) < 1e-9
    one_kind = torch.tensor([(0, c) for c in (0, 1)] + [(k, 2) for k in (1, 2, 3)])
    assert abs(pictures.free_colour(one_kind) - 0.25) < 1e-9


def test_ranks_of_a_curve_that_rises_and_of_one_that_falls() -> None:
    curve = {s: (torch.arange(60) % 10 < 2 * k).long()[:, None] for k, s in enumerate((0.0, 1.0, 3.0, 5.0))}
    up = pictures.ranks_of(curve, lambda v: float(v.double().mean()), why="never")
    down = pictures.ranks_of(curve, lambda v: -float(v.double().mean()), why="never")
    assert up.value > 0.999 and up.low > 0.9 and down.value < -0.999
    assert up.settings["at s = 3"] == pytest.approx(0.4) and up.baseline == {"a scale without effect": 0.0}
