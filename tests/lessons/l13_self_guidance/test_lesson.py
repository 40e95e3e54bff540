"""Lesson 13: its panels over their range, which shifts are asked for, and what its claims count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from minidiff.course import claims
from minidiff.editing.result import decode_images
from minidiff.errors import BadInput
from minidiff.latent import denoise, initial_noise, token_indices
from minidiff.lessons.l13_self_guidance import claims as board
from minidiff.lessons.l13_self_guidance.claims import Moves, joint, measured, slope
from minidiff.lessons.l13_self_guidance.data import Requested, _shift, clear, colours_of, noise_of, positions, two_nouns
from minidiff.lessons.l13_self_guidance.panels import Sites, Targets, marked, over
from minidiff.show import choice, panel, play, slider, sweep
from minidiff.steer import Recorder, sites
from minidiff.world import Scene, Scenes, Thing, parse, render
from minidiff.zoo import load
from tests.pipelines import small_mini_sd

PROMPT = "a red cat left of a blue dog"
NAN = float("nan")


@pytest.fixture(scope="module")
def pipe():
    return small_mini_sd()


# Panels --------------------------------------------------------------------------------------------------------------------


def test_the_site_viewer_over_its_whole_range(pipe):
    record, z = Recorder(), initial_noise(pipe, 2, seed=1)
    end = list(denoise(pipe, [PROMPT.replace("cat", "fish"), PROMPT], latents=z, steps=2, hooks=[record]))[-1].x
    image, tokens = decode_images(pipe, end)[1:], token_indices(pipe.tokenizer, PROMPT, "cat")[0]
    viewer = Sites(record, image, "cat", tokens, row=1)
    assert len(viewer.names) == len([s for s in sites(pipe.unet).values() if s.kind == "cross"]) == len(set(viewer.names))
    p = panel(viewer.render, choice("site", viewer.names), play("step", 1, 2, 1), alt="maps")
    seen = set()
    for values in sweep(p, most=20):
        seen.add(p.image.value)
        assert p.text.startswith(f"step {values['step']} of 2, {values['site']}:") and "'cat'" in p.text
    assert len(seen) > len(viewer.names)
    with pytest.raises(BadInput, match="step"):
        viewer.render(site=viewer.names[0], step=0)
    alone = Recorder()
    list(denoise(pipe, PROMPT, latents=z[1:], steps=2, hooks=[alone]))
    for one, other in zip(viewer.maps.values(), Sites(alone, image, "cat", tokens).maps.values(), strict=True):
        assert float((one - other).abs().max()) < 1e-5, "the maps are the row's own"


def test_the_targets_are_those_of_the_method_and_zero_is_the_source(pipe, monkeypatch):
    z, seen = initial_noise(pipe, 1, seed=1), []

    def found(images, nouns, reader):
        seen.append(tuple(nouns))
        return torch.tensor([[0.4, 0.5, 0.1]] if len(nouns) == 1 else [[0.3, 0.5, 0.1], [0.4, 0.5, 0.1], [NAN, NAN, NAN]])

    monkeypatch.setattr("minidiff.lessons.l13_self_guidance.panels.positions", found)
    board_ = Targets(pipe, PROMPT, "cat", "dog", z, None, dx=(-8, 0, 8), dy=(0,), steps=2)
    assert seen == [("cat",), ("dog",), ("cat",) * 3, ("dog",) * 3] and board_.place == pytest.approx((0.4, 0.5))
    assert float((board_.images[1] - board_.source[0]).abs().max()) < 1e-4
    assert float((board_.images[2] - board_.images[1]).abs().max()) > 1e-4
    p = panel(board_.render, slider("dx", -8, 8, 8), slider("dy", 0, 8, 8, 0), alt="targets")
    assert p.text == "asked -8, +0 px; the cat went -6.4, +0.0; the dog went -6.4, +0.0"
    p.set(dx=8)
    assert "+8, +0 px; the cat went out of the reader's sight" in p.text
    with pytest.raises(BadInput, match="dx, dy"):
        board_.render(dx=1, dy=0)


def test_marks_and_maps_are_drawn_where_they_should_be():
    grey = np.full((16, 16, 3), 128, np.uint8)
    drawn = marked(grey, goal=(0.75, 0.25))
    assert drawn.shape == (64, 64, 3) and (drawn[16, 48] != 128).any() and (drawn[48, 16] == 128).all()
    assert (marked(grey, (0.25, 0.25), (0.75, 0.25))[16, 32] != 128).any(), "the line between"
    maps = torch.zeros(1, 2, 2)
    maps[0, 0, 1] = 0.02
    tile = over(maps, -torch.ones(1, 3, 8, 8))
    assert tile.shape == (1, 8, 8, 3) and tile[0, 0, 7].sum() > 2 * tile[0, 7, 7].sum()


# What is asked for -----------------------------------------------------------------------------------------------------------


def test_a_shift_is_clear_when_it_stays_inside_apart_and_true():
    cat, dog = (0.3, 0.5, 0.1), (0.7, 0.5, 0.1)
    assert clear(PROMPT, cat, dog, (0.1, 0.0)) and clear(PROMPT, cat, dog, (0.0, 0.3))
    assert not clear(PROMPT, cat, dog, (-0.25, 0.0)), "out of the frame"
    assert not clear(PROMPT, cat, dog, (0.25, 0.0)), "onto the other"
    assert not clear(PROMPT, cat, (0.3, 0.8, 0.05), (0.0, -0.1)), "left of is no longer true"
    assert clear(PROMPT.replace("left of", "above"), cat, (0.3, 0.8, 0.05), (0.0, -0.1))
    assert _shift(0, PROMPT, (0.5, 0.5, 0.45), dog) is None


def test_shifts_take_turns_and_fall_back_to_shorter_ones():
    far = [_shift(i, PROMPT, (0.3, 0.5, 0.08), (0.8, 0.5, 0.08)) for i in range(8)]
    assert len(set(far)) >= 4 and all(max(map(abs, s)) * 64 in (8, 12, 6, 10) for s in far)
    tight = _shift(1, PROMPT, (0.2, 0.5, 0.1), (0.45, 0.5, 0.1))
    assert tight is None or max(map(abs, tight)) * 64 <= 12


def test_places_and_colours_are_the_readers():
    reader = load("readers/develop")
    scene = Scene((Thing("cat", "red", size=0.15, x=0.3, y=0.3), Thing("star", "yellow", size=0.12, x=0.7, y=0.7)))
    image = render(Scenes.of([scene, scene])).images
    found = positions(image, ["cat", "fish"], reader)
    assert found[0, :2].tolist() == pytest.approx([0.3, 0.3], abs=0.02) and bool(found[1].isnan().all())
    assert colours_of(image, ["star", "fish"], reader) == ["yellow", None]


def test_prompts_and_noise_are_functions_of_their_number(pipe):
    prompts, first, second = two_nouns(6)
    assert two_nouns(2, start=4) == (prompts[4:], first[4:], second[4:])
    assert all(a in p and b in p for p, a, b in zip(prompts, first, second, strict=True))
    assert torch.equal(noise_of(pipe, range(3, 5), 7), noise_of(pipe, range(5), 7)[3:])


# Claims --------------------------------------------------------------------------------------------------------------------


def test_the_claims_are_there():
    bars = {"13.slope": "1.0 +- 0.1", "13.others": "<= 1", "13.joint": ">= 0.6", "13.appearance": ">= 0.75"}
    known = claims()
    assert {id: known[id].target for id in bars} == bars and all(known[id].n >= 64 for id in bars)


def test_slope_and_joint_by_hand():
    requested = torch.tensor([[8.0, 0.0], [0.0, -4.0], [4.0, 0.0], [0.0, 8.0]])
    got = torch.tensor([[4.0, 3.0], [0.0, -4.0], [NAN, NAN], [0.0, 9.0]])
    drift = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 3.0]])
    assert float(slope(requested, got)) == pytest.approx((32 + 16 + 72) / (64 + 16 + 64))
    assert joint(Moves(requested, got, drift)).tolist() == [False, True, False, False]


def test_measured_reads_rendered_moves():
    """Scenes that were moved by hand count as moved by as much."""
    reader = load("readers/final")
    scenes = [Scene((Thing("cat", "red", size=0.15, x=0.3, y=0.3), Thing("star", "yellow", size=0.12, x=0.7, y=0.7)))] * 2
    after = [scenes[0].replace_thing(0, x=0.45), scenes[1].replace_thing(1, y=0.6)]
    before = render(Scenes.of(scenes)).images
    at = {"moved": positions(before, ["cat"] * 2, reader), "kept": positions(before, ["star"] * 2, reader)}
    rows = Requested([PROMPT] * 2, ("cat", "cat"), ("star", "star"), torch.tensor([[0.15, 0.0], [0.0, 0.0]]),
                 torch.zeros(2, 4, 16, 16), at, before)
    m = measured(rows, render(Scenes.of(after)).images, reader)
    assert m.got[0].tolist() == pytest.approx([9.6, 0.0], abs=0.8) and m.drift[1].tolist() == pytest.approx([0.0, -6.4], abs=0.8)
    assert joint(m).tolist() == [True, False]


def test_the_looks_leave_the_colour_out_and_ask_for_another():
    rows = board._looks(24)
    for prompt, other, said, noun, colour in zip(*rows, strict=True):
        (thing,), (wanted,) = parse(prompt).things, parse(other).things
        assert thing.kind == wanted.kind == noun and thing.colour is None and wanted.colour == colour
        assert parse(said).things[0].colour == colour and parse(said).backdrop == parse(prompt).backdrop
    assert len(set(rows.colours)) >= 5


def test_a_claim_counts_lost_things_as_failures(monkeypatch):
    requested = torch.tensor([[8.0, 0.0]] * 4)
    got = torch.tensor([[8.0, 0.0], [8.0, 1.0], [NAN, NAN], [2.0, 0.0]])
    drift = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [NAN, NAN]])
    monkeypatch.setattr(board, "_moves", lambda n, method: Moves(requested, got, drift))
    known = claims()
    assert known["13.joint"].run(4).value == 0.5
    assert known["13.slope"].run(4).value == pytest.approx((8 + 8 + 2) / 24)
    assert math.isclose(known["13.others"].run(4).value, 0.5) and "found again" in known["13.slope"].run(4).why
