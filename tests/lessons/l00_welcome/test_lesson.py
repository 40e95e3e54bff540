"""The pictures behind the panels of lesson 00, over the whole range of their knobs."""

import json
from pathlib import Path

import numpy as np
import torch

from minidiff.course import CLAIMS
from minidiff.files import data_folder
from minidiff.lessons.l00_welcome.claims import damaged, spearman
from minidiff.lessons.l00_welcome.panels import CHOICES, cover, draw_scene, fades, share_interval, show_fade
from minidiff.measure import score_reader
from minidiff.world import WorldData, parse, render
from minidiff.world.sample import SIMPLE_SIZES, SIZES
from minidiff.zoo import load

PAGE = Path(__file__).resolve().parents[3] / "notebooks" / "00_welcome.ipynb"

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
    for name, values in {"x": (0.2, 0.8), "size": (0.10, 0.36)}.items():
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


def test_the_difference_of_a_fade_is_drawn_four_times_as_bright():
    x, best, left, _ = fades()
    frame = show_fade(share=5)[0]
    third = frame[:, -32 * 6 :].astype(float) / 127.5 - 1                # the last of the three pictures
    want = (4 * (x[5] - best[5]).abs()).clamp(max=2) - 1
    assert left[5] > 0.1 and np.abs(third[3::6, 3::6] - want.permute(1, 2, 0).numpy())[:32, :32].max() < 0.01


def test_the_mask_row_is_the_mean_over_things_and_its_baseline_the_area():
    images, scenes = WorldData(64, "test", "full").batch(0, 50)
    masks = render(scenes, 64).masks
    out = CLAIMS["00.reader_mask_full"].run(50)
    once = score_reader(load("readers/final"), images, scenes, masks)
    assert abs(out.value - once.iou) < 1e-6 and out.low < out.value < out.high
    areas = [float((masks[b, k] > 0.5).double().mean()) for b in range(50) for k in range(3) if scenes.present[b, k]]
    assert abs(out.baseline["whole picture"] - sum(areas) / len(areas)) < 1e-6


def test_the_numbers_of_the_page_are_those_of_the_cards_and_of_the_world():
    page = "\n".join("".join(c["source"]) for c in json.loads(PAGE.read_text())["cells"] if c["cell_type"] == "markdown")
    model, reader = (json.loads((data_folder() / name / "card.json").read_text()) for name in ("pixel-ddpm", "readers/develop"))
    assert f"A network of {model['parameters'] / 1e6:.1f} million parameters" in page
    assert f"{model['images'] / 1e6:.1f} million rendered pictures" in page and round(model["minutes"]) == 3
    assert f"({reader['parameters'] / 1e6:.1f} million parameters)" in page
    smallest, largest = (f(f(pair) for pair in (SIMPLE_SIZES, *SIZES)) for f in (min, max))
    assert f"{smallest:.2f} to {largest:.2f} of the picture" in page
