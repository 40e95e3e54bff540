"""Lesson 16: closed forms of the strength on Gaussian data, edits alone against the method, panels, rows on made-up answers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from minidiff import BadInput, load
from minidiff.course import claims
from minidiff.diffusion import Eps, last, linear, scaled_linear, step_pairs
from minidiff.editing import ShiftH, h_space, shift_strength
from minidiff.editing.h_directions import causal_share
from minidiff.latent import denoiser, encode, encode_prompt, schedule_from
from minidiff.lessons.l16_h_space import claims as board
from minidiff.lessons.l16_h_space import data
from minidiff.lessons.l16_h_space.data import Inverted, changes, end_ratio, linear_step, moved, response, shares, two_changes
from minidiff.lessons.l16_h_space.exercises import same_push, step, wrong_term
from minidiff.lessons.l16_h_space.panels import Along, Injected
from minidiff.measure import edit_score
from minidiff.recipes.directions import direction_pairs
from minidiff.rng import normal
from minidiff.show import choice, panel, sweep
from minidiff.steer import run
from minidiff.world import render
from tests.pipelines import CASES, shared


@pytest.fixture(scope="module")
def pipe():
    return shared(CASES[1])


def width(pipe):
    return pipe.unet.mid_block.resnets[-1].out_channels


# Strength --------------------------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """The best eps for Gaussian data of standard deviation ``spread``, through a block ``mid`` that a hook can shift."""

    def __init__(self, schedule, spread):
        super().__init__()
        self.mid, self.schedule, self.spread = torch.nn.Identity(), schedule, spread

    def forward(self, x, t, cond=None):
        abar = self.schedule.abar.to(x)[t].view(-1, 1, 1, 1)
        return self.mid((1 - abar).sqrt() / (abar * self.spread**2 + 1 - abar) * x)


@pytest.mark.parametrize(("schedule", "steps", "spread"), [(linear(1000), 10, 0.5), (scaled_linear(1000), 25, 1.3)])
def test_on_gaussian_data_the_ends_are_apart_as_the_closed_form_says(schedule, steps, spread):
    from minidiff.editing import Asymmetric

    model = Eps(Linear(schedule, spread).double(), schedule)
    x, d = normal((2, 1, 3, 4), "x", 0).double(), normal((1, 3, 4), "d", 0).double()
    ends = {}
    for name, hooks in (("plain", []), ("asym", [Asymmetric(ShiftH(d, 0.1, path="mid"))]), ("sym", [ShiftH(d, 0.1, path="mid")])):
        ends[name] = last(run(model, x, steps=steps, hooks=hooks)).x
    got = (ends["asym"] - ends["plain"]) / (ends["sym"] - ends["plain"])
    assert torch.allclose(got, torch.full_like(got, end_ratio(schedule, steps, spread=spread)), rtol=1e-4)


def test_the_factor_of_a_step_is_that_of_the_step():
    schedule, spread = linear(1000), 0.7
    pairs = list(step_pairs(1000, 8))
    abar, prev = torch.tensor([[float(schedule.at(t)) for t in pair] for pair in pairs], dtype=torch.float64).T
    x = 1.7
    for k, (a, b) in enumerate(zip(abar.tolist(), prev.tolist(), strict=True)):
        eps = math.sqrt(1 - a) / (a * spread**2 + 1 - a) * x
        after = math.sqrt(b) * (x - math.sqrt(1 - a) * eps) / math.sqrt(a) + math.sqrt(1 - b) * eps
        assert after / x == pytest.approx(float(linear_step(abar, prev, spread)[k]), rel=1e-9)


def test_the_ratios_of_the_page_are_those_of_the_schedule():
    """50 steps of Stable Diffusion's schedule; methods/editing.md has 9.1, 15.5, 7.6, and 1.4 at t = 21."""
    t, asym, sym = shift_strength(scaled_linear(1000), 50, spacing="leading", offset=1)
    found = {int(k): round(float(a / s), 1) for k, a, s in zip(t, asym, sym, strict=True)}
    assert [found[k] for k in (981, 501, 101, 21)] == [9.1, 15.5, 7.6, 1.4]
    d = torch.tensor([1.0], dtype=torch.float64)
    parts = wrong_term(d, 0.3, 0.4)
    zero = torch.zeros(1, dtype=torch.float64)
    assert torch.allclose(parts[0], step(zero, zero, d, 0.3, 0.4)) and torch.allclose(parts[2], step(zero, d, d, 0.3, 0.4))


