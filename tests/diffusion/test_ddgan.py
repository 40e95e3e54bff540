"""Denoising diffusion GANs: the published table, pairs and posteriors, and 25 Gaussians without training."""

from __future__ import annotations

import math

import pytest
import torch

from minidiff.diffusion import last
from minidiff.diffusion.ddgan import (
    d_loss,
    ddgan,
    ddgan_schedule,
    draw_x0,
    g_loss,
    grid_score,
    pair,
    posterior_sample,
    r1,
    twenty_five,
)
from minidiff.rng import generator, normal


def test_schedule_is_the_published_one() -> None:
    four = ddgan_schedule(4)
    torch.testing.assert_close(four.beta, torch.tensor([0.478255, 0.849206, 0.956418, 0.987404]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(four.abar, torch.tensor([0.521745, 0.0786760, 0.00342888, 4.319e-5]).double(), rtol=1e-4,
                               atol=1e-8)
    torch.testing.assert_close(ddgan_schedule(2).beta, torch.tensor([0.921324, 0.999451]).double(), rtol=0, atol=1e-6)
    c1, c2, var = four.posterior(torch.arange(4))
    torch.testing.assert_close(c1, torch.tensor([1, 0.665778, 0.269191, 0.057822]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(c2, torch.tensor([0, 0.201576, 0.193001, 0.111852]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(var, torch.tensor([0, 0.440819, 0.884202, 0.984061]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", range(4))
def test_both_of_a_pair_have_the_right_marginal_and_lie_on_one_path(t: int) -> None:
    table, n = ddgan_schedule(4), 200_000
    x0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    before, after = pair(x0, t, table, normal((n, 1), "a", dtype=torch.float64), normal((n, 1), "b", dtype=torch.float64))
    for x, step in ((before, t - 1), (after, t)):
        abar = float(table.at(step))
        assert abs(float(x.mean()) - 0.7 * abar**0.5) < 5 / n**0.5
        assert abs(float(x.var()) - (1 - abar)) < 0.012
    alpha = float(table.alpha[t])
    covariance = float(((before - before.mean()) * (after - after.mean())).mean())
    assert abs(covariance - alpha**0.5 * (1 - float(table.at(t - 1)))) < 0.012


def test_posterior_sample_brings_the_marginal_back_and_ends_at_x0() -> None:
    table, n = ddgan_schedule(4), 200_000
    x0 = normal((n, 1), "x0", dtype=torch.float64) * 0.4 + 0.3
    _, after = pair(x0, 2, table, *(normal((n, 1), "p", i, dtype=torch.float64) for i in range(2)))
    back = posterior_sample(x0, after, 2, table, normal((n, 1), "q", dtype=torch.float64))
    abar = float(table.at(1))
    assert abs(float(back.var()) - (abar * 0.16 + 1 - abar)) < 0.015
    x, z = normal((3, 2, 4, 5), "x"), normal((3, 2, 4, 5), "z")
    torch.testing.assert_close(posterior_sample(x, z, 0, table, 9 * z), x)
    t = torch.tensor([0, 3, 1])
    rows = torch.cat([posterior_sample(x[i : i + 1], z[i : i + 1], int(t[i]), table, z[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(posterior_sample(x, z, t, table, z), rows)


def test_losses_know_nothing_at_zero_and_r1_is_the_squared_gradient() -> None:
    zero = torch.zeros(3)
    assert torch.allclose(d_loss(zero, zero), torch.full((3,), 2 * math.log(2)))
    assert torch.allclose(g_loss(zero), torch.full((3,), math.log(2)))
    told, fooled = (float(d_loss(torch.tensor(a), torch.tensor(b))) for a, b in ((2.0, -1.0), (-2.0, 1.0)))
    assert told < 2 * math.log(2) < fooled
    x, w = normal((4, 2, 3, 3), "x"), torch.tensor(1.5, requires_grad=True)
    penalty = r1(lambda y: w * y.square().flatten(1).sum(1), x)
    torch.testing.assert_close(penalty, (2 * w * x).square().flatten(1).sum(1))
    penalty.sum().backward()
    assert w.grad is not None and float(w.grad) > 0 and not x.requires_grad


@pytest.mark.parametrize("T", [1, 2, 4, 8])
def test_exact_posterior_needs_few_steps_and_the_mean_needs_many(T: int) -> None:  # noqa: N803
    table, where = ddgan_schedule(T), generator("25", T)
    model, start = twenty_five(table), normal((4000, 2), "25")
    good, modes = grid_score(last(ddgan(lambda x, t, z: draw_x0(model, x, int(t[0]), generator=where), start, table, z_dim=1)).x)
    assert modes == 25 and float(good.double().mean()) >= 0.98
    good, modes = grid_score(last(ddgan(lambda x, t, z: model(x, t).x0, start, table, z_dim=1)).x)
    share = float(good.double().mean())
    if T == 1:
        assert modes == 1 and share == 1.0                                  # everything in the middle
    elif T == 2:
        assert 3 <= modes <= 6 and share <= 0.03                          # a cross around the middle
    elif T == 4:
        assert abs(modes - 9) <= 1 and share <= 0.03


def test_rows_do_not_depend_on_the_batch() -> None:
    table = ddgan_schedule(4)

    def net(x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(0.5 * x.sin() + z.mean(1).view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1) / 7)

    x = normal((5, 2, 3, 4), "start")
    whole = last(ddgan(net, x, table, z_dim=6, seed=3)).x
    rows = torch.cat([last(ddgan(net, x[i : i + 1], table, z_dim=6, seed=3, rows=range(i, i + 1))).x for i in range(5)])
    torch.testing.assert_close(whole, rows, rtol=0, atol=0)
    assert not torch.equal(whole, last(ddgan(net, x, table, z_dim=6, seed=4)).x)
    assert not torch.equal(whole, last(ddgan(net, x, table, z_dim=6, seed=3, fixed_z=True)).x)
