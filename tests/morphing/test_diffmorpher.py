"""DiffMorpher: each stage against its closed form, and all of them together on random pipelines."""

from __future__ import annotations

import copy

import pytest
import torch

from minidiff.diffusion import last, lerp, slerp
from minidiff.errors import BadInput
from minidiff.latent import decode, denoise, encode, encode_prompt, initial_noise, invert_image
from minidiff.measure.path import hops, rms, speed_cv
from minidiff.morphing import (
    Ends,
    LerpLoRA,
    adain,
    diffmorpher,
    fit_pictures,
    invert_with,
    mixed_attention,
    picture_loras,
    respaced,
    slerp_morph,
    walk,
)
from minidiff.personal import LoRA, denoising_loss
from minidiff.rng import normal
from minidiff.steer import Trajectory
from minidiff.steer.attention import sites
from tests.pipelines import CASES, make, shared

TEXTS = (["a red cat on the grass", "a blue dog"], ["a green star", "a red house on the beach"])
FEW = {"steps": 2, "iterations": 2, "rank": 2}


def pictures(pipe, n=2):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return tuple(normal((n, 3, side, side), "morph", k, 0).clamp(-1, 1) for k in range(2))


def adapters(pipe, count, size=0.3):
    loras = [LoRA(pipe.unet, rank=3, alpha=4.0, seed=k).detach().requires_grad_(False) for k in range(count)]
    for k, lora in enumerate(loras):
        for path, b in lora.B.items():
            b.copy_(size * normal(tuple(b.shape), "B", k, path).to(b))
    return loras