def test_the_same_push_is_as_far_in_any_number_of_steps():
    """On Gaussian data, asymmetric, with the answer of the exercise: the ends agree to the error of the sum (first order)."""
    from minidiff.editing import Asymmetric

    schedule, d = scaled_linear(1000), normal((1, 3, 4), "d", 0).double()
    model, x = Eps(Linear(schedule, 0.9).double(), schedule), normal((1, 1, 3, 4), "x", 0).double()

    def far(c, steps):
        ends = [last(run(model, x, steps=steps, hooks=[Asymmetric(ShiftH(d, v, path="mid"))])).x for v in (0.0, c)]
        return float((ends[1] - ends[0]).norm())
    for steps in (50, 100):
        assert far(same_push(0.1, 25, steps), steps) == pytest.approx(far(0.1, 25), rel=0.15)
        assert far(0.1, steps) > 1.7 * far(0.1, 25)


def test_the_response_of_a_shift_is_along_its_own_way(pipe):
    found = Inverted(direction_pairs("dog", 2), torch.zeros(2, 3, 32, 32), normal((2, 4, 8, 8), "noise", 1))
    delta = normal((width(pipe), 1, 1), "delta", 0)
    got = response(pipe, found, delta, 0.05, steps=4)
    plain = moved(pipe, found.noise, ["", ""], [delta], 0.0, steps=4)
    asym, sym = (moved(pipe, found.noise, ["", ""], [delta], 0.05, symmetric=s, steps=4) - plain for s in (False, True))
    assert torch.allclose(got.asymmetric, asym.flatten(1).norm(dim=1).double(), rtol=1e-3)
    along = (sym * asym).flatten(1).sum(1) / asym.flatten(1).norm(dim=1)
    assert torch.allclose(got.symmetric, along.double(), rtol=1e-3, atol=1e-5)
    assert got.push.shape == (4,) and float(got.push.min()) > 0


def test_the_push_is_the_change_of_eps(pipe):
    """At the first step both runs are in the same place: there the push can be computed by hand."""
    found = Inverted(direction_pairs("dog", 2), torch.zeros(2, 3, 32, 32), normal((2, 4, 8, 8), "noise", 1))
    delta = normal((width(pipe), 1, 1), "delta", 0)
    got = response(pipe, found, delta, 0.05, steps=4)
    schedule = schedule_from(pipe.scheduler)
    first = int(shift_strength(schedule, 4, spacing="leading", offset=1)[0][0])
    model, said = denoiser(pipe), encode_prompt(pipe, ["", ""])
    plain = model(found.noise, torch.full((2,), first), said).eps
    handle = pipe.unet.mid_block.register_forward_hook(lambda m, args, out: out + 0.05 * delta)
    moved_eps = model(found.noise, torch.full((2,), first), said).eps
    handle.remove()
    assert float(got.push[0]) == pytest.approx(float((moved_eps - plain).flatten(1).norm(dim=1).mean()), rel=1e-3)


# Edits and shares --------------------------------------------------------------------------------------------------------------


def test_the_edit_alone_is_the_method(pipe):
    noise, delta = normal((3, 4, 8, 8), "noise", 1), normal((width(pipe), 1, 1), "delta", 0)
    prompts = ["a red cat", "a blue dog", ""]
    for symmetric in (False, True):
        mine = moved(pipe, noise, prompts, [delta, 2 * delta], 0.3, symmetric=symmetric, t_edit=300, steps=4)
        want = h_space(pipe, prompts, [delta, 2 * delta], strength=0.3, t_edit=300, symmetric=symmetric, latents=noise, steps=4)
        assert float((mine - want.trajectory["edit"].clean).abs().max()) < 1e-4
    one = moved(pipe, noise, prompts, [delta], torch.tensor([0.0, 0.3, 0.0]), steps=4)
    plain = moved(pipe, noise, prompts, [delta], 0.0, steps=4)
    assert [bool((a - b).abs().max() > 1e-3) for a, b in zip(one, plain, strict=True)] == [False, True, False]


def test_long_lists_are_cut_and_keep_their_order(pipe, monkeypatch):
    noise, delta = normal((5, 4, 8, 8), "noise", 1), normal((width(pipe), 1, 1), "delta", 0)
    strength, prompts = torch.linspace(0, 0.4, 5), ["", "a red cat", "", "a dog", ""]
    whole = moved(pipe, noise, prompts, [delta], strength, steps=3)
    monkeypatch.setattr(data, "CHUNK", 2)
    assert float((moved(pipe, noise, prompts, [delta], strength, steps=3) - whole).abs().max()) < 1e-4


