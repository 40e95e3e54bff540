"""Guidance: identities of every rule, and the two-mode mixture, where the exact posterior is known."""

from __future__ import annotations

import pytest
import torch

from minidiff.diffusion import Mixture, Prediction, ddim_step, eps_from_x0, linear, timesteps, v_from
from minidiff.diffusion.guide import (
    cfg,
    cfg_plus_plus,
    cfg_w,
    composable,
    dual,
    eps_shift,
    guided_mean,
    instruct_pix2pix,
    interaction,
    interval_scale,
    log_prob_gradient,
    orthogonal_cfg,
    rescale,
    score_from_eps,
    split_parallel,
)
from minidiff.errors import BadInput
from minidiff.rng import normal

SHAPES = [(5, 3, 6, 7), (4, 2)]
CLOSE = {"rtol": 0.0, "atol": 1e-12}


def predictions(shape: tuple[int, ...], n: int = 4) -> list[torch.Tensor]:
    return [normal(shape, "guide", i, dtype=torch.float64) for i in range(n)]


@pytest.mark.parametrize("shape", SHAPES)
def test_scales_zero_and_one_are_the_two_predictions_in_both_conventions(shape: tuple[int, ...]) -> None:
    u, c, *_ = predictions(shape)
    torch.testing.assert_close(cfg(u, c, 0.0), u, **CLOSE)
    torch.testing.assert_close(cfg(u, c, 1.0), c, **CLOSE)
    torch.testing.assert_close(cfg_w(u, c, -1.0), u, **CLOSE)
    torch.testing.assert_close(cfg_w(u, c, 0.0), c, **CLOSE)
    for w in (0.3, 6.5, -2.0):
        torch.testing.assert_close(cfg_w(u, c, w), cfg(u, c, 1 + w), **CLOSE)


