"""Sampling scenes: pure functions of the number, the right distribution, held-out pairs, inside the frame."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.world.render import render
from minidiff.world.sample import LEVELS, SIZES, SPLITS, held_out, held_out_pairs, sample_scenes
from minidiff.world.scene import COLOUR_NAMES
from minidiff.world.vocab import ANIMALS, BACKDROPS, KINDS, MOODS, PATTERNS, SIZE_RANGE, STYLES, WEARS

N = 10_000


@pytest.fixture(scope="module")
def many():
    return {level: sample_scenes(range(N), level=level) for level in LEVELS}


@pytest.fixture(scope="module")
def told(many):
    """The same scenes in words."""
    return {level: list(scenes) for level, scenes in many.items()}


def same(a, b):
    return all(torch.equal(v, b.tensors()[n]) for n, v in a.tensors().items())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_does_not_depend_on_its_batch(split, level):
    whole = sample_scenes(range(64), split=split, level=level, seed=5)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert same(sample_scenes(shuffled, split=split, level=level, seed=5), whole[shuffled])
    for i in (0, 17, 63):
        assert same(sample_scenes(range(i, i + 1), split=split, level=level, seed=5), whole[i:i + 1])
    assert same(sample_scenes(range(10, 30, 3), split=split, level=level, seed=5), whole[10:30:3])


def test_known_scenes_stay_as_they_are():
    """Every shipped model's data: a changed stream would make cards and scores false."""
    first = sample_scenes(range(3), level="full", seed=0)
    assert [(s.backdrop, STYLES.index(s.style), *((t.kind, t.colour) for t in s.things)) for s in first] == GOLDEN
    assert first.x[:, 0].tolist() == pytest.approx(GOLDEN_X, abs=1e-7)


GOLDEN = [("sunset", 0, ("rabbit", "brown"), ("bear", "white")),
          ("snow", 0, ("cat", "brown"), ("bird", "pink"), ("house", "blue")),
          ("snow", 1, ("tree", "green"), ("flower", "green"), ("heart", "red"))]
GOLDEN_X = [0.8226868510246277, 0.6685647964477539, 0.8034558892250061]      # the second edition's


def test_splits_seeds_and_levels_differ():
    keys = [dict(split=s, seed=seed, level=v) for s in SPLITS for seed in (0, 1) for v in LEVELS]
    drawn = [sample_scenes(range(200), **k) for k in keys]
    for a, b in itertools.combinations(drawn, 2):
        assert not torch.equal(a.x, b.x)
        assert (a.x == b.x).all(1).float().mean() < 0.05


def test_large_numbers_are_as_good_as_small_ones():
    far = sample_scenes(torch.arange(2**40, 2**40 + 2000), level="full")
    assert len({tuple(row) for row in far.x.tolist()}) == 2000
    assert not same(far, sample_scenes(range(2000), level="full"))


def test_the_device_does_not_matter():
    index = torch.arange(4096)
    here = sample_scenes(index, level="full")
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        assert same(here, sample_scenes(index.to(device), level="full").to("cpu"))


def test_on_the_device_of_the_index():
    meta = sample_scenes(torch.arange(4, device="meta"), level="full")
    assert {v.device.type for v in meta.tensors().values()} == {"meta"}


def close(counts: Counter, prior: dict, n: int) -> None:
    """Each count within five standard deviations of its binomial mean, and nothing outside the prior."""
    assert set(counts) <= {k for k, p in prior.items() if p > 0}
    assert sum(prior.values()) == pytest.approx(1)
    for value, p in prior.items():
        assert abs(counts[value] - n * p) <= 5 * (n * p * (1 - p)) ** 0.5 + 1e-9, (value, counts[value], n * p)


def flat(values):
    return {v: 1 / len(values) for v in values}


def colour_prior():
    """By brute force over all kinds and the colours each may have."""
    prior = Counter()
    for kind in KINDS:
        allowed = [c for c in COLOUR_NAMES if not held_out(kind, c)]
        for c in allowed:
            prior[c] += 1 / len(KINDS) / len(allowed)
    return dict(prior)


