"""Inversions: exact ones in float64, the fitted empty prompt, and each against the formula of its paper."""

from __future__ import annotations

import pytest
import torch

from minidiff import BadInput
from minidiff.diffusion import last, visits
from minidiff.edit_command import METHODS, options_of
from minidiff.editing import (
    INVERSIONS,
    Coupled,
    Inversion,
    direct_inversion,
    edict_inversion,
    edit_friendly_inversion,
    inverted,
    negative_prompt_inversion,
    prompt_to_prompt,
    swap_prompt,
)
from minidiff.editing.inversion import FitEmpty, fit_empty
from minidiff.editing.noise_maps import with_noises
from minidiff.latent import denoise, denoiser, encode, encode_prompt, initial_noise, scheduler_options
from minidiff.rng import normal
from minidiff.steer import CFG, Trajectory, run
from tests.pipelines import CASES, make, shared

PROMPTS, TARGETS = ["a red cat on the grass", "a blue dog"], ["a green cat on the grass", "a pink dog"]
STEPS, W = 4, 3.0


def exact(case: str = CASES[1]):
    """A pipeline in float64."""
    pipe = make(case)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    return pipe


def pictures(pipe, n: int = 2):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    small = normal((n, 3, 4, 4), "pictures", 0, dtype=next(pipe.vae.parameters()).dtype)
    return torch.nn.functional.interpolate(small, size=side).clamp(-1, 1)


def back(pipe, inversion, prompts, *, guidance=W, hooks=None):
    """The clean latents of a run of one branch from the inversion's noise."""
    empty = encode_prompt(pipe, "") if inversion.empty is None else inversion.text
    texts = {"prompt": encode_prompt(pipe, prompts), "empty": empty}
    return last(run(denoiser(pipe), inversion.trajectory.noise, texts, steps=inversion.trajectory.timesteps, guider=CFG(guidance),
                    hooks=inversion.hooks if hooks is None else hooks, **scheduler_options(pipe))).x


def apart(x, y):
    return float((x - y).abs().max())


# Exact round trips ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mix", [0.93, 0.6, 1.0])
def test_edict_comes_back_in_float64_at_any_guidance(case, mix):
    pipe = exact(case)
    images = pictures(pipe)
    with torch.no_grad():
        z = encode(pipe.vae, images)
    for steps in (4, 5):                                             # the latents change places at every other step
        found = edict_inversion(pipe, images, PROMPTS, steps=steps, guidance=W, mix=mix)
        assert apart(back(pipe, found, PROMPTS), z) < 1e-10
    ddim = direct_inversion(pipe, images, PROMPTS, steps=5, hold=False)
    assert apart(back(pipe, ddim, PROMPTS), z) > 1e-4, "DDIM does not come back, or this test shows nothing"


