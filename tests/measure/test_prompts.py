"""Prompts with a known answer: they say what their scene shows, and a wrong picture is told apart from a right one."""

from __future__ import annotations

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.measure.prompts import PARTS, make_prompts, make_scenes, prompt_accuracy, prompt_of, relation, two_things
from minidiff.world import Scene, Scenes, Thing, agrees, held_out, parse, sample_scenes


def things(*rows):
    return Scene(tuple(Thing(kind, colour, x=x, y=y) for kind, colour, x, y in rows), "snow")


RED_CAT, BLUE_DOG = ("cat", "red", 0.25, 0.5), ("dog", "blue", 0.75, 0.55)


def test_prompts_by_hand():
    assert prompt_of(Scene(Thing("tree", "orange"), "room")) == "an orange tree in a room"
    assert prompt_of(Scene(Thing("cat", "red", mood="sad"), "night"), mood=True) == "a sad red cat at night"
    assert prompt_of(things(RED_CAT, BLUE_DOG)) == "a red cat left of a blue dog in the snow"
    assert prompt_of(things(BLUE_DOG, RED_CAT), backdrop=False) == "a blue dog right of a red cat"
    assert relation(Thing("cat", "red", x=0.4, y=0.2), Thing("dog", "blue", x=0.5, y=0.8)) == "above"
    with pytest.raises(BadInput, match="scene"):
        prompt_of(things(RED_CAT, BLUE_DOG, ("star", "pink", 0.5, 0.1)))


@pytest.mark.parametrize("kind", ["one", "two", "held_out"])
def test_prompts_are_true_of_the_scenes_they_come_from(kind):
    n = 120
    prompts = make_prompts(n, kind)
    scenes = {"one": lambda: sample_scenes(range(n), split="test"), "two": lambda: two_things(0, n),
              "held_out": lambda: sample_scenes(range(n), split="held_out")}[kind]()
    assert list(scenes) == list(make_scenes(n, kind))
    assert len(prompts) == n and make_prompts(7, kind) == prompts[:7]
    for prompt, scene in zip(prompts, scenes, strict=True):
        said = parse(prompt)
        assert agrees(said, scene) and len(said.things) == len(scene.things) == (2 if kind == "two" else 1)
        assert all(t.colour for t in said.things) and said.backdrop == scene.backdrop
        assert len(said.relations) == (kind == "two")
        assert any(held_out(t.kind, t.colour) for t in said.things) == (kind == "held_out")
    right = prompt_accuracy(prompts, scenes)
    assert set(right) == {"all", *PARTS} and all(bool(v.all()) for v in right.values())
    assert not bool(prompt_accuracy(prompts, scenes[torch.arange(n).roll(1)])["all"].double().mean() > 0.2)


def test_the_two_things_come_in_order():
    assert two_things(0, 40)[7] == two_things(0, 90)[7] and bool((two_things(0, 40).present.sum(1) == 2).all())


CASES = {
    "right": ((RED_CAT, BLUE_DOG), {}),
    "colours swapped": ((("cat", "blue", 0.25, 0.5), ("dog", "red", 0.75, 0.55)), {"attributes"}),
    "sides swapped": ((("cat", "red", 0.75, 0.5), ("dog", "blue", 0.25, 0.55)), {"positions"}),
    "one missing": ((RED_CAT,), {"count", "kinds", "attributes", "positions"}),
    "one too many": ((RED_CAT, BLUE_DOG, ("star", "pink", 0.5, 0.1)), {"count"}),
    "another kind": ((RED_CAT, ("bear", "blue", 0.75, 0.55)), {"kinds", "attributes", "positions"}),
    "another colour": ((RED_CAT, ("dog", "green", 0.75, 0.55)), {"attributes"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(name):
    rows, wrong = CASES[name]
    right = prompt_accuracy(["a red cat left of a blue dog in the snow"], Scenes.of([things(*rows)]))
    assert {part for part in PARTS if not bool(right[part])} == set(wrong)
    assert bool(right["all"]) == (not wrong)


def test_backdrop_and_an_empty_picture():
    scene = Scenes.of([things(RED_CAT)])
    assert not bool(prompt_accuracy(["a red cat at night"], scene)["all"])
    assert not bool(prompt_accuracy(["a red cat at night"], scene)["backdrop"])
    nothing = scene.replace(present=torch.zeros_like(scene.present))
    right = prompt_accuracy(["a red cat in the snow"], nothing)
    assert [name for name, value in right.items() if bool(value)] == ["backdrop"]
    assert not bool(prompt_accuracy(["a red cat at night"], nothing)["backdrop"])


def test_refusals():
    with pytest.raises(BadInput, match="prompts"):
        prompt_accuracy(["a red cat"], Scenes.of([things(RED_CAT)] * 2))
    with pytest.raises(BadInput, match="prompts"):
        prompt_accuracy(["in the snow"], Scenes.of([things(RED_CAT)]))
    with pytest.raises(BadInput, match="kind"):
        make_prompts(3, "three")
