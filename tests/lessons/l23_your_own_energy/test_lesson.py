"""Lesson 23: the toy against its closed form by other means, energies on paths whose answer is known, panels, and the board."""

from __future__ import annotations

import math

import pytest
import torch

from minidiff.course import Row, claims, compute, find, stored
from minidiff.errors import BadInput
from minidiff.latent import initial_noise
from minidiff.lessons.l23_your_own_energy import claims as board
from minidiff.lessons.l23_your_own_energy import data, toys
from minidiff.lessons.l23_your_own_energy.panels import Films, Tilts, Walk, all_rows, downhill
from minidiff.measure import edit_pairs
from minidiff.measure.path import gold_frames, rms
from minidiff.morphing import cross_fade, slerp_morph
from minidiff.rng import normal
from minidiff.show import choice, panel, sweep
from minidiff.steer import EnergyState
from minidiff.world import render
from minidiff.zoo import load
from tests.pipelines import CASES, make

DOUBLE = torch.float64


# The toy ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("energy", "scale"), [(toys.linear, 0.7), (toys.square, 0.8), (toys.square, 3.0)])
def test_the_tilted_density_by_weighing_points(energy, scale):
    """Points of the data, weighed by exp(-scale E), have the moments of the closed form."""
    x = normal((400_000, 2), "23 weigh", 0, dtype=DOUBLE) @ torch.linalg.cholesky(toys.COVARIANCE).T
    weight = torch.softmax(-scale * energy(x), 0)
    mean = weight @ x
    covariance = (x - mean).T @ (weight[:, None] * (x - mean))
    want = toys.tilted(energy, scale)
    assert torch.allclose(mean, want.mean, atol=0.03) and torch.allclose(covariance, want.covariance, atol=0.03)


@pytest.mark.parametrize("abar", [0.02, 0.5, 0.97])
def test_the_guess_is_the_conditional_mean_and_the_rest_is_left_open(abar):
    """From the joint covariance of x_0 and x_t, conditioned as any Gaussian is."""
    cross, noisy = abar**0.5 * toys.COVARIANCE, abar * toys.COVARIANCE + (1 - abar) * torch.eye(2, dtype=DOUBLE)
    x = normal((5, 2), "23 guess", 0, dtype=DOUBLE)
    assert torch.allclose(toys.guess(x, abar), (cross @ torch.linalg.inv(noisy) @ x.T).T)
    assert torch.allclose(toys.left_open(abar), toys.COVARIANCE - cross @ torch.linalg.inv(noisy) @ cross.T)


def test_a_linear_energy_is_followed_exactly_and_a_square_one_too_far():
    plain, pushed = (toys.follow(toys.linear, s, n=400) for s in (0.0, 3.0))
    assert torch.allclose(pushed - plain, toys.tilted(toys.linear, 3.0).mean.expand(400, 2), atol=5e-4), "all move alike"
    right = toys.tilted(toys.square, 4.0)
    through, known = toys.follow(toys.square, 4.0), toys.follow(toys.square, 4.0, known=True)
    assert torch.allclose(known.mean(0), right.mean, atol=0.05)
    assert float(known[:, 0].std()) == pytest.approx(float(right.covariance[0, 0]) ** 0.5, rel=0.08)
    assert float(through[:, 0].mean()) > toys.GOAL and float(through[:, 0].std()) < 0.5 * float(right.covariance[0, 0]) ** 0.5


def test_an_energy_without_a_closed_form_is_refused():
    with pytest.raises(BadInput, match="energy"):
        toys.tilted(lambda x: x.sum(1), 1.0)


# Energies on a morph ----------------------------------------------------------------------------------------------------------


def _state(x0):
    return EnergyState(x0, x0, x0, None)


def _path(weights, key=0):
    a, b = normal((2, 2, 3, 4), "23 path", key, dtype=DOUBLE)
    return torch.stack([a + w * (b - a) for w in weights])


