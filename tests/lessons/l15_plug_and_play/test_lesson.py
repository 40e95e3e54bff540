"""Lesson 15: SDEdit in closed form, colours of features, its panels over their whole range, the rows on made-up answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minidiff import BadInput, load
from minidiff.course import claims
from minidiff.editing import direct_inversion, plug_and_play, sdedit
from minidiff.lessons.l15_plug_and_play import claims as board
from minidiff.lessons.l15_plug_and_play import panels
from minidiff.lessons.l15_plug_and_play.claims import Edited, as_often, both, gold_error
from minidiff.lessons.l15_plug_and_play.data import dotted, mode_boundary, principal_colours, rendered
from minidiff.lessons.l15_plug_and_play.exercises import flips
from minidiff.lessons.l15_plug_and_play.panels import DragFilm, Shares, Strengths
from minidiff.measure import edit_pairs, edit_score
from minidiff.rng import normal
from minidiff.show import choice, panel, slider, sweep
from tests.pipelines import CASES, shared

TEXTS, GOALS = ["a red cat", "a blue dog"], ["a green cat", "a pink dog"]


# The closed form -------------------------------------------------------------------------------------------------------------


def test_the_boundary_has_the_modes_weight_below_it_and_is_zero_for_equal_weights():
    abar = torch.tensor([0.9, 0.5, 0.1, 0.01], dtype=torch.float64)
    assert float(mode_boundary(abar, 2.0, 0.09, 0.5).abs().max()) < 1e-9
    for share in (0.2, 0.95):
        b, a, d = mode_boundary(abar, 2.0, 0.09, share), abar**0.5, (0.09 * abar + 1 - abar) ** 0.5
        below = (1 - share) * torch.special.ndtr((b + a * 2) / d) + share * torch.special.ndtr((b - a * 2) / d)
        assert torch.allclose(below, torch.full_like(below, 1 - share), atol=1e-9)
    assert bool((mode_boundary(abar, 2.0, 0.09, 0.95) < 0).all()), "the likelier mode has more room"
    with pytest.raises(BadInput, match="share"):
        mode_boundary(abar, 2.0, 0.09, 1.0)


def test_the_closed_form_by_ddim_with_the_exact_prediction():
    """2,000 sources; the way back in 200 steps of equal angle."""
    m, v, share, abar = 1.5, 0.16, 0.8, 0.4
    x0 = -m + v**0.5 * normal((2000,), "flips source", 0, dtype=torch.float64)
    x = abar**0.5 * x0 + (1 - abar) ** 0.5 * normal((2000,), "flips noise", 0, dtype=torch.float64)
    levels = torch.linspace(float(torch.tensor(abar**0.5).acos()), 0, 201, dtype=torch.float64).cos().square()
    for now, then in zip(levels, levels[1:], strict=False):
        a, d2 = now**0.5, now * v + 1 - now
        upper = torch.sigmoid(2 * a * m * x / d2 + torch.tensor(share / (1 - share)).log())
        low, high = (c * m + a * v / d2 * (x - a * c * m) for c in (-1, 1))
        clean = low + upper * (high - low)
        x = then**0.5 * clean + ((1 - then) / (1 - now)) ** 0.5 * (x - a * clean)
    level = torch.tensor([abar], dtype=torch.float64)
    want = float(flips(level, m, v, mode_boundary(level, m, v, share)))
    assert float((x > 0).double().mean()) == pytest.approx(want, abs=5 * (want * (1 - want) / 2000) ** 0.5)


# Colours and dots --------------------------------------------------------------------------------------------------------------


def test_two_kinds_of_places_get_two_colours_whatever_the_picture():
    kind = torch.tensor([[[0, 0, 1, 1]] * 3, [[1, 0, 0, 1]] * 3])                               # (2, 3, 4)
    base = torch.stack([torch.tensor([1.0, 0, 0, 2, 0]), torch.tensor([0, 3.0, 1, 0, 0])])
    features = base[kind].movedim(-1, 1) + 0.01 * normal((2, 5, 3, 4), "features", 0)
    first = principal_colours(features)[:, 0]
    assert first.shape == (2, 3, 4) and float(first.abs().max()) <= 1
    inside, outside = first[kind == 1], first[kind == 0]
    assert float((inside.mean() - outside.mean()).abs()) > 1.5 and float(inside.std()) < 0.2
    assert torch.equal(principal_colours(features), principal_colours(features.clone())), "the sign is settled"
    with pytest.raises(BadInput, match="features"):
        principal_colours(features[:, :2])


def test_dots_stand_where_the_points_are():
    x = torch.zeros(1, 3, 40, 60)
    made = dotted(x, torch.tensor([[[0.25, 0.5]]]), torch.tensor([[[0.75, 0.25]]]))
    blue, red = ((made[0] - torch.tensor(c)[:, None, None]).abs().sum(0).lt(1e-4).nonzero().double()
                 for c in ((-1.0, -0.1, 0.4), (0.84, -0.3, -0.8)))
    assert blue.mean(0).tolist() == pytest.approx([20, 15], abs=1.01)
    assert red.mean(0).tolist() == pytest.approx([10, 45], abs=1.01)
    assert not x.any() and float(made[0, 0, 20, 15]) == -1 and float(made[0, 0, 10, 45]) > 0.5, "a handle is blue, a target red"
    assert bool((made[0, :, 14:17, 30] == 1).any()) and not made[0, :, :12, 30].any(), "a line between the two"
    arrived = dotted(x, torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.5, 0.5]]]))
    assert float(arrived[0, 0, 20, 30]) > 0.5 and float(arrived[0, 0, 20, 27]) == 1, "a target is not hidden under a handle"


def test_rendered_sources_are_of_the_first_edition():
    pairs, images = rendered("colour", 3)
    assert images.shape == (3, 3, 64, 64) and not pairs.source.vary.any()
    assert pairs.prompts == edit_pairs("colour", 3, split="valid").prompts


# Panels ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch):
    """A pipeline of random weights, two pictures, and scores that only say how bright a picture is."""
    def score(images, truth):
        return SimpleNamespace(of=lambda name: images.mean((1, 2, 3)).double() + (name == "iou"))

    monkeypatch.setattr(panels, "edit_score", score)
    pipe = shared(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    images = torch.nn.functional.interpolate(normal((2, 3, 4, 4), "lesson 15", 0), size=side).clamp(-1, 1)
    return pipe, SimpleNamespace(images=images)


def test_strengths_are_sdedits_and_the_curve_has_them_all(made):
    pipe, truth = made
    walk = Strengths(pipe, truth, GOALS, {"other": truth.images}, strengths=(0.0, 0.5, 1.0), steps=2)
    want = sdedit(pipe, GOALS, image=truth.images, strength=0.5, steps=2, guidance=4.0).edit
    assert torch.equal(walk.images[0.5], want)
    mean = float(want.mean((1, 2, 3)).double().mean())
    assert walk.points[0.5] == pytest.approx((mean, 1 + mean), abs=1e-6)
    shown = panel(walk.render, choice("strength", list(walk.images), 0.5), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) == 3 and "IoU" in shown.text
    with pytest.raises(BadInput, match="strength"):
        walk.render(strength=0.3)


def test_shares_are_plug_and_plays(made):
    pipe, truth = made
    way = direct_inversion(pipe, truth.images, TEXTS, steps=2)
    ready = {(0.0, 0.0): truth.images}
    grid = Shares(pipe, truth, TEXTS, GOALS, way, features=(0.0, 1.0), attention=(0.0, 1.0), known=ready, steps=2)
    assert len(grid.images) == 4 and grid.images[0.0, 0.0] is truth.images, "what is drawn already is not drawn again"
    for f in (0.0, 1.0):
        want = plug_and_play(pipe, TEXTS, GOALS, inversion=way, feature_share=f, attention_share=1.0 - f, steps=2).edit
        assert float((grid.images[f, 1.0 - f] - want).abs().max()) < 1e-5
    shown = panel(grid.render, choice("features", [0.0, 1.0], 1.0), choice("attention", [0.0, 1.0], 0.0), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) >= 3
    with pytest.raises(BadInput, match="attention"):
        grid.render(features=0.0, attention=0.5)


def test_a_film_of_a_drag_over_its_range():
    frames, targets = normal((3, 3, 16, 16), "film", 0).clamp(-1, 1), torch.tensor([[0.75, 0.5]])
    handles = torch.tensor([[[0.25, 0.5]], [[0.5, 0.5]], [[0.75, 0.5]]])
    film = DragFilm(frames, handles, targets, (0, 20, 40))
    assert film.left.tolist() == pytest.approx([8, 4, 0])
    shown = panel(film.render, slider("frame", 0, 2, 1, 0), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) == 3
    array, text = film.render(frame=1)
    assert array.dtype == np.uint8 and text.startswith("iteration 20: ") and "4.0 pixels" in text
    for wrong in (lambda: film.render(frame=3), lambda: DragFilm(frames, handles[:2], targets, (0, 20, 40)),
                  lambda: DragFilm(frames, handles, targets, (0, 20))):
        with pytest.raises(BadInput):
            wrong()


# Rows ------------------------------------------------------------------------------------------------------------------------


def test_rows_are_paired_and_their_targets_are_the_bars(monkeypatch):
    pairs = edit_pairs("colour", 8, split="test")
    truth = pairs.truth(load("readers/develop"))
    old, right = truth.images, truth.gold
    made = {"plug-and-play": right, "counterfactual": right, "sdedit 0.4": old, "sdedit 0.6": right.roll(6, 3),
            "sdedit 0.8": right.roll(12, 3)}
    found = Edited({name: edit_score(x, truth) for name, x in made.items()}, made, truth, [], [])
    monkeypatch.setattr(board, "edited", lambda edit, n: found)
    known = {id: c for id, c in claims().items() if id.startswith("15.")}
    bars = {"15.joint": ">= 0.9", "15.iou": ">= 0.25", "15.gold": "<= 0.5", "15.backdrop": "<= -0.2"}
    assert {id: known[id].target for id in bars} == bars and all(known[id].n == 96 for id in list(bars)[:3])
    assert as_often(found) == "sdedit 0.6", "the least strength that edits as often"
    bars = {"15.drag_handles": ">= 0.85", "15.drag_thing": ">= 0.85", "15.control_iou": ">= 0.7"}
    assert {id: known[id].target for id in bars} == bars
    joint, iou, gold = (known[id].run(8) for id in ("15.joint", "15.iou", "15.gold"))
    assert joint.value == 1.0 and joint.baseline["sdedit 0.4"] == 0.0 and joint.settings["right, sdedit 0.6"] == 1.0
    near = found.scores["plug-and-play"].iou - found.scores["sdedit 0.6"].iou
    assert iou.value == pytest.approx(float(near.mean())) and iou.low <= iou.value <= iou.high
    gap = found.scores["sdedit 0.8"].iou - found.scores["sdedit 0.6"].iou
    assert iou.baseline["sdedit 0.8 over sdedit 0.6"] == pytest.approx(float(gap.mean())) and "sdedit 0.6 over" not in str(iou)
    assert iou.settings["IoU, plug-and-play"] == pytest.approx(iou.value + iou.settings["IoU, sdedit 0.6"])
    assert gold.value < 0.01 and min(gold.baseline.values()) == 1.0 and gold.settings["error, sdedit 0.4"] > 0


def test_both_asks_for_the_edit_and_the_place_and_errors_are_squares():
    scores = SimpleNamespace(target=torch.tensor([1.0, 1, 0, 1]), iou=torch.tensor([0.6, 0.59, 0.9, 1.0]),
                             gold=torch.tensor([20.0, 0, 6.020599913, 40]))
    assert both(scores).tolist() == [True, False, False, True]
    assert gold_error(scores).tolist() == pytest.approx([0.04, 4, 1, 0.0004], rel=1e-5)
