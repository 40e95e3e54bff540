"""Noising, the three predictions, the losses: identities that hold exactly, gradients by autograd, moments by counting."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from minidiff.diffusion import (
    EDM,
    X0,
    Eps,
    LearnedRange,
    V,
    cosine,
    edm_scalings,
    edm_weight,
    eps_from_v,
    eps_from_x0,
    hybrid_loss,
    jsd,
    karras_sigmas,
    linear,
    min_snr_weight,
    q_sample,
    simple_loss,
    v_from,
    vlb_term,
    x0_from_eps,
    x0_from_v,
    zero_terminal,
)
from minidiff.errors import BadInput

S = linear()


def data(n: int = 4, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, n, 3, 4, 4, generator=g, dtype=dtype)
    return x0.tanh(), noise, torch.randint(1, 1000, (n,), generator=g)


def test_q_sample_by_hand_and_ends() -> None:
    x0, noise, _ = data()
    t = torch.tensor([-1, 0, 500, 999])
    x = q_sample(x0, t, noise, S)
    assert torch.equal(x[0], x0[0])
    for row in (1, 2, 3):
        abar = float(S.abar[int(t[row])])
        assert torch.allclose(x[row], math.sqrt(abar) * x0[row] + math.sqrt(1 - abar) * noise[row], atol=1e-14)
    assert torch.equal(q_sample(x0, 500, noise, S)[2], x[2])
    assert torch.equal(q_sample(x0, 999, noise, jsd(1000)), noise)


def test_q_sample_moments() -> None:
    """200,000 draws at t = 300: mean sqrt(abar) x0, variance 1 - abar, within 5 standard errors."""
    n, t = 200_000, 300
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = q_sample(torch.full((n, 1), 0.7, dtype=torch.float64), t, noise, S)
    abar = float(S.abar[t])
    assert abs(float(x.mean()) - 0.7 * math.sqrt(abar)) < 5 * math.sqrt((1 - abar) / n)
    assert abs(float(x.var()) - (1 - abar)) < 5 * (1 - abar) * math.sqrt(2 / n)


def test_conversions_give_back_the_truth() -> None:
    x0, eps, t = data()
    x = q_sample(x0, t, eps, S)
    v = v_from(x0, eps, t, S)
    for got, want in [(x0_from_eps(x, eps, t, S), x0), (eps_from_x0(x, x0, t, S), eps),
                      (x0_from_v(x, v, t, S), x0), (eps_from_v(x, v, t, S), eps)]:
        assert torch.allclose(got, want, atol=1e-10)
    h = 1e-6  # v is the speed along the circle x(phi) = cos(phi) x0 + sin(phi) eps, by finite difference
    phi = torch.atan2((1 - S.at(t)).sqrt(), S.at(t).sqrt()).view(-1, 1, 1, 1)
    speed = ((phi + h).cos() * x0 + (phi + h).sin() * eps - (phi - h).cos() * x0 - (phi - h).sin() * eps) / (2 * h)
    assert torch.allclose(v, speed, atol=1e-8)


@pytest.mark.parametrize("wrap", [Eps, X0, V, EDM])
def test_wrappers_return_the_truth_from_their_target(wrap) -> None:
    x0, eps, t = data()
    x = q_sample(x0, t, eps, S)
    target = wrap(lambda x, t: x, S).target(x0, eps, t)
    got = wrap(lambda x, t: target, S)(x, t)
    assert torch.allclose(got.x0, x0, atol=1e-9) and torch.allclose(got.eps, eps, atol=1e-9)
    assert got.x0.dtype == torch.float64


def test_error_identities() -> None:
    """||d eps||^2 = SNR ||d x0||^2 and ||d v||^2 = (SNR + 1) ||d x0||^2 for any prediction (generative.md 1.5)."""
    x0, eps, t = data()
    x = q_sample(x0, t, eps, S)
    wrong = Eps(lambda x, t: torch.sin(3 * x), S)(x, t)
    snr = S.at(t) / (1 - S.at(t))

    def square(e: Tensor) -> Tensor:
        return e.square().flatten(1).sum(1)

    base = square(wrong.x0 - x0)
    assert torch.allclose(square(wrong.eps - eps), snr * base, rtol=1e-9)
    assert torch.allclose(square(v_from(wrong.x0, wrong.eps, t, S) - v_from(x0, eps, t, S)), (snr + 1) * base, rtol=1e-9)


def consistent(x: Tensor, t: Tensor) -> dict[str, Tensor]:
    """One wrong guess, said in three languages."""
    p = Eps(lambda x, t: torch.sin(3 * x), S)(x, t)
    return {"eps": p.eps, "x0": p.x0, "v": v_from(p.x0, p.eps, t, S)}


def test_simple_loss_is_the_mean_square_of_what_is_predicted() -> None:
    x0, eps, t = data()
    x = q_sample(x0, t, eps, S)
    true = {"eps": eps, "x0": x0, "v": v_from(x0, eps, t, S)}
    for wrap in (Eps, X0, V):
        out = consistent(x, t)[wrap.kind]
        loss = simple_loss(wrap(lambda x, t, out=out: out, S), x0, t, eps)
        assert loss.shape == (4,)
        assert torch.allclose(loss, (out - true[wrap.kind]).square().mean((1, 2, 3)), rtol=1e-12)
    both = torch.cat([consistent(x, t)["eps"], eps], 1)
    assert torch.allclose(simple_loss(LearnedRange(Eps(lambda x, t: both, S)), x0, t, eps),
                          simple_loss(Eps(lambda x, t: both[:, :3], S), x0, t, eps))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_all_three_alike(gamma: float) -> None:
    """With the weights, the three losses of one and the same guess are equal: min(SNR, gamma) ||d x0||^2."""
    x0, eps, t = data(16)
    x = q_sample(x0, t, eps, S)
    snr = S.at(t) / (1 - S.at(t))
    want = torch.minimum(snr, torch.tensor(gamma)) * (consistent(x, t)["x0"] - x0).square().mean((1, 2, 3))
    assert bool((snr > gamma).any()) and bool((snr < gamma).any())
    for wrap in (Eps, X0, V):
        model = wrap(lambda x, t, kind=wrap.kind: consistent(x, t)[kind], S)
        assert torch.allclose(simple_loss(model, x0, t, eps, gamma=gamma), want, rtol=1e-9)


def test_min_snr_at_zero_snr_is_a_number() -> None:
    s = zero_terminal(linear())
    weights = {kind: float(min_snr_weight(s, 999, kind)) for kind in ("eps", "x0", "v")}
    assert weights == {"eps": 1.0, "x0": 0.0, "v": 0.0}  # 0/0 in the published codes


def test_edm_preconditioning() -> None:
    """Unit variance in and out by Monte Carlo, and the loss weight is 1 / c_out^2."""
    g = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.05, 0.5, 3.0], dtype=torch.float64).view(3, 1)
    x0, n = torch.randn(2, 3, 200_000, generator=g, dtype=torch.float64) * torch.tensor([0.5, 1.0]).view(2, 1, 1)
    c = edm_scalings(sigma)
    target = (x0 - c.c_skip * (x0 + sigma * n)) / c.c_out
    assert torch.allclose((c.c_in * (x0 + sigma * n)).var(1), torch.ones(3, dtype=torch.float64), atol=0.02)
    assert torch.allclose(target.var(1), torch.ones(3, dtype=torch.float64), atol=0.02)
    assert torch.allclose(edm_weight(sigma), c.c_out**-2)
    assert torch.allclose(c.c_noise.exp() ** 4, sigma)
    grid = karras_sigmas(5)
    assert grid[0] == pytest.approx(80) and grid[4] == pytest.approx(0.002) and grid[5] == 0
    assert torch.allclose((grid[:5] ** (1 / 7)).diff(), (grid[:5] ** (1 / 7)).diff()[0].expand(4))


def test_edm_network_sees_unit_input() -> None:
    seen = {}

    def net(x: Tensor, c: Tensor) -> Tensor:
        seen["std"], seen["c"] = float(x.std()), float(c[0])
        return torch.zeros_like(x)

    g = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(1, 200_000, generator=g, dtype=torch.float64)
    simple_loss(EDM(net, S), x0, 700, torch.randn(1, 200_000, generator=g, dtype=torch.float64))
    assert seen["std"] == pytest.approx(1, abs=0.01) and seen["c"] == pytest.approx(0.25 * math.log(float(S.sigma[700])))


class TwoHeads(nn.Module):
    """eps = a x, v = b x."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.3, 0.2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.a * x, self.b * x], 1)


