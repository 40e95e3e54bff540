"""Lesson 22: its panels over their range, and what its claims count, on paths whose answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from minidiff.course import compute
from minidiff.errors import BadInput
from minidiff.latent import encode
from minidiff.lessons.l22_morphing import claims as board
from minidiff.lessons.l22_morphing import drawn, pairs
from minidiff.lessons.l22_morphing.panels import Guided, Walk
from minidiff.measure.path import gold_frames, hops, rms
from minidiff.morphing import cross_fade, fit_impus
from minidiff.rng import normal
from minidiff.show import choice, panel, slider, sweep
from minidiff.zoo import load
from tests.pipelines import CASES, make


def test_a_walk_over_its_range():
    pair = pairs(4)[3]
    a, b, *_ = drawn([pair])
    even = [k / 4 for k in range(5)]
    films = {"fade": (even, cross_fade(a, b, 5)[0]), "gold": (even, gold_frames(pair.first, pair.other, 64, count=5)),
             "stands": ([0.0, 0.1, 0.2, 0.3, 1.0], torch.cat([a.expand(4, -1, -1, -1), b]))}
    made = Walk(films, rms, load("readers/develop"), yardstick="gold", control="fade")
    p = panel(made.render, choice("path", list(films)), slider("frame", 0, 4, 1, 2), alt="walk")
    visited = {}
    for values in sweep(p, most=20):
        visited[tuple(values.items())] = bytes(p.image.value)
        assert p.text.startswith(values["path"]) and "frames between the ends" in p.text
    assert len(set(visited.values())) == len(visited) >= 7, "every frame of every path has a picture of its own"
    text = made.render(path="fade", frame=2)[1]
    assert "weight 0.5" in text and "over their mean 0.00, length 1.00 times" in text and "the hop that leads here" in text
    assert "over their mean 1.73" in made.render(path="stands", frame=4)[1], "one jump in four hops: sqrt(3)"
    assert "leads here" not in made.render(path="gold", frame=0)[1]
    for bad in ({"path": "magic", "frame": 0}, {"path": "gold", "frame": 5}):
        with pytest.raises(BadInput):
            made.render(**bad)
    short = {"one": (even[:3], torch.zeros(3, 3, 8, 8)), "two": (even[:4], torch.zeros(4, 3, 8, 8))}
    with pytest.raises(BadInput, match="films"):
        Walk(short, rms, load("readers/develop"), yardstick="one", control="two")
    with pytest.raises(BadInput, match="yardstick"):
        Walk(films, rms, load("readers/develop"), yardstick="golden", control="fade")
    with pytest.raises(BadInput, match="control"):
        Walk(films, rms, load("readers/develop"), yardstick="gold", control="fades")


def test_guidance_at_the_ends_over_its_range():
    pipe = make(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    a, b = (normal((1, 3, side, side), "22 ends", k).clamp(-1, 1) for k in range(2))
    fit = fit_impus(pipe, a, b, ("a red cat", "a blue dog"), embeddings=0, iterations=0, unconditional=2, lr=0.1, steps=6)
    with torch.no_grad():
        want = torch.cat([encode(pipe.vae, x) for x in (a, b)])
    made = Guided(fit, torch.cat([a, b]), want, weights=(1.5, 2.0), steps=6)
    one = [fit.latents([0], [w], guidance=(1.0, 1.0), steps=6) for w in (0.0, 1.0)]
    off = (torch.cat(one) - want).square().mean().sqrt()
    assert made.error(1.0, False) == pytest.approx(float(off), rel=1e-4), "w = 1 never asks the second network"
    assert made.error(1.0, False) < made.error(2.0, False) and abs(made.error(2.0, False) - made.error(2.0, True)) > 1e-4
    p = panel(made.render, choice("weight", [1.5, 2.0]), alt="ends")
    first = p.image.value
    p.set(weight=2.0)
    assert p.image.value != first and "guidance 2" in p.text
    with pytest.raises(BadInput, match="weight"):
        made.render(weight=1.7)


def test_the_claims_count_what_they_say(monkeypatch):
    """Gold in place of every method: no gain over itself. A path that stands and leaps is uneven, too short, and has one large
    hop; where slerp is as even as gold without any adapter, respacing the adapters gains nothing."""
    chosen = pairs(4)
    gold = torch.stack([gold_frames(p.first, p.other, 64, count=9) for p in chosen])
    leap = torch.cat([gold[:, :1].expand(-1, 5, -1, -1, -1), gold[:, -1:].expand(-1, 4, -1, -1, -1)], 1)
    monkeypatch.setattr(board, "morphs", lambda stages, n: gold[:n])
    assert compute("22.hop_cv", 4).value == 0 and compute("22.length", 4).value == 0 and compute("22.respaced_gain", 4).value == 0
    assert compute("22.length", 4).baseline["slerp, off by"] == pytest.approx(0)
    row = compute("22.respaced", 4)
    assert row.value == pytest.approx(row.floor["gold"]) and row.value < 0.5
    row = compute("22.largest_hop", 4)
    assert 1 / 8 <= row.value == pytest.approx(row.floor["gold"]) and row.value < 0.3
    monkeypatch.setattr(board, "morphs", lambda stages, n: leap[:n] if "spacing" not in stages and stages else gold[:n])
    assert compute("22.hop_cv", 4).value > 1.5 and compute("22.hop_cv", 4).verdict == "failed"
    row = compute("22.length", 4)
    assert row.value > 0 and row.settings["ratio of LoRA, attention, AdaIN"] == pytest.approx(1), "too short is off as well"
    monkeypatch.setattr(board, "morphs", lambda stages, n: leap[:n] if stages == ("spacing",) else gold[:n])
    assert compute("22.respaced_gain", 4).value < -1.5 and compute("22.respaced", 4).baseline["slerp, respaced"] > 2


def test_the_rows_of_impus_count_what_they_say(monkeypatch):
    """Gold frames in place of IMPUS's are straight; bisected ones of one size have a peak of 1, a path with one long hop more."""
    chosen = pairs(8)
    gold = [gold_frames(p.first, p.other, 64, count=9) for p in chosen]
    monkeypatch.setattr(board, "_even", lambda i: gold[i])
    monkeypatch.setattr(board, "slerp_morph", lambda pipe, a, b, said, **_: SimpleNamespace(images=cross_fade(a, b, 9)))
    row = compute("22.straight", 2)
    assert row.value == pytest.approx(row.floor["gold"]) and 1 <= row.value < 1.1
    assert row.baseline["slerp"] == row.baseline["fade"]
    assert row.settings["one thing in a frame, gold"] > row.settings["one thing in a frame, fade"]
    monkeypatch.setattr(board, "morphs", lambda stages, n: torch.stack(gold[:n]))
    monkeypatch.setattr(board, "_distance", rms)
    even = [cross_fade(*(x[None] for x in (g[0], g[-1])), 6)[0] for g in gold]
    monkeypatch.setattr(board, "_bisected", lambda i: even[i])
    assert compute("22.equal_hops", 2).value == pytest.approx(1, abs=1e-4)
    monkeypatch.setattr(board, "_bisected", lambda i: even[i][[0, 1, 2, 3, 5]])
    row = compute("22.equal_hops", 2)
    assert row.value == pytest.approx(2 / 1.25, abs=1e-4) and row.settings["share of pairs at or below 1.3"] == 0


