"""Attribute histograms against counting words by hand; memorisation against loops and known ends."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.measure.attributes import VALUES, attribute_tv, histogram, memorisation, total_variation
from minidiff.world.sample import sample_scenes
from minidiff.world.scene import COLOUR_NAMES, MOOD_INDEX, Scene, Scenes, Thing
from minidiff.world.vocab import BACKDROPS, KINDS, PATTERNS, STYLES, WEARS

WORDS = {"count": (0, 1, 2, 3), "backdrop": BACKDROPS, "style": STYLES, "kind": KINDS, "colour": COLOUR_NAMES,
         "pattern": PATTERNS, "mood": MOOD_INDEX, "wears": WEARS}


def test_total_variation_of_known_histograms():
    p, q = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([10.0, 20.0, 10.0])
    assert total_variation(p, q) == pytest.approx(0.25)
    assert total_variation(p, p * 7) == 0
    assert total_variation(torch.tensor([1, 0]), torch.tensor([0, 3])) == 1
    assert total_variation(torch.tensor([[0.5, 0], [0, 0.5]]), torch.full((2, 2), 0.25)) == 0.5


def count(scenes, *names):
    """The same counts from scenes in words."""
    whole = {"count": lambda s: len(s.things), "backdrop": lambda s: s.backdrop, "style": lambda s: s.style}
    out = Counter()
    for s in scenes:
        rows = s.things if any(n not in whole for n in names) else [None]
        for t in rows:
            out[tuple(WORDS[n].index(whole[n](s) if n in whole else getattr(t, n)) for n in names)] += 1
    return out


@pytest.mark.parametrize("names", [("count",), ("backdrop",), ("kind",), ("mood",), ("wears",), ("kind", "colour"),
                                   ("backdrop", "kind"), ("kind", "style"), ("count", "backdrop"),
                                   ("colour", "pattern", "wears")])
def test_histograms_against_counting_words(names):
    scenes = sample_scenes(range(400), level="full")
    found, right = histogram(scenes, *names), count(scenes, *names)
    assert found.shape == tuple(len(WORDS[n]) for n in names)
    assert int(found.sum()) == sum(right.values())
    for place, number in right.items():
        assert found[place] == number


def test_values_match_the_vocabulary():
    assert {name: len(words) for name, words in WORDS.items()} == VALUES


def test_scenes_of_one_kind_are_far_and_equal_scenes_are_near():
    scenes = sample_scenes(range(600), level="full")
    assert set(attribute_tv(scenes, scenes).values()) == {0.0}
    only = scenes.replace(kind=torch.zeros_like(scenes.kind))
    found = attribute_tv(only, scenes)
    share = float((scenes.kind == 0)[scenes.present].double().mean())
    assert found["kind"] == pytest.approx(1 - share, rel=1e-9)
    assert found["colour"] == found["backdrop"] == found["backdrop+colour"] == 0
    assert found["kind+colour"] >= found["kind"]
    assert "kind+colour" in found and "backdrop+kind" in found and len(found) == 8 + 28
    assert set(attribute_tv(only, scenes, pairs=False)) == set(VALUES)


def test_what_never_varies_is_left_out():
    scenes = sample_scenes(range(300), level="simple")
    assert set(attribute_tv(scenes, scenes, pairs=False)) == {"backdrop", "kind", "colour", "mood"}


def test_the_pairs_see_what_single_attributes_do_not():
    """Two cats and two dogs in red and blue: right margins, wrong combinations."""
    def world(*pairs):
        return Scenes.of([Scene((Thing(k, c),)) for k, c in pairs])
    right = world(("cat", "red"), ("cat", "blue"), ("dog", "red"), ("dog", "blue"))
    wrong = world(("cat", "red"), ("cat", "red"), ("dog", "blue"), ("dog", "blue"))
    found = attribute_tv(wrong, right)
    assert found == {"kind": 0, "colour": 0, "kind+colour": 0.5}


def test_the_floor_is_what_the_docstring_says():
    floors = []
    for i in range(20):
        a, b = (sample_scenes(range(k * 1000, (k + 1) * 1000)) for k in (2 * i, 2 * i + 1))
        floors.append(attribute_tv(a, b, pairs=False)["kind"])
    assert sum(floors) / 20 == pytest.approx(math.sqrt(12 / math.pi / 1000), rel=0.15)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_memorisation_against_loops():
    made, train, held = normal(7, 2, 3), normal(9, 2, 3, seed=1), normal(5, 2, 3, seed=2)

    def far(x):
        return min(math.sqrt(sum((p - q) ** 2 for p, q in zip(x.flatten().tolist(), t.flatten().tolist(), strict=True)) / 6)
                   for t in train)
    a, b = sorted(map(far, made)), sorted(map(far, held))
    found = memorisation(made, train, held, chunk=3)
    assert found.made == pytest.approx(a[3], rel=1e-9) and found.held_out == pytest.approx(b[2], rel=1e-9)
    assert found.closer == pytest.approx(sum(x < y for x in a for y in b) / 35)


def test_memorisation_at_its_ends():
    train, held = normal(300, 8), normal(300, 8, seed=1)
    fresh = memorisation(normal(300, 8, seed=2), train, held)
    assert abs(fresh.closer - 0.5) < 0.1 and fresh.made == pytest.approx(fresh.held_out, rel=0.1)
    copies = memorisation(train[:50], train, held)
    assert copies.made == 0 and copies.closer == 1
    assert memorisation(held, train, held).closer == 0.5
    assert memorisation(held + 100, train, held).closer == 0


@pytest.mark.parametrize(("call", "words"), [
    (lambda: total_variation(torch.ones(2), torch.ones(3)), ["q", "(3,)"]),
    (lambda: total_variation(torch.zeros(2), torch.ones(2)), ["p", "counts"]),
    (lambda: total_variation(torch.ones(2), torch.tensor([1.0, -1])), ["q"]),
    (lambda: histogram(sample_scenes(range(3)), "knid"), ["names", "knid", "kind"]),
    (lambda: histogram(sample_scenes(range(3)), "kind", "kind"), ["names", "different"]),
    (lambda: histogram(sample_scenes(range(3))), ["names"]),
    (lambda: attribute_tv(sample_scenes(range(0)), sample_scenes(range(3))), ["made", "without things"]),
    (lambda: memorisation(normal(3, 4), normal(3, 5), normal(3, 4)), ["made", "(4,)"]),
    (lambda: memorisation(normal(3, 4) * torch.nan, normal(3, 4), normal(3, 4)), ["made", "NaN"]),
    (lambda: memorisation(normal(3, 4), normal(3, 4), normal(1, 4)), ["held_out"]),
])
def test_what_is_refused(call, words):
    with pytest.raises(BadInput) as error:
        call()
    for word in words:
        assert word in str(error.value)