def test_adain_has_the_moments_between():
    z, a, b = (s * normal((2, 3, 5, 7), "adain", k, dtype=torch.float64) + k for k, s in enumerate((1.0, 0.4, 1.7)))
    for w in (0.0, 0.3, 1.0):
        x = adain(z, a, b, w)
        assert torch.allclose(x.mean((2, 3)), lerp(a.mean((2, 3)), b.mean((2, 3)), w), atol=1e-10)
        std = [v.std((2, 3), correction=0) for v in (x, a, b)]
        assert torch.allclose(std[0], lerp(std[1], std[2], w), atol=1e-10)
        corr = torch.nn.functional.cosine_similarity((x - x.mean((2, 3), keepdim=True)).flatten(2),
                                                     (z - z.mean((2, 3), keepdim=True)).flatten(2), dim=2)
        assert float(corr.min()) > 1 - 1e-9, "it changes moments and nothing else"
    assert torch.allclose(adain(z, z, z, 0.4), z, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_lerp_of_delta_w_is_a_network_with_those_weights(case):
    """In float64 against weights that were changed by hand; lerp of the factors is another network."""
    pipe = make(case)
    for part in (pipe.unet, pipe.text_encoder):
        part.double()
    a, b = adapters(pipe, 2)
    noise = tuple(initial_noise(pipe, 2, seed=s) for s in (1, 2))
    text = tuple(encode_prompt(pipe, t) for t in TEXTS)
    ends = Ends(noise, TEXTS, text)
    w = {"low": 0.3, "half": 0.5, "bare": 0.5}
    hook = LerpLoRA(a, b, {"first": 0.0, "low": 0.3, "half": 0.5, "other": 1.0})
    z = last(walk(pipe, ends, w, hooks=[hook], steps=2, guidance=1.7)).z

    def by_hand(delta):
        other = copy.deepcopy(pipe)
        for path in a.paths:
            with torch.no_grad():
                other.unet.get_submodule(path).weight.add_(delta(path))
        return last(walk(other, ends, w, steps=2, guidance=1.7)).z

    for name, at in (("first", 0.0), ("low", 0.3), ("half", 0.5), ("other", 1.0)):
        want = by_hand(lambda path, at=at: lerp(a.delta(path), b.delta(path), at))
        assert float((z[name] - want[name]).abs().max()) < 1e-9
    factors = by_hand(lambda path: a.alpha / a.rank * lerp(*(x.B[path.replace(".", "/")] for x in (a, b)), 0.5)
                      @ lerp(*(x.A[path.replace(".", "/")] for x in (a, b)), 0.5))
    assert float((z["half"] - factors["half"]).abs().max()) > 1e-5
    plain = last(walk(pipe, ends, w, steps=2, guidance=1.7)).z
    assert float((z["bare"] - plain["bare"]).abs().max()) < 1e-12, "a branch without a weight is left alone"


def test_attention_is_mixed_on_the_way_up_in_self_attention_and_for_a_while():
    pipe = make(CASES[0])
    hook = mixed_attention({"x": 0.5}, until=0.6)
    chosen = [s for s in sites(pipe.unet).values() if hook.selects(s)]
    assert chosen and all(s.kind == "self" and s.place == "up" for s in chosen)
    assert len(chosen) == sum(s.kind == "self" and s.place == "up" for s in sites(pipe.unet).values())
    noise, text = initial_noise(pipe, 1, seed=1), encode_prompt(pipe, "a red cat")
    same = Ends((noise, noise), (["a red cat"],) * 2, (text, text))
    runs = [last(walk(pipe, same, {"x": 0.5}, hooks=h, steps=5)).z["x"] for h in ([], [hook])]
    assert float((runs[0] - runs[1]).abs().max()) < 1e-5, "both ends the same: nothing to mix"
    two = Ends((noise, initial_noise(pipe, 1, seed=2)), (["a red cat"], ["a dog"]), (text, encode_prompt(pipe, "a dog")))
    states = {u: list(walk(pipe, two, {"x": 0.5}, hooks=[mixed_attention({"x": 0.5}, until=u)], steps=5)) for u in (0.6, 0.4)}
    apart = [float((s.predictions["x"].eps - t.predictions["x"].eps).abs().max()) for s, t in zip(*states.values(), strict=True)]
    assert apart[0] == apart[1] == 0 and apart[2] > 1e-6, "step 3 of 5 is the last within .6"


# Equal spacing -----------------------------------------------------------------------------------------------------------


def cubic(weights):
    """Frames (n, 3, 2, 2) of brightness w^3 in [0, 1]: hardly anything happens before the end."""
    return (torch.tensor(list(weights), dtype=torch.float64) ** 3).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_a_cubic_speed_is_respaced_to_the_cube_root():
    frames, at = respaced(cubic, [k / 64 for k in range(65)], 9)
    want = [(k / 8) ** (1 / 3) for k in range(9)]
    assert max(abs(x - y) for x, y in zip(at, want, strict=True)) < 2e-3
    assert float(speed_cv(hops(frames, rms))) < 0.02 and torch.equal(frames, cubic(at))
    even = float(speed_cv(hops(cubic([k / 8 for k in range(9)]), rms)))
    once, thrice = (float(speed_cv(hops(respaced(cubic, [k / 8 for k in range(9)], 9, rounds=r)[0], rms))) for r in (1, 3))
    assert even > 0.6 > 0.3 > once > thrice, "each round measures more"


def test_further_rounds_find_a_leap_and_draw_nothing_twice():
    asked = []

    def leap(weights):
        asked.extend(weights)
        x = torch.tensor(list(weights), dtype=torch.float64)
        return (0.1 * x + 0.9 / (1 + (-(x - 0.37) * 400).exp())).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    first, _ = respaced(leap, [k / 8 for k in range(9)], 9)
    asked.clear()
    last_, at = respaced(leap, [k / 8 for k in range(9)], 9, rounds=4)
    assert len(asked) == len(set(asked)) and at[0] == 0 and abs(at[-1] - 1) < 1e-6
    assert float(hops(last_, rms).max()) < 0.2 < 0.5 < float(hops(first, rms).max())
    with pytest.raises(BadInput, match="rounds"):
        respaced(leap, [0, 0.5, 1], 3, rounds=0)


# Fits --------------------------------------------------------------------------------------------------------------------


def test_many_small_fits_are_each_their_own():
    """A picture's adapter does not depend on what else is fitted; all begin with one A; the pipeline is left as it was."""
    pipe = make(CASES[1])
    pipe.unet.double().requires_grad_(True)
    pipe.text_encoder.double()
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    z, text = initial_noise(pipe, 4, seed=1).double(), encode_prompt(pipe, [*TEXTS[0], *TEXTS[1]])
    options = {"rank": 2, "iterations": 3, "lr": 1e-2, "copies": 2}
    many = picture_loras(pipe, z, text, **options)
    one = picture_loras(pipe, z[2:3], text[2:3], **options)[0]
    for path in many[0].A:
        assert torch.allclose(many[2].A[path], one.A[path], atol=1e-5) and torch.allclose(many[2].B[path], one.B[path], atol=1e-5)
    assert max(float((many[0].B[p] - many[1].B[p]).abs().max()) for p in many[0].B) > 1e-3
    fresh = picture_loras(pipe, z, text, rank=2, iterations=1, lr=1e-12)
    assert all(torch.allclose(fresh[0].A[p], fresh[3].A[p]) for p in fresh[0].A)
    assert all(p.requires_grad and p.grad is None for p in pipe.unet.parameters())
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert not any(lora.attached for lora in many) and not any(m._forward_hooks for m in pipe.unet.modules())
    pairs = picture_loras(pipe, z, text, rank=[1, 3], iterations=1, share=2)
    assert [lora.rank for lora in pairs] == [1, 3]


def test_the_loss_of_a_fit_falls_and_an_error_leaves_nothing_behind():
    pipe = make(CASES[1])
    z, text = initial_noise(pipe, 2, seed=1), encode_prompt(pipe, TEXTS[0])
    lora = LoRA(pipe.unet, rank=4)
    t, noise = torch.full((2,), 500), normal(tuple(z.shape), "test noise", 0)
    before = float(denoising_loss(pipe, z, text, t, noise).sum())
    steps = list(fit_pictures(pipe, z, text, lora.parameters(), iterations=30, lr=1e-2, copies=4))
    after = float(denoising_loss(pipe, z, text, t, noise).sum())
    lora.detach()
    assert after < 0.98 * before and [s.iteration for s in steps] == list(range(1, 31))
    with pytest.raises((ValueError, RuntimeError)):
        picture_loras(pipe, z, text[:, :, :-1], iterations=1)
    assert not any(m._forward_hooks for m in pipe.unet.modules()) and not any(p.requires_grad for p in pipe.unet.parameters())
    for options in ({"share": 3}, {"rank": [2]}, {"iterations": 0}, {"copies": 0}):
        with pytest.raises(BadInput):
            picture_loras(pipe, z, text, **options)


def test_each_picture_is_inverted_with_its_own_adapter():
    pipe = make(CASES[1])
    a, b = adapters(pipe, 2)
    z, text = initial_noise(pipe, 4, seed=1), encode_prompt(pipe, [*TEXTS[0], *TEXTS[1]])
    got = invert_with(pipe, z, text, [a, b], steps=3)
    for rows, lora in ((slice(0, 2), a), (slice(2, 4), b)):
        lora.rows = None
        with lora:
            from minidiff.latent.sample import invert_latents
            want = Trajectory.of(invert_latents(pipe, z[rows], text[rows], steps=3, fixed_point=1)).noise
        assert float((got[rows] - want).abs().max()) < 1e-4
    plain = invert_with(pipe, z, text, [], steps=3)
    assert float((plain - got).abs().max()) > 1e-3


# The whole -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_without_stages_it_is_slerp_and_a_batch_is_singles(case):
    pipe = shared(case)
    a, b = pictures(pipe)
    bare = diffmorpher(pipe, a, b, TEXTS, weights=4, stages=(), steps=2)
    assert (bare.images - slerp_morph(pipe, a, b, TEXTS, weights=4, steps=2).images).abs().max() < 1e-4
    full = diffmorpher(pipe, a, b, TEXTS, weights=4, **FEW)
    assert full.images.shape == bare.images.shape and (full.images - bare.images).abs().max() > 1e-3
    single = diffmorpher(pipe, a[1], b[1], (TEXTS[0][1], TEXTS[1][1]), weights=4, **FEW)
    assert (single.images[0] - full.images[1]).abs().max() < 2e-3
    for row in full.details["weights"]:
        assert row[0] == 0 and abs(row[-1] - 1) < 1e-6 and len(row) == 4
    again = diffmorpher(pipe, a, b, TEXTS, weights=4, loras=full.details["loras"], **FEW)
    assert torch.equal(again.images, full.images)


def test_its_ends_are_round_trips_with_their_own_adapters():
    pipe = make(CASES[1])
    a, b = pictures(pipe, 1)
    loras = adapters(pipe, 2)
    stages = ("lora", "attention", "adain")
    made = diffmorpher(pipe, a, b, (TEXTS[0][0], TEXTS[1][0]), weights=3, loras=loras, steps=2, stages=stages)
    for k, (x, prompts, lora) in enumerate(((a, TEXTS[0][0], loras[0]), (b, TEXTS[1][0], loras[1]))):
        lora.rows = None
        with lora:
            noise = Trajectory.of(invert_image(pipe, x, prompts, steps=2, fixed_point=1)).noise
            back = decode(pipe.vae, last(denoise(pipe, prompts, latents=noise, steps=2, guidance=1.0)).x).clamp(-1, 1)
        assert (made.images[:, -k] - back).abs().max() < 1e-4
    with torch.no_grad():
        z = torch.cat([encode(pipe.vae, x) for x in (a, b)])
    noise = invert_with(pipe, z, torch.cat([encode_prompt(pipe, t[0]) for t in TEXTS]), loras, steps=2)
    ends = Ends((noise[:1], noise[1:]), (TEXTS[0][:1], TEXTS[1][:1]), tuple(encode_prompt(pipe, t[0]) for t in TEXTS))
    hooks = [LerpLoRA(*loras, {"first": 0.0, "m": 0.5, "other": 1.0}), mixed_attention({"m": 0.5})]
    z = last(walk(pipe, ends, {"m": 0.5}, hooks=hooks, steps=2, mix=lambda p, q, w: adain(slerp(p, q, w), p, q, w))).z["m"]
    with torch.no_grad():
        assert (made.images[:, 1] - decode(pipe.vae, z).clamp(-1, 1)).abs().max() < 1e-4


def test_what_cannot_be_is_refused():
    pipe = shared(CASES[1])
    a, b = pictures(pipe, 1)
    for options in ({"stages": ("lora", "magic")}, {"stages": "lora"}, {"stages": ("adain", "adain")}, {"rank": 0},
                    {"loras": []}, {"stages": (), "loras": []}, {"weights": 1}, {"until": 2.0}):
        with pytest.raises(BadInput):
            diffmorpher(pipe, a, b, **{**FEW, **options})
    with pytest.raises(BadInput, match="two pictures"):
        diffmorpher(pipe, "a red cat", "a blue dog")
    loras = adapters(make(CASES[1]), 2)
    with pytest.raises(BadInput, match="detach"):
        LerpLoRA(loras[0].attach(), loras[1], {"x": 0.5})
    for weights in ({}, {"x": 1.5}):
        with pytest.raises(BadInput, match="weights"):
            LerpLoRA(*adapters(make(CASES[1]), 2), weights)
