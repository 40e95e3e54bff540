"""The panels of lesson 02 and its closed forms."""

import math

import numpy as np
import pytest
import torch

from minidiff import load
from minidiff.diffusion import cosine, linear
from minidiff.lessons.l02_ddpm.claims import gaussian_bound
from minidiff.lessons.l02_ddpm.panels import Chain, Sampler, weights
from minidiff.show import Picture

ENTROPY = 0.5 * math.log(2 * math.pi * math.e * 0.25)


@pytest.mark.parametrize(
    "schedule", [linear(20), linear(1000), cosine(7), cosine(300)], ids=["linear20", "linear1000", "cosine7", "cosine300"]
)
def test_the_optimal_bound_is_the_entropy(schedule):
    assert gaussian_bound(schedule, 0.25, "optimal") == pytest.approx(ENTROPY, abs=1e-5)
    for kind in ("small", "large"):
        assert gaussian_bound(schedule, 0.25, kind) > ENTROPY + 1e-3


def test_the_fixed_variances_lose_what_the_notes_say():
    assert gaussian_bound(linear(1000), 0.25, "small") - ENTROPY == pytest.approx(0.5699, abs=1e-4)
    assert gaussian_bound(linear(1000), 0.25, "large") - ENTROPY == pytest.approx(0.1147, abs=1e-4)


def test_the_bound_by_monte_carlo():
    """The same sum by drawing x_0 and x_t and comparing log densities, for ten steps."""
    table, s2, n = cosine(10), 0.25, 200_000
    draw = torch.Generator().manual_seed(0)
    x0 = s2**0.5 * torch.randn(n, generator=draw, dtype=torch.float64)
    x, total = x0, torch.zeros(n, dtype=torch.float64)

    def log_normal(x, mean, var):
        return -0.5 * (math.log(2 * math.pi) + torch.log(var) + (x - mean) ** 2 / var)

    for t in range(10):
        a, p = table.at(t), table.at(t - 1)
        alpha = a / p
        after = alpha.sqrt() * x + (1 - alpha).sqrt() * torch.randn(n, generator=draw, dtype=torch.float64)
        total += log_normal(after, alpha.sqrt() * x, 1 - alpha)
        c1, c2, small = table.posterior(t)
        guess = a.sqrt() * s2 / (a * s2 + 1 - a) * after
        total -= log_normal(x, c1 * guess + c2 * after, small + c1**2 * s2 * (1 - a) / (a * s2 + 1 - a))
        x = after
    total -= log_normal(x, 0.0, torch.tensor(1.0, dtype=torch.float64))
    assert float(total.mean()) == pytest.approx(gaussian_bound(table, s2, "optimal"), abs=0.01)


def test_the_chain_over_its_whole_range():
    chain = Chain(load("pixel-ddpm"), load("readers/develop"), count=2, steps=6)
    assert len(chain.x) == 7 and chain.ts[-1] == -1
    pictures = [chain.render(step=k) for k in range(7)]
    assert all(p.dtype == np.uint8 and p.shape == pictures[0][0].shape for p, _ in pictures)
    assert len({words for _, words in pictures}) == 7
    assert chain.settled(chain.kind)[-1] == 1.0
    back_and_forth = torch.tensor([[1, 3], [2, 3], [1, 0], [1, 3]])
    assert chain.settled(back_and_forth) == [0.0, 0.0, 0.5, 1.0], "a reading that changes again has not settled"


def test_the_sampler_repeats_itself_and_keeps_its_budget():
    one, two = Sampler(load("pixel-ddpm"), count=2), Sampler(load("pixel-ddpm"), count=2)
    knobs = {"seed": 3, "steps": 3, "variance": "large"}
    assert (one.render(**knobs)[0] == two.render(**knobs)[0]).all()
    assert (one.render(**knobs)[0] != one.render(**knobs | {"variance": "small"})[0]).any()
    with pytest.raises(ValueError, match="steps"):
        one.render(seed=0, steps=200, variance="small")
    with pytest.raises(ValueError, match="variance"):
        one.render(seed=0, steps=2, variance="medium")


@pytest.mark.parametrize("gamma", [1, 5, 20])
def test_the_weights_are_drawn(gamma):
    picture, words = weights(gamma=gamma)
    assert isinstance(picture, Picture) and f"gamma = {gamma}" in words
