"""Inversion and interpolation: the way back is the way there, on models that are exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from minidiff.diffusion import (
    X0,
    Eps,
    Gaussian,
    Mixture,
    V,
    cosine,
    ddim,
    interpolate,
    invert,
    last,
    lerp,
    linear,
    q_sample,
    row_noise,
    slerp,
    timesteps,
    zero_terminal,
)
from minidiff.errors import BadInput

S = linear()
POINTS = torch.tensor([[0.7, 0.2], [-0.5, 0.4], [0.0, -0.8]], dtype=torch.float64)


def bent() -> Mixture:
    """Three soft spots: a model whose flow is not a straight line."""
    return Mixture(S, POINTS, std=0.3)


def pictures(n: int = 32) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return POINTS[torch.randint(0, 3, (n,), generator=g)] + 0.3 * torch.randn(n, 2, generator=g, dtype=torch.float64)


def round_trip(model, x: Tensor, **options: object) -> float:
    there = last(invert(model, x, **options)).x
    options.pop("fixed_point", None)
    return float((last(ddim(model, there, **options)).x - x).square().mean())


def test_round_trip_error_falls_with_the_number_of_steps() -> None:
    """generative.md 1.8 (DDIM paper, table 2): the order, and about 1 / S^2 for the mean square."""
    errors = [round_trip(bent(), pictures(), steps=n) for n in (10, 20, 50, 100, 200)]
    assert all(a > b for a, b in zip(errors, errors[1:], strict=False)), errors
    assert errors[0] / errors[-1] > 100


def test_fixed_point_repeats_close_the_round_trip() -> None:
    errors = [round_trip(bent(), pictures(), steps=20, fixed_point=n) for n in (0, 1, 3, 10, 40)]
    assert all(a > b for a, b in zip(errors, errors[1:], strict=False)), errors
    assert errors[2] < 1e-3 * errors[0] and errors[-1] < 1e-20


@pytest.mark.parametrize("options", [{"spacing": "trailing"}, {"spacing": "linspace"}, {"spacing": "leading", "offset": 1},
                                     {"spacing": "leading", "offset": 1, "final_alpha": "first"}, {"spacing": "quad"}], ids=str)
def test_round_trip_in_every_convention(options: dict) -> None:
    assert round_trip(bent(), pictures(), steps=12, fixed_point=40, **options) < 1e-20


def test_noise_of_the_picture_is_standard_normal() -> None:
    """x_T of data with variance s^2 has variance 1, up to DDIM's own step error of 0.3 % here."""
    model = Gaussian(S, std=0.5)
    x = 0.5 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    code = last(invert(model, x, steps=200, spacing="trailing")).x
    assert float(code.var() / x.var()) * 0.25 == pytest.approx(1, abs=0.005)


def test_it_is_the_map_of_ddim_with_the_levels_swapped() -> None:
    """One step by hand, eps asked at (x_prev, t) as published code does; and Step says where it is."""
    model, x = bent(), pictures(4)
    steps = list(invert(model, x, steps=[600, 300]))
    assert [(s.t, s.t_prev, s.index, s.steps) for s in steps] == [(300, -1, 0, 2), (600, 300, 1, 2)]
    a, a_prev = float(S.abar[600]), float(S.abar[300])
    eps = model(steps[0].x, 600).eps
    x0 = (steps[0].x - math.sqrt(1 - a_prev) * eps) / math.sqrt(a_prev)
    assert torch.allclose(steps[1].x, math.sqrt(a) * x0 + math.sqrt(1 - a) * eps, atol=1e-12)
    first = math.sqrt(float(S.abar[300])) * x + math.sqrt(1 - float(S.abar[300])) * model(x, 300).eps
    assert torch.allclose(steps[0].x, first, atol=1e-12)


@pytest.mark.parametrize("wrap", [Eps, X0, V])
def test_every_kind_of_network_starts_without_infinity(wrap) -> None:
    """From the clean picture an x0 network divides by sqrt(1 - abar) = 0 in diffusers' DDIMInverseScheduler (#10920)."""
    oracle = bent()

    def net(x: Tensor, t: Tensor) -> Tensor:
        p = oracle(x, t)
        return wrap(lambda x, t: x, S).target(p.x0, p.eps, t)

    a, b = last(invert(wrap(net, S), pictures(), steps=20)).x, last(invert(oracle, pictures(), steps=20)).x
    assert torch.allclose(a, b, atol=1e-8)


def test_agrees_with_diffusers_inverse_scheduler() -> None:
    """DDIMInverseScheduler in the one setting where it is right: eps, leading, its timesteps paired with (t - T // S, t)."""
    from diffusers import DDIMInverseScheduler

    scheduler = DDIMInverseScheduler(clip_sample=False, timestep_spacing="leading", set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    model, x = bent(), pictures()
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, int(t)).eps, int(t), x).prev_sample
    assert torch.allclose(last(invert(model, pictures(), steps=10)).x, x, atol=1e-4)  # float32 tables


