"""DiffuseIT: its losses by brute force and in closed form, their gradients, the two pushes, repeats and restarts."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F

from minidiff import BadInput
from minidiff.diffusion import last
from minidiff.editing import sdedit
from minidiff.editing.diffuseit import PosteriorMean, diffuseit, diffuseit_energy, renoise, text_target
from minidiff.editing.key_losses import (
    Features,
    PictureView,
    clip_features,
    direction_target,
    key_contrast,
    range_loss,
    self_similarity,
    structure_loss,
)
from minidiff.latent import decode, denoise, initial_noise, schedule_from
from minidiff.latent.clip import embed_images, embed_texts, make_clip
from minidiff.rng import normal
from minidiff.steer import Energy, EpsGuidance, StepContext
from minidiff.steer.energy import EnergyState
from minidiff.steer.record import Maps
from tests.pipelines import CASES, make, shared

TEXTS = ["a red cat on the grass", "a blue dog at night"]


def keys(*shape, seed=0):
    return normal(shape, "keys", seed, dtype=torch.float64)


def pictures(pipe, n=2, seed=0):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return F.interpolate(normal((n, 3, 4, 4), "diffuseit pictures", seed), size=side).clamp(-1, 1)


@functools.cache
def features(double=False):
    """A small tower of random weights: 4 x 4 keys."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        clip = make_clip(size=16, patch=4, width=32, layers=2, heads=2, text_layers=1)
    clip.eval().requires_grad_(False)
    return clip_features(clip.double() if double else clip)


def some_clip():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make_clip(size=16, patch=4, width=32, layers=2, heads=2, text_layers=1).eval().requires_grad_(False)


def edit(pipe, x, **options):
    options = {"features": features(), "steps": 3, "guidance": 2.0, "image": x, "until": 1.0, "repeats": 0} | options
    return diffuseit(pipe, "a cat", TEXTS[: len(x)], **options)


# The losses ------------------------------------------------------------------------------------------------------------------


def test_self_similarity_by_brute_force_and_whatever_turns_all_keys_together():
    k = keys(2, 5, 7)
    s = self_similarity(k)
    for b in range(2):
        for i in range(5):
            for j in range(5):
                want = float(k[b, i] @ k[b, j]) / float(k[b, i].norm() * k[b, j].norm())
                assert float(s[b, i, j]) == pytest.approx(want, abs=1e-12)
    turn, _ = torch.linalg.qr(keys(7, 7, seed=1))
    assert torch.allclose(self_similarity(k @ turn), s, atol=1e-12), "orthogonal"
    assert torch.allclose(self_similarity(k * keys(2, 5, 1, seed=2).abs()), s, atol=1e-12), "lengths of keys do not count"
    assert not torch.allclose(self_similarity(k @ keys(7, 7, seed=3)), s, atol=0.1)


def test_structure_is_nothing_on_identity_and_the_mean_square_otherwise():
    a, b = keys(3, 4, 6), keys(3, 4, 6, seed=1)
    assert float(structure_loss(a, a).abs().max()) == 0.0
    want = [float(((self_similarity(a) - self_similarity(b))[i] ** 2).sum()) / 16 for i in range(3)]
    assert structure_loss(a, b).tolist() == pytest.approx(want)


def test_contrast_is_the_published_one_and_only_the_edits_keys_learn():
    """Positive beside all negatives with the own place at -10, over 0.07, cross-entropy of the first; a mean over places."""
    a, b = keys(2, 5, 7).requires_grad_(), keys(2, 5, 7, seed=1).requires_grad_()
    got = key_contrast(a, b)
    for k in range(2):
        cos = F.cosine_similarity(a[k][:, None], b[k][None], dim=-1)
        rest = cos.clone().fill_diagonal_(-10.0)
        logits = torch.cat([cos.diagonal()[:, None], rest], 1) / 0.07
        want = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
        assert float(got[k].detach()) == pytest.approx(float(want.detach()), abs=1e-9)
    got.sum().backward()
    assert b.grad is None and bool(a.grad.abs().sum() > 0)
    same = F.normalize(keys(1, 5, 7), dim=-1)
    assert float(key_contrast(same, same)) > 0, "places that look alike compete: not 0 on identity"
    apart = torch.eye(5, dtype=torch.float64)[None]
    assert float(key_contrast(apart, apart, temperature=0.01)) < 1e-9 < float(key_contrast(apart, apart.roll(1, 1)))


