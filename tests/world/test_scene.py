"""Scenes: refusals, counterfactuals, gold interpolation, round trips between words and tensors."""

from __future__ import annotations

import json

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.world.sample import sample_scenes
from minidiff.world.scene import COLOUR_NAMES, Scene, Scenes, Thing
from minidiff.world.vocab import BACKDROPS, KINDS

CAT = Thing("cat", "red", size=0.2, x=0.3, y=0.4, mood="sad", wears="glasses")
TREE = Thing("tree", "green", "dotted", size=0.3, x=0.7, y=0.6, wears="hat")


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Thing("cta", "red"), ["kind", "'cta'", "kind='cat'"]),
    (lambda: Thing("cat", "rde"), ["colour", "'rde'", "colour='red'"]),
    (lambda: Thing("cat", "red", "stripy"), ["pattern", "striped"]),
    (lambda: Thing("cat", "red", size=0.9), ["size", "0.9", "0.04"]),
    (lambda: Thing("cat", "red", x=float("nan")), ["x", "nan"]),
    (lambda: Thing("cat", "red", y=-0.1), ["y", "-0.1"]),
    (lambda: Thing("cat", "red", x=-0.1), ["x", "-0.1"]),
    (lambda: Thing("cat", "red", x=1.1), ["x", "1.1"]),
    (lambda: Thing("cat", "red", size=0.0), ["size", "0.0"]),
    (lambda: Thing("cat", "red", y="low"), ["y", "'low'"]),
    (lambda: Thing("cat", "red", x=True), ["x", "True"]),
    (lambda: Thing("star", "red", mood="happy"), ["mood", "star", "cat, dog, rabbit, bear"]),
    (lambda: Thing("star", "red", wears="glasses"), ["wears", "star"]),
    (lambda: Scene(()), ["things", "0 things"]),
    (lambda: Scene((CAT,) * 4), ["things", "4 things"]),
    (lambda: Scene(("cat",)), ["things", "tuple of Thing"]),
    (lambda: Scene((CAT,), backdrop="gras"), ["backdrop", "grass"]),
    (lambda: Scene((CAT,), style="pixle"), ["style", "pixel"]),
    (lambda: Scene((CAT,)).replace(backdrp="snow"), ["backdrp", "backdrop"]),
    (lambda: Scene((CAT,)).replace_thing(1, kind="dog"), ["index", "1 things"]),
    (lambda: Scene((CAT,)).replace_thing(0, colur="blue"), ["colur", "colour"]),
    (lambda: Scene((CAT,)).replace_thing(0, kind="star", mood="sad"), ["mood", "star"]),
    (lambda: Scene((CAT,)).interpolate(Scene((TREE,)), 1.5), ["t", "1.5"]),
    (lambda: Scene.from_dict({"backdrop": "snow"}), ["data", "things"]),
    (lambda: Scene.from_dict({"things": [{"kind": "cat"}]}), ["data", "colour"]),
    (lambda: Scene.from_dict({"things": [{"kind": "cat", "colour": "red", "siz": 1}]}), ["siz", "size"]),
    (lambda: Scenes.of([CAT]), ["scenes"]),
    (lambda: Scenes.cat([]), ["parts"]),
    (lambda: Scenes.of([Scene((CAT,))]).replace(backdrop=torch.zeros(2, dtype=torch.int64)), ["shape"]),
    (lambda: Scenes.of([Scene((CAT,))]).replace(kind=torch.zeros(1, 3)), ["kind", "dtype"]),
    (lambda: Scenes.of([Scene((CAT,))]).replace(kind=torch.full((1, 3), 40))[0], ["out of range"]),
])
def test_what_is_refused(make, words):
    with pytest.raises(BadInput) as error:
        make()
    for word in words:
        assert word in str(error.value)


def test_animals_are_happy_by_default_and_others_have_no_mood():
    assert Thing("bear", "brown").mood == "happy"
    assert Thing("house", "red").mood == "none"


def test_a_new_kind_keeps_what_it_can():
    assert CAT.replace(kind="dog") == Thing("dog", "red", size=0.2, x=0.3, y=0.4, mood="sad", wears="glasses")
    assert CAT.replace(kind="star") == Thing("star", "red", size=0.2, x=0.3, y=0.4)
    assert TREE.replace(kind="bear") == Thing("bear", "green", "dotted", size=0.3, x=0.7, y=0.6, mood="happy", wears="hat")
    assert CAT.replace(wears="hat").replace(kind="star").wears == "hat"


