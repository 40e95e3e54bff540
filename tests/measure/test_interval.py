"""Intervals: known formulas, coverage on known distributions, and how a measured number prints."""

from __future__ import annotations

import math

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.measure.distance import frechet, frechet_between, moments
from minidiff.measure.interval import Estimate, _weighted, bootstrap, frechet_interval, frechet_ratio, wilson


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_line():
    m = Estimate(0.1234, 0.104, 0.1441, 512, floor=0.0213, baseline=3.11)
    assert str(m) == "0.12 [0.10, 0.14] (floor 0.021, bad baseline 3.1, N = 512)"
    m = Estimate(0.12, 0.10, 0.14, 512, floor=0.02, baseline=3.1)
    assert str(m) == "0.12 [0.10, 0.14] (floor 0.02, bad baseline 3.1, N = 512)"
    assert str(Estimate(31.27, 30.9, 31.8, 64, "dB")) == "31.3 [30.9, 31.8] dB (N = 64)"
    assert str(Estimate(1234.5, 1200.0, 1300.0)) == "1234 [1200, 1300]"
    assert str(Estimate(0.5)) == "0.5" and str(Estimate(120.0)) == "120" and str(Estimate(-2.04)) == "-2"
    assert str(Estimate(0.0, 0.0, 0.0, 5)) == "0 [0, 0] (N = 5)"
    assert str(Estimate(float("nan"))) == "nan"
    assert str(Estimate(3e-9, 2e-9, 4e-9)) == "3.00e-09 [2.00e-09, 4.00e-09]"


def test_record():
    m = Estimate(0.5, 0.4, 0.6, 10, "share")
    assert m.replace(floor=0.1) == Estimate(0.5, 0.4, 0.6, 10, "share", 0.1)
    assert m.to_dict() == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "unit": "share", "floor": None, "baseline": None}


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (9, 10), (10, 10), (500, 5000)])
def test_wilson_solves_its_equation(k, n):
    """Both ends p satisfy |k/n - p| = z sqrt(p (1 - p) / n)."""
    m = wilson(k, n)
    z = 1.959963984540054
    assert m.value == k / n and m.n == n and 0 <= m.low <= m.value <= m.high <= 1
    for p in (m.low, m.high):
        if 0 < p < 1:
            assert abs(k / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), rel=1e-9)
    assert (m.low == 0) == (k == 0) and (m.high == 1) == (k == n)


def test_wilson_against_known_numbers():
    """7 of 50 at 95 %: scipy 1.17, binomtest(7, 50).proportion_ci(0.95, "wilson")."""
    m, wide = wilson(7, 50), wilson(7, 50, level=0.99)
    assert (m.low, m.high) == pytest.approx(WILSON, abs=1e-9)
    assert wide.low < m.low and wide.high > m.high


WILSON = (0.06950833427016292, 0.26186193710585537)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    x = normal(400) * 3 + 1
    m = bootstrap(torch.mean, x, n=2000)
    assert m.value == float(x.mean()) and m.n == 400
    half = 1.96 * float(x.std()) / 20
    assert m.low == pytest.approx(m.value - half, abs=0.12 * half)
    assert m.high == pytest.approx(m.value + half, abs=0.12 * half)
    narrow = bootstrap(torch.mean, x, n=2000, level=0.5)
    assert (narrow.high - narrow.low) / (m.high - m.low) == pytest.approx(0.6745 / 1.96, rel=0.1)


def test_bootstrap_holds_the_truth_as_often_as_it_says():
    """Mean of an exponential, 150 worlds: 95 % intervals hold 1 in about 93 % (skewed, N = 60)."""
    held = 0
    for s in range(150):
        x = torch.empty(60, dtype=torch.float64).exponential_(1.0, generator=torch.Generator().manual_seed(s))
        m = bootstrap(torch.mean, x, n=100, seed=s)
        held += m.low <= 1 <= m.high
    assert 0.86 <= held / 150 <= 0.98


def test_paired_rows_stay_together():
    x = normal(200)
    y = x + 0.01 * normal(200, seed=1)

    def gap(a, b):
        return a.mean() - b.mean()
    together, apart = bootstrap(gap, x, y, n=300, paired=True), bootstrap(gap, x, y, n=300)
    assert together.high - together.low < 0.05 * (apart.high - apart.low)
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * (2 / 200) ** 0.5, rel=0.2)
    assert bootstrap(gap, x, x, n=50, paired=True) == Estimate(0.0, 0.0, 0.0, 200)


