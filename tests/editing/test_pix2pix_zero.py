"""Pix2Pix-Zero: the direction, the loss and its gradient, the regularisers in closed form, and two published defects."""

from __future__ import annotations

import pytest
import torch

from minidiff import BadInput, load
from minidiff.diffusion import last
from minidiff.editing.pix2pix_zero import (
    MapDistance,
    NoiseRegularizer,
    auto_correlation,
    edit_direction,
    kl_to_normal,
    pix2pix_zero,
)
from minidiff.latent import denoise, denoiser, encode_prompt, initial_noise, invert_image, scheduler_options, token_indices
from minidiff.rng import normal
from minidiff.steer import CFG, LatentGuidance, Recorder, Trajectory, run
from tests.pipelines import CASES, make, shared

PROMPT = "a red cat on the grass"


def plain(pipe, z, said, **options):
    texts = {"prompt": said, "empty": encode_prompt(pipe, "")}
    return last(run(denoiser(pipe), z, texts, guider=CFG(5.0), **scheduler_options(pipe), **options))


# The direction -------------------------------------------------------------------------------------------------------------


def test_one_template_gives_the_exact_difference_and_mixed_ones_smear_it():
    pipe = shared(CASES[1])
    one = edit_direction(pipe, [PROMPT], [PROMPT.replace("cat", "dog")])
    want = encode_prompt(pipe, PROMPT.replace("cat", "dog")) - encode_prompt(pipe, PROMPT)
    assert torch.equal(one, want) and not edit_direction(pipe, [PROMPT] * 2, [PROMPT] * 2).any()
    bank = ["a cat", "a red cat", "a small red cat", "a cat on the grass"]
    smeared = edit_direction(pipe, bank, [t.replace("cat", "dog") for t in bank])
    aligned = edit_direction(pipe, bank, [t.replace("cat", "dog") for t in bank], words=("cat", "dog"), prompt=PROMPT)
    at = token_indices(pipe.tokenizer, PROMPT, "cat")[0]
    rest = [k for k in range(aligned.shape[1]) if k not in at]
    assert not aligned[:, rest].any() and bool(smeared[:, rest].abs().sum() > 0)
    rows = [encode_prompt(pipe, t.replace("cat", "dog"))[0, token_indices(pipe.tokenizer, t, "cat")[0][0]]
            - encode_prompt(pipe, t)[0, token_indices(pipe.tokenizer, t, "cat")[0][0]] for t in bank]
    assert torch.allclose(aligned[0, at[0]], torch.stack(rows).mean(0), atol=1e-5)


# Guidance ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [None, "official"])
def test_without_a_direction_the_loss_is_nothing_for_any_amount(compat):
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 2, seed=3)
    for amount in ({"relative": 0.5}, {"scale": 100.0}):
        zero = torch.zeros_like(encode_prompt(pipe, ""))
        made = pix2pix_zero(pipe, [PROMPT] * 2, zero, latents=z, steps=3, compat=compat, **amount)
        size = float(made.trajectory["source"].clean.abs().max())
        gap = float((made.trajectory["edit"].clean - made.trajectory["source"].clean).abs().max())
        if "scale" in amount:
            assert gap <= 1e-4 * size
        assert float(made.details["energy"].max()) < 1e-8


def test_without_a_direction_rounding_is_not_followed_on_the_shipped_model():
    """The second run rounds otherwise than the first (other batch, other kernel): a relative step must not follow that."""
    pipe = load("mini-sd")
    prompt, z = "a purple rabbit at night", initial_noise(pipe, 1, seed=0)
    zero = torch.zeros_like(encode_prompt(pipe, ""))
    made = pix2pix_zero(pipe, prompt, zero, latents=z, steps=3, relative=0.5)
    assert float(made.details["energy"].max()) == 0.0
    assert float((made.edit - made.images["source"]).abs().max()) < 1e-3