def test_direction_and_range_in_closed_form():
    t, s, i = (F.normalize(keys(2, 6, seed=k), dim=-1) for k in range(3))
    want = t - 0.4 * s + 0.2 * i
    assert torch.allclose(direction_target(t, s, i), want / want.norm(dim=1, keepdim=True))
    x = torch.tensor([[[[0.5, 1.0], [-1.0, 3.0]]] * 3, [[[0.0, -1.5], [0.0, 0.0]]] * 3])
    assert range_loss(x).tolist() == pytest.approx([4 / 4, 0.25 / 4])


def test_keys_are_those_of_the_layers_attention_without_the_class_token():
    clip = some_clip()
    x = normal((2, 3, 16, 16), "picture", 0).clamp(-1, 1).requires_grad_()
    for layer in (-1, 0):
        seen = clip_features(clip, layer=layer)(x)
        hidden = clip.vision_model(pixel_values=x, output_hidden_states=True).hidden_states
        block = clip.vision_model.encoder.layers[layer]
        into = block.layer_norm1(hidden[layer - 1 if layer < 0 else layer])
        assert torch.allclose(seen.keys, block.self_attn.k_proj(into)[:, 1:], atol=1e-5)
        assert seen.keys.shape == (2, 16, 32)
    assert torch.allclose(F.normalize(seen.pooled, dim=-1), embed_images(clip, x.detach()), atol=1e-5)
    assert bool(torch.autograd.grad(seen.keys.sum(), x)[0].abs().sum() > 0)
    assert not any(block.self_attn.k_proj._forward_hooks for block in clip.vision_model.encoder.layers), "the hook is gone"
    wide = clip_features(clip)(normal((1, 3, 24, 32), "wide", 0).clamp(-1, 1))
    assert wide.keys.shape == (1, 16, 32)
    with pytest.raises(BadInput, match="layer"):
        clip_features(clip, layer=2)
    with pytest.raises(BadInput, match="CLIPModel"):
        clip_features(torch.nn.Linear(2, 2))


def test_the_text_target_is_that_of_the_captions():
    clip = some_clip()
    x = normal((2, 3, 16, 16), "picture", 0).clamp(-1, 1)
    got = text_target(clip, "a cat", ["a dog", "a bird"], x)
    want = embed_texts(clip, ["a dog", "a bird"]) - 0.4 * embed_texts(clip, ["a cat"]) + 0.2 * embed_images(clip, x)
    assert torch.allclose(got, F.normalize(want, dim=-1), atol=1e-6)
    with pytest.raises(BadInput, match="target"):
        text_target(clip, "a cat", ["a dog"] * 3, x)


# As energies -----------------------------------------------------------------------------------------------------------------


ALL = {"structure": 1.0, "contrast": 0.1, "style": 2.0, "text": 0.5, "divergence": 0.3, "range": 1.5}


def energies(pipe, losses, like=None, *, through_network=True, look=None):
    look = features(double=True) if look is None else look
    with torch.no_grad():
        source, other = look(pictures(pipe).double()), look(pictures(pipe, seed=1).double())
    view = PictureView(look, lambda x: decode(pipe.vae, x), through_network=through_network)
    return diffuseit_energy(view, source, losses, like=other.pooled, toward=F.normalize(other.pooled, dim=-1))