def test_shares_are_causal_shares_of_the_pairs():
    pipe = load("mini-sd")
    pairs = direction_pairs("night", 2, split="valid")
    z = [encode(pipe.vae, render(s).images) for s in (pairs.source, pairs.target)]
    got = shares(denoiser(pipe), "night", [801, 161], 2, pipe=pipe)
    want = causal_share(denoiser(pipe), *z, encode_prompt(pipe, pairs.prompts), 161)
    assert got.shape == (2, 2) and torch.allclose(got[:, 1], want, atol=1e-5)
    pixel = shares(load("pixel-ddpm"), "dog", [481], 2)
    assert pixel.shape == (2, 1) and 0.1 < float(pixel.mean()) < 1
    seen = changes(pipe, lambda h, inputs, ctx: 2 * h, "dog", 481, 2)
    assert torch.equal(seen.change, 2 * seen.h) and 0 < float((seen.after - seen.h).norm() / seen.h.norm()) < 0.5


def test_two_changes_are_two_and_no_more():
    blue, night = (two_changes(f"dog + {name}", 9, split="test") for name in ("blue", "night"))
    for a, b in zip(blue.source, blue.target, strict=True):
        assert a.things[0].colour != "blue" and a.replace_thing(0, kind="dog", colour="blue") == b
    for a, b in zip(night.source, night.target, strict=True):
        assert a.backdrop != "night" and a.replace_thing(0, kind="dog").replace(backdrop="night") == b
    assert len(blue) == len(night) == 9 and night.edit == "dog + night" and set(night.prompts) == {""}


# Panels ----------------------------------------------------------------------------------------------------------------------


def test_the_injected_bottleneck_over_its_range():
    shown = Injected(load("mini-sd"), load("pixel-ddpm"), ["night", "dog"], [801, 161])
    live = panel(shown.render, choice("t", [801, 161]), alt="x")
    assert len({live.image.value for _ in sweep(live)}) == 2 and "pixel-ddpm, dog" in live.text
    want = shares(denoiser(load("mini-sd")), "night", [801], 1, pipe=load("mini-sd"))
    assert shown.shares["mini-sd", "night", 801] == pytest.approx(float(want), abs=1e-4)
    with pytest.raises(BadInput, match="t"):
        shown.render(t=5)


def test_edits_along_a_knob_are_scored_at_every_value():
    pairs, reader = direction_pairs("night", 4), load("readers/develop")
    old, right = (render(s).images for s in (pairs.source, pairs.target))
    half = torch.cat([right[:2], old[2:]])
    found = Inverted(pairs, old, torch.zeros(4))
    walk = Along(found, {"one": {0.0: old, 1.0: right}, "two": {0.0: old, 1.0: half}}, reader, "c")
    assert walk.scores["one", 1.0] == (1.0, 1.0) and walk.scores["two", 1.0][0] == 0.5 and walk.scores["one", 0.0][0] == 0.0
    live = panel(walk.render, choice("c", [0.0, 1.0], 1.0), alt="x")
    assert len({live.image.value for _ in sweep(live)}) == 2 and "flipped" in live.text
    assert (walk.graph(0.0) != walk.graph(1.0)).any()                                       # another point is ringed
    with pytest.raises(BadInput, match="c"):
        walk.render(c=0.5)
    with pytest.raises(BadInput, match="knob"):
        walk.render(t_edit=1.0)
    with pytest.raises(BadInput, match="made"):
        Along(found, {"one": {0.0: old}, "two": {1.0: half}}, reader, "c")


# Rows ------------------------------------------------------------------------------------------------------------------------


BARS = {"16.dog": ">= 0.5", "16.ratio": "1 +- 0.3", "16.homogeneous": ">= 0.95", "16.compose": ">= 0.6",
        "16.night_kept": ">= 0.8", "16.night_flips": ">= 0.95"}


