"""Measures of a path: closed forms, and the paths whose answer is known (fade, gold morph, leap)."""

from __future__ import annotations

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.measure import explain_between
from minidiff.measure.path import (
    detours,
    directness,
    equal_spacing,
    ghost,
    gold_frames,
    hops,
    perceptual,
    rms,
    smoothness,
    speed_cv,
    thing_counts,
    to_gold,
)
from minidiff.rng import normal
from minidiff.world import Scene, Thing, render
from minidiff.zoo import load

LEFT = Scene((Thing("heart", "red", x=0.3, size=0.2),), "grass")
RIGHT = LEFT.replace_thing(0, x=0.72)
CAT = Scene((Thing("cat", "orange", size=0.3),), "grass")
DOG = Scene((Thing("dog", "blue", size=0.3),), "night")


def line(values):
    """Pictures that differ in one number each: distances are those of the numbers."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 4, 6)


def test_hops_of_a_straight_path_and_of_a_leap():
    even, leap = line([0.0, 0.1, 0.2, 0.3, 0.4]), line([0.0, 0.0, 0.4, 0.4, 0.4])
    both = hops(torch.stack([even, leap]))
    assert torch.allclose(both, torch.tensor([[0.1] * 4, [0, 0.4, 0, 0]]), atol=1e-6)
    assert smoothness(both).tolist() == pytest.approx([1.0, 0.25])
    assert speed_cv(both).tolist() == pytest.approx([0, 3**0.5], abs=1e-5)
    assert directness(torch.stack([even, leap])).tolist() == pytest.approx([1.0, 1.0], rel=1e-5)
    assert float(directness(line([0.0, 0.3, 0.1]))) == pytest.approx(5.0, rel=1e-5)
    assert torch.equal(hops(even), hops(even[None]))


def test_one_jump_in_ten_has_a_tenth_and_standing_still_is_smooth():
    assert float(smoothness(torch.eye(10)[3])) == pytest.approx(0.1)
    assert float(smoothness(torch.zeros(4))) == 1
    x = torch.tensor([1.0, 3.0, 2.0, 6.0])
    gini = (x[:, None] - x).abs().sum() / (2 * 4 * x.sum())                     # the definition
    assert float(smoothness(x)) == pytest.approx(1 - float(gini))


def test_the_perceptual_distance_is_a_length():
    reader = load("readers/develop")
    a, b = render([LEFT, RIGHT]).images.split(1)
    d = perceptual(reader)
    assert float(d(a, a)) == 0 and float(d(a, b)) == pytest.approx(float(d(b, a)), rel=1e-5) and float(d(a, b)) > 0.1
    c = render(LEFT.replace_thing(0, x=0.5)).images
    assert float(d(a, c) + d(c, b)) >= float(d(a, b)), "a squared distance would be shorter in two steps"


def test_equal_spacing_inverts_a_known_speed():
    """alpha^3: the hops grow; the weights that make them equal are u^(1/3)."""
    w = torch.linspace(0, 1, 401, dtype=torch.float64)
    steps = (w**3).diff()
    found = equal_spacing(w, torch.stack([steps, w.diff()]), 9)
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(found[0], u ** (1 / 3), atol=2e-3) and torch.allclose(found[1], u, atol=1e-6)
    assert found[0, 0] == 0 and found[0, -1] == 1
    stop = equal_spacing([0.0, 0.5, 1.0], torch.tensor([0.0, 1.0]), 3)
    assert stop[0].tolist() == pytest.approx([0.0, 0.75, 1.0], abs=1e-6)
    with pytest.raises(BadInput, match="steps"):
        equal_spacing([0.0, 1.0], torch.tensor([0.5, 0.5]), 3)


def test_a_fade_is_a_ghost_and_an_end_is_none():
    a, b = normal((2, 3, 8, 8), "ghost", 0)
    frames = torch.stack([a, 0.7 * a + 0.3 * b, a + 0.01 * (b - a), b, 0.5 * a + 0.5 * b + normal((3, 8, 8), "ghost", 1)])
    found = ghost(frames, a, b)[0]
    assert found[1] == pytest.approx(1, abs=1e-6) and found[[0, 2, 3]].tolist() == [0, 0, 0] and found[4] < 0.6
    x, residue = frames[4], []
    for w in torch.linspace(0, 1, 2001):
        residue.append(float((x - (1 - w) * a - w * b).square().sum()))
    near = min(float((x - a).square().sum()), float((x - b).square().sum()))
    assert float(found[4]) == pytest.approx(1 - min(residue) / near, abs=1e-5)


def test_gold_is_no_ghost_and_has_one_thing():
    reader = load("readers/develop")
    gold = gold_frames(LEFT, RIGHT, 64, count=7)
    fade = torch.stack([torch.lerp(gold[0], gold[-1], k / 6) for k in range(7)])
    assert ghost(gold, gold[0], gold[-1])[0, 1:-1].max() < 0.7 < 0.99 < ghost(fade, gold[0], gold[-1])[0, 1:-1].min()
    assert thing_counts(gold, reader).eq(1).all() and int(thing_counts(fade, reader)[0, 3]) == 2
    assert to_gold(gold, gold).max() == 0
    assert to_gold(fade, gold_frames(LEFT, RIGHT, 64))[3] > 0.05
    assert float(to_gold(gold, gold.flip(0)).max()) == 0, "wherever on the path"
    assert bool(explain_between(gold[2:5], LEFT, RIGHT).valid.all())
    assert not bool(explain_between(fade[2:5], LEFT, RIGHT).valid.any())


def test_detours_are_kinds_and_backdrops_of_neither_end():
    reader = load("readers/develop")
    scenes = [CAT, CAT.replace_thing(0, kind="tree"), DOG, CAT.replace(backdrop="beach"), CAT.replace(backdrop="night")]
    frames = render(scenes).images
    assert detours(frames, CAT, DOG, reader).tolist() == [False, True, False, True, False]
    empty = torch.full((1, 3, 64, 64), 0.2)
    assert detours(torch.cat([frames[:1], empty]), CAT, DOG, reader)[1]


def test_frames_must_be_a_path():
    for wrong in (torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8), None):
        with pytest.raises(BadInput, match="frames"):
            hops(wrong)
    assert torch.equal(rms(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)), torch.ones(2))