@pytest.mark.parametrize("name", [*ALL, "all"])
def test_gradients_by_finite_differences(name):
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    z = 2 * initial_noise(pipe, 2, seed=2).double()
    losses = ALL if name == "all" else {name: 1.0}

    def run(at, scale=0.0):
        push = EpsGuidance(energies(pipe, losses), scale=scale)
        state = last(denoise(pipe, TEXTS, latents=at, steps=1, guidance=2.0, hooks=[push]))
        return push.values[0].sum(), state.eps

    gradient = run(z, 1.0)[1] - run(z)[1]
    assert float(gradient.abs().max()) > 0
    for k in range(2):
        d = normal(tuple(z.shape), "direction", k, dtype=torch.float64)
        slope = float(run(z + 1e-5 * d)[0] - run(z - 1e-5 * d)[0]) / 2e-5
        assert slope == pytest.approx(float((gradient * d).sum()), rel=1e-4, abs=1e-6 * float(gradient.norm()))


def state(pipe, z, index=0):
    schedule = schedule_from(pipe.scheduler)
    ctx = StepContext(index, 10, 500, 400, float(schedule.at(500)), float(schedule.at(400)), tuple(z.shape[-2:]), len(z))
    return EnergyState(z, z, 0 * z, ctx)


def test_divergence_is_against_the_step_before_and_then_silent():
    """A decoder and features that are the latents themselves."""
    z = [keys(2, 3, 2, 2, seed=k) for k in range(4)]
    view = PictureView(lambda x: Features(x.flatten(2), x.flatten(1)))
    source = Features(keys(2, 3, 4, seed=9), keys(2, 12, seed=9))
    energy, maps = diffuseit_energy(view, source, {"divergence": 2.0}), Maps((2, 2))
    pipe = shared(CASES[1])
    for _ in range(2):                                                     # a second run begins with the source again
        got = [energy(maps, state(pipe, x, k)) for k, x in enumerate(z)]
        before = [source.pooled, z[0].flatten(1), z[1].flatten(1)]
        for k in range(2):
            assert got[k].tolist() == pytest.approx((-2 * (z[k].flatten(1) - before[k]).square().mean(1)).tolist())
        assert got[2].tolist() == got[3].tolist() == [0.0, 0.0], "progress 0.2 is past 0.15"


def test_each_loss_is_made_of_one_decoding_and_one_look():
    calls = []

    def look(x):
        calls.append("look")
        return Features(x.flatten(2), x.flatten(1))

    view = PictureView(look, lambda x: calls.append("decode") or x)
    source = Features(keys(2, 3, 4), keys(2, 12))
    energy = diffuseit_energy(view, source, ALL, like=keys(2, 12, seed=1), toward=keys(2, 12, seed=2))
    for k in range(2):
        energy(Maps((2, 2)), state(shared(CASES[1]), keys(2, 3, 2, 2, seed=k)))
    assert calls == ["decode", "look"] * 2


def test_at_its_own_source_structure_style_and_range_are_nothing():
    x = 0.3 * keys(2, 3, 4, 4)
    view = PictureView(lambda x: Features(x.flatten(2).mT, x.flatten(1)))
    own = view.look(x)
    for name in ("structure", "style", "range", "divergence"):
        energy = diffuseit_energy(view, own, {name: 1.0}, like=own.pooled)
        assert float(energy(Maps((4, 4)), state(shared(CASES[1]), x)).abs().max()) == 0.0, name
    text = diffuseit_energy(view, own, {"text": 1.0}, toward=own.pooled)
    assert text(Maps((4, 4)), state(shared(CASES[1]), x)).tolist() == pytest.approx([-1.0, -1.0])


def test_style_and_text_by_hand():
    """Squares of the difference, a mean over numbers; minus the cosine."""
    x = 0.3 * keys(2, 3, 4, 4)
    view = PictureView(lambda x: Features(x.flatten(2).mT, x.flatten(1)))
    goal, now = keys(2, 48, seed=3), x.flatten(1)
    for name, want in {"style": ((now - goal) ** 2).sum(1) / 48,
                       "text": -(now * goal).sum(1) / (now.norm(dim=1) * goal.norm(dim=1))}.items():
        energy = diffuseit_energy(view, view.look(x), {name: 3.0}, like=goal, toward=goal)
        assert energy(Maps((4, 4)), state(shared(CASES[1]), x)).tolist() == pytest.approx((3 * want).tolist()), name