def test_hybrid_loss_teaches_the_variance_and_leaves_the_mean_alone() -> None:
    x0, eps, t = data()
    net = TwoHeads()
    model = LearnedRange(Eps(net, S))
    hybrid = torch.autograd.grad(hybrid_loss(model, x0, t, eps, lam=0.5).sum(), [net.a, net.b])
    simple = torch.autograd.grad(simple_loss(model, x0, t, eps).sum(), [net.a])
    term = torch.autograd.grad(vlb_term(model, x0, t, eps, variance="learned").sum(), [net.a, net.b])
    assert float(hybrid[0]) == pytest.approx(float(simple[0]), rel=1e-12)  # the bound does not touch the mean
    assert abs(float(term[0])) > 1e-6  # though it could have
    assert float(hybrid[1]) == pytest.approx(0.5 * 1000 * float(term[1]), rel=1e-9)  # lam T L_t
    value = simple_loss(model, x0, t, eps) + 0.5 * 1000 * vlb_term(model, x0, t, eps, variance="learned")
    assert torch.allclose(hybrid_loss(model, x0, t, eps, lam=0.5), value)
    half = torch.full((4,), 0.5, dtype=torch.float64)
    assert torch.allclose(hybrid_loss(model, x0, t, eps, lam=0.5, weight=half), 0.5 * value)


