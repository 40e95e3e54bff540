import hashlib

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.world import KINDS, Scene, Scenes, Thing, captions, morph, render, sample_scenes
from minidiff.world.blend import _match
from minidiff.world.vocab import COLOURS

NAMES = ("backdrop", "style", "present", "kind", "colour", "pattern", "mood", "wears", "x", "y", "size", "vary")
# sha256 of the first 512 scenes and of their captions, and a weighted mean of the first 64 pictures, of the second edition
KEPT = {
    ("simple", "train"): ("d5f084b50ca4dba9", "cfc8104b5f35f4c2", 0.403937644),
    ("pairs", "train"): ("d07ff8968b107a71", "446b94d684bebce6", 0.383409415),
    ("pairs", "valid"): ("2ae2c321c663a4c2", "1cfa647183e08423", 0.368267497),
    ("full", "train"): ("d999736b10927d59", "09c8af01e4cab6b0", 0.284947692),
    ("full", "held_out"): ("a36383418f439ceb", "8f602b7c0cfd1364", 0.338122620),
}


@pytest.mark.parametrize("level, split", list(KEPT))
def test_the_training_splits_are_the_second_editions(level, split):
    scenes = sample_scenes(range(512), split=split, seed=0, level=level)
    hashed, said, mean = KEPT[level, split]
    digest = hashlib.sha256(b"".join(getattr(scenes, n).contiguous().numpy().tobytes() for n in NAMES)).hexdigest()
    assert digest.startswith(hashed)
    words = "\n".join(captions(scenes, torch.arange(512), seed=0))
    assert hashlib.sha256(words.encode()).hexdigest().startswith(said)
    images = render(scenes[:64], 64).images.double()
    ramp = torch.linspace(0.5, 1.5, images.numel(), dtype=torch.float64).reshape(images.shape)
    assert abs(float((images * ramp).mean()) - mean) < 2e-7


PAIRS = [
    (Scene((Thing("heart", "red"),), "grass"), Scene((Thing("heart", "white", x=0.7, size=0.28),), "grass")),
    (Scene((Thing("cat", "orange", wears="hat"),), "grass"), Scene((Thing("dog", "blue", mood="sad"),), "night")),
    (Scene((Thing("heart", "red", "striped"),), "room", "neon"), Scene((Thing("star", "yellow", "dotted"),), "beach", "neon")),
    (Scene((Thing("house", "red"),), "room"), Scene((Thing("fish", "blue"), Thing("bird", "blue", x=0.2, size=0.15)), "beach")),
]


@pytest.mark.parametrize("a, b", PAIRS)
def test_a_morph_begins_and_ends_as_its_scenes_are_drawn(a, b):
    frames, ends = render(morph(a, b, [0.0, 1.0])).images, render([a, b]).images
    assert (frames - ends).abs().max() < 2e-2 if a.style == "neon" else (frames - ends).abs().max() < 1e-5


@pytest.mark.parametrize("a, b", PAIRS)
def test_a_morph_makes_no_leap(a, b):
    frames = render(morph(a, b, torch.linspace(0, 1, 33))).images
    hops = ((frames[1:] - frames[:-1]) ** 2).mean((1, 2, 3)).sqrt()
    way = ((frames[-1] - frames[0]) ** 2).mean().sqrt()
    assert hops.max() < 0.3 * way                      # `interpolate` of words: one hop of the whole way at t = 0.5
    words = render([a.interpolate(b, float(t)) for t in torch.linspace(0, 1, 33)]).images
    assert ((words[1:] - words[:-1]) ** 2).mean((1, 2, 3)).sqrt().max() > hops.max()


def test_half_way_between_red_and_white_is_pink_by_arithmetic():
    half = morph(Scene((Thing("heart", "red"),)), Scene((Thing("heart", "white"),)), [0.5]).blend.rgb[0, 0]
    assert torch.allclose(half, (torch.tensor(COLOURS["red"]) + torch.tensor(COLOURS["white"])) / 510, atol=1e-6)


def test_half_way_between_two_circles_of_a_pair_of_kinds_is_the_mean_of_their_distances():
    # the body of a heart and of a star: where both are deep inside, the blend is inside; where both are outside, outside
    a, b = Scene((Thing("heart", "red", size=0.3),)), Scene((Thing("star", "red", size=0.3),))
    mask = render(morph(a, b, [0.5])).masks[0, 0]
    both = render([a, b]).masks[:, 0]
    assert bool((mask[(both > 0.99).all(0)] > 0.99).all()) and float(mask[(both < 0.01).all(0)].max()) < 0.01
    assert 0.2 < float(mask[(both[0] > 0.99) != (both[1] > 0.99)].mean()) < 0.8


def test_kinds_are_matched_in_order_and_the_faces_of_animals_whole():
    for a in KINDS:
        for b in KINDS:
            pairs = _match(a, b)
            assert [i for i, _, _ in pairs if i is not None] == sorted({i for i, _, _ in pairs if i is not None})
            assert [j for _, j, _ in pairs if j is not None] == sorted({j for _, j, _ in pairs if j is not None})
            assert any(i is not None and j is not None for i, j, _ in pairs), (a, b)
        assert all(i == j for i, j, _ in _match(a, a))
    assert sum(i is None or j is None for i, j, _ in _match("cat", "rabbit")) == 0
    assert sum(i is None or j is None for i, j, _ in _match("cat", "dog")) == 3        # two parts of ears against one


def test_gradients_reach_colours_and_shares():
    scenes = morph(*PAIRS[1], [0.4])
    leaves = {n: getattr(scenes.blend, n).clone().requires_grad_(True) for n in ("rgb", "share", "backdrop_share")}
    render(Scenes(**scenes.tensors(), blend=scenes.blend.replace(**leaves))).images.square().mean().backward()
    assert all(float(leaf.grad.abs().sum()) > 0 for leaf in leaves.values())


def test_a_batch_of_blends_is_a_loop_of_singles_and_mixes_with_plain_scenes():
    t = torch.linspace(0, 1, 5)
    whole = Scenes.cat([morph(*PAIRS[1], t), Scenes.of([PAIRS[0][0]])])
    images = render(whole).images
    singles = torch.cat([render(whole[i:i + 1]).images for i in range(6)])
    assert (images - singles).abs().max() < 1e-5
    assert (images[5:] - render([PAIRS[0][0]]).images).abs().max() < 1e-5


@pytest.mark.parametrize("a, b, t, words", [
    (PAIRS[0][0], PAIRS[0][1], [1.5], ["t", "1.5"]),
    (PAIRS[0][0], PAIRS[2][1], [0.5], ["style", "neon", "flat"]),
])
def test_what_a_morph_refuses(a, b, t, words):
    with pytest.raises(BadInput) as error:
        morph(a, b, t)
    assert all(word in str(error.value) for word in words)


