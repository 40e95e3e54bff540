"""The bound: brute force over all 256 bytes, closed forms of the papers, the sampler's expectation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from minidiff.diffusion import (
    Eps,
    Gaussian,
    LearnedRange,
    LossAwareSampler,
    bits_per_dim,
    bound_steps,
    cosine,
    decoder_nll,
    eps_from_x0,
    linear,
    normal_kl,
    prior_term,
    q_sample,
    scaled_linear,
    vlb_term,
)
from minidiff.errors import BadInput

LN2 = math.log(2)
S = linear()


def phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def test_normal_kl_by_quadrature() -> None:
    m1, v1, m2, v2 = 0.3, 0.5, -0.2, 1.7
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    log_p, log_q = (-0.5 * (math.log(2 * math.pi * v) + (x - m) ** 2 / v) for m, v in ((m1, v1), (m2, v2)))
    want = torch.trapezoid(log_p.exp() * (log_p - log_q), x)
    args = [torch.tensor(a, dtype=torch.float64) for a in (m1, math.log(v1), m2, math.log(v2))]
    assert float(normal_kl(*args)) == pytest.approx(float(want), abs=1e-9)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.37, 0.004), (-0.999, 0.02), (1.4, 0.3)])
def test_decoder_is_the_mass_of_a_byte(mean: float, std: float) -> None:
    """Each byte's bin by math.erfc, and the 256 masses sum to 1."""
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    nll = decoder_nll(x, torch.full_like(x, mean), torch.full_like(x, 2 * math.log(std)))
    for i in range(256):
        high = 1.0 if i == 255 else phi((float(x[i]) + 1 / 255 - mean) / std)
        low = 0.0 if i == 0 else phi((float(x[i]) - 1 / 255 - mean) / std)
        mass = high - low if low < 0.5 else phi(-(float(x[i]) - 1 / 255 - mean) / std) - (
            0.0 if i == 255 else phi(-(float(x[i]) + 1 / 255 - mean) / std))
        assert float(nll[i]) == pytest.approx(-math.log(max(mass, 1e-12)), rel=1e-6, abs=1e-9)
    assert float((-nll).exp().sum()) == pytest.approx(1, abs=1e-9)
    near = decoder_nll(x, torch.full_like(x, mean), torch.full_like(x, 2 * math.log(std)), cdf="tanh")
    assert 0 < float(((-near).exp() - (-nll).exp()).abs().max()) < 1e-3  # the published approximation, not the same


@pytest.mark.parametrize("cdf", ["erf", "tanh"])
def test_decoder_in_float32_keeps_its_digits_in_both_tails(cdf: str) -> None:
    """5 standard deviations out, 1 - 1e-7 would be 1: the mirror image must give the same number, and float64 too."""
    x = torch.linspace(-0.9, 0.9, 19)
    mean, logvar = torch.zeros_like(x), torch.full_like(x, 2 * math.log(0.18))
    nll = decoder_nll(x, mean, logvar, cdf=cdf)
    assert torch.allclose(nll, nll.flip(0), rtol=1e-5)
    if cdf == "erf":
        assert torch.allclose(nll.double(), decoder_nll(x.double(), mean.double(), logvar.double()), rtol=1e-4)


