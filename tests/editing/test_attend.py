"""Attend-and-Excite and SynGen: losses against brute force and diffusers, gradients against finite differences, the method."""

from __future__ import annotations

import math

import pytest
import torch

from minidiff import BadInput
from minidiff.diffusion import last
from minidiff.editing.attend import (
    LOSSES,
    attend_and_excite,
    linear_decay,
    middle_level,
    place_things,
    positions_of,
    published_decay,
)
from minidiff.editing.word_losses import (
    PUBLISHED_WIDTH,
    Things,
    compete,
    excite_loss,
    place_loss,
    presence_loss,
    smooth,
    syngen_loss,
    things_of,
)
from minidiff.latent import denoise, initial_noise, make_tokenizer
from minidiff.rng import normal
from minidiff.steer import LatentGuidance
from minidiff.steer.record import shape_of
from tests.pipelines import CASES, make, shared

PROMPT = "a red cat and a blue mushroom on the grass"
OTHER = "a dog at night"
CAT, RED, MUSH, BLUE = 3, 2, (7, 8), 6


def attention(b, h, w, length=20, key=0):
    """(B, N, L) that sum to 1 over tokens, most of it on the begin token as in Stable Diffusion."""
    logits = normal((b, h * w, length), "attention", key, dtype=torch.float64)
    logits[..., 0] += 3
    return logits.softmax(-1)


@pytest.fixture(scope="module")
def things():
    return things_of(make_tokenizer(length=20), [PROMPT, OTHER])


# Which words ---------------------------------------------------------------------------------------------------------------


def test_things_are_phrases_nouns_and_the_words_of_the_prompt(things):
    assert things.phrases == [[[RED, CAT], [BLUE, *MUSH]], [[2]]] and things.nouns == [[[CAT], list(MUSH)], [[2]]]
    assert things.words[0].nonzero().flatten().tolist() == list(range(1, 12))
    assert things.words[1].nonzero().flatten().tolist() == [1, 2, 3, 4]
    said = things_of(make_tokenizer(length=20), [PROMPT, OTHER], [("blue mushroom", "cat"), ("dog",)])
    assert said.phrases == [[[BLUE, *MUSH], [CAT]], [[2]]] and said.nouns == [[list(MUSH), [CAT]], [[2]]]
    weights, there = things.weights(things.phrases)
    assert weights.shape == (2, 2, 20) and there.tolist() == [[True, True], [True, False]]
    assert weights[0, 1].nonzero().flatten().tolist() == [BLUE, *MUSH]


def test_words_that_are_not_there_are_refused():
    tokenizer = make_tokenizer(length=20)
    with pytest.raises(BadInput, match="'fox'"):
        things_of(tokenizer, [PROMPT], ["fox"])
    with pytest.raises(BadInput, match="tuples"):
        things_of(tokenizer, [PROMPT], [("cat",), ("dog",)])
    with pytest.raises(BadInput, match="at least one thing"):
        things_of(tokenizer, [PROMPT], [()])
    with pytest.raises(BadInput, match="grammar"):
        things_of(make_tokenizer(["cat", "dog"], length=20), ["cat"])


def test_the_level_is_stable_diffusions_16_and_8_of_a_small_latent():
    assert [middle_level(shared(case)) for case in CASES] == [2, 1]


# The losses ------------------------------------------------------------------------------------------------------------------


def test_only_the_words_of_the_prompt_compete(things):
    a = attention(2, 3, 5)
    p = compete(a, things.words, sharpness=30.0)
    assert torch.allclose(p.sum(-1), torch.ones(2, 15, dtype=torch.float64)) and not p[:, :, 0].any()
    assert not p[1, :, 5:].any() and not p[0, :, 12:].any()
    other = a.clone()
    other[:, :, 0] = 7.0
    other[0, :, 15] = 5.0
    assert torch.equal(compete(other, things.words, sharpness=30.0), p)


def test_the_published_kernel_is_wider_than_what_it_asks_for():
    spot = torch.zeros(1, 5, 7, dtype=torch.float64)
    spot[0, 2, 3] = 1.0
    for width, weights in ((0.5, (0.1065, 0.7870)), (PUBLISHED_WIDTH, (0.2119, 0.5761))):
        line = smooth(spot, width=width)[0].sum(0)
        assert line[2:5].tolist() == pytest.approx([weights[0], weights[1], weights[0]], abs=1e-4)
    assert torch.allclose(smooth(torch.ones(2, 3, 4, 5)), torch.ones(2, 3, 4, 5), atol=1e-6)
    assert torch.equal(smooth(torch.tensor([[2.0]])), torch.tensor([[2.0]])), "one cell: a latent of one place"
    published = [math.exp(-((d / (2 * 0.5)) ** 2)) for d in (-1, 0, 1)]
    assert [x / sum(published) for x in published] == pytest.approx(smooth(spot, width=PUBLISHED_WIDTH)[0].sum(0)[2:5].tolist())


