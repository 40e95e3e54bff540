"""Schedules against numbers worked out elsewhere, a plain-Python product, diffusers' betas and Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch

from minidiff.diffusion import (
    Schedule,
    const,
    cosine,
    jsd,
    linear,
    make_schedule,
    quad,
    scaled_linear,
    sigmoid,
    sigmoid_beta,
    warmup,
    zero_terminal,
)
from minidiff.errors import BadInput

MAKERS = [linear, cosine, sigmoid, sigmoid_beta, scaled_linear, quad, warmup, const, jsd]


@pytest.mark.parametrize(("made", "values"), [
    (linear(), {0: 0.9999, 499: 0.0785872, 999: 4.035830e-5}),
    (cosine(), {0: 0.9999587, 499: 0.4938436, 999: 2.42877e-9}),
    (sigmoid(), {0: 0.9996997, 499: 0.5, 999: 3.00279e-7}),
    (scaled_linear(), {0: 0.99915, 499: 0.2776697, 999: 0.0046601}),
    (scaled_linear(start=0.0015, end=0.0195), {0: 0.9985, 499: 0.1158445, 999: 1.42304e-4}),
    (zero_terminal(scaled_linear()), {0: 0.99915, 998: 1.96789e-7, 999: 0.0}),
], ids=lambda v: getattr(v, "name", ""))
def test_reference_values(made: Schedule, values: dict[int, float]) -> None:
    """Table of methods/generative.md 1.3: to 1e-6, and the small ones to the six or seven digits given."""
    for index, value in values.items():
        assert float(made.abar[index]) == pytest.approx(value, abs=1e-6)
        assert float(made.abar[index]) == pytest.approx(value, rel=2e-5 if value < 0.01 else 1e-6)


def test_more_reference_values() -> None:
    sd = scaled_linear()
    assert float(sd.abar[999].sqrt()) == pytest.approx(0.0682649, abs=1e-7)
    assert float(sd.snr[999]) == pytest.approx(0.0046819, abs=1e-7)
    assert float(sigmoid().abar[499]) == pytest.approx(0.5, abs=1e-14)
    assert int((cosine().beta > 0.999 - 1e-12).sum()) == 1  # exactly one beta is clipped
    assert jsd(4).abar.tolist() == [0.75, 0.5, 0.25, 0.0]
    assert jsd(4).beta.tolist() == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])
    assert warmup(10, part=0.5).beta.tolist() == pytest.approx([1e-4, 0.005075, 0.01005, 0.015025, 0.02] + [0.02] * 5)
    assert const(3, beta=0.5).abar.tolist() == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("T", [20, 100, 1000, 4000])
def test_linear_is_the_product_by_hand_and_rescaled(T: int) -> None:
    abar, k = 1.0, 1000 / T
    for i in range(T):
        abar *= 1 - k * (1e-4 + (0.02 - 1e-4) * i / (T - 1))
    assert float(linear(T).abar[-1]) == pytest.approx(abar, rel=1e-9, abs=1e-15)
    if T > 100:
        assert float(linear(T).abar[-1]) == pytest.approx(4e-5, rel=0.1)  # rescaling keeps the end where it was
    assert float(linear(1000, rescale=False).abar[-1]) == float(linear(1000).abar[-1])


@pytest.mark.parametrize(("made", "name"), [(linear(), "linear"), (scaled_linear(), "scaled_linear"),
                                            (cosine(), "squaredcos_cap_v2"), (sigmoid_beta(), "sigmoid")], ids=str)
def test_betas_of_diffusers(made: Schedule, name: str) -> None:
    from diffusers import DDPMScheduler

    ends = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {}
    theirs = DDPMScheduler(beta_schedule=name, **ends)
    assert float((made.beta - theirs.betas.double()).abs().max()) < 1e-6
    zero = DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=True, **ends)
    assert float((zero_terminal(made).abar.sqrt() - zero.alphas_cumprod.double().sqrt()).abs().max()) < 1e-4  # float32 tables


@pytest.mark.parametrize("make", MAKERS)
def test_derived_tables_agree(make) -> None:
    s = make(50)
    inner = s.abar > 0
    assert torch.allclose(torch.cumprod(1 - s.beta, 0), s.abar, atol=1e-14)
    assert torch.allclose(s.alpha + s.beta, torch.ones_like(s.beta))
    assert torch.allclose(s.snr, s.abar / (1 - s.abar))
    assert torch.allclose(s.sigma[inner] ** -2, s.snr[inner], rtol=1e-10)
    assert torch.allclose(s.lam[inner].mul(2).exp(), s.snr[inner], rtol=1e-10)
    assert bool((s.abar[1:] < s.abar[:-1]).all()) and s.abar.dtype == torch.float64
    assert s.T == len(s.abar) == 50 and make_schedule(make.__name__, 50).abar.equal(s.abar)


@pytest.mark.parametrize(("t", "p"), [(1, 0), (500, 499), (999, 998), (999, 499), (40, 3)])
@pytest.mark.parametrize("make", [linear, cosine, sigmoid])
def test_posterior_by_bayes(make, t: int, p: int) -> None:
    """Precision of a product of two Gaussians, q(x_t | x_p) q(x_p | x_0): no formula of ours."""
    s = make()
    a_t, a_p = float(s.abar[t]), float(s.abar[p])
    alpha = a_t / a_p
    precision = alpha / (1 - alpha) + 1 / (1 - a_p)
    c1, c2, var = (float(c) for c in s.posterior(t, p))
    assert var == pytest.approx(1 / precision, rel=1e-9)
    assert c1 == pytest.approx(math.sqrt(a_p) / (1 - a_p) / precision, rel=1e-9)
    assert c2 == pytest.approx(math.sqrt(alpha) / (1 - alpha) / precision, rel=1e-9)
    assert float(s.variance("small", t, p)) == var and float(s.variance("large", t, p)) == pytest.approx(1 - alpha, rel=1e-12)


def test_posterior_mean_in_eps_form() -> None:
    """Ho et al. 2020, eq. 11: (x_t - beta / sqrt(1 - abar) eps) / sqrt(alpha), to 1e-6 (here 1e-11)."""
    s, t = linear(), torch.arange(1000)
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1000, generator=g, dtype=torch.float64)
    x = s.abar.sqrt() * x0 + (1 - s.abar).sqrt() * eps
    c1, c2, _ = s.posterior(t)
    assert torch.allclose(c1 * x0 + c2 * x, (x - s.beta / (1 - s.abar).sqrt() * eps) / s.alpha.sqrt(), atol=1e-11)


def test_log_variance_at_index_0() -> None:
    s = linear()
    assert torch.allclose(s.log_variance("small")[1:], s.posterior(torch.arange(1, 1000)).var.log())
    assert torch.allclose(s.log_variance("large")[1:], s.beta[1:].log())
    second = math.log(float(s.beta[1] * (1 - s.abar[0]) / (1 - s.abar[1])))
    for kind in ("small", "large"):
        assert float(s.log_variance(kind)[0]) == pytest.approx(second, rel=1e-12)
    assert float(s.log_variance("small", first="clamp")[0]) == pytest.approx(math.log(1e-20))
    assert float(s.log_variance("large", first="plain")[0]) == pytest.approx(math.log(1e-4))


def test_at_reads_integers_and_between() -> None:
    s = cosine()
    t = torch.tensor([-1, 0, 499, 999])
    assert s.at(t).tolist() == [1.0, *s.abar[[0, 499, 999]].tolist()]
    assert float(s.at(-1)) == 1.0 and s.at(3).ndim == 0 and s.at(3).dtype == torch.float64
    assert torch.allclose(s.at(torch.tensor([0.0, 499.0, 999.0])), s.abar[[0, 499, 999]], rtol=1e-12)
    half = float(s.at(499.5))
    lam = 0.5 * float(s.lam[499] + s.lam[500])
    assert 0.5 * math.log(half / (1 - half)) == pytest.approx(lam, abs=1e-12)
    t = torch.linspace(0, 999, 37, dtype=torch.float64)
    abar = s.at(t)
    assert torch.allclose(s.t_from_sigma(((1 - abar) / abar).sqrt()), t, atol=1e-6)
    assert float(zero_terminal(s).at(999.0)) == 0.0


def test_the_table_is_its_own() -> None:
    abar = torch.tensor([0.9, 0.5])
    s = Schedule(abar)
    abar[0] = 0.1
    assert float(s.abar[0]) == pytest.approx(0.9)
    assert repr(linear()) == "Schedule('linear', T=1000, abar 0.9999 .. 4.04e-05)"  # one line in a notebook, not the table


@pytest.mark.parametrize(("call", "words"), [
    (lambda: linear(10), "at least 20"),
    (lambda: linear(19), "at least 20"),
    (lambda: linear(0), "at least 1"),
    (lambda: cosine(2.5), "whole number"),
    (lambda: scaled_linear(end=1.5), "every beta"),
    (lambda: Schedule(torch.tensor([0.5, 0.6])), "decreasing"),
    (lambda: Schedule(torch.tensor([1.0, 0.6])), "decreasing"),
    (lambda: Schedule(torch.tensor([0.5, -0.1])), "decreasing"),
    (lambda: Schedule(torch.tensor([0.5, float("nan")])), "NaN"),
    (lambda: Schedule(torch.ones(2, 2)), "shape"),
    (lambda: make_schedule("cosin"), "'cosine'"),
    (lambda: make_schedule("cosine", endd=1.0), "option of cosine"),
    (lambda: linear().at(1000), "count from 1"),
    (lambda: linear().at(torch.tensor([3, -2])), "-1, 999"),
    (lambda: linear().at(-0.5), "0, 999"),
    (lambda: linear().at(999.5), "0, 999"),
    (lambda: linear().at(float("nan")), "0, 999"),
    (lambda: linear().at("3"), "integer"),
    (lambda: linear().variance("medium", 3), "'small'"),
    (lambda: zero_terminal(linear()).t_from_sigma(torch.tensor(1.0)), "finite"),
])
def test_bad_input_is_refused(call, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call()


def test_linear_ends_at_zero_snr_for_twenty_steps() -> None:
    assert linear(20).zero_snr and not linear(21).zero_snr
