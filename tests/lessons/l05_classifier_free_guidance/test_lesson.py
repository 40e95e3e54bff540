"""Lesson 05: pictures over the range of their knobs, claims that need no trained network at a small size."""

from __future__ import annotations

import numpy as np
import pytest

from minidiff.course import claims
from minidiff.errors import BadInput
from minidiff.lessons.l05_classifier_free_guidance import examples, panels, see


@pytest.mark.parametrize("scale", [0.0, 3.5, 8.0])
def test_classes_view(scale: float) -> None:
    array, text = panels.classes_view(scale)
    assert array.dtype == np.uint8 and f"scale {scale:g}" in text


def test_guidance_view_and_two_scales() -> None:
    one, text = panels.guidance_view(3.0, "any", "blue")
    assert one.dtype == np.uint8 and "of 16 as asked" in text
    for form in ("composable", "chain"):
        array, text = panels.two_scales_view(2.0, 2.0, form)
        assert array.shape[2] == 3 and "of 8 hearts" in text


def test_examples_show_what_they_are_named_for() -> None:
    images = examples("heart", "blue", 6)
    assert images.shape == (6, 3, 32, 32) and bool(see(images).right("heart", "blue").all())
    assert np.array_equal(examples("heart", "blue", 2), images[:2])
    with pytest.raises(BadInput, match="in training"):
        examples("star", "red", 2)


def test_claims_at_a_small_size() -> None:
    known = claims()
    assert known["05.identities"].run(16).value < 1e-9
    assert known["05.not_tilted"].run(200).value > 1