def test_the_energies_of_hops_on_paths_that_are_known():
    even, leap = _path([k / 8 for k in range(9)]), _path([0, 0, 0, 0, 1, 1, 1, 1, 1])
    zigzag = _path([0, 1, 0, 1, 0, 1, 0, 1, 0])
    both = torch.cat([even, leap])
    values = {name: push.energy(None, _state(both)).unflatten(0, (2, 9)).sum(1) for name, push in data.HOPS.items()}
    length = (even[-1] - even[0]).square().mean()
    assert torch.allclose(values["squares"], torch.stack([length / 8, length]))
    assert float(values["variance"][0]) < 1e-12 < float(values["variance"][1])
    assert float(data.HOPS["variance"].energy(None, _state(zigzag)).sum()) < 1e-12, "to and fro has equal hops, too"
    assert float(data.HOPS["squares"].energy(None, _state(zigzag)).sum()) == pytest.approx(8 * float(length), rel=1e-9)
    assert torch.allclose(data.turning(torch.stack([even, zigzag])), torch.tensor([1.0, -1.0], dtype=DOUBLE))


@pytest.mark.parametrize("name", data.HOPS)
def test_the_ends_are_not_pulled_and_paths_of_a_batch_do_not_see_each_other(name):
    x = normal((18, 2, 3, 4), "23 frames", 0, dtype=DOUBLE)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(data.HOPS[name].energy(None, _state(leaf)).sum(), leaf)
    assert float(slope[[0, 8, 9, 17]].abs().max()) == 0 and float(slope[1:8].abs().min()) > 0
    other = torch.cat([x[:9], 3 * x[9:]]).requires_grad_()
    (again,) = torch.autograd.grad(data.HOPS[name].energy(None, _state(other)).sum(), other)
    assert torch.allclose(slope[:9], again[:9])