def test_slerp_and_lerp() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 3, 8, 8, generator=g, dtype=torch.float64)
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-12) and torch.allclose(slerp(a, b, 1.0), b, atol=1e-12)
    u, v = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    assert torch.allclose(slerp(u, v, 1 / 3), torch.tensor([[c, s], [2 * c, 2 * s]]))
    assert torch.allclose(lerp(u, v, 0.25), torch.tensor([[0.75, 0.25], [1.5, 0.5]]))
    assert float(slerp(a, b, 0.5).std()) == pytest.approx(1, abs=0.05)
    assert float(lerp(a, b, 0.5).std()) == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert torch.allclose(slerp(a, a * (1 + 1e-9), 0.5), a)  # parallel: no 0/0
    mixed = slerp(torch.stack([u[0], u[0]]), torch.stack([v[0], u[0]]), 0.5)
    assert torch.allclose(mixed, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [1.0, 0.0]]))
    with pytest.raises(BadInput, match="opposite"):
        slerp(u, -u, 0.5)
    with pytest.raises(BadInput, match="shape of a"):
        slerp(u, v[:1], 0.5)


def test_interpolation_ends_are_the_round_trips() -> None:
    model, a, b = bent(), pictures(8)[:4], pictures(8)[4:]
    got = last(interpolate(model, a, b, weights=(0.0, 0.5, 1.0), steps=12, fixed_point=40)).x
    assert got.shape == (12, 2)
    assert torch.allclose(got[:4], a, atol=1e-9) and torch.allclose(got[8:], b, atol=1e-9)
    assert not torch.allclose(got[4:8], lerp(a, b, 0.5), atol=1e-2)


@pytest.mark.parametrize("encode", ["invert", "q_sample"])
def test_interpolation_starts_at_the_level_of_its_codes(encode: str) -> None:
    """The first call is at t itself, though t is not on the grid, and the code is at that level: no step of noise is left in."""
    model, a, b = Gaussian(S, std=0.5), pictures(8)[:4], pictures(8)[4:]
    steps = list(interpolate(model, a, b, t=505, steps=50, encode=encode, weights=(0.0, 1.0)))
    assert [s.t for s in steps] == [505, *[u for u in timesteps(1000, 50) if u < 505]]
    start = q_sample(steps[0].x0, 505, steps[0].eps, S)  # what the first call saw
    if encode == "q_sample":
        noise = row_noise((4, 2), seed=4, t=505, dtype=torch.float64, stream="interpolate a")
        start = next(iter(interpolate(model, a, b, t=505, encode=encode, weights=(0.0, 1.0), seed=4)))
        seen = q_sample(start.x0, 505, start.eps, S)
        want = torch.cat([q_sample(x, 505, noise, S) for x in (a, b)])  # one noise for both
        assert torch.allclose(seen, want, atol=1e-9)
    else:
        assert torch.allclose(start[:4], last(invert(model, a, steps=[s.t for s in steps])).x, atol=1e-9)


def test_shared_noise_cancels_and_own_noise_does_not() -> None:
    model, x = Gaussian(S, std=0.5), pictures(8)
    shared, own = ([last(interpolate(model, x, x, encode="q_sample", t=400, weights=(w,), noise=n, mix="lerp")).x
                    for w in (0.0, 1.0)] for n in ("shared", "own"))
    assert torch.allclose(*shared) and not torch.allclose(*own, atol=1e-2)


def test_cond_is_repeated_for_every_weight() -> None:
    seen = []

    def net(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        seen.append(tuple(cond.shape))
        return 0.1 * x

    x = pictures(4)
    last(interpolate(Eps(net, S), x[:2], x[2:], steps=2, cond=torch.zeros(2, 7), weights=(0.0, 0.5, 1.0)))
    assert seen[:4] == [(2, 7)] * 4 and set(seen[4:]) == {(6, 7)}


@pytest.mark.parametrize(("call", "words"), [
    (lambda m, x: invert(m, x, steps=2000), "1 to 1000 steps"),
    (lambda m, x: invert(m, x, fixed_point=-1), "0 or more"),
    (lambda m, x: invert(m, x / 0), "finite"),
    (lambda m, x: invert(lambda x, t: x, x), "states what it predicts"),
    (lambda m, x: invert(m, x, final_alpha="last"), "'first'"),
    (lambda m, x: invert(V(lambda x, t: x, zero_terminal(S)), x, spacing="trailing"), "no picture"),
    (lambda m, x: interpolate(m, x, x[:2]), "shape of a"),
    (lambda m, x: interpolate(m, x, x, t=1000), "a step in"),
    (lambda m, x: interpolate(m, x, x, encode="inverse"), "'invert'"),
    (lambda m, x: interpolate(m, x, x, mix="nlerp"), "'slerp'"),
    (lambda m, x: interpolate(m, x, x, noise="same"), "'shared'"),
    (lambda m, x: interpolate(m, x, x, weights=()), "at least one weight"),
])
def test_bad_input_is_refused_before_work_starts(call, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call(bent(), pictures())


def test_inversion_of_a_zero_terminal_schedule_stops_before_its_end() -> None:
    model = Mixture(zero_terminal(cosine()), POINTS, std=0.3)
    assert round_trip(model, pictures(), steps=12, fixed_point=40) < 1e-20