def test_bisection_of_the_rows_asks_for_the_even_path_shared_out(monkeypatch):
    """On a straight cross-fade whose speed is w ** 2 the bisected hops are of one size, and as many as there were."""
    a, b, *_ = drawn(pairs(1))

    def frames(fit, weights):
        return torch.cat([torch.lerp(a, b, w**2) for w in weights])

    monkeypatch.setattr(board, "_draw", frames)
    monkeypatch.setattr(board, "fitted", lambda i: None)
    monkeypatch.setattr(board, "_distance", rms)
    board._even.cache_clear()
    board._bisected.cache_clear()
    h = hops(board._bisected(0), rms)[0]
    board._even.cache_clear()
    board._bisected.cache_clear()
    assert len(h) == 8 and float(h[:-1].max() / h[:-1].min()) < 1.11 and float(h.sum()) == pytest.approx(
        float(rms(a, b)), rel=1e-3)


def test_the_way_of_a_place():
    moved = [p for p in pairs(8) if p.change == "place"]
    places = [torch.tensor([[getattr(p, end).things[0].x, getattr(p, end).things[0].y] for p in moved]) for end in
              ("first", "other")]
    gold = torch.stack([gold_frames(p.first, p.other, 64, count=9) for p in moved])
    straight, longer = board.place_ratio(gold, *places), board.place_ratio(gold[:, [0, 4, 2, 6, 8]], *places)
    assert bool((straight >= 1).all() and (straight < 1.1).all()) and float(longer.max()) > 1.35 and bool((longer >= 1).all())
    empty = torch.full_like(gold, -1.0)
    assert board.place_ratio(empty, *places) == pytest.approx(torch.ones(len(moved))), "nothing seen adds nothing"