def test_the_seed_decides():
    x = normal(50)
    first, again, other = (bootstrap(torch.mean, x, n=50, seed=s) for s in (1, 1, 2))
    assert first == again != other
    a, b = x.reshape(25, 2), normal(25, 2, seed=1)
    first, again, other = (frechet_interval(a, b, n=40, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_weighted_moments_are_those_of_the_repeated_rows():
    x = normal(30, 4) + 5
    weights = torch.stack([torch.bincount(torch.randint(30, (30,), generator=torch.Generator().manual_seed(s)), minlength=30)
                           for s in range(3)]).double()
    mean, covariance = _weighted(x, weights)
    for r in range(3):
        right = moments(x.repeat_interleave(weights[r].long(), 0))
        assert torch.allclose(mean[r], right.mean, atol=1e-12) and torch.allclose(covariance[r], right.covariance, atol=1e-11)


def test_frechet_interval_surrounds_its_value_and_equals_the_slow_way():
    made, real = normal(120, 3), normal(100, 3, seed=1) * 1.2 + 0.4
    m = frechet_interval(made, real, n=400)
    assert m.value == pytest.approx(frechet(made, real), rel=1e-12) and m.n == 100
    assert m.low < m.value < m.high
    rng = torch.Generator().manual_seed(0)

    def again(x):
        return moments(x[torch.randint(len(x), (len(x),), generator=rng)])
    slow = torch.tensor([float(frechet_between(again(made), again(real))) for _ in range(400)])
    assert m.high - m.low == pytest.approx(float(slow.quantile(0.975) - slow.quantile(0.025)), rel=0.2)
    assert float(slow.mean()) > 1.05 * m.value, "resampling adds bias; the interval must take it off"
    there, here = frechet_interval(made + 1e7, real + 1e7, n=40), frechet_interval(made, real, n=40)
    assert (there.low, there.high) == pytest.approx((here.low, here.high), rel=1e-4)


def test_intervals_surround_their_value_where_bias_is_large():
    """Two sets of one distribution: plain percentiles would all lie above the value."""
    made, real = normal(100, 8), normal(100, 8, seed=1)
    m = frechet_interval(made, real, n=200)
    assert (m.low + m.high) / 2 == pytest.approx(m.value, rel=0.2)
    ratio = frechet_ratio(made, normal(100, 8, seed=2) + 1, real, n=200)
    assert (ratio.low + ratio.high) / 2 == pytest.approx(ratio.value, rel=0.2)


def test_frechet_interval_holds_the_mean_of_its_value():
    intervals = [frechet_interval(normal(150, 4, seed=2 * s), 1.3 * normal(150, 4, seed=2 * s + 1) + 0.3, n=100)
                 for s in range(60)]
    mean = sum(m.value for m in intervals) / 60
    assert sum(m.low <= mean <= m.high for m in intervals) >= 52
    spread = torch.tensor([m.value for m in intervals]).std()
    width = sum(m.high - m.low for m in intervals) / 60
    assert 0.75 < width / (2 * 1.96 * float(spread)) < 1.35


def test_frechet_ratio():
    real, near, far = normal(300, 3), normal(300, 3, seed=1) + 0.4, normal(300, 3, seed=1) + 0.8
    m = frechet_ratio(near, far, real, n=200)
    assert m.value == pytest.approx(frechet(near, real) / frechet(far, real), rel=1e-12)
    assert m.low < m.value < m.high and m.n == 300
    paired = frechet_ratio(near, far, real, n=200, paired=True)
    assert paired.high - paired.low < 0.8 * (m.high - m.low)
    same = frechet_ratio(far, far, real, n=50, paired=True)
    assert (same.low, same.value, same.high) == pytest.approx((1, 1, 1))
    inverse = frechet_ratio(far, near, real, n=200, paired=True)
    assert (inverse.low, inverse.high) == pytest.approx((1 / paired.high, 1 / paired.low), rel=0.05)


@pytest.mark.parametrize(("call", "words"), [
    (lambda x: bootstrap(torch.mean), ["arrays", "0 arrays"]),
    (lambda x: bootstrap(torch.mean, [1.0, 2.0]), ["arrays"]),
    (lambda x: bootstrap(torch.mean, x, n=5), ["n", "5", "20"]),
    (lambda x: bootstrap(torch.mean, x, level=95), ["level", "95", "0.95"]),
    (lambda x: bootstrap(lambda a, b: 0.0, x, x[:5], paired=True), ["arrays", "paired"]),
    (lambda x: bootstrap(lambda a: a.mean() / 0, x), ["statistic", "NaN"]),
    (lambda x: wilson(5, 4), ["successes", "5", "0 to 4"]),
    (lambda x: wilson(0, 0), ["n", "0"]),
    (lambda x: wilson(0.5, 4), ["successes", "0.5"]),
    (lambda x: frechet_interval(x, x[:, :2]), ["real", "2 features"]),
    (lambda x: frechet_ratio(x, x[:4], x, paired=True), ["baseline", "4 rows"]),
    (lambda x: frechet_ratio(x, x, x[:, :1]), ["real", "1 features"]),
])
def test_what_is_refused(call, words):
    with pytest.raises(BadInput) as error:
        call(normal(10, 3))
    for word in words:
        assert word in str(error.value)