def test_distribution_of_words(told):
    for level, count in {"simple": {1: 1.0}, "pairs": {1: 0.5, 2: 0.5}, "full": {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}}.items():
        scenes = told[level]
        close(Counter(len(s.things) for s in scenes), count, N)
        close(Counter(s.backdrop for s in scenes), flat(BACKDROPS), N)
        close(Counter(s.style for s in scenes), flat(STYLES if level == "full" else ("flat",)), N)
        for slot in range(len(count)):
            things = [s.things[slot] for s in scenes if len(s.things) > slot]
            n, plain = len(things), level == "simple"
            close(Counter(t.kind for t in things), flat(KINDS), n)
            close(Counter(t.colour for t in things), colour_prior(), n)
            close(Counter(t.pattern for t in things), flat(("plain",) if plain else PATTERNS), n)
            animals = [t for t in things if t.animal]
            others = [t for t in things if not t.animal]
            close(Counter(t.mood for t in animals), flat(("happy",) if plain else MOODS), len(animals))
            close(Counter(t.mood for t in others), {"none": 1.0}, len(others))
            worn = {"nothing": 1.0} if plain else {w: 0.5 if w == "nothing" else 1 / 6 for w in WEARS}
            close(Counter(t.wears for t in animals), worn, len(animals))
            close(Counter(t.wears for t in others), worn if plain else {"nothing": 0.75, "hat": 0.25}, len(others))


def test_words_are_independent(told):
    """Pairs of attributes against the product of their margins."""
    things = [(s.backdrop, s.things[0]) for s in told["simple"]]
    pairs = Counter((t.kind, backdrop) for backdrop, t in things)
    close(pairs, {(k, b): 1 / 72 for k in KINDS for b in BACKDROPS}, N)
    shown = Counter((t.kind, t.colour) for _, t in things)
    close(shown, {(k, c): 0 if held_out(k, c) else 1 / 96 for k in KINDS for c in COLOUR_NAMES}, N)


def test_things_of_a_scene_have_different_kinds_all_equally_often(told):
    orders = Counter()
    for scene in told["full"]:
        kinds = [t.kind for t in scene.things]
        assert len(set(kinds)) == len(kinds)
        if len(kinds) == 2:
            orders[tuple(kinds)] += 1
    assert len(orders) == 12 * 11
    close(orders, {pair: 1 / 132 for pair in orders}, sum(orders.values()))


def test_held_out_pairs_follow_their_rule():
    pairs = held_out_pairs()
    assert len(pairs) == len(set(pairs)) == 12
    assert {k for k, _ in pairs} == set(KINDS)
    assert set(Counter(c for _, c in pairs).values()) <= {1, 2} and {c for _, c in pairs} == set(COLOUR_NAMES)
    assert [(k, c) for k in KINDS for c in COLOUR_NAMES if held_out(k, c)] == pairs
    assert not held_out("cat", "red") and not held_out("dog", "red") and held_out("cat", "purple")
    with pytest.raises(BadInput, match="colour"):
        held_out("cat", "gold")


@pytest.mark.parametrize("level", LEVELS)
def test_held_out_pairs_appear_in_their_split_only(level, told):
    def number(scene):
        return sum(held_out(t.kind, t.colour) for t in scene.things)
    assert {number(s) for s in told[level]} == {0}
    for split in ("valid", "test"):
        assert {number(s) for s in sample_scenes(range(4000), split=split, level=level, seed=3)} == {0}
    held = list(sample_scenes(range(6000), split="held_out", level=level))
    assert {number(s) for s in held} == {1}
    assert {(t.kind, t.colour) for s in held for t in s.things if held_out(t.kind, t.colour)} == set(held_out_pairs())
    where = Counter((len(s.things), i) for s in held for i, t in enumerate(s.things) if held_out(t.kind, t.colour))
    for n in {len(s.things) for s in held}:
        total = sum(where[n, i] for i in range(n))
        close(Counter({i: where[n, i] for i in range(n)}), flat(range(n)), total)


