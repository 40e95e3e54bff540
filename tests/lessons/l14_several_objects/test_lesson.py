"""Lesson 14: its panels over their range, which prompts are asked for, what a picture shows, and what its claims count."""

from __future__ import annotations

import math

import pytest
import torch

from minidiff.course import claims
from minidiff.editing.attend import excite
from minidiff.editing.word_losses import things_of
from minidiff.errors import BadInput
from minidiff.latent import denoise, initial_noise
from minidiff.lessons.l14_several_objects import claims as board
from minidiff.lessons.l14_several_objects.claims import BETWEEN, at_place, between, drawn
from minidiff.lessons.l14_several_objects.data import Requested, Shown, held_out_twos, sentence, shown, threes
from minidiff.lessons.l14_several_objects.panels import Pushes, Sharpness, Sums, crossed, thing_maps
from minidiff.rng import normal
from minidiff.show import choice, panel
from minidiff.world import COLOURS, Scene, Scenes, Thing, held_out, parse, render
from minidiff.zoo import load
from tests.pipelines import small_mini_sd

PROMPT = "a flat picture of a red cat and a blue dog on the grass"


@pytest.fixture(scope="module")
def pipe():
    return small_mini_sd()


# What is asked for -----------------------------------------------------------------------------------------------------------


def test_prompts_of_three_name_the_scenes_things_and_say_the_style():
    rows = threes(8, split="valid")
    assert rows.positions.shape == (8, 3, 2) and rows.first(3).prompts == threes(3, split="valid").prompts == rows.prompts[:3]
    columns = rows.prompts, rows.kinds, rows.colours, rows.parts, rows.things
    for prompt, kinds, colours, parts, things in zip(*columns, strict=True):
        facts = parse(prompt)
        assert [(t.kind, t.colour) for t in facts.things] == list(zip(kinds, colours, strict=True)) and facts.style == "flat"
        assert len(set(kinds)) == 3 and all(thing in prompt for thing in things)
        assert [(parse(p).things[0].kind, parse(p).backdrop) for p in parts] == [(k, facts.backdrop) for k in kinds]
    assert bool(((rows.positions > 0) & (rows.positions < 1)).all())


def test_held_out_twos_are_two_pairs_that_training_never_had():
    rows = held_out_twos(30)
    assert all(held_out(k, c) for ks, cs in zip(rows.kinds, rows.colours, strict=True) for k, c in zip(ks, cs, strict=True))
    assert all(len(set(ks)) == 2 for ks in rows.kinds) and len(set(rows.prompts)) > 25
    assert held_out_twos(4).prompts == rows.prompts[:4] != held_out_twos(4, split="valid").prompts
    assert sentence(["orange", "blue"], ["dog", "cat"], "night") == "a flat picture of an orange dog and a blue cat at night"


def test_what_a_picture_shows():
    """Rendered scenes: all right; one thing away; a colour on the wrong thing; a colour on a stranger."""
    cat, dog = Thing("cat", "red", size=0.15, x=0.3, y=0.3), Thing("star", "blue", size=0.15, x=0.7, y=0.7)
    scenes = [Scene((cat, dog)), Scene((cat,)), Scene((cat, Thing("star", "red", size=0.15, x=0.7, y=0.7))),
              Scene((Thing("house", "red", size=0.15, x=0.3, y=0.3), dog))]
    positions = torch.tensor([[[0.3, 0.3], [0.7, 0.5]]] * 4)
    rows = Requested(["-"] * 4, [["cat", "star"]] * 4, [["red", "blue"]] * 4, positions, [["-"]] * 4)
    found = shown(render(Scenes.of(scenes)).images, rows, load("readers/develop"))
    assert found.present.tolist() == [[True, True], [True, False], [True, True], [False, True]]
    assert found.right.tolist() == [[True, True], [True, False], [True, False], [False, True]]
    assert found.borrowed.tolist() == [[False, False], [False, False], [True, False], [True, False]]
    assert found.positions[0].flatten().tolist() == pytest.approx([0.3, 0.3, 0.7, 0.7], abs=0.03)
    assert bool(found.positions[1, 1].isnan().all())
    assert at_place(found, rows)[0].tolist() == [True, False], "the star is 13 pixels too low"
    both_red = rows._replace(colours=[["red", "red"]] * 4)
    lone = shown(render(Scenes.of(scenes[1:2])).images, both_red.first(1), load("readers/develop"))
    assert lone.borrowed.tolist() == [[False, False]], "the cat wears its own red, not the missing star's"