def test_without_the_network_the_gradient_is_that_of_z_alone():
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    z = initial_noise(pipe, 2, seed=2).double()
    found = {}
    for through in (True, False):
        push = EpsGuidance(energies(pipe, {"structure": 1.0}, through_network=through), scale=1.0)
        after = last(denoise(pipe, TEXTS, latents=z, steps=1, guidance=2.0, hooks=[push]))
        plain = last(denoise(pipe, TEXTS, latents=z, steps=1, guidance=2.0))
        found[through] = push.values[0], after.eps - plain.eps
    assert torch.allclose(found[True][0], found[False][0]) and not torch.allclose(found[True][1], found[False][1], rtol=0.05)
    abar = float(schedule_from(pipe.scheduler).at(after.t))
    leaf = plain.x0.detach().requires_grad_()
    look = features(double=True)
    value = structure_loss(look(decode(pipe.vae, leaf)).keys, look(pictures(pipe).double()).keys)
    assert torch.allclose(found[False][1], torch.autograd.grad(value.sum(), leaf)[0] / abar**0.5, rtol=1e-5, atol=1e-12)


# The loop --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strength", [1.0, 0.67])
def test_without_a_push_it_is_sdedit_from_the_same_start(case, strength):
    pipe = shared(case)
    x, z = pictures(pipe), initial_noise(pipe, 2, seed=5)
    ours = edit(pipe, x, latents=z, strength=strength, relative=0.0)
    theirs = sdedit(pipe, TEXTS, image=x, latents=z, strength=strength, steps=3, guidance=2.0)
    assert float((ours.edit - theirs.edit).abs().max()) <= 1e-5
    pushed = edit(pipe, x, latents=z, strength=strength, relative=0.3)
    assert float((pushed.edit - theirs.edit).abs().max()) > 1e-4 and torch.equal(pushed.images["source"], x)


def test_after_until_nothing_is_pushed():
    pipe = shared(CASES[1])
    x, z = pictures(pipe), initial_noise(pipe, 2, seed=5)
    whole, half = (edit(pipe, x, latents=z, steps=4, relative=0.2, until=until) for until in (1.0, 0.5))
    ways = [made.trajectory["edit"].latents for made in (whole, half)]
    assert torch.allclose(ways[0][:3], ways[1][:3], atol=1e-5) and not torch.allclose(ways[0][3], ways[1][3], atol=1e-4)
    assert whole.details["energy"].shape == (4, 2) and half.details["energy"].shape == (2, 2)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_small_push_lowers_the_loss(sampler):
    pipe = shared(CASES[1])
    x, z = pictures(pipe), initial_noise(pipe, 2, seed=5)
    free, held = (edit(pipe, x, latents=z, steps=6, relative=r, sampler=sampler).details["energy"] for r in (0.0, 0.1))
    assert torch.allclose(free[0], held[0], rtol=1e-4) and bool((held[-1] < free[-1]).all())


