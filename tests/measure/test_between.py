import torch

from minidiff.measure import explain, explain_between
from minidiff.world import Scene, Thing, morph, render
from minidiff.world.backdrops import backdrop_table
from minidiff.zoo import load

HEART, WHITE = Scene((Thing("heart", "red", x=0.35),), "grass"), Scene((Thing("heart", "white", x=0.65, size=0.27),), "grass")
CAT, DOG = Scene((Thing("cat", "orange", x=0.4),), "grass"), Scene((Thing("dog", "blue"),), "night")


def test_frames_of_the_gold_morph_are_explained_and_ghosts_are_not():
    blue = WHITE.replace_thing(0, colour="blue")           # white on a pale sky is hardly there: half of red is pink
    for a, b in ((HEART, blue), (CAT, DOG)):
        gold = render(morph(a, b, [0.3, 0.5, 0.8])).images
        ends = render([a, b]).images
        ghosts = torch.stack([(ends[0] + ends[1]) / 2, 0.4 * ends[0] + 0.6 * ends[1]])
        found, ghost = explain_between(gold, a, b), explain_between(ghosts, a, b)
        assert bool(found.valid.all()) and found.residual.max() < 0.05
        assert not bool(ghost.valid.any()) and ghost.residual.min() > 2 * found.residual.max()


def test_the_shares_that_are_found_are_those_that_were_drawn():
    t = torch.tensor([0.3, 0.5, 0.8])
    found = explain_between(render(morph(CAT, DOG, t)).images, CAT, DOG, steps=40).scenes
    assert (found.blend.backdrop_share - t).abs().max() < 0.03
    assert (found.blend.share[:, 0] - t).abs().max() < 0.15
    assert (found.x[:, 0] - torch.lerp(torch.tensor(0.4), torch.tensor(0.5), t)).abs().max() < 0.02


def test_half_a_thing_is_not_a_pale_one():
    behind = backdrop_table(64)[:1, 0] * 2 - 1
    half = (render(HEART).images + behind) / 2
    moved = HEART.replace_thing(0, x=0.6)
    assert not bool(explain_between(half, HEART, moved).valid.any())


def test_a_reader_that_may_mix_explains_at_least_as_much():
    gold = render(morph(HEART, HEART.replace(backdrop="beach"), [0.4])).images
    reader = load("readers/develop")
    words, mixed = explain(gold, reader), explain(gold, reader, free=("place", "backdrop"))
    assert mixed.residual[0] < words.residual[0] and mixed.scenes.blend is not None and words.scenes.blend is None
