"""Lesson 22: its panels over their range, and what its claims count, on paths whose answer is known."""

from __future__ import annotations

import pytest
import torch

from minidiff.course import compute
from minidiff.errors import BadInput
from minidiff.latent import encode
from minidiff.lessons.l22_morphing import claims as board
from minidiff.lessons.l22_morphing import drawn, pairs
from minidiff.lessons.l22_morphing.panels import Guided, Stages, thin
from minidiff.measure.path import gold_frames, rms
from minidiff.morphing import cross_fade, fit_impus
from minidiff.rng import normal
from minidiff.show import choice, panel, sweep
from tests.pipelines import CASES, make


def test_stages_over_their_range():
    pair = pairs(4)[3]
    a, b, *_ = drawn([pair])
    paths = {"fade": cross_fade(a, b, 5)[0], "gold": gold_frames(pair.first, pair.other, 64, count=5)}
    made = Stages(paths, rms)
    p = panel(made.render, choice("stages", list(paths)), alt="stages")
    seen = set()
    for values in sweep(p, most=5):
        seen.add(p.image.value)
        assert p.text.startswith(values["stages"]) and "of the way" in p.text
    assert len(seen) == 2
    assert "over their mean 0.00, largest hop 25% of the way, which is 1.00" in made.render(stages="fade")[1]
    with pytest.raises(BadInput, match="stages"):
        made.render(stages="magic")
    with pytest.raises(BadInput, match="paths"):
        Stages({"one": torch.zeros(3, 3, 8, 8), "two": torch.zeros(4, 3, 8, 8)}, rms)


def test_guidance_at_the_ends_over_its_range():
    pipe = make(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    a, b = (normal((1, 3, side, side), "22 ends", k).clamp(-1, 1) for k in range(2))
    fit = fit_impus(pipe, a, b, ("a red cat", "a blue dog"), embeddings=0, iterations=0, unconditional=2, lr=0.1, steps=6)
    with torch.no_grad():
        want = torch.cat([encode(pipe.vae, x) for x in (a, b)])
    made = Guided(fit, want, weights=(1.0, 2.0), steps=6)
    assert made.errors[1.0][0] == pytest.approx(made.errors[1.0][1], rel=1e-4), "w = 1 never asks the second network"
    assert made.errors[1.0][0] < made.errors[2.0][0] and abs(made.errors[2.0][0] - made.errors[2.0][1]) > 1e-4
    p = panel(made.render, choice("weight", [1.0, 2.0]), alt="ends")
    first = p.image.value
    p.set(weight=2.0)
    assert p.image.value != first and "guidance 2" in p.text
    with pytest.raises(BadInput, match="weight"):
        made.render(weight=1.7)


def test_fewer_levels_are_near_the_picture():
    x = torch.linspace(-1, 1, 99).view(1, 1, 9, 11).expand(1, 3, 9, 11)
    assert float((thin(x) - x).abs().max()) < 0.07 and len(thin(x).unique()) == 16


def test_the_claims_count_what_they_say(monkeypatch):
    """Gold in place of every method: no gain over itself. A path that stands and leaps is uneven and has one large hop."""
    chosen = pairs(4)
    gold = torch.stack([gold_frames(p.first, p.other, 64, count=9) for p in chosen])
    monkeypatch.setattr(board, "morphs", lambda stages, n: gold[:n])
    assert compute("22.hop_cv", 4).value == 0 and compute("22.shorter", 4).value == 0
    row = compute("22.respaced", 4)
    assert row.value == pytest.approx(row.floor["gold"]) and row.value < 0.5
    row = compute("22.largest_hop", 4)
    assert 1 / 8 <= row.value == pytest.approx(row.floor["gold"]) and row.value < 0.3
    leap = torch.cat([gold[:, :1].expand(-1, 5, -1, -1, -1), gold[:, -1:].expand(-1, 4, -1, -1, -1)], 1)
    monkeypatch.setattr(board, "morphs", lambda stages, n: leap[:n] if "spacing" not in stages and stages else gold[:n])
    row = compute("22.hop_cv", 4)
    assert row.value > 1.5 and row.verdict == "failed" and compute("22.shorter", 4).value < 0


def test_the_way_of_a_place():
    moved = [p for p in pairs(8) if p.change == "place"]
    gold = torch.stack([gold_frames(p.first, p.other, 64, count=9) for p in moved])
    there_and_back = gold[:, [0, 4, 2, 6, 8]]
    straight, longer = board.place_ratio(gold), board.place_ratio(there_and_back)
    assert bool((straight < 1.1).all()) and float(longer.max()) > 1.35 and bool((longer > straight - 0.02).all())
    empty = gold.clone()
    empty[:, 0] = -1.0
    assert bool(board.place_ratio(empty).isnan().any() | (board.place_ratio(empty) > 0).all())