def test_sizes_and_places(many):
    for level, scenes in many.items():
        present = scenes.present
        size, x, y = (v[present].double() for v in (scenes.size, scenes.x, scenes.y))
        assert size.min() >= SIZE_RANGE[0] - 1e-6 and size.max() <= SIZE_RANGE[1] + 1e-6
        assert (x - 1.14 * size).min() > -1e-6 and (x + 1.14 * size).max() < 1 + 1e-6
        tall = torch.where((scenes.wears == 1) | (scenes.wears == 3), 1.31, 1.06)[present] * size
        assert (y - tall).min() > -1e-6 and (y + tall).max() < 1 + 1e-6
        assert (~present == torch.arange(3).ge(present.sum(1, keepdim=True))).all()
        if level == "simple":
            assert 0.2 <= size.min() < 0.201 and 0.36 >= size.max() > 0.359
            assert abs(size.mean() - 0.28) < 5 * 0.16 / 12 ** 0.5 / N ** 0.5
        number = present.sum(1)
        for n, (low, high) in enumerate(SIZES, 1):
            of_n = scenes.size[present & (number == n)[:, None]]
            if level != "simple" and len(of_n):
                assert low <= of_n.min() + 1e-6 < low + 0.001 and high - 0.001 < of_n.max() <= high + 1e-6
                assert of_n.std() > 0.04                                    # the second and third are not all small
            assert abs(x.mean() - 0.5) < 5 * x.std() / N ** 0.5 and abs(y.mean() - 0.5) < 5 * y.std() / N ** 0.5


def test_things_come_back_to_front_and_hide_little_of_each_other():
    """By the masks: how much of each thing is hidden, against the same thing drawn alone."""
    scenes = sample_scenes(range(2400), level="full")
    scenes = scenes[scenes.present.sum(1) > 1]
    drawn = [s for part in torch.arange(len(scenes)).split(100) for s in render(scenes[part], 32).masks.sum((2, 3))]
    hidden = []
    for j in (0, 1):
        covered = scenes[scenes.present[:, j + 1]]
        seen = torch.stack(drawn)[scenes.present[:, j + 1], j]
        only = covered.replace(present=covered.present & (torch.arange(3) == j))
        whole = torch.cat([render(only[part], 32).masks[:, j].sum((1, 2)) for part in torch.arange(len(only)).split(100)])
        hidden.append(1 - seen / whole)
    hidden = torch.cat(hidden)
    assert len(hidden) > 2000 and hidden.max() < 0.25 and hidden.mean() < 0.002
    assert 0.003 < (hidden > 0.01).float().mean() < 0.04
    y = torch.where(scenes.present, scenes.y, 2.0)
    assert (y.diff(dim=1) >= 0).all()


def test_things_lie_inside_the_frame():
    """By the masks: each scene drawn at half the scale in the middle of a picture twice as wide, where nothing is cut off."""
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[16:48, 16:48] = False
    for level in ("simple", "full"):
        for start in range(0, 1500, 100):
            scenes = sample_scenes(range(start, start + 100), level=level)
            small = scenes.replace(x=0.25 + scenes.x / 2, y=0.25 + scenes.y / 2, size=scenes.size / 2)
            assert render(small, 64).masks[..., outside].sum(-1).max() < 0.3


@pytest.mark.parametrize(("arguments", "word"), [
    (dict(index=range(3), split="training"), "train"), (dict(index=range(3), level="hard"), "simple"),
    (dict(index=[1, 2]), "range"), (dict(index=torch.zeros(3)), "int64"), (dict(index=torch.zeros(2, 2).long()), "1-D"),
    (dict(index=range(3), seed=0.5), "whole"),
])
def test_what_is_refused(arguments, word):
    with pytest.raises(BadInput, match=word):
        sample_scenes(arguments.pop("index"), **arguments)


def test_animals_are_the_first_kinds():
    """sample_scenes finds animals by position."""
    assert KINDS[:len(ANIMALS)] == ANIMALS
