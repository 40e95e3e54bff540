"""Captions: what is written is read back, true of its scene and of no scene that differs in what is said."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.world.caption import MAX_WORDS, VOCABULARY, CaptionFacts, ObjectFacts, agrees, caption, captions, parse
from minidiff.world.grammar import PHRASES
from minidiff.world.sample import LEVELS, SIZES, sample_scenes
from minidiff.world.scene import COLOUR_NAMES, Scene, Thing
from minidiff.world.vocab import ANIMALS, BACKDROPS, KINDS, MOODS, PATTERNS, STYLES, WEARS

N = 2000


@pytest.fixture(scope="module")
def told():
    """(caption, scene) for every level."""
    out = []
    for level in LEVELS:
        scenes = sample_scenes(range(N), level=level)
        out += list(zip(captions(scenes), scenes, strict=True))
    return out


def test_every_caption_is_true_of_its_scene(told):
    assert [(text, scene) for text, scene in told if not agrees(text, scene)] == []


def test_every_word_is_known_and_every_known_word_is_used(told):
    used = {word for text, _ in told for word in text.split()}
    assert used == set(VOCABULARY)
    assert 80 <= len(VOCABULARY) <= 110
    assert max(len(text.split()) for text, _ in told) <= MAX_WORDS == 30


def test_captions_are_good_english(told):
    for text, _ in told:
        words = text.split()
        for article, following in zip(words, words[1:], strict=False):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou"), text
        assert "  " not in text and text == text.strip()
        for twice in ("and and", "a a", "with with", "of in", "of on", "of at", "is in"):
            assert f" {twice} " not in f" {text} ", text


def changes(said: CaptionFacts, scene: Scene, slots: list[int]):
    """Scenes that differ in exactly one thing that the caption says; slots[i] is the scene's thing for said thing i."""
    if said.backdrop:
        yield from (scene.replace(backdrop=b) for b in BACKDROPS if b != scene.backdrop)
    if said.style:
        yield from (scene.replace(style=s) for s in STYLES if s != scene.style)
    for i, thing in enumerate(said.things):
        j, have = slots[i], scene.things[slots[i]]
        present = {t.kind for t in scene.things}
        yield from (scene.replace_thing(j, kind=k) for k in KINDS if k not in present)
        words = {"colour": COLOUR_NAMES, "pattern": PATTERNS}
        if have.animal:
            words |= {"mood": MOODS, "wears": WEARS}
        elif thing.wears:
            words["wears"] = ("nothing", "hat")
        for name, values in words.items():
            if getattr(thing, name):
                yield from (scene.replace_thing(j, **{name: v}) for v in values if v != getattr(have, name))
        if thing.size:
            yield scene.replace_thing(j, size=sum(SIZES[len(scene.things) - 1]) - have.size)
        for spot in thing.where:
            if spot == "middle":
                yield scene.replace_thing(j, x=have.x + 0.2)
            else:
                axis = "x" if spot in ("left", "right") else "y"
                yield scene.replace_thing(j, **{axis: 1 - getattr(have, axis)})
    for i, _, j in said.relations:
        a, b = scene.things[slots[i]], scene.things[slots[j]]
        yield scene.replace_thing(slots[i], x=b.x, y=b.y).replace_thing(slots[j], x=a.x, y=a.y)
    if said.things:
        fewer = scene.things[1:]
        if fewer:
            yield scene.replace(things=fewer)
        if len(scene.things) < 3:
            yield scene.replace(things=(*scene.things, Thing("fish", "red")))


def test_a_scene_with_one_wrong_word_does_not_agree(told):
    tried = Counter()
    for text, scene in told[::5]:
        said = parse(text)
        assert len(said.things) == len(scene.things)
        kinds = [t.kind for t in scene.things]
        for wrong in changes(said, scene, [kinds.index(t.kind) for t in said.things]):
            assert not agrees(said, wrong), (text, wrong)
            tried[len(scene.things)] += 1
    assert min(tried[n] for n in (1, 2, 3)) > 2000