def test_rows_are_paired_and_targets_are_the_bars(monkeypatch):
    pairs, reader = direction_pairs("dog", 8), load("readers/develop")
    truth = pairs.truth(reader)
    right = truth.gold
    half = torch.cat([right[:4], truth.images[4:]])
    made = {"asymmetric": edit_score(right, truth), "symmetric": edit_score(half, truth), "none": edit_score(truth.images, truth)}
    monkeypatch.setattr(board, "edited", lambda name, how, n, strength=0.2, split="test": made[how.replace("mean", "symmetric")])
    known = {id: c for id, c in claims().items() if id.startswith("16.")}
    assert {id: known[id].target for id in BARS} == BARS and known["16.dog"].n == 48
    row = known["16.dog"].run(8)
    assert row.value == pytest.approx(0.5)
    assert row.settings["flipped, symmetric"] == 0.5 and row.baseline == {"no edit": 0.0}
    assert known["16.night_flips"].run(8).value == 1.0 and known["16.night_kept"].run(8).value == 1.0
    assert known["16.mean_night"].run(8).value == pytest.approx(0.5)
    for name in ("dog", "blue", "hat"):                            # the best of three lengths
        assert known[f"16.mean_{name}"].run(8).value == pytest.approx(0.5)
    best = {1.0: made["none"], 3.0: made["symmetric"], 9.0: made["none"]}
    monkeypatch.setattr(board, "edited", lambda name, how, n, strength=0.2: made["none"] if how == "none" else best[strength])
    assert known["16.mean_dog"].run(8).value == pytest.approx(0.5)
    assert known["16.mean_dog"].run(8).settings["flipped, c = 9"] == 0.0


def test_the_rows_of_shares_and_of_the_ratio(monkeypatch):
    table = {("night", True): 0.4, ("dog", True): 0.1, ("dog", False): 0.6}
    monkeypatch.setattr(board, "shares", lambda model, name, ts, n, pipe=None, split="test":
                        table[name, pipe is not None] + 0.01 * torch.arange(3 * n).reshape(n, 3).float())
    assert claims()["16.share_place"].run(4).value == pytest.approx(0.3, abs=1e-6)
    assert claims()["16.share_pixel"].run(4).value == pytest.approx(0.5, abs=1e-6)
    push = torch.ones(25)
    monkeypatch.setattr(board, "found", lambda name, n: None)
    monkeypatch.setattr(board, "response", lambda *args: data.Response(torch.tensor([6.0, 12, 18]).double(),
                                                                       torch.tensor([1.0, 2, 3]).double(), push, 0.9))
    row = claims()["16.ratio"].run(3)
    schedule = schedule_from(load("mini-sd").scheduler)
    want = end_ratio(schedule, 25, push=push, spread=0.9, **board.spacing_of(load("mini-sd")))
    assert row.value == pytest.approx(6 / want) and row.settings == {"measured": 6.0, "predicted": pytest.approx(want)}


def test_the_vector_of_the_others_leaves_the_own_picture_out():
    d = normal((4, 3, 2, 5), "d", 0)
    got = board._others(lambda h, inputs, ctx: d)(torch.zeros_like(d), {}, None)
    want = torch.stack([torch.cat([d[:i], d[i + 1:]]).mean((0, 2, 3)) for i in range(4)])[:, :, None, None].expand_as(d)
    assert torch.allclose(got.flatten(1).norm(dim=1), d.flatten(1).norm(dim=1), rtol=1e-4)
    assert torch.allclose(torch.nn.functional.cosine_similarity(got.flatten(1), want.flatten(1)), torch.ones(4), atol=1e-5)


def test_the_row_of_a_line_knows_a_line(monkeypatch):
    way = normal((1, 3, 4, 4), "way", 0)
    monkeypatch.setattr(board, "_pipe", lambda: None)
    monkeypatch.setattr(board, "load_direction", lambda pipe, name: None)
    monkeypatch.setattr(board, "found", lambda name, n: SimpleNamespace(noise=torch.zeros(n, 3, 4, 4),
                                                                       pairs=SimpleNamespace(prompts=[""] * n)))
    for bend, low, high in ((lambda c: c, 0.999, 1.001), (lambda c: 1.0 * (c > 0.12), -5, 0.8)):
        monkeypatch.setattr(board, "moved", lambda pipe, z, prompts, deltas, c, bend=bend: z + bend(c) * way)
        assert low <= claims()["16.linear"].run(4).value <= high


def test_the_row_of_one_direction_for_all(monkeypatch):
    d = normal((1, 2, 3, 4), "common", 0).expand(5, -1, -1, -1)
    monkeypatch.setattr(board, "changes", lambda *args, split: SimpleNamespace(change=d))
    monkeypatch.setattr(board, "load_direction", lambda pipe, name: None)
    assert claims()["16.homogeneous"].run(5).value == pytest.approx(1, abs=1e-6)
    d = normal((400, 2, 3, 4), "own", 0)
    assert abs(claims()["16.homogeneous"].run(400).value) < 0.1