def test_an_amount_of_nothing_is_plain_sampling_with_the_shifted_embedding():
    pipe = shared(CASES[0])
    z = initial_noise(pipe, 1, seed=3)
    direction = edit_direction(pipe, ["a cat"], ["a dog"])
    made = pix2pix_zero(pipe, PROMPT, direction, latents=z, steps=3, relative=0.0)
    want = plain(pipe, z, encode_prompt(pipe, PROMPT) + direction, steps=3).x
    assert float((made.trajectory["edit"].clean - want).abs().max()) <= 1e-5 * float(want.abs().max())


def test_the_gradient_of_the_loss_by_finite_differences():
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    z, record = initial_noise(pipe, 1, seed=2).double(), Recorder()
    last(denoise(pipe, PROMPT, latents=z + 0.3 * normal(tuple(z.shape), "other", 0, dtype=torch.float64), steps=1, guidance=1.0,
                 hooks=[record]))

    def value(at, scale=0.0):
        push = LatentGuidance(MapDistance(record), scale=scale)
        state = last(denoise(pipe, PROMPT, latents=at, steps=1, guidance=1.0, hooks=[push]))
        return float(push.values[0]), state.before["source"]

    start, _ = value(z)
    gradient = z - value(z, 1.0)[1]
    assert start > 0
    for k in range(3):
        d = normal(tuple(z.shape), "direction", k, dtype=torch.float64)
        slope = (value(z + 1e-5 * d)[0] - value(z - 1e-5 * d)[0]) / 2e-5
        assert slope == pytest.approx(float((gradient * d).sum()), rel=1e-5, abs=1e-7 * float(gradient.norm()))


def test_the_published_rows_do_not_move_the_latent_at_the_first_step():
    """The code goes on from the empty prompt's row, whose maps equal the reference there: its gradient is exactly zero."""
    pipe = shared(CASES[1])
    z, direction = initial_noise(pipe, 1, seed=3), edit_direction(pipe, ["a cat"], ["a dog"])
    ours = pix2pix_zero(pipe, PROMPT, direction, latents=z, steps=3, scale=50.0)
    theirs = pix2pix_zero(pipe, PROMPT, direction, latents=z, steps=3, scale=50.0, compat="official")
    assert float((theirs.trajectory["edit"].latents[0] - z).abs().max()) <= 1e-6
    assert float((ours.trajectory["edit"].latents[0] - z).abs().max()) > 1e-4
    assert not torch.equal(theirs.trajectory["edit"].latents[1], theirs.trajectory["source"].latents[1]), "its prediction is used"
    assert not torch.equal(theirs.trajectory["edit"].clean, ours.trajectory["edit"].clean)


def test_the_loss_is_lowered_by_a_small_step():
    pipe = shared(CASES[1])
    z, direction = initial_noise(pipe, 1, seed=3), edit_direction(pipe, ["a cat"], ["a dog"])
    free, held = (pix2pix_zero(pipe, PROMPT, direction, latents=z, steps=6, relative=r).details["energy"] for r in (0.0, 0.05))
    assert float(held[0]) == pytest.approx(float(free[0]), rel=1e-4) and float(held[-1]) < float(free[-1])


# The noise -----------------------------------------------------------------------------------------------------------------


def test_the_regularisers_in_closed_form():
    assert float(kl_to_normal(torch.tensor([[-1.0, 1.0]], dtype=torch.float64))) == pytest.approx(0.0, abs=1e-6)
    x = 3.0 + 2.0 * torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    assert float(kl_to_normal(x)) == pytest.approx(4 + 9 - 1 - torch.log(torch.tensor(4.0)).item(), abs=1e-6)
    stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4).expand(1, 1, 8, 8).contiguous()
    assert float(auto_correlation(stripes, [(1, 1)])) == pytest.approx(1 + 1)          # down the same, to the right the opposite
    assert float(auto_correlation(stripes, [(2, 2), (1, 1)])) == pytest.approx(2.0), "averaged, the stripes are gone"