def test_what_is_not_said_does_not_matter(told):
    for text, scene in told[::11]:
        said = parse(text)
        if said.backdrop is None:
            assert all(agrees(said, scene.replace(backdrop=b)) for b in BACKDROPS)
        if said.style is None:
            assert all(agrees(said, scene.replace(style=s)) for s in STYLES)
        for thing in said.things:
            j = [t.kind for t in scene.things].index(thing.kind)
            for name, values in {"colour": COLOUR_NAMES, "pattern": PATTERNS}.items():
                if getattr(thing, name) is None:
                    assert all(agrees(said, scene.replace_thing(j, **{name: v})) for v in values)


def test_attributes_come_and_go_and_phrasings_vary(told):
    said = [parse(text) for text, _ in told]
    n = len(said)
    assert 0.5 < sum(s.backdrop is not None for s in said) / n < 0.9
    assert 0.2 < sum(s.style is not None for s in said) / n < 0.6
    things = [t for s in said for t in s.things]
    assert 0.7 < sum(t.colour is not None for t in things) / len(things) < 0.95
    for name in ("pattern", "wears", "size", "where"):
        assert 0.03 < sum(bool(getattr(t, name)) for t in things) / len(things) < 0.6, name
    animals = [t for t in things if t.kind in ANIMALS]
    assert 0.3 < sum(t.mood is not None for t in animals) / len(animals) < 0.6
    two = [s for s in said if len(s.things) == 2]
    assert 0.45 < sum(bool(s.relations) for s in two) / len(two) < 0.55       # "A and B" as often as with a relation
    assert {word for s in two for _, word, _ in s.relations} == {"left", "right", "above", "below"}
    scene = told[N + 1][1]
    assert len({caption(scene, i) for i in range(200)}) > 60


def test_two_things_are_named_in_either_order(told):
    first = Counter(parse(text).things[0].kind == scene.things[0].kind for text, scene in told if len(scene.things) == 2)
    assert 0.45 < first[True] / sum(first.values()) < 0.55


def test_one_at_a_time_or_together_the_captions_are_the_same():
    scenes = sample_scenes(range(100), level="full")
    texts = captions(scenes)
    assert texts == [caption(s, i) for i, s in enumerate(scenes)] == captions(list(scenes))
    assert captions(scenes[10:20], range(10, 20)) == texts[10:20]
    assert captions(scenes[10:20], torch.arange(10, 20)) == texts[10:20]
    assert captions(scenes, seed=1) != texts
    assert texts == captions(scenes, seed=0)
    with pytest.raises(BadInput, match="one for each of the 100"):
        captions(scenes, range(5))


def test_known_captions_stay_as_they_are():
    """Shipped text encoders were trained on them."""
    assert captions(sample_scenes(range(3), level="pairs")) == GOLDEN


GOLDEN = ["a drawing of a green house with dots in a room", "a surprised green bear with dots indoors in flat style",
          "a dotted purple flower on the right of a checked white heart on the beach"]