def test_guiding_eps_x0_or_v_is_the_same_thing() -> None:
    table, t = linear(1000), torch.tensor([3, 250, 800, 999])
    x, u, c, _ = predictions((4, 2))
    x0 = cfg(u, c, 5.5)
    torch.testing.assert_close(cfg(*(eps_from_x0(x, p, t, table) for p in (u, c)), 5.5), eps_from_x0(x, x0, t, table),
                               rtol=1e-9, atol=1e-9)
    one, two = (v_from(p, eps_from_x0(x, p, t, table), t, table) for p in (u, c))
    torch.testing.assert_close(cfg(one, two, 5.5), v_from(x0, eps_from_x0(x, x0, t, table), t, table), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_scale_for_each_row_is_a_loop_of_singles(shape: tuple[int, ...]) -> None:
    u, c, d, _ = predictions(shape)
    s = torch.linspace(-1, 7, len(u), dtype=torch.float64)
    for rule in (cfg, cfg_w, orthogonal_cfg):
        rows = torch.cat([rule(u[i : i + 1], c[i : i + 1], float(s[i])) for i in range(len(u))])
        torch.testing.assert_close(rule(u, c, s), rows, **CLOSE)
    rows = torch.cat([dual(u[i : i + 1], c[i : i + 1], d[i : i + 1], float(s[i]), 2.0) for i in range(len(u))])
    torch.testing.assert_close(dual(u, c, d, s, 2.0), rows, **CLOSE)
    with pytest.raises(BadInput, match="one for each"):
        cfg(u, c, s[:-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_rescale(shape: tuple[int, ...]) -> None:
    u, c, *_ = predictions(shape)
    guided = cfg(u, c, 7.5)
    torch.testing.assert_close(rescale(guided, c, 0.0), guided, **CLOSE)
    dims = tuple(range(1, u.ndim))
    torch.testing.assert_close(rescale(guided, c, 1.0).std(dims), c.std(dims), **CLOSE)
    diffusers = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    torch.testing.assert_close(rescale(guided, c, 0.7), diffusers.rescale_noise_cfg(guided, c, guidance_rescale=0.7), **CLOSE)


def test_interval_is_closed_above_and_open_below() -> None:
    level = torch.tensor([0.1, 0.3, 0.31, 5.0, 5.1])
    assert interval_scale(4.0, level.double(), 0.3, 5.0).tolist() == [1.0, 4.0 if float(level[1]) > 0.3 else 1.0, 4.0, 4.0, 1.0]
    assert float(interval_scale(4.0, 0.3, 0.3, 5.0)) == 1.0 and float(interval_scale(4.0, 5.0, 0.3, 5.0)) == 4.0


def test_cfg_plus_plus_renoises_with_the_unconditional_eps() -> None:
    a, b, c, d = predictions((3, 2, 4, 5))
    out = cfg_plus_plus(Prediction(a, b), Prediction(c, d), 0.25)
    torch.testing.assert_close(out.x0, 0.75 * a + 0.25 * c, **CLOSE)
    assert out.eps is b


@pytest.mark.parametrize("shape", SHAPES)
def test_parallel_parts(shape: tuple[int, ...]) -> None:
    u, c, *_ = predictions(shape)
    parallel, orthogonal = split_parallel(u, c)
    torch.testing.assert_close(parallel + orthogonal, u, **CLOSE)
    for i in range(len(u)):
        assert abs(float((orthogonal[i] * c[i]).sum())) < 1e-10
        torch.testing.assert_close(parallel[i] / c[i], (parallel[i] / c[i]).mean().expand_as(c[i]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(orthogonal_cfg(u, c, 6.0, keep=1.0), cfg(u, c, 6.0), **CLOSE)
    torch.testing.assert_close(orthogonal_cfg(u, c, 1.0), c, **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_several_conditions(shape: tuple[int, ...]) -> None:
    u, a, b, both = predictions(shape)
    torch.testing.assert_close(composable(u, [a, a], [1.75, 1.75]), cfg(u, a, 3.5), **CLOSE)
    torch.testing.assert_close(composable(u, [a, b], [0.0, 2.5]), cfg(u, b, 2.5), **CLOSE)
    torch.testing.assert_close(instruct_pix2pix(u, a, both, 1.0, 1.0), both, **CLOSE)
    torch.testing.assert_close(instruct_pix2pix(u, a, both, 1.0, 0.0), a, **CLOSE)
    torch.testing.assert_close(instruct_pix2pix(u, a, both, 0.0, 0.0), u, **CLOSE)
    torch.testing.assert_close(dual(u, a, b, 1.0, 1.0) + interaction(u, a, b, both), both, **CLOSE)
    torch.testing.assert_close(dual(u, a, b, 0.0, 3.0), cfg(u, b, 3.0), **CLOSE)
    with pytest.raises(BadInput, match="one weight"):
        composable(u, [a, b], [1.0])
    with pytest.raises(BadInput, match="shape"):
        composable(u, [a[:1]], [1.0])


def test_gradient_is_each_rows_own_and_refuses_a_sum() -> None:
    x = normal((4, 2, 3, 5), "rows", dtype=torch.float64)
    got = log_prob_gradient(lambda y: -(y**3).flatten(1).sum(1), x)
    torch.testing.assert_close(got, -3 * x**2, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(log_prob_gradient(lambda y: y.flatten(1).sum(1), x), torch.ones_like(x), **CLOSE)
    with pytest.raises(BadInput, match="one number a row"):
        log_prob_gradient(lambda y: (y**2).sum(), x)
    assert not x.requires_grad


# the mixture -------------------------------------------------------------------------------------------------------------

TABLE = linear(1000)
MODES = Mixture(TABLE, torch.tensor([[-1.0], [1.0]], dtype=torch.float64), std=0.3)
RIGHT = Mixture(TABLE, torch.tensor([[1.0]], dtype=torch.float64), std=0.3)


def posterior_gradient(x: torch.Tensor, t: int) -> torch.Tensor:
    return log_prob_gradient(lambda y: MODES.weights(y, t)[:, 1].log(), x)


@pytest.mark.parametrize("t", [0, 200, 600, 999])
def test_bayes_the_unconditional_eps_shifted_once_is_the_conditional_eps(t: int) -> None:
    x = normal((200, 1), "bayes", t, dtype=torch.float64).clamp(-2, 2)
    abar = float(TABLE.at(t))
    keep = MODES.weights(x, t)[:, 1] > 1e-12
    shifted = eps_shift(MODES(x, t).eps, abar, posterior_gradient(x, t), 1.0)
    torch.testing.assert_close(shifted[keep], RIGHT(x, t).eps[keep], rtol=1e-8, atol=1e-8)
    score = score_from_eps(MODES(x, t).eps, abar) + posterior_gradient(x, t)
    torch.testing.assert_close(score[keep], score_from_eps(RIGHT(x, t).eps, abar)[keep], rtol=1e-8, atol=1e-7)


def ddim_guided(scale: float, n: int = 4000, steps: int = 100) -> torch.Tensor:
    x, order = normal((n, 1), "mixture", dtype=torch.float64), timesteps(1000, steps)
    order = [int(t) for t in order]
    for t, t_prev in zip(order, [*order[1:], -1], strict=True):
        abar = float(TABLE.at(t))
        eps = eps_shift(MODES(x, t).eps, abar, posterior_gradient(x, t), scale)
        x = ddim_step((x - (1 - abar) ** 0.5 * eps) / abar**0.5, eps, float(TABLE.at(t_prev)))
    return x


@pytest.mark.parametrize(("scale", "mean", "std"), [(1.0, 1.00, 0.30), (2.0, 1.19, 0.21), (4.0, 1.40, 0.17), (8.0, 1.66, 0.145)])
def test_guidance_recovers_the_conditional_at_one_and_overshoots_above(scale: float, mean: float, std: float) -> None:
    x = ddim_guided(scale)
    assert abs(float(x.mean()) - mean) <= (0.02 if scale == 1 else 0.05)
    assert abs(float(x.std()) - std) <= 0.03
    assert float((x > 0).double().mean()) >= 0.998


def test_ddpm_mean_shift_recovers_the_conditional() -> None:
    x = normal((4000, 1), "ddpm mixture", dtype=torch.float64)
    for t in reversed(range(0, 1000, 4)):
        c1, c2, var = (float(v) for v in TABLE.posterior(t, max(t - 4, -1)))
        mean = guided_mean(c1 * MODES(x, t).x0 + c2 * x, var, posterior_gradient(x, t), 1.0)
        x = mean + var**0.5 * normal((4000, 1), "ddpm step", t, dtype=torch.float64)
    assert abs(float(x.mean()) - 1.0) <= 0.02 and abs(float(x.std()) - 0.3) <= 0.03
    assert float((x > 0).double().mean()) >= 0.996