def test_edict_is_the_formula_of_the_paper():
    """x and y by hand, from the four lines."""
    pipe, p = exact(), 0.8
    z = initial_noise(pipe, 2, seed=1).double()
    model, c, u = denoiser(pipe), encode_prompt(pipe, PROMPTS), encode_prompt(pipe, "").expand(2, -1, -1)
    x = y = z

    @torch.no_grad()
    def eps(at, t):
        t = torch.full((2,), t)
        e_u, e_c = (model(at, t, text).eps for text in (u, c))
        return e_u + W * (e_c - e_u)

    for v in visits(model.schedule, 3, **{k: w for k, w in scheduler_options(pipe).items() if k != "clip"}):
        a = (v.abar_prev / v.abar) ** 0.5
        b = (1 - v.abar_prev) ** 0.5 - a * (1 - v.abar) ** 0.5
        x, y = (y, x) if v.index % 2 else (x, y)
        x = a * x + b * eps(y, v.t)
        y = a * y + b * eps(x, v.t)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        x, y = (y, x) if v.index % 2 else (x, y)
    hook = Coupled(mix=p)
    got = last(denoise(pipe, PROMPTS, latents=z, steps=3, guidance=W, hooks=[hook])).x
    assert apart(got, x) < 1e-12 and apart(hook.other["source"], y) < 1e-12


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_edit_friendly_noises_bring_the_picture_back_in_float64(eta):
    pipe = exact()
    images = pictures(pipe)
    with torch.no_grad():
        z = encode(pipe.vae, images)
    for skip, left in ((0.0, STEPS), (0.5, STEPS // 2)):
        found = edit_friendly_inversion(pipe, images, PROMPTS, steps=STEPS, guidance=W, skip=skip, eta=eta)
        assert len(found.trajectory.timesteps) == left
        free = found.hooks[:1]                                       # the noises alone, without the pin
        assert apart(back(pipe, found, PROMPTS, hooks=free), z) < 1e-10
        assert apart(back(pipe, found, TARGETS, hooks=free), z) > 1e-4
        rows = [edit_friendly_inversion(pipe, images[i:i + 1], PROMPTS[i], steps=STEPS, guidance=W, skip=skip, eta=eta, rows=[i])
                for i in range(2)]
        assert apart(torch.cat([r.trajectory.noises for r in rows], 1), found.trajectory.noises) < 1e-8


def test_edit_friendly_noises_are_what_ddpm_lacks_of_independent_noisings():
    """z_t = (x_prev - mu(x_t)) / sigma with DDPM's posterior mean, written from x0 and x_t (Ho et al. 2020, eq. 7)."""
    pipe = exact()
    found = edit_friendly_inversion(pipe, pictures(pipe), PROMPTS, steps=STEPS, guidance=1.0, skip=0.0).trajectory
    model, c = denoiser(pipe), encode_prompt(pipe, PROMPTS)
    way = visits(model.schedule, STEPS, **{k: w for k, w in scheduler_options(pipe).items() if k != "clip"})
    for i, v in enumerate(way):
        x, alpha = found.latents[i], v.abar / v.abar_prev
        with torch.no_grad():
            x0 = model(x, torch.full((2,), v.t), c).x0
        mean = v.abar_prev**0.5 * (1 - alpha) / (1 - v.abar) * x0 + alpha**0.5 * (1 - v.abar_prev) / (1 - v.abar) * x
        assert apart(found.noises[i], found.latents[i + 1] - mean) < 1e-10
    clean = found.clean
    noise = [(found.latents[i] - v.abar**0.5 * clean) / (1 - v.abar) ** 0.5 for i, v in enumerate(way)]
    pairs = torch.corrcoef(torch.stack([n.flatten() for n in noise])) - torch.eye(STEPS, dtype=torch.float64)
    assert float(pairs.abs().max()) < 0.25 and all(abs(float(n.std()) - 1) < 0.1 for n in noise), "independent standard noise"


def test_a_path_that_the_run_follows_by_itself_lacks_nothing():
    pipe = exact()
    z = initial_noise(pipe, 2, seed=2).double()
    way = Trajectory.of(denoise(pipe, PROMPTS, latents=z, steps=STEPS, guidance=W))
    assert float(with_noises(pipe, way, PROMPTS, guidance=W, eta=0.0).noises.abs().max()) < 1e-12
    assert float(with_noises(pipe, way, PROMPTS, guidance=W, eta=1.0).noises.abs().max()) > 1e-3


# Held, or with another empty prompt -------------------------------------------------------------------------


def test_direct_inversion_returns_the_source_and_leaves_the_target_alone():
    pipe = shared(CASES[1])
    images = pictures(pipe)
    with torch.no_grad():
        z = encode(pipe.vae, images)
    held, free = (swap_prompt(pipe, PROMPTS, TARGETS, image=images, inversion=name, steps=STEPS, guidance=7.5)
                  for name in ("direct", "ddim"))
    assert torch.equal(held.trajectory["source"].clean, z) and apart(free.trajectory["source"].clean, z) > 1e-3
    assert torch.equal(held.trajectory["edit"].clean, free.trajectory["edit"].clean)
    assert torch.equal(held.images["source"], images)


def test_negative_prompt_inversion_is_the_pass_at_weight_one():
    pipe = shared(CASES[1])
    found = negative_prompt_inversion(pipe, pictures(pipe), PROMPTS, steps=STEPS)
    plain = last(denoise(pipe, PROMPTS, latents=found.trajectory.noise, steps=STEPS, guidance=1.0)).x
    for w in (2.0, 7.5):
        assert apart(back(pipe, found, PROMPTS, guidance=w), plain) < 1e-4
    made = swap_prompt(pipe, PROMPTS, PROMPTS, inversion=found, guidance=7.5)
    assert all(apart(made.trajectory[branch].clean, plain) < 1e-4 for branch in ("source", "edit"))
    with_target = back(pipe, found, TARGETS, guidance=7.5)
    c, t = encode_prompt(pipe, PROMPTS), encode_prompt(pipe, TARGETS)
    texts = {"prompt": t, "empty": c}
    assert apart(with_target, last(run(denoiser(pipe), found.trajectory.noise, texts, steps=STEPS, guider=CFG(7.5),
                                       **scheduler_options(pipe))).x) < 1e-5


# Null-text --------------------------------------------------------------------------------------------------


def test_null_text_lowers_every_loss_and_comes_closer_and_can_be_replayed():
    pipe = exact()
    images = pictures(pipe)
    pivot = direct_inversion(pipe, images, PROMPTS, steps=STEPS, hold=False).trajectory
    fit = fit_empty(pipe, pivot, PROMPTS, guidance=7.5, inner=12, lr=0.1)
    losses = torch.stack(fit.losses)
    assert bool((losses[:, 1] <= losses[:, 0]).all()) and float(losses[:, 1].sum()) < 0.7 * float(losses[:, 0].sum())
    found = Inversion("null-text", pivot, empty=torch.stack(fit.found))
    ddim = Inversion("ddim", pivot)
    ours, plain = (back(pipe, i, PROMPTS, guidance=7.5) for i in (found, ddim))
    assert float((ours - pivot.clean).square().mean()) < 0.5 * float((plain - pivot.clean).square().mean())
    end = (ours - pivot.clean).square().mean((1, 2, 3))
    assert torch.allclose(end, losses[-1, 1], rtol=1e-6), "a replay ends where the fit ended"
    wild = fit_empty(pipe, pivot, PROMPTS, guidance=7.5, inner=5, lr=20.0)
    jumped = back(pipe, Inversion("null-text", pivot, empty=torch.stack(wild.found)), PROMPTS, guidance=7.5)
    worst = torch.stack(wild.losses)
    assert bool((worst[:, 1] <= worst[:, 0]).all()), "a rate that jumps about loses nothing"
    assert torch.allclose((jumped - pivot.clean).square().mean((1, 2, 3)), worst[-1, 1], rtol=1e-6)
    second = Trajectory(pivot.latents[:, 1:], pivot.timesteps, pivot.eps[:, 1:])
    alone = fit_empty(pipe, second, PROMPTS[1], guidance=7.5, inner=12, lr=0.1)
    assert apart(torch.stack(alone.found), torch.stack(fit.found)[:, 1:]) < 1e-8, "a batch is a loop of singles"


def test_the_first_step_of_the_fit_by_finite_differences_and_by_hand():
    """One step of Adam moves every number by lr against the sign of its gradient (Kingma and Ba 2015, bias corrected)."""
    pipe = exact()
    pivot = direct_inversion(pipe, pictures(pipe, 1), PROMPTS[0], steps=STEPS, hold=False).trajectory
    fit = FitEmpty(pivot, encode_prompt(pipe, ""), guidance=W, inner=1, lr=1e-3, stop=0.0)
    model, c, u = denoiser(pipe), encode_prompt(pipe, PROMPTS[0]), encode_prompt(pipe, "")
    v = visits(model.schedule, STEPS, **{k: w for k, w in scheduler_options(pipe).items() if k != "clip"})[0]

    @torch.no_grad()
    def loss(at):
        x, t = pivot.noise, torch.full((1,), v.t)
        eps = model(x, t, at).eps
        eps = eps + W * (model(x, t, c).eps - eps)
        x0 = (x - (1 - v.abar) ** 0.5 * eps) / v.abar**0.5
        return float((v.abar_prev**0.5 * x0 + (1 - v.abar_prev) ** 0.5 * eps - pivot.latents[1]).square().mean())

    texts = {"prompt": c, "empty": fit.text}
    next(run(model, pivot.noise, texts, steps=pivot.timesteps, guider=CFG(W), hooks=[fit], **scheduler_options(pipe)))
    assert float(fit.losses[0][0]) == pytest.approx(loss(u), rel=1e-9)
    assert float(fit.losses[0][1]) == pytest.approx(loss(fit.found[0]), rel=1e-9) and loss(fit.found[0]) < loss(u)
    moved = (fit.found[0] - u)[0]
    for token, column in ((1, 3), (5, 0), (9, 20)):
        step = torch.zeros_like(u)
        step[0, token, column] = 1e-4
        slope = (loss(u + step) - loss(u - step)) / 2e-4
        assert float(moved[token, column]) == pytest.approx(-1e-3 * (1 if slope > 0 else -1), rel=1e-2)


def test_a_row_that_is_near_enough_waits_for_the_others():
    pipe = exact()
    pivot = direct_inversion(pipe, pictures(pipe), PROMPTS, steps=STEPS, hold=False).trajectory
    first = fit_empty(pipe, pivot, PROMPTS, guidance=7.5, inner=0).losses[0][0]
    fit = FitEmpty(pivot, encode_prompt(pipe, ""), guidance=7.5, inner=3, lr=0.1, stop=float(first.mean()))
    texts = {"prompt": encode_prompt(pipe, PROMPTS), "empty": fit.text}
    next(run(denoiser(pipe), pivot.noise, texts, steps=pivot.timesteps, guider=CFG(7.5), hooks=[fit], **scheduler_options(pipe)))
    near, far = int(first.argmin()), int(first.argmax())
    start = encode_prompt(pipe, "")[0]
    assert torch.equal(fit.found[0][near], start) and apart(fit.found[0][far], start) > 0.05


def test_at_weight_one_the_empty_prompt_has_no_say_and_is_refused():
    pipe = shared(CASES[1])
    pivot = direct_inversion(pipe, pictures(pipe), PROMPTS, steps=2, hold=False).trajectory
    with pytest.raises(BadInput, match="gradient is zero"):
        fit_empty(pipe, pivot, PROMPTS, guidance=1.0)


# By name ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVERSIONS)
def test_every_inversion_goes_together_with_prompt_to_prompt(name):
    pipe = shared(CASES[0])
    images = pictures(pipe)
    made = prompt_to_prompt(pipe, PROMPTS, TARGETS, image=images, inversion=name, steps=3, guidance=2.0, maps=False)
    assert torch.equal(made.images["source"], images) and bool(torch.isfinite(made.edit).all())
    kept = inverted(pipe, images, PROMPTS, name, steps=3, guidance=2.0)
    assert kept.method == name
    again = prompt_to_prompt(pipe, PROMPTS, TARGETS, inversion=kept, steps=3, guidance=2.0, maps=False)
    assert apart(made.edit, again.edit) < 1e-4, "an inversion that is there already gives the same edit"
    same = swap_prompt(pipe, PROMPTS, PROMPTS, inversion=kept, steps=3, guidance=2.0)
    assert apart(same.trajectory["edit"].clean, made.trajectory["edit"].clean) > 1e-4


def test_the_command_line_has_the_knob_and_errors_teach():
    assert options_of(prompt_to_prompt, ["inversion=null-text"]) == {"inversion": "null-text"} and "swap-prompt" in METHODS
    pipe = shared(CASES[1])
    with pytest.raises(BadInput, match="a picture to invert"):
        prompt_to_prompt(pipe, *PROMPTS[:2], seed=0, inversion="direct")
    with pytest.raises(BadInput, match="null-text"):
        swap_prompt(pipe, *PROMPTS[:2], image=pictures(pipe, 1), inversion="nulltext")
    with pytest.raises(BadInput, match="mix"):
        Coupled(mix=0.0)
    with pytest.raises(BadInput, match="skip"):
        edit_friendly_inversion(pipe, pictures(pipe), PROMPTS, skip=1.0)