def test_learned_range_reads_the_second_half_as_a_share() -> None:
    x0, eps, t = data()
    (x, e), frac = LearnedRange(Eps(lambda x, t: torch.cat([x, 0 * x + 0.5], 1), S)).with_variance(x0, t)
    assert torch.equal(e, x0) and bool((frac == 0.75).all())
    plain = LearnedRange(Eps(lambda x, t: torch.cat([x, x], 1), S))(x0, t)
    assert torch.equal(plain.x0, Eps(lambda x, t: x, S)(x0, t).x0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    x0, eps, t = data()
    x0, eps = x0.to(dtype), eps.to(dtype)
    assert q_sample(x0, t, eps, S).dtype == dtype
    for wrap in (Eps, X0, V):
        model = wrap(lambda x, t: 0.1 * x, S)
        assert model(x0, t).x0.dtype == model(x0, t).eps.dtype == dtype
        assert simple_loss(model, x0, t, eps, gamma=5.0).dtype == (dtype if dtype == torch.float64 else torch.float32)


def test_cond_reaches_the_network_and_points_work() -> None:
    seen = []
    x = torch.zeros(3, 2)
    model = Eps(lambda x, t, cond=None: seen.append((cond, t.shape)) or x, cosine())
    model(x, 5)
    model(x, torch.tensor([1, 2, 3]), "red")
    simple_loss(model, x, torch.tensor([1, 2, 3]), x, cond="blue")
    assert seen == [(None, (3,)), ("red", (3,)), ("blue", (3,))]


@pytest.mark.parametrize(("call", "words"), [
    (lambda x, n, t: q_sample(x, t, n[:, :1], S), "the shape of x0"),
    (lambda x, n, t: q_sample(x[0], t, n[0], S), "one picture"),
    (lambda x, n, t: q_sample((x * 9).int(), t, n, S), "127.5"),
    (lambda x, n, t: q_sample(x, t[:2], n, S), "one step for each row"),
    (lambda x, n, t: q_sample(x, t.float() * 0 + 1000, n, S), "0, 999"),
    (lambda x, n, t: Eps(lambda x, t: x[:, :1], S)(x, t), "an output of shape"),
    (lambda x, n, t: Eps(lambda x, t: torch.cat([x, x], 1), S)(x, t), "LearnedRange"),
    (lambda x, n, t: LearnedRange(lambda x, t: x), "LearnedRange"),
    (lambda x, n, t: Eps(lambda x, t: x, 1000), "Schedule"),
    (lambda x, n, t: Eps(3, S), "network"),
    (lambda x, n, t: Eps(lambda x, t: x, zero_terminal(S))(x, 999), "does not determine the picture"),
    (lambda x, n, t: x0_from_eps(x, n, 999, jsd(1000)), "divides by zero"),
    (lambda x, n, t: EDM(lambda x, t: x, jsd(1000)), "finite"),
    (lambda x, n, t: min_snr_weight(S, t, "epsilon"), "'eps'"),
    (lambda x, n, t: min_snr_weight(S, t, "eps", gamma=0.0), "positive"),
    (lambda x, n, t: hybrid_loss(Eps(lambda x, t: x, S), x, t, n), "LearnedRange"),
])
def test_bad_input_is_refused(call, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call(*data())


def test_zero_snr_is_fine_for_v_x0_and_for_other_steps() -> None:
    x, s = data()[0], zero_terminal(S)
    for wrap in (V, X0):
        got = wrap(lambda x, t: 0.5 * x, s)(x, 999)
        assert torch.equal(got.eps, x) and bool(torch.isfinite(got.x0).all())
    assert bool(torch.isfinite(Eps(lambda x, t: 0.5 * x, s)(x, 998).x0).all())
