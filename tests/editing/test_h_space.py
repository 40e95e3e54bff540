"""h-space: the asymmetric step against a loop written out by hand, directions, shares and the block against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_pipe import pipeline
from torch import nn

from minidiff.diffusion import X0, Eps, last, linear, scaled_linear
from minidiff.editing import (
    Asymmetric,
    Boost,
    DeltaBlock,
    MeanDirection,
    ShiftH,
    causal_share,
    fit_delta,
    h_space,
    mean_direction,
    shift_strength,
)
from minidiff.editing.h_clip import DirectionalLoss, directional
from minidiff.errors import BadInput
from minidiff.latent import decode, denoise, denoiser, encode_prompt, initial_noise, scheduler_options
from minidiff.latent.clip import embed_images, embed_texts
from minidiff.rng import normal
from minidiff.steer import CFG, run
from minidiff.zoo import load

STEPS, PROMPTS = 4, ["a red cat on the grass", "a blue dog at night"]


@pytest.fixture(scope="module")
def pipe():
    return pipeline(widths=(16, 16), length=34)


def channels(pipe):
    return pipe.unet.mid_block.resnets[-1].out_channels


@torch.no_grad()
def by_hand(pipe, z, prompts, delta, scale, *, t_edit=0, symmetric=False):
    """Asyrp without the engine: a forward hook, two calls, the step of Kwon et al., eq. 5, at w = 1."""
    pipe.scheduler.set_timesteps(STEPS)
    table, context = pipe.scheduler.alphas_cumprod.double(), encode_prompt(pipe, prompts)
    ts = pipe.scheduler.timesteps.tolist()
    for t, t_prev in zip(ts, [*ts[1:], -1]):
        a, b = float(table[t]), float(table[t_prev] if t_prev >= 0 else pipe.scheduler.final_alpha_cumprod)
        eps = pipe.unet(z, t, encoder_hidden_states=context).sample
        moved = eps
        if t >= t_edit:
            handle = pipe.unet.mid_block.register_forward_hook(lambda m, args, out: out + scale * delta)
            moved = pipe.unet(z, t, encoder_hidden_states=context).sample
            handle.remove()
        x0 = (z - math.sqrt(1 - a) * moved) / math.sqrt(a)
        z = math.sqrt(b) * x0 + math.sqrt(1 - b) * (moved if symmetric else eps)
    return z


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("t_edit", [0, 600])
def test_the_step_is_the_papers(pipe, symmetric, t_edit):
    z, delta = initial_noise(pipe, 2, seed=1), normal((channels(pipe), 1, 1), "delta", 0)
    made = h_space(pipe, PROMPTS, delta, strength=0.7, t_edit=t_edit, symmetric=symmetric, latents=z, steps=STEPS)
    want = by_hand(pipe, z, PROMPTS, delta, 0.7, t_edit=t_edit, symmetric=symmetric)
    plain = by_hand(pipe, z, PROMPTS, delta, 0.0)
    assert (made.trajectory["edit"].clean - want).abs().max() < 1e-4
    assert (made.trajectory["source"].clean - plain).abs().max() < 1e-4
    assert (want - plain).abs().max() > 0.01, "the shift does something"


def test_two_directions_are_composed_and_strengths_are_a_rows(pipe):
    z = initial_noise(pipe, 2, seed=1)
    one, two = (normal((channels(pipe), 1, 1), "delta", k) for k in (1, 2))
    both = h_space(pipe, PROMPTS, [one, two], strength=torch.tensor([0.5, 0.0]), latents=z, steps=STEPS)
    want = by_hand(pipe, z, PROMPTS, (one + two) / math.sqrt(2), 0.5)
    assert (both.trajectory["edit"].clean[0] - want[0]).abs().max() < 1e-4
    assert (both.trajectory["edit"].clean[1] - both.trajectory["source"].clean[1]).abs().max() < 1e-4


def test_the_branches_that_are_not_shifted_stay(pipe):
    z = initial_noise(pipe, 2, seed=1)
    delta = normal((channels(pipe), 1, 1), "delta", 0)
    shift = ShiftH(delta, 0.5)
    one = last(denoise(pipe, PROMPTS, latents=z, steps=STEPS, guidance=2.0, hooks=[Asymmetric(shift)])).x
    two = last(denoise(pipe, PROMPTS, latents=z, steps=STEPS, guidance=2.0, hooks=[shift])).x
    plain = last(denoise(pipe, PROMPTS, latents=z, steps=STEPS, guidance=2.0)).x
    texts = {"empty": encode_prompt(pipe, ""), "prompt": encode_prompt(pipe, PROMPTS)}
    both = last(run(denoiser(pipe), {"source": z, "edit": z}, {"source": texts, "edit": texts}, steps=STEPS, guider=CFG(2.0),
                    **scheduler_options(pipe), hooks=[ShiftH(delta, 0.5, branch="edit")])).z
    assert torch.allclose(both["source"], plain, atol=1e-5) and torch.allclose(both["edit"], two, atol=1e-5)
    assert not torch.allclose(one, two, atol=1e-3) and not torch.allclose(one, plain, atol=1e-3)


def test_the_boost_is_ddpm_below_its_level_and_ddim_above(pipe):
    z, options = initial_noise(pipe, 2, seed=1), {"steps": STEPS, "guidance": 2.0}
    plain = last(denoise(pipe, PROMPTS, latents=z, **options)).x
    noisy = last(denoise(pipe, PROMPTS, latents=z, eta=1.0, seed=0, **options)).x
    assert torch.equal(last(denoise(pipe, PROMPTS, latents=z, hooks=[Boost(0)], **options)).x, plain)
    full = last(denoise(pipe, PROMPTS, latents=z, hooks=[Boost(1000)], **options)).x
    assert (full - noisy).abs().max() < 1e-4, "everywhere: eta = 1 with the same noise"
    half = [s.x for s in denoise(pipe, PROMPTS, latents=z, hooks=[Boost(500)], **options)]
    known = [s.x for s in denoise(pipe, PROMPTS, latents=z, **options)]
    ts = [s.t for s in denoise(pipe, PROMPTS, latents=z, **options)]
    same = [torch.equal(a, b) for a, b in zip(half, known)]
    assert same == [t >= 500 for t in ts] and any(same) and not all(same)


@pytest.mark.parametrize("schedule", [linear(1000), scaled_linear(1000)])
def test_the_strength_of_a_shift_is_what_a_step_does_with_it(schedule):
    """One step of a model whose eps is shifted by d, against the formula."""
    t, asym, sym = shift_strength(schedule, 10)
    x, d = normal((1, 1, 2, 2), "x", 0).double(), normal((1, 1, 2, 2), "d", 0).double()
    for k, (now, then) in enumerate(zip(t.tolist(), [*t.tolist()[1:], -1])):
        a, b = float(schedule.at(now)), float(schedule.at(then))
        step = lambda e0, e1: math.sqrt(b) * (x - math.sqrt(1 - a) * e0) / math.sqrt(a) + math.sqrt(1 - b) * e1  # noqa: B023, E731
        base = step(0 * d, 0 * d)
        assert torch.allclose(step(d, 0 * d) - base, -asym[k] * d) and torch.allclose(step(d, d) - base, -sym[k] * d)


class Skip(nn.Module):
    """x0 = w * mid(x) + (1 - w) * x, with mid the identity: a share w of everything passes through ``mid``."""

    def __init__(self, share):
        super().__init__()
        self.mid, self.share = nn.Identity(), share

    def forward(self, x, t, cond=None):
        return self.share * self.mid(x) + (1 - self.share) * x


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_causal_share_is_the_share_of_the_bottleneck(share):
    before, after = normal((3, 2, 4, 4), "before", 0).double(), normal((3, 2, 4, 4), "after", 0).double()
    found = causal_share(X0(Skip(share), linear(100)), before, after, None, 50, path="mid")
    assert torch.allclose(found, torch.full_like(found, share), atol=1e-9)


def test_the_mean_direction_is_the_mean_of_differences():
    before, after = normal((5, 2, 4, 4), "before", 0).double(), normal((5, 2, 4, 4), "after", 0).double()
    schedule = linear(100)
    found = mean_direction(Eps(Skip(0.5), schedule), before, after, None, [10, 90], path="mid", chunk=2)
    for t in (10, 90):                       # the noise is the same on both sides and falls out
        want = float(schedule.at(t)) ** 0.5 * (after - before).mean(0)
        assert torch.allclose(found.at(t), want, atol=1e-9)
    assert found.at(40) is found.at(10) and found.at(60) is found.at(90)


def test_the_block_is_the_papers_and_a_fresh_one_changes_nothing(pipe):
    torch.manual_seed(0)
    block = DeltaBlock.of(pipe).double()
    h, temb = normal((2, channels(pipe), 3, 5), "h", 0).double(), normal((2, block.time.in_features), "temb", 0).double()
    assert not block(h, {"temb": temb}).any()
    nn.init.normal_(block.out.weight)
    nn.init.normal_(block.out.bias)
    w = {name: value.detach() for name, value in block.named_parameters()}
    mid = torch.einsum("oi,bihw->bohw", w["into.weight"][..., 0, 0], h) + w["into.bias"][:, None, None]
    mid = mid + ((temb * temb.sigmoid()) @ w["time.weight"].T + w["time.bias"])[:, :, None, None]
    grouped = mid.unflatten(1, (block.norm.num_groups, -1))
    mean, var = grouped.mean((2, 3, 4), keepdim=True), grouped.var((2, 3, 4), keepdim=True, unbiased=False)
    mid = ((grouped - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    want = torch.einsum("oi,bihw->bohw", w["out.weight"][..., 0, 0], mid * mid.sigmoid()) + w["out.bias"][:, None, None]
    assert torch.allclose(block(h, {"temb": temb}), want, atol=1e-10)
    with pytest.raises(BadInput, match="temb"):
        block(h, {"emb": temb})


def test_the_fit_trains_the_block_alone_and_lowers_the_error(pipe):
    torch.manual_seed(0)
    before, after = (normal((6, 3, 32, 32), name, 0).clamp(-1, 1) for name in ("before", "after"))
    kept = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    block = DeltaBlock.of(pipe)
    way = list(fit_delta(pipe, block, before, after, steps=25, batch=4))
    assert way[0].loss == pytest.approx(way[0].plain, rel=1e-5), "a fresh block changes nothing"
    gain = [step.plain - step.loss for step in way]
    assert sum(gain[-5:]) > 5 * abs(gain[0]) and sum(gain[-5:]) > 0
    assert all(torch.equal(kept[name], value) for name, value in pipe.unet.state_dict().items())
    again = list(fit_delta(pipe, DeltaBlock.of(pipe), before, after, steps=2, batch=4))
    assert [s.plain for s in again] == [s.plain for s in way[:2]], "the draws are a function of the seed"


def test_what_cannot_work_is_refused(pipe):
    with pytest.raises(BadInput, match="path"):
        list(denoise(pipe, "a red cat", steps=2, hooks=[ShiftH(torch.zeros(1), path="down_blocks.0")]))
    with pytest.raises(BadInput, match="modules"):
        denoise(pipe, "a red cat", steps=2, hooks=[ShiftH(torch.zeros(1), path="middle")])
    for bad in ({"direction": []}, {"direction": "dog"}, {"strength": float("nan")}, {"strength": torch.ones(3)},
                {"t_boost": 200, "image": torch.zeros(1, 3, 32, 32)}):
        with pytest.raises(BadInput):
            h_space(pipe, "a red cat", **({"direction": torch.zeros(1)} | bad), steps=2)
    with pytest.raises(BadInput, match="one branch"):
        Asymmetric(ShiftH(torch.zeros(1)), ShiftH(torch.zeros(1), branch="edit"))
    with pytest.raises(BadInput, match="table"):
        MeanDirection({})
    with pytest.raises(BadInput, match="after"):
        causal_share(Eps(Skip(0.5), linear(100)), torch.zeros(2, 1, 2, 2), torch.zeros(1, 1, 2, 2), None, 5, path="mid")


def test_a_pixel_model_can_be_shifted_too():
    model = Eps(Skip(0.5), linear(100))
    x = normal((2, 2, 4, 4), "x", 0)
    delta = normal((2, 1, 1), "delta", 0)
    plain = last(run(model, x, steps=5)).x
    asym = last(run(model, x, steps=5, hooks=[Asymmetric(ShiftH(delta, 0.1, path="mid"))])).x
    sym = last(run(model, x, steps=5, hooks=[ShiftH(delta, 0.1, path="mid")])).x
    assert 0 < (sym - plain).abs().mean() < (asym - plain).abs().mean(), "the asymmetric step is the stronger one"


# Where no answer is known ------------------------------------------------------------------------------------------------------


def test_the_directional_loss_is_the_papers(pipe):
    clip = load("mini-clip")
    cats, dogs = ["a red cat", "a cat at night"], ["a red dog", "a dog at night"]
    loss = DirectionalLoss(pipe, clip, cats, dogs, keep=2.0)
    a, b = (torch.nn.functional.normalize(embed_texts(clip, texts).mean(0), dim=0) for texts in (cats, dogs))
    z, plain, shifted = (normal((2, 4, 8, 8), "z", k) for k in range(3))
    pictures = [decode(pipe.vae, x) for x in (z, shifted)]
    before, after = (embed_images(clip, x) for x in pictures)
    move, way = after - before, b - a
    cosine = (move @ way) / move.norm(dim=1) / way.norm()
    want = -torch.log((2 - (1 - cosine)) / 2).mean() + 2 * float(a @ b) * (shifted - plain).abs().mean()
    assert float(loss(shifted, plain, z)) == pytest.approx(float(want), rel=1e-4)
    assert directional(before, before + 3 * way, way).abs().max() < 1e-5
    assert float(directional(before, before - way, way)[0]) > 1.99
    leaf = shifted.clone().requires_grad_()
    loss(leaf, plain, z).backward()
    assert float(leaf.grad.abs().max()) > 0, "a gradient passes through decoder and tower"
    for bad in ({"source": []}, {"keep": -1.0}):
        with pytest.raises(BadInput):
            DirectionalLoss(pipe, clip, **({"source": cats, "target": dogs} | bad))


def test_an_objective_takes_the_place_of_answers(pipe):
    torch.manual_seed(0)
    before, seen = normal((6, 3, 32, 32), "before", 0).clamp(-1, 1), []

    def quiet(shifted, plain, clean):
        seen.append((shifted.shape, float((shifted - plain).detach().abs().max())))
        return shifted.square().mean()

    way = list(fit_delta(pipe, DeltaBlock.of(pipe), before, quiet, steps=25, batch=4, watch=50))
    assert all(not math.isnan(step.plain) for step in way) and way[0].loss == pytest.approx(way[0].plain, rel=1e-5)
    assert sum(step.plain - step.loss for step in way[-5:]) > 0 and len(seen) == 50 and seen[-1][1] > 0
    watched = list(fit_delta(pipe, DeltaBlock.of(pipe), before, before, steps=5, batch=4, watch=2))
    assert [math.isnan(step.plain) for step in watched] == [False, True, False, True, False]
    with pytest.raises(BadInput, match="after"):
        next(fit_delta(pipe, DeltaBlock.of(pipe), before, "a dog"))
