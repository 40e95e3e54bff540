"""Data with a closed form: the bound is the entropy, the sampled variances are known, and the solvers have their order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from minidiff.diffusion import (
    Gaussian,
    Mixture,
    Schedule,
    cosine,
    ddim,
    ddpm,
    dpm2m,
    euler,
    heun,
    last,
    linear,
    prior_term,
    q_sample,
    vlb_term,
)
from minidiff.diffusion import sample as sample_module
from minidiff.errors import BadInput

LN2 = math.log(2)


def hermite(s: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points and weights that average any quadratic of (x0 ~ N(0, s^2), noise ~ N(0, 1)) exactly."""
    z, w = (torch.tensor(a, dtype=torch.float64) for a in np.polynomial.hermite_e.hermegauss(4))
    w = w / w.sum()
    return (s * z.repeat_interleave(4)).view(-1, 1), z.repeat(4).view(-1, 1), torch.outer(w, w).flatten()


def exact_bound(model: Gaussian, variance) -> float:
    """The expected bound in nats per dimension, every expectation by quadrature."""
    x0, noise, w = hermite(model.std)
    T = model.schedule.T
    t = torch.arange(T).repeat_interleave(len(w))
    terms = vlb_term(model, x0.repeat(T, 1), t, noise.repeat(T, 1), variance=variance, decoder="density")
    return LN2 * float(w @ prior_term(x0, model.schedule) + (w @ terms.view(T, -1).T).sum())


@pytest.mark.parametrize("schedule", [cosine(1), cosine(2), cosine(10), cosine(100), linear(20), linear(100), linear(1000)],
                         ids=lambda s: f"{s.name}-{s.T}")
@pytest.mark.parametrize("s", [0.5, 1.0, 1.3])
def test_bound_with_the_optimal_variance_is_the_entropy(schedule: Schedule, s: float) -> None:
    """For any T, to 1e-5 nats; what is left over is KL(q(x_T) || N(0, 1)), which for cosine(1) is 1.2e-7 to 1e-6."""
    model = Gaussian(schedule, std=s)
    assert exact_bound(model, model.variance) == pytest.approx(model.entropy(), abs=1e-5)
    assert model.entropy() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * s * s))


def test_small_and_large_variance_cost_nats() -> None:
    """generative.md 1.10: .72579 nats, and .5699 (small) and .1147 (large) more at T = 1000, s^2 = .25."""
    model = Gaussian(linear(), std=0.5)
    assert model.entropy() == pytest.approx(0.72579, abs=1e-5)
    assert exact_bound(model, "small") - model.entropy() == pytest.approx(0.5699, abs=1e-4)
    assert exact_bound(model, "large") - model.entropy() == pytest.approx(0.1147, abs=1e-4)


def chain_variance(monkeypatch, model: Gaussian, variance: str) -> float:
    """The exact variance of what DDPM samples. The chain is linear, x = g x_T + sum g_i z_i, so feed it unit vectors:
    row 0 carries x_T, row i the noise of step i, and nothing else; then the variance is the sum of squares."""
    T = model.schedule.T
    turns = iter(range(1, T))

    def unit(shape: torch.Size, **_: object) -> Tensor:
        z = torch.zeros(shape, dtype=torch.float64)
        z[next(turns)] = 1
        return z

    monkeypatch.setattr(sample_module, "row_noise", unit)
    start = torch.zeros(T, 1, dtype=torch.float64)
    start[0] = 1
    end = last(ddpm(model, start, variance=model.variance if variance == "optimal" else variance)).x
    assert next(turns, None) is None  # T - 1 draws: none at the last step
    return float(end.square().sum())


@pytest.mark.parametrize(("s2", "variance", "value"), [
    (0.25, "small", 0.24613), (0.25, "large", 0.25075), (0.25, "optimal", 0.24990),
    (1.0, "small", 0.99107), (1.0, "large", 0.99990), (1.0, "optimal", 0.99990)])
def test_sampled_variance(monkeypatch, s2: float, variance: str, value: float) -> None:
    """generative.md 1.10, to the digits given."""
    got = chain_variance(monkeypatch, Gaussian(linear(), std=math.sqrt(s2)), variance)
    assert got == pytest.approx(value, abs=1e-5)


def test_ddim_with_eta_1_is_ddpm_small() -> None:
    """The same draws give the same pictures, so the same mean and variance."""
    model, x = Gaussian(linear(100), mean=0.3, std=0.5), torch.randn(7, 2, generator=torch.Generator().manual_seed(0)).double()
    a, b = list(ddpm(model, x, seed=1)), list(ddim(model, x, steps=100, eta=1.0, seed=1))
    for i, (one, two) in enumerate(zip(a, b, strict=True)):
        assert torch.allclose(one.x, two.x, atol=1e-10), i


