"""Lesson 21: its pairs, its panels over their range, and what its claims count, on paths whose answer is known."""

from __future__ import annotations

import pytest
import torch

from minidiff.course import claims, compute
from minidiff.errors import BadInput
from minidiff.latent import encode_prompt, initial_noise
from minidiff.lessons.l21_interpolation import claims as board
from minidiff.lessons.l21_interpolation.data import CHANGES, drawn, pairs
from minidiff.lessons.l21_interpolation.panels import Levels, Norms, Ways
from minidiff.measure.path import gold_frames
from minidiff.morphing import cross_fade
from minidiff.show import choice, panel, play, slider, sweep
from minidiff.world import held_out, parse
from minidiff.zoo import load
from tests.pipelines import small_mini_sd


@pytest.fixture(scope="module")
def pipe():
    return small_mini_sd()


def test_pairs_differ_in_what_they_say_and_in_nothing_else():
    chosen = pairs(24)
    assert [p.change for p in chosen] == [CHANGES[i % 4] for i in range(24)] and pairs(8) == chosen[:8]
    assert pairs(4, split="valid")[0].first != chosen[0].first
    for p in chosen:
        a, b = p.first.things[0], p.other.things[0]
        assert not held_out(b.kind, b.colour) and parse(p.prompts[1]).things[0].kind == b.kind
        differ = {n for n in ("kind", "colour", "x", "pattern") if getattr(a, n) != getattr(b, n)}
        want = {"place": {"x"}, "colour": {"colour"}, "kind": {"kind"}, "all": {"kind", "colour"}}[p.change]
        assert differ - {"colour"} == want - {"colour"} and (p.change in ("place",)) == ("x" in differ)
        assert (p.first.backdrop != p.other.backdrop) == (p.change == "all") and p.first.style == p.other.style
        assert (p.prompts[0] == p.prompts[1]) == (p.change == "place")
    a, b, first, other = drawn(chosen[:3])
    assert a.shape == b.shape == (3, 3, 64, 64) and len(first) == len(other) == 3
    assert bool(((a - b).abs().amax((1, 2, 3)) > 0.3).all())


def test_the_three_ways_over_their_range():
    reader, pair = load("readers/develop"), pairs(4)[3]
    a, b, *_ = drawn([pair])
    ways = Ways({"fade": cross_fade(a, b, 5)[0], "gold": gold_frames(pair.first, pair.other, 64, count=5)}, reader)
    p = panel(ways.render, play("frame", 0, 4, 1, 2), alt="ways")
    seen = set()
    for values in sweep(p, most=5):
        seen.add(p.image.value)
        assert f"weight {values['frame'] / 4:.2f}" in p.text and "gold" in p.text
    assert len(seen) == 5
    with pytest.raises(BadInput, match="frame"):
        ways.render(frame=5)
    with pytest.raises(BadInput, match="paths"):
        Ways({"one": torch.zeros(3, 3, 64, 64), "two": torch.zeros(4, 3, 64, 64)}, reader)


def test_lengths_and_levels_over_their_range(pipe):
    reader = load("readers/develop")
    longer = Norms(pipe, ["a red cat", "a blue dog"], initial_noise(pipe, 2, seed=0), reader, lengths=(0.5, 1.0), steps=1)
    p = panel(longer.render, slider("length", 0.5, 1.0, 0.5, 0.5), alt="lengths")
    first = p.image.value
    p.set(length=1.0)
    assert p.image.value != first and "1 times as long" in p.text
    a, b, first, other = drawn(pairs(4)[3:])
    levels = Levels(pipe, a, b, (encode_prompt(pipe, first), encode_prompt(pipe, other)), shares=(0.2, 1.0), steps=5, seeds=2)
    p = panel(levels.render, choice("noise", [0.2, 1.0]), alt="levels")
    first = p.image.value
    p.set(noise=1.0)
    assert p.image.value != first and "100% of the way" in p.text
    for wrong in (lambda: longer.render(length=0.7), lambda: levels.render(noise=0.3), lambda: Levels(pipe, a, b, (), seeds=1)):
        with pytest.raises(BadInput):
            wrong()


def test_the_claims_count_what_they_say(monkeypatch):
    """Gold in place of every method: one thing in all frames, no gain over itself; a fade in place of "slerp" fails."""
    chosen = pairs(8)
    gold = torch.stack([gold_frames(p.first, p.other, 64, count=9) for p in chosen])
    a, b, *_ = drawn(chosen)
    made = {"fade": cross_fade(a, b, 9)}
    monkeypatch.setattr(board, "paths", lambda name, n: made.get(name, gold)[:n])
    row = compute("21.one_thing", 8)
    assert row.value == pytest.approx(row.floor["the world's own morph"]) and row.value > 0.9 > compute("21.fade", 8).value
    assert compute("21.wang_golland", 8).value == 0 and compute("21.aid_smoother", 8).value == 0
    board._off_gold.cache_clear()
    found = compute("21.tree_gold", 4)
    board._off_gold.cache_clear()
    assert found.value == 0 and found.settings["slerp"] < 0.02 < found.baseline["fade"]
    assert 0 < found.floor["gold through the autoencoder"] < 0.15
    assert board._worded(8) == [i for i in range(8) if i % 4]


def test_half_the_variance_is_the_closed_form():
    row = compute("21.variance", 8000)
    assert row.value == pytest.approx(0.5, abs=0.03) and row.baseline["slerp over the data"] == pytest.approx(1, abs=0.05)
    known = claims()
    assert known["21.one_thing"].target == ">= 0.97" and known["21.fade"].target == "<= 0.9"