def test_a_morph_without_a_push_is_slerp_and_with_one_it_is_not():
    pipe = make(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    a, b = (normal((2, 3, side, side), "23 ends", k).clamp(-1, 1) for k in range(2))
    said = (["a red cat", "a blue dog"], ["a green tree", "a pink star"])
    z, text = data.between(pipe, a, b, said, steps=3)
    images, latents = data.pushed(pipe, z, text, steps=3)
    theirs = slerp_morph(pipe, a, b, said, weights=data.FRAMES, steps=3).images
    assert images.shape == theirs.shape and float((images - theirs).abs().max()) < 1e-4
    pushed = data.pushed(pipe, z, text, data.HOPS["squares"]._replace(relative=0.3), steps=3)[1]
    assert torch.allclose(pushed[:, [0, -1]], latents[:, [0, -1]], atol=1e-5), "the ends stay"
    assert float((pushed[:, 1:-1] - latents[:, 1:-1]).flatten(2).norm(dim=2).min()) > 0.01, "all between them move"


# Painting ---------------------------------------------------------------------------------------------------------------------


def test_the_package_and_the_exercises_say_the_same():
    picture, before = normal((2, 3, 4, 5, 6), "23 same", 0)
    shape, colour = torch.sigmoid(normal((3, 5, 6), "23 shape", 1)), normal((3, 4), "23 same", 2)
    mine, theirs = (f(picture, shape, colour, before, 0.6) for f in (data.paint_energy, find("23.paint").answer))
    assert torch.allclose(mine, theirs)
    assert torch.equal(data.turning(picture[:, :, None]), find("23.turning").answer(picture[:, :, None]))


def test_the_colours_are_the_worlds():
    rgb = data.rgb_of(["red", "white"])
    assert torch.allclose(rgb[0] * 127.5 + 127.5, torch.tensor([214.0, 48.0, 49.0]), atol=1e-3) and float(rgb[1].min()) > 0.85


def test_what_an_energy_takes_from_a_plain_run():
    pipe = make(CASES[1])
    z = initial_noise(pipe, 2, seed=3)
    start = data.source_of(pipe, ["a red cat", "a blue dog on the grass"], ["cat", "dog"], z, steps=2)
    assert len(start.states) == 2 and start.shape.shape == (2, *z.shape[-2:]) and start.images.shape[1] == 3
    assert float(start.shape.min()) >= 0 and float(start.shape.max()) <= 1
    assert data.flat_latents(pipe, ["red", "blue"], 32).shape == (2, z.shape[1])


def test_edits_are_scored_against_everything_they_have_to_beat(monkeypatch):
    """On a world that answers by itself: the energy's pictures are what the pushed run draws, the anchors are there."""
    pipe, asked = load("mini-sd"), edit_pairs("colour", 2, split="valid")
    z = initial_noise(pipe, 2, seed=5)
    made = data.painted(pipe, asked, z, load("readers/develop"), steps=4)
    assert set(made.scores) == {"energy", "Prompt-to-Prompt", "no edit", "plain", "counterfactual"} == set(made.images)
    assert all(x.shape == (2, 3, 64, 64) for x in made.images.values())
    assert float((made.images["energy"] - made.images["plain"]).abs().max()) > 0.1
    monkeypatch.setitem(data.PAINT, "relative", 0.0)
    off = data.painted(pipe, asked, z, load("readers/develop"), steps=4)
    assert float((off.images["energy"] - off.images["plain"]).abs().max()) < 1e-3, "without a push it is the plain change"


# Claims -----------------------------------------------------------------------------------------------------------------------


def test_the_claims_of_hops_count_what_they_say(monkeypatch):
    """A leap as slerp, a cross-fade as the one energy, a way to and fro as the other."""
    chosen = board._chosen(3)
    gold = torch.stack([gold_frames(p.first, p.other, 64, count=9) for p in chosen])
    a, b = gold[:, 0], gold[:, -1]
    leap, fro = gold[:, [0, 0, 0, 0, 8, 8, 8, 8, 8]], gold[:, [0, 8] * 4 + [8]]
    shown = {"slerp": leap, "squares": cross_fade(a, b, 9), "variance": fro}
    monkeypatch.setattr(board, "films", lambda how, n: (shown[how][:n], shown[how][:n]))
    rows = {id: compute(f"23.{id}", 3) for id in ("even", "shorter", "variance_even", "zigzag")}
    assert rows["even"].value < -1.5 and rows["even"].baseline["slerp"] == pytest.approx(7**0.5)
    assert rows["shorter"].value == pytest.approx(rows["shorter"].baseline["cross-fade"] - 1, rel=1e-3)
    assert rows["zigzag"].value == pytest.approx(6) and rows["zigzag"].verdict == "failed"
    assert rows["zigzag"].settings["turning, with it"] < -0.7 and rows["even"].settings["blend of the ends, with it"] > 0.99


def test_the_claims_of_the_colour_are_paired(monkeypatch):
    asked = edit_pairs("colour", 4, split="valid")
    truth = asked.truth(load("readers/final"))
    from minidiff.measure import edit_score

    gold, source = render(asked.target).images, render(asked.source).images
    images = {"energy": gold, "plain": torch.cat([gold[:2], source[2:]]), "no edit": source, "counterfactual": gold,
              "Prompt-to-Prompt": gold}
    monkeypatch.setattr(board, "scored", lambda n: data.Painted({k: edit_score(x, truth) for k, x in images.items()}, images))
    row = compute("23.kept_joint", 4)
    assert 0.4 <= row.value + 1 - row.settings["energy"] <= 0.6 and row.baseline["no edit"] == 0
    assert compute("23.kept_iou", 4).value == pytest.approx(0.0, abs=0.05)


def test_rows_have_a_name_and_a_target():
    mine = [c for id, c in claims().items() if id.startswith("23.")]
    assert len(mine) == 6 and all(c.target.startswith((">=", "<=")) for c in mine)


# The board --------------------------------------------------------------------------------------------------------------------


def _row(value, low, high, target, verdict="passed", id="01.a"):
    return Row(id, id[:2], "a claim", value, low, high, "u", {}, {}, 10, target, verdict, "final", "cpu", 1.0, "-", "why")


@pytest.mark.parametrize(("row", "edge", "want"), [
    (_row(3.0, 2.5, 3.5, ">= 2"), 2.0, (2.0, 1.0, 3.0)),
    (_row(3.0, 2.5, 3.5, "<= 2"), 2.0, (-2.0, -3.0, -1.0)),
    (_row(1.05, 1.0, 1.3, "1.0 +- 0.2"), 1.2, (1.0, -2 / 3, 4 / 3)),
    (_row(0.7, 0.6, 0.8, "1.0 +- 0.2"), 0.8, (-1.0, -2.0, 0.0)),
    (_row(25.0, 25.0, 25.0, ">= 20"), 20.0, (0.25, 0.25, 0.25)),
])
def test_how_far_a_row_lies_from_its_target(row, edge, want):
    assert data.edge_of(row) == pytest.approx(edge) and data.margin(row) == pytest.approx(want, abs=1e-6)


def test_the_margin_and_the_verdict_of_every_stored_row_agree():
    """Passed rows lie above zero with their whole interval, failed ones below, undecided ones across."""
    for row in stored().values():
        value, low, high = data.margin(row)
        assert low <= value <= high
        two_sided = "+-" in row.target
        if row.verdict == "passed":
            assert low >= -1e-6 or two_sided, row.id
        elif row.verdict == "failed":
            assert high <= 1e-6, row.id
        else:
            assert low <= 1e-6 or two_sided, row.id


def test_every_failed_row_is_sorted_by_cause():
    """A row that fails from now on is to be sorted in WHY_FAILED, by the reason that it gives itself."""
    assert "not yet sorted" not in data.by_cause(stored().values())
    assert set(data.WHY_FAILED) <= set(claims()) and set(data.WHY_FAILED.values()) == set(data.CAUSES)
    found = data.by_cause([_row(0.0, 0.0, 0.1, ">= 1", "failed", "02.validity"), _row(0.0, 0.0, 0.1, ">= 1", "failed"),
                           _row(2.0, 1.5, 2.5, ">= 1")])
    assert {cause: [r.id for r in some] for cause, some in found.items()} == {"model": ["02.validity"],
                                                                                  "not yet sorted": ["01.a"]}


def test_needed_undoes_itself():
    """At the N that it says the interval just reaches the edge."""
    needed = find("23.needed").answer
    for row in stored().values():
        if row.verdict == "undecided" and (edge := data.edge_of(row)) != row.value:
            shrink = (row.n / needed(row.n, row.value, row.low, row.high, edge)) ** 0.5
            end = row.value - shrink * (row.value - row.low) if edge < row.value else row.value + shrink * (row.high - row.value)
            assert math.isclose(end, edge, rel_tol=1e-9, abs_tol=1e-12), row.id


# Panels -----------------------------------------------------------------------------------------------------------------------


def test_tilts_over_their_range():
    made = Tilts((0.0, 2.0), n=60, steps=8)
    p = panel(made.render, choice("energy", ["linear", "square"]), choice("scale", [0.0, 2.0]), alt="tilts")
    seen = {p.image.value for _ in sweep(p)}
    assert len(seen) == 3 and "right is" in p.text
    assert len({made.render(energy=e, scale=2.0)[1] for e in ("linear", "square")}) == 2
    for wrong in ({"energy": "cubic", "scale": 2.0}, {"energy": "linear", "scale": 3.0}):
        with pytest.raises(BadInput):
            made.render(**wrong)


def test_films_over_their_range():
    a, b = normal((2, 1, 3, 8, 8), "23 films", 0).clamp(-1, 1)
    fade = cross_fade(a, b, 5)[0]
    made = Films({"slerp": fade[[0, 0, 0, 4, 4]], "even": fade, "fro": fade[[0, 4, 0, 0, 4]]}, rms)
    p = panel(made.render, choice("energy", list(made.frames)), alt="films")
    assert len({p.image.value for _ in sweep(p)}) == 3
    assert "0.00; way 1.00 times" in made.render(energy="even")[1]
    with pytest.raises(BadInput, match="energy"):
        made.render(energy="magic")
    with pytest.raises(BadInput, match="films"):
        Films({"one": torch.zeros(3, 3, 8, 8), "two": torch.zeros(4, 3, 8, 8)}, rms)


def test_the_arrows_go_downhill():
    assert "arrows" in downhill().alt and downhill().width > 300


def test_the_walk_over_the_whole_board():
    rows = list(stored().values())
    made = Walk(rows)
    p = panel(made.render, choice("lesson", made.lessons), choice("verdict", made.verdicts), alt="rows")
    counts = [len(made.chosen(values["lesson"], values["verdict"])) for values in sweep(p, most=40)]
    assert sum(counts[:len(made.lessons)]) == len(rows) and "of" in p.text
    assert sum(len(made.chosen("06", v)) for v in made.verdicts[1:]) == len(made.chosen("06", "all"))
    with pytest.raises(BadInput, match="lesson"):
        made.render(lesson="99", verdict="all")
    with pytest.raises(BadInput, match="rows"):
        Walk([])


def test_one_picture_of_all_rows():
    rows = [_row(3.0, 2.5, 3.5, ">= 2"), _row(0.0, -0.5, 0.5, ">= 2", "failed", "02.b"), _row(2.1, 1.5, 2.5, ">= 2", "undecided")]
    made = all_rows(rows)
    assert "3 rows of the scoreboard in 2 columns, 1 passed, 1 undecided, 1 failed" in made.alt
    assert all_rows(rows[:1]).png != made.png
    with pytest.raises(BadInput, match="rows"):
        all_rows([])
