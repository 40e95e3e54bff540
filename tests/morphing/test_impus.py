"""IMPUS: its rules on numbers, bisection on paths that are known, and two networks in one guidance."""

from __future__ import annotations

import pytest
import torch

from minidiff.diffusion import last, lerp, slerp
from minidiff.errors import BadInput
from minidiff.latent import denoise, encode_prompt, initial_noise
from minidiff.measure.path import hops, rms
from minidiff.morphing import (
    Impus,
    fit_embeddings,
    fit_impus,
    impus,
    impus_guidance,
    lora_rank,
    relative_diversity,
    twin,
    uniform_path,
    uniform_paths,
)
from minidiff.personal import LoRA, denoising_loss
from minidiff.rng import normal
from tests.pipelines import CASES, make, shared

TEXTS = (["a red cat on the grass", "a blue dog"], ["a green star", "a red house on the beach"])
FEW = {"steps": 2, "embeddings": 2, "iterations": 2, "unconditional": 1, "rank": 2}


def pictures(pipe, n=2):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return tuple(normal((n, 3, side, side), "morph", k, 0).clamp(-1, 1) for k in range(2))


def grey(weights, speed=lambda x: x):
    return speed(torch.tensor(list(weights), dtype=torch.float64)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


# Rules -----------------------------------------------------------------------------------------------------------------------


def test_the_diversity_of_a_straight_path_both_ways():
    path = grey([k / 10 for k in range(11)])
    assert relative_diversity(path, rms) == pytest.approx(1 / 9)
    assert relative_diversity(path, rms, order="code") == pytest.approx(1.8 / 9)
    assert relative_diversity(grey([0, 0.9, 0.2, 1.0]), rms) == pytest.approx((0.9 + 0.7 + 0.8) / 2)
    assert relative_diversity(path, lambda x, y: rms(x, y) ** 2) == pytest.approx(0.1 / 9), "squares: a tenth of it"
    for wrong in (lambda: relative_diversity(path, rms, order="back"), lambda: relative_diversity(path[:2], rms),
                  lambda: lora_rank(float("nan"))):
        with pytest.raises(BadInput):
            wrong()


def test_the_published_table_of_ranks():
    table = {0.111: 1, 0.388: 1, 0.390: 2, 0.4444445: 4, 0.499: 4, 0.5: 8, 0.556: 16, 0.611112: 32, 3.0: 32}
    assert {d: lora_rank(d) for d in table} == table
    assert lora_rank(0.3, slope=20, start=4) == 4 and lora_rank(9.0, most=64) == 64


def test_guidance_is_a_tent_and_each_row_has_its_own():
    w = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert impus_guidance(w).tolist() == [1.5, 2.25, 3.0, 1.5] and impus_guidance(w, 2.0, 2.0).tolist() == [2.0] * 4


# Perceptually uniform sampling -------------------------------------------------------------------------------------------


def walk_through(speed, *, delta, tol=0.05, known=(0.0, 1.0), **options):
    frames, asked = dict(zip(known, grey(known, speed), strict=True)), []
    run = uniform_path(frames, rms, delta=delta, tol=tol, **options)
    frame = None
    while True:
        try:
            w = run.send(frame)
        except StopIteration as end:
            return end.value, asked, frames
        asked.append(w)
        frame = grey([w], speed)[0]


@pytest.mark.parametrize("speed", [lambda x: x, lambda x: x**3, lambda x: x.sqrt(), lambda x: torch.sigmoid(12 * (x - 0.6))])
@pytest.mark.parametrize("tol", [0.02, 0.2])
def test_hops_of_a_monotone_path_are_delta(speed, tol):
    delta = 0.13
    path, asked, _ = walk_through(speed, delta=delta, tol=tol)
    steps = hops(grey(path, speed), rms)[0]
    assert path[0] == 0 and path[-1] == 1 and path == sorted(path)
    assert float((steps[:-1] / delta - 1).abs().max()) <= tol + 1e-9 and float(steps[-1]) <= delta * (1 + tol) + 1e-9
    assert len(asked) == len(set(asked))


def test_what_is_known_is_not_asked_for_and_a_leap_is_stepped_over():
    grid = [k / 40 for k in range(41)]
    path, asked, _ = walk_through(lambda x: x, delta=0.1, known=grid)
    assert not asked and path == pytest.approx([k / 10 for k in range(11)])
    path, asked, frames = walk_through(lambda x: (x > 0.4).double(), delta=0.1, narrowest=1e-2)
    assert len(path) == 3 and 0.4 < path[1] <= 0.4 + 1e-2 and set(asked) <= set(frames)
    path, asked, _ = walk_through(lambda x: 0.05 * x, delta=0.1)
    assert path == [0.0, 1.0] and not asked


def test_many_paths_side_by_side_are_each_their_own():
    speeds, calls = (lambda x: x**3, lambda x: 0.02 * x, lambda x: x.sqrt()), []

    def draw(rows, weights):
        calls.append(list(rows))
        return torch.cat([grey([w], speeds[i]) for i, w in zip(rows, weights, strict=True)])

    known = [{0.0: grey([0.0], s)[0], 1.0: grey([1.0], s)[0]} for s in speeds]
    found = uniform_paths(draw, known, rms, [0.2, 0.2, 0.1])
    assert found == [walk_through(s, delta=d)[0] for s, d in zip(speeds, (0.2, 0.2, 0.1), strict=True)]
    assert not any(1 in rows for rows in calls) and [0, 2] in calls and calls[-1] == [2]
    for wrong in ({"delta": 0.0}, {"delta": 0.1, "tol": 1.0}):
        with pytest.raises(BadInput):
            next(uniform_path({0.0: 0, 1.0: 0}, rms, **wrong))
    with pytest.raises(BadInput, match="known"):
        next(uniform_path({0.0: 0}, rms, delta=0.1))


# Two networks ------------------------------------------------------------------------------------------------------------


def random(lora, size=0.3):
    for path, b in lora.B.items():
        b.data.copy_(size * normal(tuple(b.shape), "B", path).to(b))
    return lora


def test_a_twin_shares_weights_and_nothing_else():
    pipe = make(CASES[1])
    other = twin(pipe)
    assert all(p is q for p, q in zip(pipe.unet.parameters(), other.unet.parameters(), strict=True))
    assert other.unet is not pipe.unet and other.vae is pipe.vae and pipe.components["unet"] is pipe.unet
    z, text = initial_noise(pipe, 1), encode_prompt(pipe, "a red cat")
    before = pipe.unet(z, 300, encoder_hidden_states=text).sample
    with random(LoRA(other.unet, rank=2)):
        assert torch.equal(pipe.unet(z, 300, encoder_hidden_states=text).sample, before)
        assert (other.unet(z, 300, encoder_hidden_states=text).sample - before).abs().max() > 1e-3
    assert torch.equal(other.unet(z, 300, encoder_hidden_states=text).sample, before)


def test_without_adapters_a_frame_is_plain_sampling_between():
    pipe = shared(CASES[0])
    noise = tuple(initial_noise(pipe, 2, seed=s) for s in (1, 2))
    text = tuple(encode_prompt(pipe, t) for t in TEXTS)
    fit = Impus(noise, text, twin(pipe), twin(pipe))
    got = fit.latents([1, 0, 1], [0.3, 1.0, 0.0], steps=3)
    for j, (k, w, s) in enumerate(((1, 0.3, 2.4), (0, 1.0, 1.5), (1, 0.0, 1.5))):
        z = slerp(noise[0][k:k + 1], noise[1][k:k + 1], w)
        from minidiff.latent.pipeline import denoiser, scheduler_options
        from minidiff.steer import CFG, run
        texts = {"prompt": lerp(text[0][k:k + 1], text[1][k:k + 1], w), "empty": encode_prompt(pipe, "")}
        want = last(run(denoiser(pipe), z, texts, steps=3, guider=CFG(s), **scheduler_options(pipe))).x
        assert (got[j:j + 1] - want).abs().max() < 1e-4


def test_each_text_has_its_own_network_and_each_pair_its_own_adapter():
    pipe = make(CASES[1])
    noise = tuple(initial_noise(pipe, 2, seed=s) for s in (1, 2))
    text = tuple(encode_prompt(pipe, t) for t in TEXTS)
    sides = twin(pipe), twin(pipe)
    loras = [random(LoRA(sides[1].unet, rank=2, seed=k), 0.3 * k).detach().requires_grad_(False) for k in range(2)]
    bare, fit = Impus(noise, text, *sides), Impus(noise, text, *sides, ((), loras))
    at = {"steps": 2, "guidance": (2.0, 2.0)}
    plain, got = (x.latents([0, 1, 1], [0.0, 0.0, 0.5], **at) for x in (bare, fit))
    assert (plain[0] - got[0]).abs().max() < 1e-5, "the adapter of pair 0 is all zero"
    assert (plain[1:] - got[1:]).abs().amax((1, 2, 3)).min() > 1e-3
    assert (got[2:] - fit.latents([1], [0.5], **at)).abs().max() < 1e-4, "a batch is a loop of singles"
    one = {"steps": 2, "guidance": (1.0, 1.0)}
    assert (bare.latents([1], [0.5], **one) - fit.latents([1], [0.5], **one)).abs().max() < 1e-5, "w = 1 never subtracts it"
    want = last(denoise(pipe, TEXTS[0][1], latents=noise[0][1:], steps=2, guidance=1.0)).x
    assert (fit.latents([1], [0.0], **one) - want).abs().max() < 1e-4
    for lora in loras:
        lora.scale = 0.0
    assert (fit.latents([0, 1, 1], [0.0, 0.0, 0.5], **at) - plain).abs().max() < 1e-5
    with pytest.raises(BadInput, match="weights"):
        fit.latents([0, 1], [0.5])


# Fits and the whole -------------------------------------------------------------------------------------------------------


def test_embeddings_are_fitted_one_by_one():
    pipe = make(CASES[1])
    z, text = initial_noise(pipe, 2, seed=1), encode_prompt(pipe, TEXTS[0])
    kept = text.clone()
    e = fit_embeddings(pipe, z, text, iterations=40, lr=2e-2, copies=4)
    assert torch.equal(text, kept) and not e.requires_grad
    t, noise = torch.full((2,), 500), normal(tuple(z.shape), "test noise", 0)
    before, after = (denoising_loss(pipe, z, x, t, noise).sum() for x in (text, e))
    assert float(after) < float(before)
    few = [fit_embeddings(pipe, z[rows], text[rows], iterations=3) for rows in (slice(0, 2), slice(1, 2))]
    assert (few[0][1:] - few[1]).abs().max() < 1e-5 and (few[0] - text).abs().max() > 1e-3


def test_the_whole_leaves_the_pipeline_alone_and_a_batch_is_singles():
    pipe = make(CASES[1])
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    a, b = pictures(pipe)
    made = impus(pipe, a, b, TEXTS, weights=4, **FEW)
    assert made.images.shape == (2, 4, *a.shape[1:]) and len(made.details["paths"]) == 2
    for row, path in zip(made.details["weights"], made.details["paths"], strict=True):
        assert row[0] == 0 and abs(row[-1] - 1) < 1e-6 and list(path)[0] == 0 and list(path)[-1] == 1
    one = impus(pipe, a[1], b[1], (TEXTS[0][1], TEXTS[1][1]), weights=[0.0, 0.4, 1.0], spacing=False, **FEW)
    both = impus(pipe, a, b, TEXTS, weights=[0.0, 0.4, 1.0], spacing=False, fit=made.details["fit"], steps=2)
    assert (one.images[0] - both.images[1]).abs().max() < 2e-3 and made.details["fit"].loras[0][0].rank == 2
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert not any(m._forward_hooks for m in pipe.unet.modules())


def test_the_rank_follows_the_path():
    pipe = make(CASES[1])
    a, b = pictures(pipe, 1)
    few = {**FEW, "rank": None}
    assert fit_impus(pipe, a, b, rank_rule=(0.0, -3.0), **few).loras[0][0].rank == 8
    fit = fit_impus(pipe, a, b, **few)
    bare = fit_impus(pipe, a, b, **{**few, "iterations": 0, "unconditional": 0})
    assert bare.loras == ((), ())
    path = bare.frames([0] * 11, [k / 10 for k in range(11)], steps=2)
    assert fit.loras[0][0].rank == lora_rank(relative_diversity(path, rms))


def test_what_cannot_be_is_refused():
    pipe = shared(CASES[1])
    a, b = pictures(pipe, 1)
    for options in ({"weights": 1}, {"weights": [0.2, 0.5]}, {"rank": 0}, {"tol": 2.0}):
        with pytest.raises(BadInput):
            impus(pipe, a, b, **{**FEW, **options})
    with pytest.raises(BadInput, match="two pictures"):
        impus(pipe, "a red cat", "a blue dog")