def test_decoder_has_finite_gradients() -> None:
    x = torch.tensor([[-1.0, 1.0, 0.0, 0.5]], dtype=torch.float64)
    mean = torch.tensor([[50.0, -50.0, 0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    decoder_nll(x, mean, torch.full_like(x, -14.0)).sum().backward()
    assert bool(torch.isfinite(mean.grad).all())


@pytest.mark.parametrize(("schedule", "square", "bits", "digits"), [
    (S, 1.0, 2.911e-5, 5e-9), (S, 0.25, 7.28e-6, 5e-9), (scaled_linear(), 1.0, 3.37e-3, 5e-6)])
def test_prior_term_numbers(schedule, square: float, bits: float, digits: float) -> None:
    """generative.md 1.6."""
    x0 = torch.full((2, 3, 4, 4), math.sqrt(square), dtype=torch.float64)
    got = prior_term(x0, schedule)
    assert got.shape == (2,) and float(got[0]) == pytest.approx(bits, abs=digits)


@pytest.mark.parametrize(("t", "large", "small"), [(2, 0.272692, 0.599672), (10, 0.0737170, 0.0864366),
                                                   (100, 0.0100813, 0.0102670), (1000, 0.0102045, 0.0102045)])
def test_weight_on_the_eps_error(t: int, large: float, small: float) -> None:
    """KL grows with beta^2 / (2 var alpha (1 - abar)) ||d eps||^2 (Ho et al. 2020, eq. 12); for the small variance that is
    (SNR(t-1) / SNR(t) - 1) / 2. Numbers of generative.md 1.6, where t counts from 1."""
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 1, 1, 4, 4, generator=g, dtype=torch.float64)
    for variance, weight in (("large", large), ("small", small)):
        right, wrong = (vlb_term(Eps(lambda x, t, d=d: noise + d, S), x0, t - 1, noise, variance=variance) for d in (0.0, 0.5))
        assert float(wrong - right) * LN2 / 0.25 == pytest.approx(weight, rel=2e-5)
    ratio = float(S.snr[t - 2] / S.snr[t - 1])
    assert small == pytest.approx(0.5 * (ratio - 1), rel=2e-5)
    assert float(vlb_term(Eps(lambda x, t: noise, S), x0, t - 1, noise)) == pytest.approx(0, abs=1e-12)


def test_first_term_is_the_decoder() -> None:
    """t = 0 in a mixed batch: -log p(x0 | x_1) around the predicted mean, with the variance of index 1."""
    x0 = (torch.randint(0, 256, (3, 1, 2, 2), generator=torch.Generator().manual_seed(0)).double() / 127.5) - 1
    noise = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0, 5, 0])
    model = Eps(lambda x, t: 0.9 * noise, S)
    got = vlb_term(model, x0, t, noise)
    var = float(S.beta[1] * (1 - S.abar[0]) / (1 - S.abar[1]))
    guess = model(q_sample(x0, t, noise, S), t).x0  # at t = 0 the mean of p is x0-hat itself
    for row in (0, 2):
        mass = [max(phi((a - m + 1 / 255) / math.sqrt(var)) - phi((a - m - 1 / 255) / math.sqrt(var)), 1e-12)
                for a, m in zip(x0[row].flatten().tolist(), guess[row].flatten().tolist(), strict=True)]
        assert float(got[row]) == pytest.approx(-sum(map(math.log, mass)) / 4 / LN2, rel=1e-5)
    alone = vlb_term(Eps(lambda x, t: 0.9 * noise[1:2], S), x0[1:2], 5, noise[1:2])
    assert float(got[1]) == pytest.approx(float(alone), rel=1e-12)


