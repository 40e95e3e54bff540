"""Frechet, kernel and neighbour distances against closed forms, scipy and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from minidiff.errors import BadInput
from minidiff.measure.distance import (
    Moments,
    frechet,
    frechet_between,
    frechet_limit,
    kid,
    mmd2,
    moments,
    nearest,
    prdc,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_against_numpy():
    x = normal(50, 4)
    mean, covariance = moments(x)
    assert np.allclose(mean, x.numpy().mean(0), atol=1e-14)
    assert np.allclose(covariance, np.cov(x.numpy(), rowvar=False), atol=1e-14)


def test_one_dimension():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    one = Moments(torch.tensor([1.5]).double(), torch.tensor([[4.0]]).double())
    two = Moments(torch.tensor([-1.0]).double(), torch.tensor([[0.25]]).double())
    assert float(frechet_between(one, two)) == pytest.approx(2.5**2 + 1.5**2, abs=1e-12)


def test_gaussians_that_commute():
    """Sum of squared differences of means and of standard deviations, in any rotated frame."""
    turn = torch.linalg.qr(normal(6, 6))[0]
    a, b = torch.linspace(0.1, 3, 6).double(), torch.linspace(2, 0.01, 6).double()
    mean = normal(2, 6, seed=1)
    one, two = (Moments(m, turn @ torch.diag(s**2) @ turn.T) for m, s in zip(mean, (a, b), strict=True))
    right = float(((mean[0] - mean[1]) ** 2).sum() + ((a - b) ** 2).sum())
    assert float(frechet_between(one, two)) == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 5), (400, 300, 64), (80, 200, 3)])
def test_against_scipy(n, m, d):
    a, b = normal(n, d) @ normal(d, d, seed=2), normal(m, d, seed=3) + 0.5
    (m1, s1), (m2, s2) = moments(a), moments(b)
    root = scipy.linalg.sqrtm(s1.numpy() @ s2.numpy())
    right = ((m1 - m2) ** 2).sum().item() + np.trace(s1.numpy() + s2.numpy() - 2 * root.real)
    assert frechet(a, b) == pytest.approx(right, rel=1e-9)
    assert frechet(b, a) == pytest.approx(right, rel=1e-9)


def test_fewer_samples_than_dimensions():
    """Singular covariances: features that live in few dimensions, padded with zeros and turned."""
    a, b = normal(20, 3) * 2, normal(20, 3, seed=1) + 1
    turn = torch.linalg.qr(normal(40, 40, seed=2))[0]
    wide = [torch.cat([x, torch.zeros(20, 37).double()], 1) @ turn for x in (a, b)]
    assert frechet(*wide) == pytest.approx(frechet(a, b), rel=1e-6)
    assert frechet(normal(10, 64), normal(10, 64, seed=1)) > 0
    assert frechet(torch.ones(5, 4), torch.zeros(5, 4)) == pytest.approx(4)


def test_the_same_set_is_at_distance_zero():
    x = normal(300, 64).float()
    assert 0 <= frechet(x, x) < 1e-9
    assert frechet(x, x.flip(0)) < 1e-9
    assert frechet(x + 1e4, x + 1e4) < 1e-6


def test_batches_of_moments():
    pairs = [(moments(normal(30, 4, seed=s)), moments(normal(30, 4, seed=s + 50))) for s in range(3)]
    stacked = [Moments(*map(torch.stack, zip(*side, strict=True))) for side in zip(*pairs, strict=True)]
    right = [float(frechet_between(a, b)) for a, b in pairs]
    assert frechet_between(*stacked).tolist() == pytest.approx(right, rel=1e-12)


def test_bias_falls_as_one_over_n():
    """Two samples of one Gaussian: N times the distance stays the same."""
    scaled = []
    for n in (200, 400, 800, 1600):
        found = [frechet(normal(n, 8, seed=2 * s), normal(n, 8, seed=2 * s + 1)) for s in range(24)]
        scaled.append(n * sum(found) / len(found))
    slope = np.polyfit(np.log([200, 400, 800, 1600]), np.log(scaled), 1)[0]
    assert abs(slope) < 0.12, scaled
    # unit covariance, to first order: the means add 2 d / N, and |S1 - S2|^2 / 4 adds d (d + 1) / (2 N)
    assert scaled[-1] == pytest.approx(2 * 8 + 8 * 9 / 2, rel=0.05)


def test_the_limit_has_less_bias():
    limits = [frechet_limit(normal(800, 8, seed=2 * s), normal(800, 8, seed=2 * s + 1), seed=s) for s in range(30)]
    plain = [frechet(normal(800, 8, seed=2 * s), normal(800, 8, seed=2 * s + 1)) for s in range(30)]
    assert abs(sum(limits)) / 30 < 0.15 * sum(plain) / 30
    far = [frechet_limit(normal(800, 4, seed=2 * s), normal(900, 4, seed=2 * s + 1) + 1, seed=s) for s in range(20)]
    assert sum(far) / 20 == pytest.approx(4, abs=0.15)
    assert frechet_limit(normal(100, 4), normal(90, 4, seed=1)) == frechet_limit(normal(100, 4), normal(90, 4, seed=1))


def loop_mmd2(a, b):
    def k(x, y):
        return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3
    within = [sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / (len(s) * (len(s) - 1)) for s in (a, b)]
    return sum(within) - 2 * sum(k(x, y) for x in a for y in b) / (len(a) * len(b))


def test_mmd_against_loops():
    a, b = normal(12, 5), normal(9, 5, seed=1) * 1.5 + 0.2
    assert mmd2(a, b) == pytest.approx(loop_mmd2(a, b), rel=1e-12)


def test_kid_is_the_mean_over_subsets():
    a, b = normal(25, 4), normal(25, 4, seed=1) + 0.3
    whole = kid(a, b, subsets=3)
    assert whole.value == pytest.approx(mmd2(a, b), rel=1e-12) and whole.spread == pytest.approx(0, abs=1e-12)
    parts = kid(a, b, subsets=400, size=10)
    assert abs(parts.value - whole.value) < 4 * parts.spread / 20
    assert parts.spread > 0
    assert kid(a, b, subsets=5, size=10, seed=1) == kid(a, b, subsets=5, size=10, seed=1) != kid(a, b, subsets=5, size=10, seed=2)


def test_kid_is_unbiased():
    """Zero on average for one distribution, at an N where the Frechet distance is far from zero."""
    found = torch.tensor([mmd2(normal(20, 4, seed=2 * s), normal(20, 4, seed=2 * s + 1)) for s in range(300)])
    assert abs(found.mean()) < 4 * found.std() / 300**0.5
    assert (found < 0).any()
    assert kid(normal(200, 4), normal(200, 4, seed=1) + 1, size=100).value > 10 * float(found.std()) / 10


def loop_nearest(a, b, k):
    """Sorted distances by Python; a to itself when b is None."""
    out = []
    for i, x in enumerate(a.tolist()):
        others = [y for j, y in enumerate((a if b is None else b).tolist()) if b is not None or i != j]
        out.append(sorted(math.dist(x, y) for y in others)[k - 1])
    return out


@pytest.mark.parametrize("chunk", [3, 1024])
def test_nearest_against_loops(chunk):
    a, b = normal(17, 3), normal(11, 3, seed=1)
    for k in (1, 3):
        assert nearest(a, b, k=k, chunk=chunk).tolist() == pytest.approx(loop_nearest(a, b, k), rel=1e-12)
        assert nearest(a, k=k, chunk=chunk).tolist() == pytest.approx(loop_nearest(a, None, k), rel=1e-12)
    twice = torch.cat([a, a])
    assert nearest(twice, chunk=chunk).tolist() == [0.0] * 34


def loop_prdc(real, made, k, k_density):
    ball, dense, back = loop_nearest(real, None, k), loop_nearest(real, None, k_density), loop_nearest(made, None, k)
    far = [[math.dist(x, y) for y in made.tolist()] for x in real.tolist()]
    n, m = len(real), len(made)
    precision = sum(any(far[i][j] <= ball[i] for i in range(n)) for j in range(m)) / m
    recall = sum(any(far[i][j] <= back[j] for j in range(m)) for i in range(n)) / n
    density = sum(far[i][j] <= dense[i] for i in range(n) for j in range(m)) / (k_density * m)
    coverage = sum(any(far[i][j] <= dense[i] for j in range(m)) for i in range(n)) / n
    return precision, recall, density, coverage


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize(("k", "k_density"), [(3, 5), (1, 2)])
def test_prdc_against_loops(chunk, k, k_density):
    real, made = normal(40, 2), normal(31, 2, seed=1) * 0.8 + 0.5
    found = prdc(real, made, k=k, k_density=k_density, chunk=chunk)
    assert found == pytest.approx(loop_prdc(real, made, k, k_density), abs=1e-12)
    assert len(set(found)) == 4


def test_prdc_at_its_ends():
    real = normal(400, 3)
    same = prdc(real, normal(400, 3, seed=1))
    assert same.precision > 0.85 and same.recall > 0.85 and 0.85 < same.density < 1.15 and same.coverage > 0.85
    assert prdc(real, real + 1000) == (0, 0, 0, 0)
    copies = prdc(real, real)
    assert copies[:2] == (1, 1) and copies.coverage == 1
    one_mode = prdc(real, real[:1] + 1e-3 * normal(400, 3, seed=2))
    assert one_mode.precision == 1 and one_mode.recall < 0.05 and one_mode.coverage < 0.1
    spread = prdc(0.1 * real, normal(400, 3, seed=3))
    assert spread.precision < 0.2 and spread.recall > 0.8


def test_default_neighbours_are_those_of_the_papers():
    real, made = normal(40, 2), normal(31, 2, seed=1)
    assert prdc(real, made) == prdc(real, made, k=3, k_density=5)


@pytest.mark.parametrize(("call", "words"), [
    (lambda x: frechet(x, x[:, :3]), ["b", "3 features", "4"]),
    (lambda x: frechet(x[:1], x), ["a", "1 rows"]),
    (lambda x: frechet(x * torch.nan, x), ["a", "NaN"]),
    (lambda x: frechet(x.long(), x), ["a", "int64"]),
    (lambda x: frechet(x[:, 0], x), ["a", "(N, d)"]),
    (lambda x: frechet(x.numpy(), x), ["a", "ndarray"]),
    (lambda x: frechet_limit(x[:10], x), ["a", "10 rows", "16"]),
    (lambda x: kid(x, x, subsets=0), ["subsets", "0"]),
    (lambda x: kid(x, x, size=1), ["size", "1"]),
    (lambda x: prdc(x[:5], x), ["k", "5", "from 1 to 4"]),
    (lambda x: nearest(x, k=0), ["k", "0"]),
    (lambda x: nearest(x, x[:3], k=4), ["k", "from 1 to 3"]),
])
def test_what_is_refused(call, words):
    with pytest.raises(BadInput) as error:
        call(normal(20, 4))
    for word in words:
        assert word in str(error.value)