def test_the_two_pushes_differ_by_what_the_step_makes_of_them():
    """At eta = 1 a push p on eps moves the mean by -beta / sqrt(alpha (1 - abar)) p; the published one by
    -sigma^2 / sqrt(1 - abar) p, where sigma^2 = beta (1 - abar_prev) / (1 - abar)."""
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    z, end = initial_noise(pipe, 2, seed=2).double(), {}
    linear = Energy(lambda maps, s: (s.z * z.sign()).flatten(1).sum(1))
    pushes = {"plain": [], "eps": [EpsGuidance(linear, relative=0.1)], "mean": [PosteriorMean(linear, relative=0.1)]}
    for name, hooks in pushes.items():
        first = next(denoise(pipe, TEXTS, latents=z, steps=4, guidance=2.0, eta=1.0, hooks=hooks))
        end[name] = first.x
    schedule = schedule_from(pipe.scheduler)
    abar, prev = float(schedule.at(first.t)), float(schedule.at(first.t_prev))
    alpha = abar / prev
    eps, mean = end["eps"] - end["plain"], end["mean"] - end["plain"]
    assert torch.allclose(mean, alpha**0.5 * (1 - prev) / (1 - abar) * eps, rtol=1e-6, atol=1e-9)
    assert float(mean.abs().max()) > 1e-3


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_batch_is_a_loop_of_singles(sampler):
    pipe = shared(CASES[0])
    x = pictures(pipe)
    options = {"sampler": sampler, "repeats": 1, "restarts": 1, "limit": 0.0, "relative": 0.05}
    both = edit(pipe, x, **options)
    one = edit(pipe, x[:1], **options)
    assert float((both.edit[:1] - one.edit).abs().max()) < 1e-3
    assert both.details["energy"].shape == (3, 2)


def test_noise_one_level_up_is_the_forward_process():
    x0, n = torch.full((1, 1, 200, 200), 0.7), normal((2, 1, 200, 200), "renoise", 0)
    up = renoise(0.8**0.5 * x0 + 0.2**0.5 * n[:1], n[1:], abar=0.5, abar_prev=0.8)
    assert float(up.mean()) == pytest.approx(0.5**0.5 * 0.7, abs=0.02) and float(up.var()) == pytest.approx(0.5, abs=0.02)


def test_repeats_are_first_steps_done_again(monkeypatch):
    pipe = shared(CASES[1])
    x, seen = pictures(pipe), []
    forward = pipe.unet.forward

    def counted(z, t, **options):
        seen.append(int(torch.as_tensor(t).flatten()[0]))
        return forward(z, t, **options)

    monkeypatch.setattr(pipe.unet, "forward", counted)
    way = edit(pipe, x, repeats=3).trajectory["edit"]
    first, *rest = way.timesteps
    assert seen == [first] * 4 + rest
    assert not torch.equal(edit(pipe, x, repeats=2).edit, edit(pipe, x, repeats=3).edit)


def test_restarts_have_a_cap_and_keep_the_best():
    pipe = shared(CASES[1])
    x = pictures(pipe)
    free = edit(pipe, x)
    never = edit(pipe, x, restarts=2, limit=-1.0)                        # no picture is good enough
    assert never.details["tries"].tolist() == [3, 3] and free.details["tries"].tolist() == [1, 1]
    assert bool((never.details["range"] <= free.details["range"]).all())
    high = float(free.details["range"].max()) + 1e-6
    calm = edit(pipe, x, restarts=2, limit=high)
    assert calm.details["tries"].tolist() == [1, 1] and torch.equal(calm.edit, free.edit)
    between = float(free.details["range"].mean())
    some = edit(pipe, x, restarts=1, limit=between)
    worse = int(free.details["range"].argmax())
    assert int(some.details["tries"][worse]) == 2 and int(some.details["tries"][1 - worse]) == 1
    assert torch.equal(some.edit[1 - worse], free.edit[1 - worse])
    with torch.no_grad():
        again = range_loss(decode(pipe.vae, never.trajectory["edit"].clean))
    assert torch.allclose(again, never.details["range"])


def test_it_refuses_what_it_cannot_do():
    pipe = shared(CASES[1])
    x = pictures(pipe)
    for match, options in {"losses.*'keys'": {"losses": {"keys": 1.0}}, "style": {"losses": {"style": 1.0}},
                           "text": {"losses": {"text": 1.0}}, "losses: got none": {"losses": {}}, "sampler": {"sampler": "euler"},
                           "restarts": {"restarts": -1}, "repeats": {"repeats": 1.5}, "strength": {"strength": 0.1}}.items():
        with pytest.raises(BadInput, match=match):
            edit(pipe, x, **options)
    with pytest.raises(BadInput, match="target"):
        diffuseit(pipe, "a cat", ["a dog"] * 3, features=features(), image=x)