def test_ddim_reaches_the_exact_map() -> None:
    """x_T -> x_T s / sqrt(abar_T s^2 + 1 - abar_T), closer with more steps."""
    s, schedule = 0.5, linear()
    model, x = Gaussian(schedule, std=s), torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    want = x * s / math.sqrt(float(schedule.abar[-1]) * s * s + 1 - float(schedule.abar[-1]))
    errors = [float((last(ddim(model, x, steps=n, spacing="trailing")).x - want).abs().max()) for n in (10, 100, 1000)]
    assert errors[0] > 8 * errors[1] > 64 * errors[2] and errors[2] < 4e-3
    assert torch.allclose(model.flow(x, 999, -1), want)


def even_grid(T: int) -> Schedule:
    """Steps evenly apart in lam, from +4 down to -4."""
    lam = torch.linspace(4, -4, T, dtype=torch.float64)
    return Schedule(torch.sigmoid(2 * lam), "even")


def solver_errors(run, model_of) -> list[float]:
    """Error at lam = 4 (the step before the last) against the exact flow, for 32, 64, 128, 256 steps."""
    schedule = even_grid(257)
    model, x = model_of(schedule), torch.tensor([[1.3], [-0.4]], dtype=torch.float64)
    out = []
    for n in (32, 64, 128, 256):
        visited = list(range(256, -1, -256 // n))
        state = list(run(model, x, steps=visited))[-2]  # at level 0, before the jump to the clean picture
        assert state.t_prev == 0 and state.steps == n + 1
        out.append(float((state.x - model.flow(x, 256, 0)).abs().max()))
    return out


@pytest.mark.parametrize(("run", "order", "slack", "first"), [(ddim, 1.0, 0.1, 2.83e-2), (euler, 1.0, 0.1, None),
                                                              (dpm2m, 2.0, 0.15, 1.5e-3), (heun, 2.0, 0.2, None)])
def test_orders(run, order: float, slack: float, first: float | None) -> None:
    """Halving the step divides the error by 2^order (bars: DDIM 1.0 +- 0.1, 2M 2.0 +- 0.15)."""
    errors = solver_errors(run, lambda s: Gaussian(s, std=0.5))
    rates = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(rate - order) <= slack for rate in rates[1:]), (errors, rates)


def test_mixture_of_one_is_the_gaussian() -> None:
    schedule, g = cosine(), torch.Generator().manual_seed(0)
    x, t = torch.randn(5, 1, 2, 2, generator=g, dtype=torch.float64), torch.randint(0, 1000, (5,), generator=g)
    a = Mixture(schedule, torch.full((1, 1, 2, 2), 0.3), std=0.2)(x, t)
    b = Gaussian(schedule, mean=torch.tensor(0.3), std=0.2)(x, t)
    assert torch.allclose(a.x0, b.x0, atol=1e-7) and torch.allclose(a.eps, b.eps, atol=1e-6)


def test_mixture_is_the_posterior_mean_by_quadrature() -> None:
    """E[x0 | x_t] in one dimension, by summing over a fine grid of x0."""
    schedule, t, std = cosine(), 400, 0.1
    points = torch.tensor([[-0.8], [0.1], [0.7]], dtype=torch.float64)
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    prior = (-0.5 * ((grid[:, None] - points.T) / std) ** 2).exp().sum(1)
    a, b = float(schedule.abar[t].sqrt()), float((1 - schedule.abar[t]).sqrt())
    for x in (-0.5, 0.2, 1.4):
        post = prior * (-0.5 * ((x - a * grid) / b) ** 2).exp()
        want = float((post * grid).sum() / post.sum())
        got = Mixture(schedule, points, std=std)(torch.tensor([[x]], dtype=torch.float64), t)
        assert float(got.x0) == pytest.approx(want, abs=1e-9)
        assert float(q_sample(got.x0, t, got.eps, schedule)) == pytest.approx(x, abs=1e-12)


def test_a_network_that_learnt_by_heart_gives_its_data_back() -> None:
    points = torch.tensor([[0.9, 0.2], [-0.5, 0.4], [0.0, -0.8]], dtype=torch.float64)
    model = Mixture(cosine(), points)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for run in (ddim(model, x, steps=50), ddpm(model, x, steps=200, variance="small"), dpm2m(model, x, steps=20), heun(model, x)):
        far = torch.cdist(last(run).x, points)
        assert float(far.min(1).values.max()) < 1e-3
        assert set(far.argmin(1).tolist()) == {0, 1, 2}


def test_bad_input_is_refused() -> None:
    for call in (lambda: Gaussian(linear(), std=0.0), lambda: Mixture(linear(), torch.zeros(0, 2)),
                 lambda: Mixture(linear(), torch.zeros(2, 2), std=-1.0)):
        with pytest.raises(BadInput):
            call()