def test_a_counterfactual_changes_one_thing_only():
    scene = Scene((CAT, TREE), "beach", "neon")
    assert scene.replace(backdrop="snow") == Scene((CAT, TREE), "snow", "neon")
    assert scene.replace_thing(1, colour="pink") == Scene((CAT, TREE.replace(colour="pink")), "beach", "neon")
    assert scene.replace_thing(-1, colour="pink").things[0] is CAT
    assert scene == Scene((CAT, TREE), "beach", "neon")


def test_interpolation_is_straight_and_switches_words_half_way():
    a, b = Scene((CAT,), "grass"), Scene((TREE,), "snow", "pixel")
    assert a.interpolate(b, 0) == a
    assert a.interpolate(b, 1) == b
    quarter = a.interpolate(b, 0.25)
    assert (quarter.backdrop, quarter.style) == ("grass", "flat")
    assert (quarter.things[0].kind, quarter.things[0].wears) == ("cat", "glasses")
    assert quarter.things[0].x == pytest.approx(0.4)
    assert quarter.things[0].y == pytest.approx(0.45)
    assert quarter.things[0].size == pytest.approx(0.225)
    half = a.interpolate(b, 0.5)
    assert (half.backdrop, half.style, half.things[0].kind, half.things[0].mood) == ("snow", "pixel", "tree", "none")
    assert half.things[0].x == pytest.approx(0.5)


def test_interpolation_ends_exactly():
    scenes = list(sample_scenes(range(60), level="pairs"))
    for a, b in zip(scenes[::2], scenes[1::2], strict=True):
        assert a.interpolate(b, 0) == a and a.interpolate(b, 1) == b
        assert a.interpolate(a, 0.3) == a


def test_interpolation_with_a_thing_that_comes():
    a, b = Scene((CAT,)), Scene((CAT.replace(x=0.5), TREE))
    assert len(a.interpolate(b, 0.49).things) == 1
    later = a.interpolate(b, 0.75)
    assert later.things[1] == TREE
    assert later.things[0].x == pytest.approx(0.45)


def test_dict_round_trip_through_json():
    scene = Scene((CAT, TREE), "night", "outline")
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
    assert Scene.from_dict({"things": [{"kind": "cat", "colour": "red"}]}) == Scene((Thing("cat", "red"),))


def test_words_to_tensors():
    scenes = Scenes.of([Scene((CAT, TREE), "beach", "pixel"), Scene((TREE,))])
    assert scenes.present.tolist() == [[True, True, False], [True, False, False]]
    assert scenes.kind.tolist() == [[0, 7, 0], [7, 0, 0]]
    assert scenes.colour[0, :2].tolist() == [0, 3]
    assert scenes.pattern[0, :2].tolist() == [0, 2]
    assert scenes.mood[0].tolist() == [2, 0, 0]
    assert scenes.wears[0].tolist() == [2, 1, 0]
    assert scenes.backdrop.tolist() == [1, 0]
    assert scenes.style.tolist() == [3, 0]
    assert torch.allclose(scenes.x[0, :2], torch.tensor([0.3, 0.7]))
    assert torch.allclose(scenes.y[0, :2], torch.tensor([0.4, 0.6]))
    assert torch.allclose(scenes.size[0, :2], torch.tensor([0.2, 0.3]))


def test_tensors_and_words_round_trip_exactly():
    scenes = sample_scenes(range(500), level="full")
    again = Scenes.of(list(scenes))
    for name, value in scenes.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    hand = [Scene((CAT, TREE), "beach"), Scene((TREE,), "snow", "neon")]
    assert list(Scenes.of(hand)) == hand


def test_indexing():
    scenes = sample_scenes(range(10), level="full")
    words = list(scenes)
    assert len(scenes) == len(words) == 10
    assert scenes[3] == words[3] and scenes[-1] == words[9]
    assert list(scenes[2:5]) == words[2:5]
    assert list(scenes[torch.tensor([7, 1])]) == [words[7], words[1]]
    assert list(scenes[[7, 1]]) == [words[7], words[1]]
    assert list(scenes[torch.arange(10) > 7]) == words[8:]
    assert list(Scenes.cat([scenes[:4], scenes[4:]])) == words
    with pytest.raises(IndexError):
        scenes[10]


def test_gradients_pass_through_replace_and_indexing():
    x = torch.full((2, 3), 0.4, requires_grad=True)
    scenes = Scenes.of([Scene((CAT,)), Scene((TREE,))]).replace(x=x)
    scenes[1:].x.sum().backward()
    assert x.grad.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_indices_follow_the_vocabulary():
    for k, kind in enumerate(KINDS):
        for c, colour in enumerate(COLOUR_NAMES):
            scenes = Scenes.of([Scene((Thing(kind, colour),), BACKDROPS[c % 6])])
            assert (scenes.kind[0, 0], scenes.colour[0, 0], scenes.backdrop[0]) == (k, c, c % 6)
