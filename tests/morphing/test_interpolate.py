"""Ends, walks, mixes, midpoints: against closed forms and against the samplers of the lower floors."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from minidiff.diffusion import Schedule, ddim, last, q_sample
from minidiff.diffusion.oracle import Gaussian
from minidiff.errors import BadInput
from minidiff.latent import decode, denoise, denoiser, encode, encode_prompt, initial_noise, invert_image
from minidiff.latent.pipeline import schedule_from, scheduler_options
from minidiff.morphing import (
    Ends,
    check_weights,
    cross_fade,
    ends_of,
    latent_lerp,
    lerp,
    midpoints,
    noise_levels,
    slerp,
    slerp_morph,
    walk,
    wang_golland,
)
from minidiff.rng import normal
from minidiff.show import pixels
from minidiff.steer import Trajectory
from tests.pipelines import CASES, make, shared

TEXTS = (["a red cat on the grass", "a blue dog"], ["a green star", "a red house on the beach"])


def pictures(pipe, n=2):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return tuple(normal((n, 3, side, side), "morph", k, 0).clamp(-1, 1) for k in range(2))


def test_slerp_keeps_the_variance_that_lerp_halves():
    """Of unit Gaussians lerp has variance (1-w)^2 + w^2, slerp 1; and what an exact network makes of data N(0, s^2)."""
    a, b = (normal((1, 400_000), "variance", k, 0, dtype=torch.float64) for k in range(2))
    for w in (0.25, 0.5, 0.8):
        assert float(lerp(a, b, w).var()) == pytest.approx((1 - w) ** 2 + w**2, abs=6e-3)
        assert float(slerp(a, b, w).var()) == pytest.approx(1, abs=6e-3)
    schedule, s = Schedule(torch.linspace(0.999, 0.0002, 400, dtype=torch.float64)), 0.5
    model = Gaussian(schedule, std=s)
    z = torch.stack([a[0, :4000], b[0, :4000]]).view(2, 1, 50, 80)
    for mix, want in ((lerp, s**2 / 2), (slerp, s**2)):
        x = last(ddim(model, mix(z[:1], z[1:], 0.5), steps=400)).x
        assert float(x.var()) == pytest.approx(want, rel=0.06)


@pytest.mark.parametrize("case", CASES)
def test_a_walk_is_plain_sampling_of_mixed_noise_and_mixed_text(case):
    pipe = shared(case)
    noise = tuple(initial_noise(pipe, 2, seed=s) for s in (1, 2))
    text = tuple(encode_prompt(pipe, t) for t in TEXTS)
    ends = Ends(noise, TEXTS, text)
    z = last(walk(pipe, ends, {"here": 0.3}, steps=3, guidance=2.5)).z
    assert list(z) == ["first", "here", "other"]
    for name, prompts, start in (("first", TEXTS[0], noise[0]), ("other", TEXTS[1], noise[1])):
        assert (z[name] - last(denoise(pipe, prompts, latents=start, steps=3, guidance=2.5)).x).abs().max() < 1e-4
    options = scheduler_options(pipe)
    model, condition, empty = denoiser(pipe), lerp(*text, 0.3), encode_prompt(pipe, "")

    class Guided:
        schedule = model.schedule

        def __call__(self, x, t, cond):
            c, u = model(x, t, cond), model(x, t, empty.expand_as(cond))
            return type(c)(u.x0 + 2.5 * (c.x0 - u.x0), u.eps + 2.5 * (c.eps - u.eps))

    want = last(ddim(Guided(), slerp(*noise, 0.3), steps=3, cond=condition, **options)).x
    assert (z["here"] - want).abs().max() < 1e-4
    flat = last(walk(pipe, ends, {"here": 0.3}, steps=3, mix="lerp", with_ends=False)).z
    assert list(flat) == ["here"]
    want = last(ddim(model, lerp(*noise, 0.3), steps=3, cond=condition, **options)).x
    assert (flat["here"] - want).abs().max() < 1e-4


def test_the_ends_of_a_morph_of_pictures_are_their_round_trips():
    pipe = shared(CASES[1])
    a, b = pictures(pipe)
    made = slerp_morph(pipe, a, b, TEXTS, weights=4, steps=3)
    assert made.images.shape == (2, 4, *a.shape[1:]) and made.weights == (0.0, 1 / 3, 2 / 3, 1.0)
    for k, (x, prompts) in enumerate(((a, TEXTS[0]), (b, TEXTS[1]))):
        noise = Trajectory.of(invert_image(pipe, x, prompts, steps=3, fixed_point=1)).noise
        back = decode(pipe.vae, last(denoise(pipe, prompts, latents=noise, steps=3, guidance=1.0)).x).clamp(-1, 1)
        assert (made.images[:, -k] - back).abs().max() < 1e-4
    one = slerp_morph(pipe, a[1], b[1], (TEXTS[0][1], TEXTS[1][1]), weights=[1 / 3], steps=3)
    assert (one.images[0, 0] - made.images[1, 1]).abs().max() < 1e-4, "a batch is a loop of singles, inside weights alone"


def test_prompts_share_their_noise_unless_two_seeds_are_given():
    pipe = shared(CASES[1])
    same, two = ends_of(pipe, "a red cat", TEXTS[1], seed=3), ends_of(pipe, "a red cat", TEXTS[1], seed=(3, 4))
    assert torch.equal(*same.noise) and torch.equal(same.noise[0], two.noise[0]) and not torch.equal(*two.noise)
    assert same.prompts == (["a red cat"] * 2, TEXTS[1])


def test_fades_are_straight_lines():
    pipe = shared(CASES[1])
    a, b = pictures(pipe)
    assert torch.allclose(cross_fade(a, b, [0.25])[:, 0], 0.75 * a + 0.25 * b)
    with torch.no_grad():
        want = decode(pipe.vae, 0.75 * encode(pipe.vae, a) + 0.25 * encode(pipe.vae, b)).clamp(-1, 1)
    assert torch.allclose(latent_lerp(pipe, a, b, [0.25])[:, 0], want, atol=1e-5)


# Wang and Golland ----------------------------------------------------------------------------------------------------


def test_a_midpoint_shares_one_noise_between_its_parents():
    """Equal parents: noise and denoise, nothing else; and the noise of a row is its own, whatever the batch."""
    pipe = shared(CASES[0])
    a = initial_noise(pipe, 2, seed=1)
    text, route = encode_prompt(pipe, TEXTS[0]), [601, 401, 201]
    got = midpoints(pipe, a, a, text, route, seed=5)
    from minidiff.diffusion import row_noise

    eps = row_noise(a.shape, seed=5, t=601, stream="midpoint")
    options = scheduler_options(pipe)
    z = q_sample(a, 601, eps, schedule_from(pipe.scheduler))
    want = last(ddim(denoiser(pipe), z, steps=route, cond=text, **options)).x
    assert (got - want).abs().max() < 1e-4
    single = midpoints(pipe, a[1:], a[1:], text[1:], route, seed=5, rows=[1])
    assert (single - got[1:]).abs().max() < 1e-4
    assert (midpoints(pipe, a, a, text, route, seed=6) - got).abs().max() > 1e-3
    b = initial_noise(pipe, 2, seed=2)
    z = slerp(*(q_sample(x, 601, eps, schedule_from(pipe.scheduler)) for x in (a, b)), 0.5)
    want = last(ddim(denoiser(pipe), z, steps=route, cond=text, **options)).x
    assert (midpoints(pipe, a, b, text, route, seed=5) - want).abs().max() < 1e-4


def test_noise_levels_are_shares_of_the_way():
    pipe = make(CASES[0])
    full, half, least = noise_levels(pipe, 10, (1.0, 0.5, 0.01))
    assert len(full) == 10 and half == full[5:] and least == full[-1:]
    with pytest.raises(BadInput, match="shares"):
        noise_levels(pipe, 10, (0.0,))


def test_the_tree_of_midpoints():
    pipe = shared(CASES[1])
    a, b = pictures(pipe)
    made = wang_golland(pipe, a, b, TEXTS, levels=2, steps=5, shares=(0.8, 0.4), seed=3)
    assert made.weights == (0.0, 0.25, 0.5, 0.75, 1.0) and made.images.shape[:2] == (2, 5)
    routes = noise_levels(pipe, 5, (0.8, 0.4))
    assert made.details["levels of noise"] == [route[0] for route in routes]
    with torch.no_grad():
        za, zb = encode(pipe.vae, a), encode(pipe.vae, b)
        assert torch.allclose(made.images[:, 0], decode(pipe.vae, za).clamp(-1, 1), atol=1e-5), "the ends are the pictures' codes"
    both = [encode_prompt(pipe, t) for t in TEXTS]
    middle = midpoints(pipe, za, zb, lerp(*both, 0.5), routes[0], seed=3)
    quarter = midpoints(pipe, za, middle, lerp(*both, 0.25), routes[1], seed=4)
    with torch.no_grad():
        assert (made.images[:, 2] - decode(pipe.vae, middle).clamp(-1, 1)).abs().max() < 1e-4
        assert (made.images[:, 1] - decode(pipe.vae, quarter).clamp(-1, 1)).abs().max() < 1e-4


# Files and refusals ----------------------------------------------------------------------------------------------------


def test_a_gif_plays_there_and_back(tmp_path):
    pipe = shared(CASES[1])
    made = slerp_morph(pipe, "a red cat", "a blue dog", weights=3, steps=1)
    data, _ = slerp_morph(pipe, "a red cat", "a blue dog", weights=9, steps=1)._repr_mimebundle_()
    assert "image/png" in data, "one strip, however long"
    with Image.open(made.save(tmp_path / "x.gif", milliseconds=60, scale=2)) as film:
        side = made.images.shape[-1]
        assert film.n_frames == 4 and film.size == (2 * side, 2 * side) and film.info["duration"] == 240
    with Image.open(made.save(tmp_path / "x.png", scale=1)) as sheet:
        assert sheet.size[1] == side and sheet.getpixel((0, 0)) == tuple(pixels(made.images[0])[0, 0, 0])
    for path, wrong in (("x.jpg", {}), ("x.gif", {"row": 1}), ("x.gif", {"scale": 0}), ("x.gif", {"milliseconds": 1})):
        with pytest.raises(BadInput):
            made.save(path, **wrong)


def test_what_cannot_be_morphed_is_refused():
    pipe = shared(CASES[1])
    a, b = pictures(pipe)
    for first, other, options in ((a, "a red cat", {}), (a, b[:, :, :8], {}), (a, b, {"prompts": "a red cat"}),
                                  (a, b, {"weights": 1}), (a, b, {"weights": [0.5, 0.2]}), (a, b, {"weights": [0.5, 1.2]}),
                                  (a, b, {"mix": "slurp"}), ("a red cat", "a blue dog", {"prompts": ("a", "b")}),
                                  (a, b, {"prompts": (["a cat"] * 3, "a dog")}), (a, b, {"guidance": float("nan")}),
                                  ("a red cat", "a blue dog", {"seed": (1, 2, 3)})):
        with pytest.raises(BadInput):
            slerp_morph(pipe, first, other, steps=1, **options)
    with pytest.raises(BadInput, match="levels"):
        wang_golland(pipe, a, b, levels=0)
    ends = ends_of(pipe, "a red cat", "a blue dog")
    with pytest.raises(BadInput, match="weights"):
        walk(pipe, ends, {"first": 0.5})
    assert check_weights(3) == (0.0, 0.5, 1.0)