@pytest.mark.parametrize("loss", [kl_to_normal, lambda x: auto_correlation(x, [(3, 1), (1, 2)])], ids=["kl", "correlation"])
def test_the_gradients_of_the_regularisers_by_finite_differences(loss):
    x = (0.3 + 1.4 * normal((2, 4, 16, 16), "regularised", 0, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    for k in range(3):
        d = normal(tuple(x.shape), "direction", k, dtype=torch.float64)
        with torch.no_grad():
            slope = float((loss(x + 1e-5 * d) - loss(x - 1e-5 * d)).sum()) / 2e-5
        assert slope == pytest.approx(float((gradient * d).sum()), rel=1e-5, abs=1e-7 * float(gradient.norm()))


def test_white_noise_has_a_low_floor_and_a_shift_of_zero_reads_the_variance():
    noise = normal((64, 4, 16, 16), "white", 0)
    shifts = NoiseRegularizer().shifts((16, 16), 0)
    assert len(shifts) == 2 and float(auto_correlation(noise, shifts).mean()) < 0.06
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    assert float(auto_correlation(smooth / smooth.std(), [(1, 1), (1, 1)]).mean()) > 1
    assert float(auto_correlation(noise, [(0, 0), (0, 0)]).mean()) > 8, "roll 0: (mean n^2)^2, about 1 a channel and direction"


def test_a_shift_of_zero_is_drawn_only_with_diffusers_quirk():
    ours = [d for k in range(200) for pair in NoiseRegularizer().shifts((16, 12), k) for d in pair]
    theirs = [d for k in range(200) for pair in NoiseRegularizer(compat="diffusers").shifts((16, 12), k) for d in pair]
    assert min(ours) == 1 and max(ours) == 7 and min(theirs) == 0
    noise = normal((1, 4, 16, 16), "white", 1)
    leaf = noise.clone().requires_grad_()
    (g,) = torch.autograd.grad(auto_correlation(leaf, [(0, 0)]).sum(), leaf)
    assert float((noise - 5 * g).std()) < 0.97 * float(noise.std()), "it pushes the variance down"


def test_an_inversion_without_weights_is_plain_and_with_them_its_noise_is_whiter():
    pipe = shared(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    images = torch.nn.functional.interpolate(normal((2, 3, 4, 4), "smooth", 0), size=side).clamp(-1, 1)
    bare = Trajectory.of(invert_image(pipe, images, PROMPT, steps=4))
    off = Trajectory.of(invert_image(pipe, images, PROMPT, steps=4, hooks=[NoiseRegularizer(weight=0.0, kl=0.0)]))
    assert torch.allclose(off.noise, bare.noise, atol=1e-6)
    for measure, weights in ((lambda e: auto_correlation(e, [(1, 1)]), (2.0, 0.0)), (kl_to_normal, (0.0, 2.0))):
        hook = NoiseRegularizer(weight=weights[0], kl=weights[1])
        better = Trajectory.of(invert_image(pipe, images, PROMPT, steps=4, hooks=[hook]))
        assert float(measure(better.eps[-1]).mean()) < float(measure(bare.eps[-1]).mean())
    hooks = [NoiseRegularizer(weight=2.0, kl=2.0)]
    white = Trajectory.of(invert_image(pipe, images, PROMPT, steps=4, hooks=hooks))
    alone = Trajectory.of(invert_image(pipe, images[1:], PROMPT, steps=4, hooks=hooks))
    assert float((alone.noise - white.noise[1:]).abs().max()) < 1e-3, "a batch is a loop of singles"
    made = pix2pix_zero(pipe, PROMPT, torch.zeros(1, *encode_prompt(pipe, "").shape[1:]), trajectory=white, steps=4)
    assert made.edit.shape == images.shape


def test_it_refuses_what_it_cannot_do():
    pipe = shared(CASES[1])
    with pytest.raises(BadInput, match="direction"):
        pix2pix_zero(pipe, PROMPT, torch.zeros(3, 4))
    with pytest.raises(BadInput, match="compat"):
        pix2pix_zero(pipe, PROMPT, torch.zeros_like(encode_prompt(pipe, "")), compat="diffuser")
    with pytest.raises(BadInput, match="prompt"):
        edit_direction(pipe, ["a cat"], ["a dog"], words=("cat", "dog"))