def test_learned_variance_is_between_the_two_in_log() -> None:
    x0, noise = torch.randn(2, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def at(v: float) -> Tensor:
        model = LearnedRange(Eps(lambda x, t: torch.cat([noise + 0.3, 0 * x + v], 1), S))
        return vlb_term(model, x0, 40, noise, variance="learned")

    base = Eps(lambda x, t: noise + 0.3, S)
    assert torch.allclose(at(-1.0), vlb_term(base, x0, 40, noise, variance="small"))
    assert torch.allclose(at(1.0), vlb_term(base, x0, 40, noise, variance="large"))
    middle = math.sqrt(float(S.variance("small", 40) * S.variance("large", 40)))
    assert torch.allclose(at(0.0), vlb_term(base, x0, 40, noise, variance=lambda t, p: torch.full(t.shape, middle)), rtol=1e-6)


def pictures() -> Tensor:
    g = torch.Generator().manual_seed(3)
    return ((0.5 * torch.randn(16, 1, 4, 4, generator=g, dtype=torch.float64)).clamp(-1, 1) * 127.5).round() / 127.5


def test_bound_adds_up_and_rate_grows() -> None:
    """Terms sum to the total; the rate rises along the chain, the distortion falls; both by their own definition."""
    schedule, x0 = cosine(50), pictures()
    model = Gaussian(schedule, std=0.5)
    b = bits_per_dim(model, x0, variance="small", clip="x0")
    assert b.total.shape == (16,) and b.terms.shape == b.rate.shape == b.distortion.shape == (16, 50)
    assert torch.allclose(b.total, b.prior + b.terms.sum(1), rtol=1e-12)
    assert torch.allclose(b.rate[:, -1], b.prior) and torch.allclose(b.prior, prior_term(x0, schedule))
    assert torch.allclose(b.rate[:, 0] + b.terms[:, 0], b.total, rtol=1e-12)
    assert bool((b.rate[:, :-1] > b.rate[:, 1:]).all())
    mean = b.distortion.mean(0)
    assert float(mean[0]) < float(mean[25]) < float(mean[49])
    assert float(mean[49]) == pytest.approx(127.5 * float(x0.square().mean((1, 2, 3)).sqrt().mean()), rel=0.02)  # guess: 0
    steps = list(bound_steps(model, x0, variance="small", clip="x0"))
    assert [s.t for s in steps] == list(range(49, -1, -1))
    assert torch.equal(torch.stack([s.term for s in steps[::-1]], 1), b.terms)  # the same noise every time
    assert torch.allclose(127.5 * (steps[3].x0 - x0).square().mean((1, 2, 3)).sqrt(), steps[3].distortion)


def test_bound_of_the_true_model_is_near_the_entropy_of_the_bytes() -> None:
    """Data N(0, .5^2) rounded to bytes: about log2 of (density entropy / bin width) bits."""
    schedule, x0 = cosine(200), pictures()
    model = Gaussian(schedule, std=0.5)
    total = float(bits_per_dim(model, x0, variance=model.variance).total.mean())
    own = float((0.5 * math.log(2 * math.pi * 0.25) + x0.square() / 0.5).mean()) / LN2 - math.log2(2 / 255)
    assert total == pytest.approx(own, abs=0.1)
    assert total < float(bits_per_dim(model, x0, variance="large").total.mean())


def test_loss_aware_sampler() -> None:
    sampler = LossAwareSampler(4, history=2, uniform=0.01)
    even = sampler.probability()
    assert even.tolist() == [0.25] * 4
    sampler.update(torch.tensor([0, 1, 2, 3, 0, 1, 2]), torch.tensor([9.0, 1, 1, 0, 3, 1, 2]))
    assert sampler.probability().tolist() == [0.25] * 4  # t = 3 has been seen once only
    sampler.update(torch.tensor([3, 0]), torch.tensor([0.0, 4.0]))  # the 9 of t = 0 drops out of its history
    root = torch.tensor([math.sqrt((9 + 16) / 2), 1, math.sqrt(2.5), 0], dtype=torch.float64)
    assert torch.allclose(sampler.probability(), 0.99 * root / root.sum() + 0.0025)
    t, weight = sampler.draw(100_000, torch.Generator().manual_seed(0))
    assert torch.allclose(torch.bincount(t, minlength=4) / 1e5, sampler.probability().float(), atol=0.01)
    loss = torch.tensor([1.0, -2.0, 5.0, 0.5], dtype=torch.float64)
    assert float((loss[t] * weight).mean()) == pytest.approx(float(loss.mean()), abs=0.1)  # unbiased


@pytest.mark.parametrize(("call", "words"), [
    (lambda m, x: bound_steps(m, x, variance="medium"), "'small'"),
    (lambda m, x: bound_steps(m, x, variance="learned"), "LearnedRange"),
    (lambda m, x: bound_steps(m, x, decoder="gauss"), "'erf'"),
    (lambda m, x: bound_steps(m, x[0]), "one picture"),
    (lambda m, x: bound_steps(m, x / 0), "finite"),
    (lambda m, x: vlb_term(m, x, 1000, x), "0 = one noising step"),
    (lambda m, x: decoder_nll(x, x, x, cdf="normal"), "'erf'"),
    (lambda m, x: LossAwareSampler(0), "at least 1"),
    (lambda m, x: LossAwareSampler(4, uniform=2.0), "share"),
])
def test_bad_input_is_refused(call, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call(Gaussian(S), pictures())


def test_eps_and_x0_views_give_the_same_bound() -> None:
    x0, noise = torch.randn(2, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = q_sample(x0, 300, noise, S)
    from minidiff.diffusion import X0

    a = vlb_term(Eps(lambda x, t: 0.7 * noise, S), x0, 300, noise)
    guess = (x - (1 - S.at(300)).sqrt() * 0.7 * noise) / S.at(300).sqrt()
    assert torch.allclose(eps_from_x0(x, guess, 300, S), 0.7 * noise)
    assert torch.allclose(a, vlb_term(X0(lambda x, t: guess, S), x0, 300, noise), rtol=1e-9)