# Claims ------------------------------------------------------------------------------------------------------------------------


def test_the_bars_are_those_of_the_issue():
    bars = {"14.presence": ">= 0.10", "14.published": ">= 0.10", "14.held_out": ">= 0.15", "14.composable": "<= 0.05"}
    known = claims()
    assert {id: known[id].target for id in bars} == bars
    assert all(known[id].n >= 128 for id in ("14.presence", "14.published", "14.held_out"))


def test_a_gain_is_paired_and_counts_every_picture(monkeypatch):
    """By hand: 4 pictures of 3 things."""
    def found(rows):
        there = torch.tensor(rows, dtype=torch.bool)
        return Shown(there, there, ~there, torch.zeros(4, 3, 2))

    plain, ours = [[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]], [[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]]
    monkeypatch.setattr(board, "_shown", lambda which, how, n, *a: found(plain if how == "plain" else ours))
    known = claims()
    row = known["14.presence"].run(4)
    assert row.value == pytest.approx(2 / 12) and row.baseline["plain"] == pytest.approx(6 / 12)
    assert row.low <= row.value <= row.high and row.settings["all three there, with it"] == 0.5
    assert known["14.held_out"].run(4).value == pytest.approx(0.25)
    assert known["14.composable"].run(4).value == pytest.approx(0.5) and known["14.composable"].run(4).baseline == {
        "plain, one prompt, N = 4": 0.25}


def test_the_ways_of_drawing_differ_and_plain_is_plain(pipe, monkeypatch):
    monkeypatch.setattr(board, "shipped", lambda name: pipe)
    monkeypatch.setattr(board, "STEPS", 2)
    rows, z = threes(2, split="valid"), initial_noise(pipe, 2, seed=1)
    made = {how: drawn(rows, how, z) for how in ("plain", "excited", "published", "syngen", "structured", "composable", "placed")}
    assert all(x.shape == (2, 3, 64, 64) for x in made.values())
    names = list(made)
    assert all(not torch.equal(made[a], made[b]) for i, a in enumerate(names) for b in names[i + 1:])


def test_the_steps_between_the_losses_begin_at_the_published_one_and_end_at_the_presence_loss(pipe):
    """The ends move the latent as the package's own hooks do, and each change between them changes the move."""
    rows, z = threes(2, split="valid"), initial_noise(pipe, 2, seed=1)
    things = things_of(pipe.tokenizer, rows.prompts, rows.things)

    def after(hook):
        return list(denoise(pipe, rows.prompts, latents=z, steps=4, guidance=4.0, hooks=[hook]))[-1].x

    moved = {name: after(between(pipe, things, form)) for name, form in BETWEEN.items()}
    names = list(moved)
    assert torch.equal(moved[names[0]], after(excite(pipe, things, loss="published")))
    assert torch.equal(moved[names[-1]], after(excite(pipe, things, loss="presence")))
    assert all(not torch.equal(moved[a], moved[b]) for a, b in zip(names, names[1:], strict=False))


