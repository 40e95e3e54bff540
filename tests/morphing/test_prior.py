"""The Beta prior: against closed forms of the Beta distribution, and on a path whose speed is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.morphing import beta_cdf, beta_quantile, explore, fit_beta, smoothest

X = torch.linspace(0, 1, 21, dtype=torch.float64)


def test_the_cdf_where_it_is_known():
    assert torch.allclose(beta_cdf(X, 1, 1), X, atol=1e-6)
    assert torch.allclose(beta_cdf(X, 2, 1), X**2, atol=1e-6) and torch.allclose(beta_cdf(X, 1, 3), 1 - (1 - X) ** 3, atol=1e-6)
    assert torch.allclose(beta_cdf(X, 3, 3), 6 * X**5 - 15 * X**4 + 10 * X**3, atol=1e-6)
    assert torch.allclose(beta_cdf(X, 0.5, 0.5), 2 / math.pi * X.sqrt().asin(), atol=1e-6), "density without end at both ends"


@pytest.mark.parametrize("shape", [(3.0, 3.0), (0.6, 2.5), (8.0, 1.5)])
def test_quantiles_are_the_inverse_and_the_fit_finds_the_shape(shape):
    p = torch.linspace(0.01, 0.99, 15, dtype=torch.float64)
    assert torch.allclose(beta_cdf(beta_quantile(p, *shape), *shape), p, atol=1e-6)
    found = fit_beta(X, beta_cdf(X, *shape))
    assert found == pytest.approx(shape, rel=0.05)


def jump(place, width=0.02):
    """A path that stands still, leaps at ``place``, and stands again: pictures are one number."""
    return lambda w: torch.sigmoid((torch.tensor(w, dtype=torch.float64) - place) / width)[:, None]


def apart(x, y):
    return (x - y).abs().flatten(1).sum(1)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.72])
def test_frames_go_where_the_path_leaps(place):
    found = explore(jump(place), apart, size=16)
    assert len(found.weights) == 16 == len(found.images) and found.weights[0] == 0 and found.weights[-1] == 1
    assert all(a < b for a, b in itertools.pairwise(found.weights))
    near = sum(abs(w - place) < 0.1 for w in found.weights)
    assert near >= 10, "evenly spaced weights would put three there"
    even = jump(place)([k / 15 for k in range(16)])
    assert float(found.gaps.max()) < 0.4 * float(apart(even[1:], even[:-1]).max())
    a, b = found.prior
    assert a / (a + b) == pytest.approx(place, abs=0.08), "the mean of the prior goes to the leap"


def test_the_explored_gaps_are_those_of_its_pictures():
    found = explore(jump(0.4, 0.1), apart, size=7)
    assert torch.allclose(found.gaps.double(), apart(found.images[1:], found.images[:-1]), atol=1e-6)
    still = explore(lambda w: torch.zeros(len(w), 1), apart, size=5)
    assert len(set(still.weights)) == 5


def test_the_smoothest_choice_of_frames():
    places = torch.tensor([0.0, 0.1, 0.31, 0.5, 0.64, 0.69, 1.0])
    table = (places[:, None] - places).abs()
    assert smoothest(table, 4) == [0, 2, 4, 6]              # hops .31 .33 .36
    assert smoothest(table, 2) == [0, 6] and smoothest(table, 7) == list(range(7))
    assert smoothest(table, 3) == [0, 3, 6]
    uneven = torch.tensor([[0, 0.5, 0.1, 0.9], [0.5, 0, 1, 0.5], [0.1, 1, 0, 0.4], [0.9, 0.5, 0.4, 0]])
    assert smoothest(uneven, 3) == [0, 1, 3], "hops .5 .5, though those of .1 and .4 are shorter"
    for wrong in ((table, 8), (table, 1), (table[:3], 2), (torch.zeros(21, 21), 4)):
        with pytest.raises(BadInput):
            smoothest(*wrong)
    with pytest.raises(BadInput, match="size"):
        explore(jump(0.5), apart, size=2)
    with pytest.raises(BadInput, match="alpha"):
        beta_cdf(X, 0.0, 1.0)
