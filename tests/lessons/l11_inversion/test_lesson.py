"""Lesson 11: its panels over their whole range, the statistics of noises, and the rows on made-up numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minidiff import BadInput, load
from minidiff.course import claims
from minidiff.diffusion import last, visits
from minidiff.diffusion.sample import ddim_sigma
from minidiff.editing import Inversion, direct_inversion, edit_friendly_inversion, swap_prompt
from minidiff.latent import denoise, schedule_from, scheduler_options
from minidiff.lessons.l11_inversion import claims as board
from minidiff.lessons.l11_inversion import data, panels
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.lessons.l11_inversion.exercises import step_slope
from minidiff.lessons.l11_inversion.panels import CodeMap, Skipping, WayBack, local_std
from minidiff.measure import edit_pairs, edit_score
from minidiff.rng import normal
from minidiff.show import choice, panel, sweep
from minidiff.steer import Trajectory
from minidiff.world import render
from tests.pipelines import CASES, make, shared


@pytest.fixture(scope="module")
def pipe():
    return shared(CASES[1])


@pytest.fixture(scope="module")
def pairs():
    return edit_pairs("colour", 2)


@pytest.fixture(scope="module")
def pictures(pairs):
    return torch.nn.functional.interpolate(render(pairs.source).images, size=32)      # what the tiny pipeline takes


def apart(x, y):
    return float((x - y).abs().max())


# Panels ------------------------------------------------------------------------------------------------------------------


def test_the_way_back_over_the_whole_range(pipe, pictures, pairs):
    way = direct_inversion(pipe, pictures, pairs.prompts, steps=3, hold=False)
    ends = {w: last(denoise(pipe, pairs.prompts, latents=way.trajectory.noise, steps=3, guidance=w)).x for w in (1.0, 4.0)}
    back = WayBack(pipe, pictures, ends)
    shown = panel(back.render, choice("guidance", back.weights, 4.0), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) == 2
    for w in ends:
        x = panels.from_noise(pipe, way, pairs.prompts, w)
        assert apart(x, back.images[w]) < 1e-3
        error = ((x - pictures) / 2).square().mean((1, 2, 3))
        assert back.psnr[w] == pytest.approx(float(-10 * error.log10().mean()), abs=1e-3)
    array, text = back.render(guidance=1.0)
    assert array.dtype == np.uint8 and "w = 1" in text and f"{back.psnr[1.0]:.1f} dB" in text
    with pytest.raises(BadInput, match="guidance"):
        back.render(guidance=2.0)


def test_the_map_of_a_code(pipe, pictures, pairs):
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:24, 8:24] = True
    both = {"one": pictures[0], "two": pictures[1]}
    where = CodeMap(pipe, both, pairs.prompts[0], inside, amounts=(0.0, 0.1), steps=3)
    shown = panel(where.render, choice("picture", where.pictures, "one"), choice("noise", where.amounts, 0.0), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) >= 3
    code = where.codes["two", 0.1]
    assert where.spread("two", 0.1)[0] == pytest.approx(float(code[:, 2:6, 2:6].std()), rel=1e-5)
    assert where.spread("two", 0.1)[1] == pytest.approx(float(torch.cat([code[:, :2].flatten(), code[:, 6:].flatten(),
                                                                 code[:, 2:6, :2].flatten(), code[:, 2:6, 6:].flatten()]).std()))
    assert apart(where.noisy["one", 0.0], pictures[0]) == 0
    assert 0.05 < float((where.noisy["one", 0.1] - pictures[0]).std()) < 0.11
    with pytest.raises(BadInput, match="noise"):
        where.render(picture="one", noise=0.3)


def test_local_deviation_is_that_of_the_nine_places_around():
    code = normal((2, 3, 5, 6), "code", 0)
    got = local_std(code)
    assert got.shape == (2, 5, 6)
    assert float(got[1, 2, 3]) == pytest.approx(float(code[1, :, 1:4, 2:5].std(unbiased=False)), rel=1e-4)
    assert float(got[0, 0, 0]) == pytest.approx(float(code[0, :, :2, :2].std(unbiased=False)), rel=1e-4)


def test_skipping_replays_the_noises_of_the_steps_that_are_left(pipe, pictures, pairs, monkeypatch):
    monkeypatch.setattr(panels, "edit_score", lambda x, truth: SimpleNamespace(of=lambda name: x.flatten(1).mean(1)))
    truth = SimpleNamespace(images=pictures)
    skipping = Skipping(pipe, truth, pairs.prompts, pairs.targets, skips=(0.0, 0.5), steps=4, guidance=2.0)
    shown = panel(skipping.render, choice("skip", skipping.skips, 0.5), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) == 2
    half = edit_friendly_inversion(pipe, pictures, pairs.prompts, steps=4, skip=0.5)
    assert apart(swap_prompt(pipe, pairs.prompts, pairs.targets, inversion=half, guidance=2.0).edit, skipping.images[0.5]) < 1e-3
    with pytest.raises(BadInput, match="skip"):
        skipping.render(skip=0.3)


# Pictures and rows -------------------------------------------------------------------------------------------


def test_pictures_from_the_world_that_the_model_was_trained_in(monkeypatch):
    pairs = edit_pairs("colour", 12)
    for edition in (1, 2):
        monkeypatch.setattr(data, "card", {"some-model": {"world_edition": edition}}.get)
        known = as_in_training(pairs, "some-model")
        for scenes, before in ((known.source, pairs.source), (known.target, pairs.target)):
            size = scenes.size[scenes.present]
            assert bool((scenes.vary == 0).all()) == (edition == 1)
            assert (0.13 - 1e-6 <= float(size.min()) and float(size.max()) <= 0.30 + 1e-6) == (edition == 1)
            assert torch.equal(scenes.colour, before.colour) and torch.equal(scenes.x, before.x)
        assert known.prompts == pairs.prompts and torch.equal(known.source.size, known.target.size)


def test_statistics_of_noises_on_a_made_up_inversion(pipe):
    """Noises of standard deviation 2 that each step takes half back: n_i = e_i - e_(i-1) / 2, so -2/5 from step to step."""
    steps, shape = 40, (2, 4, 8, 8)
    options = {k: v for k, v in scheduler_options(pipe).items() if k != "clip"}
    way = visits(schedule_from(pipe.scheduler), steps, **options)
    e = normal((steps + 1, *shape), "statistics", 0, dtype=torch.float64)
    n = 2 * (e[1:] - e[:-1] / 2) / 1.25**0.5
    added = torch.stack([ddim_sigma(v.abar, v.abar_prev, 1.0) * x for v, x in zip(way, n, strict=True)])
    path = Trajectory(torch.zeros(steps + 1, *shape), tuple(v.t for v in way), torch.zeros(steps, *shape), added)
    found = board.noise_statistics(Inversion("edit-friendly", path), pipe)
    assert found.shape == (2, 2) and torch.allclose(found[:, 0], torch.full((2,), 2.0, dtype=torch.float64), atol=0.05)
    assert torch.allclose(found[:, 1], torch.full((2,), -0.4, dtype=torch.float64), atol=0.05)


def test_the_toy_agrees_with_its_closed_form():
    row = claims()["11.flat_code"].run(20000)
    assert row.low <= row.value <= row.high and row.value == pytest.approx(1.0, abs=0.02)
    assert 0.3 < row.settings["the closed form"] < 0.5, "far below the noise's 1"


def test_the_exact_inversions_come_back_and_ddim_at_their_guidance_does_not(monkeypatch):
    def loaded(name, dtype):
        made = make(CASES[1])
        for part in (made.unet, made.text_encoder, made.vae):
            part.to(dtype)
        return made

    monkeypatch.setattr(board, "load", loaded)
    pipe = make(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    monkeypatch.setattr(board, "render", lambda scenes: SimpleNamespace(images=normal((len(scenes), 3, side, side), "exact", 0)))
    for method in ("edict", "edit-friendly"):
        back, plain = board.exact_trip(method, 2, steps=3)
        assert back.shape == plain.shape == (2,) and float(back.max()) < 1e-10 and float(plain.min()) > 1e-3


def test_the_lessons_inversions_are_what_they_are_called(pipe, pictures, pairs, monkeypatch):
    monkeypatch.setattr(board, "STEPS", 2)
    for name in board.FITTED:
        assert board.invert_one_way(pipe, pictures, pairs.prompts, name).method == name


def test_rows_are_paired_and_measured_against_the_bound(monkeypatch):
    reader = load("readers/develop")
    pairs = edit_pairs("colour", 8, split="test")
    truth = pairs.truth(reader)
    old, right = truth.images, truth.gold
    fake = {"direct": right, "ddim": (right + old) / 2, "negative-prompt": old, "no edit": old}
    made = {name: board.Edited(edit_score(x, truth), x, truth, [], []) for name, x in fake.items()}
    monkeypatch.setattr(board, "edited", lambda method, n: made[method])
    near = {"autoencoder": 30.0, "null-text": 29.5, "negative-prompt": 28.0, "ddim": 20.0}
    monkeypatch.setattr(board, "round_trip", lambda method, n, guidance=7.5: near[method] + torch.arange(n).double())
    known = {id: c for id, c in claims().items() if id.startswith("11.")}
    few = {"11.ddim_guided": 12, "11.null_text": 12, "11.edict": 8, "11.edit_friendly": 8}       # dear, and exact
    assert len(known) == 9 and all(c.n >= few.get(id, 32) for id, c in known.items())
    null, guided = known["11.null_text"].run(8), known["11.ddim_guided"].run(8)
    assert null.value == pytest.approx(-0.5) and guided.value == pytest.approx(-10.0) and null.low <= null.value <= null.high
    npi, ddim = known["11.direct_npi"].run(8), known["11.direct_ddim"].run(8)
    assert npi.low > 2 and ddim.low > 0
    assert npi.value == pytest.approx(npi.baseline["PSNR, direct"] - npi.baseline["PSNR, negative-prompt"], abs=1e-6)


def test_the_slope_of_a_step_by_finite_differences():
    def step(eps, p=0.9, a=0.5, x=0.3):
        return a**0.5 * (x - (1 - p) ** 0.5 * eps) / p**0.5 + (1 - a) ** 0.5 * eps

    assert step_slope(0.9, 0.5) == pytest.approx((step(1.1) - step(0.9)) / 0.2)