def test_a_larger_row_begins_with_a_smaller_one(pipe, monkeypatch):
    """Chunks are drawn once; what they hold must not depend on how many are asked for."""
    monkeypatch.setattr(board, "shipped", lambda name: load("readers/develop") if name.startswith("readers") else pipe)
    monkeypatch.setattr(board, "STEPS", 2)
    monkeypatch.setattr(board, "CHUNK", 2)
    for cached in (board._chunk, board.requested):
        cached.cache_clear()
    few, more = (board._shown("three", "plain", n, "valid") for n in (3, 5))
    assert len(more.present) == 5 and all(torch.equal(a, b[:3].nan_to_num() if b.is_floating_point() else b[:3])
                                          for a, b in zip([x.nan_to_num() if x.is_floating_point() else x for x in few], more,
                                                          strict=True))
    for cached in (board._chunk, board.requested):
        cached.cache_clear()


def test_crosses_stand_where_things_should_be():
    rows = Requested(["-"], [["cat", "star"]], [["red", "blue"]], torch.tensor([[[0.25, 0.25], [0.75, 0.5]]]), [["-"]])
    drawn = crossed(torch.zeros(1, 3, 16, 16), rows, scale=4)
    assert drawn.shape == (1, 3, 64, 64)
    for (x, y), colour in zip(((16, 16), (48, 32)), ("red", "blue"), strict=True):
        assert (drawn[0, :, y, x] * 127.5 + 127.5).round().tolist() == list(COLOURS[colour]), "a cross wears its thing's colour"


# Panels ------------------------------------------------------------------------------------------------------------------------


def test_maps_of_things_are_sums_of_a_competition(pipe):
    a = normal((1, 12, 34), "attention", 0).softmax(-1)
    things = things_of(pipe.tokenizer, [PROMPT], ["red cat", "blue dog"])
    whole, alone = (thing_maps(a, things, (3, 4), nouns=nouns) for nouns in (False, True))
    assert whole.shape == (1, 2, 3, 4) and bool((whole > alone).all()) and float(whole.max()) <= 1
    viewer = Sharpness(a, things, (3, 4), ["red cat", "blue dog"], sharpness=(1, 50))
    p = panel(viewer.render, choice("sharpness", [1, 50]), alt="maps")
    first = p.image.value
    p.set(sharpness=50)
    assert p.image.value != first and "phrases" in p.text
    with pytest.raises(BadInput, match="sharpness"):
        viewer.render(sharpness=3)


def test_the_pushes_show_each_share(pipe):
    harder = Pushes(pipe, PROMPT, ["red cat", "blue dog"], initial_noise(pipe, 1, seed=1), shares=(0.0, 0.3), steps=4)
    assert torch.equal(harder.losses[0.0][0], harder.losses[0.3][0]) and bool(harder.losses[0.3][1] != harder.losses[0.0][1])
    assert not (harder.pictures[0.0] == harder.pictures[0.3]).all()
    p = panel(harder.render, choice("share", [0.0, 0.3]), alt="pushes")
    first = p.image.value
    p.set(share=0.3)
    assert p.image.value != first and "0.3 |z|" in p.text


def test_the_sums_are_products_of_gaussians(pipe):
    sums = Sums(pipe, ["a red cat", "a blue dog"], initial_noise(pipe, 1, seed=1), weights=(-1.0, 2.0), steps=2)
    p = panel(sums.render, choice("weight", [-1.0, 2.0]), alt="sums")
    first = p.image.value
    p.set(weight=2.0)
    assert p.image.value != first and "x = 0.0" in p.text
    x = torch.linspace(-6, 6, 1201)
    peak = x[Sums.density(x, 1.0, 1.0).argmax()]
    assert float(peak) == pytest.approx(0.0, abs=1e-6), "between the two, where neither is"
    precision = 1 + 1 - 1 / 5
    assert float(Sums.density(torch.tensor([0.0, 1.0]), 1.0, 1.0)[1]) == pytest.approx(math.exp(-precision / 2))
    with pytest.raises(BadInput, match="two prompts"):
        Sums(pipe, ["a red cat"], initial_noise(pipe, 1, seed=1))