@pytest.mark.parametrize(("text", "said"), [
    ("a red cat on the grass", CaptionFacts((ObjectFacts("cat", "red"),), "grass")),
    ("RED cat, at night.", CaptionFacts((ObjectFacts("cat", "red"),), "night")),
    ("", CaptionFacts()),
    ("in the snow in pixel style", CaptionFacts((), "snow", "pixel")),
    ("a watercolour of an orange house wearing a hat",
     CaptionFacts((ObjectFacts("house", "orange", wears="hat"),), style="watercolour")),
    ("a cat with stripes and glasses and a dog",
     CaptionFacts((ObjectFacts("cat", pattern="striped", wears="glasses"), ObjectFacts("dog")))),
    ("a cat that is sad and blue and a dog that is red",
     CaptionFacts((ObjectFacts("cat", "blue", mood="sad"), ObjectFacts("dog", "red")))),
    ("cat that is blue and dog and sad bear",
     CaptionFacts((ObjectFacts("cat", "blue"), ObjectFacts("dog"), ObjectFacts("bear", mood="sad")))),
    ("a little star to the left of a large smiling bear in a bow tie",
     CaptionFacts((ObjectFacts("star", size="small"), ObjectFacts("bear", mood="happy", wears="bow tie", size="big")),
          relations=((0, "left", 1),))),
    ("a cat on the left of a dog", CaptionFacts((ObjectFacts("cat"), ObjectFacts("dog")), relations=((0, "left", 1),))),
    ("a cat on the left and a dog on the right",
     CaptionFacts((ObjectFacts("cat", where=("left",)), ObjectFacts("dog", where=("right",))))),
    ("a cat at the top on the left", CaptionFacts((ObjectFacts("cat", where=("top", "left")),))),
    ("a cat above a dog under a star",
     CaptionFacts((ObjectFacts("cat"), ObjectFacts("dog"), ObjectFacts("star")), relations=((0, "above", 1), (1, "below", 2)))),
    ("a plain rabbit wearing nothing", CaptionFacts((ObjectFacts("rabbit", pattern="plain", wears="nothing"),))),
])
def test_what_captions_say(text, said):
    assert parse(text) == said


@pytest.mark.parametrize(("text", "words"), [
    ("a purpel cat", ["'purpel'", "'purple'"]), ("two cats", ["'two'"]), ("a cats", ["'cats'", "'cat'"]),
    ("a watercolor of a dog", ["'watercolor'", "'watercolour'"]), ("a zebra", ["'zebra'", "94"]),
    ("a red blue cat", ["both 'red' and 'blue'", "colour"]), ("a cat that is red and blue", ["both"]),
    ("a cat on the grass at night", ["both 'grass' and 'night'", "picture"]), ("a cat with stripes and dots", ["both"]),
    ("a red", ["'red'", "after it"]), ("a cat left of", ["'left'", "after it"]), ("left of a cat", ["'left of'", "before it"]),
    ("with a hat", ["before it"]), ("of of cat", ["'of of cat'", "at the start"]), ("a cat to", ["'to'", "after 'a cat'"]),
    ("a cat is", ["'is'"]), ("that is red", ["before it"]), ("a cat above a red under a dog", ["'under'"]),
    ("a happy star", ["'happy'", "star"]), ("a tree with glasses", ["'glasses'", "tree"]),
    ("a cat and a dog and a bear and a star", ["4 things"]), (None, ["NoneType", "a string"]), (7, ["int"]),
])
def test_what_is_refused(text, words):
    with pytest.raises(BadInput) as error:
        parse(text)
    for word in ("caption", *words):
        assert word in str(error.value)


def test_places_decide():
    cat, dog = Thing("cat", "red", size=0.2, x=0.3, y=0.6), Thing("dog", "blue", size=0.16, x=0.7, y=0.4)
    scene = Scene((cat, dog))
    for text, truth in {
        "a cat left of a dog": True, "a cat right of a dog": False, "a dog right of a cat": True, "a cat below a dog": True,
        "a dog above a cat": True, "a cat above a dog": False, "a cat on the left and a dog": True,
        "a cat and a dog on the left": False, "a dog at the top and a cat at the bottom": True,
        "a cat in the middle and a dog": False,
        "a big cat and a small dog": True, "a small cat and a dog": False, "a cat": False, "a dog and a cat": True,
        "a cat and a cat": False, "a red cat and a red dog": False, "at night": False, "on the grass": True, "": True,
    }.items():
        assert agrees(text, scene) is truth, text


def test_things_of_one_kind_find_their_own_words():
    scene = Scene((Thing("cat", "red", x=0.2), Thing("cat", "blue", x=0.8)))
    assert agrees("a blue cat right of a red cat", scene)
    assert agrees("a cat left of a cat", scene)
    assert agrees("a cat and a red cat", scene)
    assert not agrees("a red cat right of a blue cat", scene)
    assert not agrees("a red cat and a red cat", scene)


