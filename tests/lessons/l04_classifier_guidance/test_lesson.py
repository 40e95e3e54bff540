"""Lesson 04: pictures over the range of their knobs, claims that need no trained network at a small size."""

from __future__ import annotations

import numpy as np
import pytest

from minidiff.course import claims
from minidiff.lessons.l04_classifier_guidance import panels


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