def test_the_published_loss_is_that_of_diffusers():
    from diffusers import StableDiffusionAttendAndExcitePipeline as Theirs

    for key, (h, w, indices) in enumerate(((4, 4, [2]), (6, 6, [2, 5]), (5, 7, [3, 8, 11]))):
        a = attention(3, h, w, key=key)
        ours = Things([[[i] for i in indices]] * 3, [[[i] for i in indices]] * 3, torch.zeros(3, 20, dtype=torch.bool))
        ours.words[:, 1:-1] = True                                # their softmax: all tokens but the first and the last
        want = [Theirs._compute_loss(Theirs._compute_max_attention_per_index(x.view(h, w, 20).clone(), indices)) for x in a]
        got = excite_loss(a, ours, (h, w))
        assert torch.allclose(got, torch.stack(want), atol=1e-6) and bool((got > 0).all())
        literal = excite_loss(a, ours, (h, w), width=0.5)
        assert not torch.allclose(literal, torch.stack(want), atol=1e-3), "the kernel as asked for is another one"


def brute(a, things, shape, groups, sharpness, width, pick):
    """One place at a time, one token at a time."""
    h, w = shape
    side = {d: math.exp(-0.5 * (d / width) ** 2) for d in (-1, 0, 1)}
    total = sum(side.values())
    out = []
    for i, row in enumerate(groups):
        words, losses = things.words[i].nonzero().flatten().tolist(), []
        for tokens in row:
            maps = {}
            for y in range(h):
                for x in range(w):
                    e = {k: math.exp(sharpness * float(a[i, y * w + x, k])) for k in words}
                    maps[y, x] = sum(e[k] for k in tokens) / sum(e.values())

            def at(y, x, maps=maps):
                return maps[(-y if y < 0 else 2 * h - 2 - y if y >= h else y), (-x if x < 0 else 2 * w - 2 - x if x >= w else x)]
            peak = max(sum(side[dy] * side[dx] / total**2 * at(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
                       for y in range(h) for x in range(w))
            losses.append(max(0.0, 1 - peak))
        out.append(pick(losses))
    return torch.tensor(out, dtype=torch.float64)


def test_the_losses_are_those_of_loops(things):
    a = attention(2, 3, 5, key=4)
    tokens = [[[t] for noun in row for t in noun] for row in things.nouns]
    want = brute(a, things, (3, 5), tokens, 100.0, PUBLISHED_WIDTH, max)
    assert torch.allclose(excite_loss(a, things, (3, 5)), want, atol=1e-9)
    want = brute(a, things, (3, 5), things.phrases, 20.0, 0.5, lambda x: sum(x) / len(x))
    assert torch.allclose(presence_loss(a, things, (3, 5)), want, atol=1e-9)


def test_syngen_by_hand(things):
    a = attention(2, 3, 4, key=5)

    def d(i, j):
        p, q = (a[0, :, k] / a[0, :, k].sum() for k in (i, j))
        return float(((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2)

    def minus(adjective, noun, phrase):
        outside = [k for k in range(1, 12) if k not in phrase]
        return sum(d(adjective, u) + d(noun, u) for u in outside) / (2 * len(outside))

    want = d(RED, CAT) - minus(RED, CAT, [RED, CAT]) + max(d(BLUE, k) for k in MUSH) - minus(BLUE, MUSH[-1], [BLUE, *MUSH])
    assert float(syngen_loss(a, things, (3, 4))[0]) == pytest.approx(want, abs=1e-5)
    assert float(syngen_loss(a, things, (3, 4))[1]) == 0, "no adjective, no pair"
    same = a.clone()
    same[0, :, RED] = 0.3 * same[0, :, CAT]                                  # a map's shape counts, not its mass
    assert float(syngen_loss(same, things, (3, 4))[0]) < want


def test_a_noun_and_its_adjective_with_one_map_compete_in_the_published_loss_only(things):
    """Both words say the same: the published loss sees half a peak, the phrase a whole one."""
    a = torch.full((1, 16, 20), 0.01, dtype=torch.float64)
    for tokens, cell in (((RED, CAT), 5), ((BLUE, *MUSH), 10)):
        a[0, cell, list(tokens)] = 0.25
    first = Things(things.phrases[:1], things.nouns[:1], things.words[:1])
    alone, whole = (float(f(a, first, (4, 4), width=0.1)) for f in (excite_loss, presence_loss))
    assert alone == pytest.approx(2 / 3, abs=1e-3) and whole < 0.05          # three tokens of the blue mushroom, one third each


def test_losses_are_between_zero_and_one_and_the_mean_moves_every_thing(things):
    a = attention(2, 6, 8, key=6)
    a[0, 9, [RED, CAT]] += 0.9
    a[0, 38, [BLUE, *MUSH]] += 0.8                                           # two peaks far apart
    a.requires_grad_()
    for loss in (excite_loss, presence_loss):
        value = loss(a, things, (6, 8))
        assert bool(((value >= 0) & (value <= 1)).all())
    cells = []
    for loss in (excite_loss, presence_loss):
        (gradient,) = torch.autograd.grad(loss(a, things, (6, 8))[0], a)
        cells.append((gradient[0].abs().sum(-1) > 0).nonzero().flatten().tolist())
    assert len(cells[0]) == 9 and (9 in cells[0]) != (38 in cells[0]), "one peak: the 3 x 3 places that its smoothing sees"
    assert len(cells[1]) == 18 and 9 in cells[1] and 38 in cells[1]


# Gradients -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_finite_differences(name):
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    z = initial_noise(pipe, 1, seed=2).double()
    energy = LOSSES[name](things_of(pipe.tokenizer, [PROMPT]), sites=lambda s: s.kind == "cross" and s.level == 1)

    def run_once(at, scale=0.0):
        move = LatentGuidance(energy, scale=scale)
        state = last(denoise(pipe, [PROMPT], latents=at, steps=1, guidance=1.0, hooks=[move]))
        return float(move.values[0]), state.before["source"]

    start, untouched = run_once(z)
    gradient = untouched - run_once(z, 1.0)[1]
    assert torch.equal(untouched, z) and float(gradient.norm()) > 0
    for k in range(3):
        d = normal(tuple(z.shape), "direction", k, dtype=torch.float64) if k else gradient / gradient.norm()
        h = 1e-5
        slope = (run_once(z + h * d)[0] - run_once(z - h * d)[0]) / (2 * h)
        exact = float((gradient * d).sum())
        assert abs(slope - exact) <= 1e-4 * max(abs(exact), 0.1 * float(gradient.norm())), (k, slope, exact)
    small = 1e-3 / float(gradient.norm())
    assert (start - run_once(z - small * gradient)[0]) / (small * float(gradient.square().sum())) == pytest.approx(1, abs=0.02)


# The method ------------------------------------------------------------------------------------------------------------------


def test_decays_of_paper_and_code():
    """The paper and the comment say: in a line from 20 to half of it; the code takes the square root of the line."""
    line = torch.linspace(1.0, 0.5, 51)
    assert [linear_decay(i / 50) for i in (0, 10, 50)] == pytest.approx(line[[0, 10, 50]].tolist())
    assert 20 * published_decay(1.0) == pytest.approx(14.14, abs=0.01)
    assert [published_decay(i / 50) for i in (0, 10, 50)] == pytest.approx((line**0.5)[[0, 10, 50]].tolist())


def test_moves_lower_the_loss_and_leave_the_second_half_alone():
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 2, seed=3)
    made = attend_and_excite(pipe, [PROMPT, OTHER], latents=z, steps=4, relative=0.2)
    still = attend_and_excite(pipe, [PROMPT, OTHER], latents=z, steps=4, relative=0.0)
    assert made.details["loss"].shape == (2, 2) == still.details["loss"].shape
    assert torch.equal(made.details["loss"][0], still.details["loss"][0])
    assert bool((made.details["loss"][1] < still.details["loss"][1]).all())
    assert torch.equal(made.images["source"], still.images["edit"]) and not torch.equal(made.edit, still.edit)
    whole = attend_and_excite(pipe, [PROMPT, OTHER], latents=z, steps=4, relative=0.2, until=1.0)
    assert whole.details["loss"].shape == (4, 2)


def test_refinement_repeats_until_the_loss_is_low_enough():
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 1, seed=3)
    once = attend_and_excite(pipe, PROMPT, latents=z, steps=2, relative=0.05)
    start = float(once.details["loss"][0, 0])
    often = attend_and_excite(pipe, PROMPT, latents=z, steps=2, relative=0.05, refine={0: 0.0})
    never = attend_and_excite(pipe, PROMPT, latents=z, steps=2, relative=0.05, refine={0: start + 0.01})
    goal = once.trajectory["source"].latents[-1]
    apart = [float((x.trajectory["edit"].latents[-1] - goal).norm()) for x in (once, often, never)]
    assert apart[1] > apart[0] > 0 and apart[2] == 0


def test_a_place_is_the_share_of_attention_that_is_not_there(things):
    """By hand on 4 x 8 cells: a quarter of the cat's attention within the disc, all of the dog's."""
    a = torch.zeros(2, 32, 20, dtype=torch.float64)
    a[0, 6, CAT], a[0, 8 * 3 + 1, CAT] = 0.1, 0.3
    a[0, 6, list(MUSH)] = 0.2
    a[1, 6, 2] = 0.5
    at = torch.tensor([6.5 / 8, 0.5 / 4])
    positions = torch.full((2, 2, 2), float("nan"))
    positions[0, 0] = positions[1, 0] = at
    assert place_loss(a, things, (4, 8), positions=positions, radius=0.1).tolist() == pytest.approx([0.75**2, 0.0], abs=1e-6)
    positions[0, 1] = 1 - at
    assert place_loss(a, things, (4, 8), positions=positions, radius=0.1).tolist() == pytest.approx([(0.75**2 + 1) / 2, 0.0],
                                                                                               abs=1e-6)
    assert place_loss(a, things, (4, 8), positions=positions, radius=2.0).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert not place_loss(a, things, (4, 8), positions=torch.full((2, 2, 2), float("nan"))).any(), "no place, no loss"


def test_places_pull_the_maps_to_where_things_should_be():
    pipe = shared(CASES[1])
    z, goal = initial_noise(pipe, 2, seed=3), (0.1, 0.9)
    made = place_things(pipe, [PROMPT, OTHER], {("cat", "dog"): goal}, latents=z, steps=4, relative=0.5, weight=5.0)
    found = made.details["things"]
    positions = positions_of(pipe.tokenizer, [PROMPT, OTHER], found, {("cat", "dog"): goal})
    assert positions[:, 0].tolist() == [pytest.approx(list(goal))] * 2 and bool(positions[0, 1].isnan().all())

    def loss(branch):
        maps = made.maps[branch].at(3)
        return torch.stack([place_loss(p.mean(1), found, shape_of(p.shape[2], maps.grid), positions=positions)
                            for p in maps.probs.values()]).mean(0)

    assert bool((loss("edit") < loss("source")).all())
    single = place_things(pipe, OTHER, {"dog": goal}, latents=z[1:], steps=4, relative=0.5, weight=5.0)
    assert float((single.edit - made.edit[1:]).abs().max()) < 2e-4


def test_the_published_form_looks_at_all_places_of_one_size():
    pipe = shared(CASES[0])
    seen = {}
    for loss in ("presence", "published"):
        made = attend_and_excite(pipe, OTHER, loss=loss, steps=2, relative=None, scale=0.5, seed=1)
        seen[loss] = made.details["loss"]
        assert made.edit.shape == made.images["source"].shape
    assert not torch.equal(seen["presence"], seen["published"])


def test_a_picture_as_the_source_is_held():
    pipe = shared(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    image = normal((1, 3, side, side), "picture", 0).clamp(-1, 1)
    made = attend_and_excite(pipe, OTHER, image=image, steps=3)
    assert torch.equal(made.images["source"], image) and made.edit.shape == image.shape


def test_it_refuses_what_it_cannot_do():
    pipe = shared(CASES[0])
    with pytest.raises(BadInput, match="presence"):
        attend_and_excite(pipe, OTHER, loss="mean", steps=2)
    with pytest.raises(BadInput, match="at least one cross"):
        attend_and_excite(pipe, OTHER, sites=lambda s: False, steps=2)
    for positions, said in (({("dog", "cat"): (0.5, 0.5)}, "tuple of 1"), ({"night": (0.5, 0.5)}, "one of the things"),
                            ({}, "none"), ({"dog": (0.5, 0.5, 0.5)}, "x, y")):
        with pytest.raises(BadInput, match=said):
            place_things(pipe, OTHER, positions, steps=2)