def test_filling_in_agrees_and_is_a_pure_function(told):
    for i, (text, _) in enumerate(told[::150]):
        scene = parse(text).scene(i)
        assert agrees(text, scene), (text, scene)
        assert parse(text).scene(i) == scene
        full = parse(text).scene(i, level="full")
        assert agrees(text, full)


def test_filling_in_is_plain_unless_asked_and_varies_with_the_seed():
    said = parse("a cat and a star")
    plain = [said.scene(i) for i in range(20)]
    for scene in plain:
        assert scene.style == "flat" and [t.kind for t in sorted(scene.things, key=lambda t: t.kind)] == ["cat", "star"]
        assert all((t.pattern, t.wears) == ("plain", "nothing") and t.mood in ("happy", "none") for t in scene.things)
    assert len({s.backdrop for s in plain}) > 2 and len({s.things for s in plain}) == 20
    full = [said.scene(i, level="full") for i in range(20)]
    assert len({s.style for s in full}) > 2 and len({t.pattern for s in full for t in s.things}) == 4
    assert len({parse("").scene(i) for i in range(5)}) == 5


def test_filling_in_keeps_things_in_the_picture_and_places_clear():
    for i, text in enumerate(["a big cat wearing a hat at the top", "a big star on the right",
                              "a cat left of a dog left of a bear", "a large dog above a large tree", "a cat in the middle",
                              "a big cat and a big dog and a big bear"]):
        for seed in (i, i + 100):
            scene = parse(text).scene(seed)
            assert agrees(text, scene)
            for t in scene.things:
                assert 1.14 * t.size - 1e-9 <= t.x <= 1 - 1.14 * t.size + 1e-9 and t.size <= t.y <= 1 - t.size
            assert [t.y for t in scene.things] == sorted(t.y for t in scene.things)
    scene = parse("a cat left of a dog").scene(0)
    by = {t.kind: t for t in scene.things}
    assert by["dog"].x - by["cat"].x > 0.08
    assert [dataclasses.asdict(t) for t in scene.things]


def test_filling_in_keeps_to_the_sizes_of_the_world_and_to_room_for_all():
    """Boxes of 2 x 2 half-heights: what two share is little of the smaller one."""
    for text in ("a big cat and a big bear", "a big dog above a big tree", "a small cat and a big bear",
                 "a cat and a dog and a bear", "a big cat wearing a hat and a big dog and a star"):
        for seed in range(12):
            things = parse(text).scene(seed).things
            assert all(0.10 <= t.size <= 0.28 for t in things)
            for a, b in itertools.combinations(things, 2):
                wide = min(a.x + a.size, b.x + b.size) - max(a.x - a.size, b.x - b.size)
                tall = min(a.y + a.size, b.y + b.size) - max(a.y - a.size, b.y - b.size)
                assert min(wide, tall) < 0.7 * min(a.size, b.size) + 1e-9, (text, seed)
    for text, (low, high) in {"a cat": (0.20, 0.36), "a small cat": (0.20, 0.25), "a big cat": (0.25, 0.36)}.items():
        sizes = [parse(text).scene(seed).things[0].size for seed in range(40)]
        assert low <= min(sizes) and max(sizes) <= high and max(sizes) - min(sizes) > 0.6 * (high - low) - 0.02
    assert min(parse("a cat").scene(seed, level="full").things[0].size for seed in range(40)) < 0.18
    assert parse("a cat").scene(3).vary != (0.0,) * 5


@pytest.mark.parametrize("text", ["a cat left of a dog left of a cat on the right and a star on the left",
                                  "a cat in the middle and a dog in the middle and a bear in the middle"])
def test_places_that_contradict_each_other(text):
    with pytest.raises(BadInput):
        parse(text).scene(0)


def test_no_phrase_hides_another():
    """Longest match first reads every phrase as itself."""
    from minidiff.world.parsing import _phrases
    for phrase, meaning in PHRASES.items():
        assert list(_phrases(list(phrase))) == [(*meaning, " ".join(phrase))]
