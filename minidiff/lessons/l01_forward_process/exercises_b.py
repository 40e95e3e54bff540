"""Exercises of lesson 01, second half: the product of two Gaussians, and the denoiser that knows all the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.tasks import Mistake, call, exercise, expect
from minidiff.rng import generator, normal

__all__: list[str] = []


@exercise("01.fuse", "Two witnesses: the product of two Gaussians", name="fuse", points=2, stub='''
def fuse(m1, v1, m2, v2):
    """N(x; m1, v1) * N(x; m2, v2) is, up to a factor, N(x; mean, var). All (B,); v1 may hold 0. Returns stack([mean, var])."""
    ...
''', solution='''
import torch


def fuse(m1, v1, m2, v2):
    mean = (m1 * v2 + m2 * v1) / (v1 + v2)
    return torch.stack([mean, v1 * v2 / (v1 + v2)])
''', hints=("Multiply the densities and collect the terms in x squared: 1 / var = 1 / v1 + 1 / v2. Precisions add.",
            "The mean is the average of m1 and m2, each weighted by its precision: the surer witness counts more.",
            "Multiply through by v1 * v2, and a variance of 0 does no harm."))
def _fuse(fn: Callable) -> None:
    rng = generator("01 fuse")
    m1, m2 = (torch.randn(6, generator=rng, dtype=torch.float64) for _ in range(2))
    v1, v2 = (torch.rand(6, generator=rng, dtype=torch.float64) + 0.1 for _ in range(2))

    def both(mean: Tensor, var: Tensor) -> Tensor:
        return torch.stack([mean, var])

    total = v1 + v2
    mean, var = (m1 * v2 + m2 * v1) / total, v1 * v2 / total
    s1, s2 = v1.sqrt(), v2.sqrt()
    expect(call(fn, m1, v1, m2, v2, shape=(2, 6)), both(mean, var), wrong={
        "The mean is the plain average, but the surer witness (the smaller variance) must count more.": both((m1 + m2) / 2, var),
        "The weights are swapped: you give more weight to the larger variance.": both((m1 * v1 + m2 * v2) / total, var),
        "The variances add up when you add two numbers; when you multiply densities their inverses do.": both(mean, total),
        "The second row is the precision 1 / var; the variance is expected.": both(mean, 1 / var),
        "The second row is a standard deviation; the variance is expected.": both(mean, var.sqrt()),
        "The variance is the average of the two, but two witnesses together are surer than either.": both(mean, total / 2),
        "Weigh with variances, not with standard deviations.": both((m1 * s2 + m2 * s1) / (s1 + s2), var),
        "The means are added without dividing by the sum of the weights.": both(m1 / v1 + m2 / v2, var),
        "The harmonic mean of the variances is twice what is wanted.": both(mean, 2 * var),
        "First the mean, then the variance, please: the rows are swapped.": both(var, mean),
    }, otherwise="1 / var = 1 / v1 + 1 / v2, and mean / var = m1 / v1 + m2 / v2.")
    zero = torch.zeros_like(v1)
    try:
        got = call(fn, m1, zero, m2, v2, shape=(2, 6))
    except Mistake:
        raise Mistake("With v1 = 0, a witness who is certain, it divides by zero; multiply through by v1 * v2. "
                      "This case comes up at the very last step, where x_0 itself is the answer.") from None
    expect(got, both(m1, zero), otherwise="With v1 = 0 the answer must be m1 exactly, with variance 0.")


@exercise("01.ideal_denoiser", "The denoiser that knows all the data", name="ideal_denoiser", points=3, stub='''
def ideal_denoiser(x, points, abar):
    """E[x_0 | x_t = x] when the data are exactly these points, each as likely. x: (B, D), points: (N, D), abar: a float."""
    ...
''', solution='''
import torch


def ideal_denoiser(x, points, abar):
    far = ((x[:, None] - abar**0.5 * points[None]) ** 2).sum(-1)       # (B, N)
    weight = torch.softmax(-far / (2 * (1 - abar)), dim=1)
    return weight @ points
''', hints=("Given that it began at point n, x_t is N(sqrt(abar) * point_n, 1 - abar).",
            "Bayes: the weight of point n is that density at x, divided by the sum over all points. That is a softmax over n.",
            "The result is the average of the points themselves, not of the scaled ones, with these weights."))
def _ideal_denoiser(fn: Callable) -> None:
    points = normal((7, 2), "01 points", dtype=torch.float64)
    for abar in (0.3, 0.8):
        x = abar**0.5 * points[:5] + (1 - abar) ** 0.5 * normal((5, 2), "01 noise", dtype=torch.float64)

        def mean(*, a: float = abar**0.5, width: float = 2 * (1 - abar), sign: float = -1.0, dim: int = 1, power: int = 2,
                 x: Tensor = x) -> Tensor:
            far = torch.cdist(x, a * points, compute_mode="donot_use_mm_for_euclid_dist") ** power
            return torch.softmax(sign * far / width, dim) @ points

        want, near = mean(), torch.cdist(x, abar**0.5 * points).argmin(1)
        expect(call(fn, x, points, abar, shape=(5, 2)), want, wrong={
            "The points must be scaled by sqrt(abar) before they are compared with x: the chain shrinks them.": mean(a=1.0),
            "The points are scaled by abar; the forward chain scales them by its square root.": mean(a=abar),
            "The width is off: divide by 2 (1 - abar), twice the variance, not by the variance.": mean(width=1 - abar),
            "Divide by twice the variance 1 - abar, not by twice the standard deviation.": mean(width=2 * (1 - abar) ** 0.5),
            "Divide by twice the noise variance 1 - abar; you use abar.": mean(width=2 * abar),
            "The sign is wrong: far points get the large weights.": mean(sign=1.0),
            "The softmax runs over the batch; it must run over the points, so that each row adds up to 1.": mean(dim=0),
            "The distance must be squared.": mean(power=1),
            "That is the nearest point, but several points are possible: average them with their probabilities.": points[near],
            "These are scaled by sqrt(abar); average the points themselves.": abar**0.5 * want,
            "That is the plain mean of the data, right only for pure noise.": points.mean(0).expand(5, 2),
        }, otherwise="Weights softmax_n(-|x - sqrt(abar) p_n|^2 / (2 (1 - abar))), then the weighted average of the points.")
    try:
        got = call(fn, points + 0.3, points, 0.9999, shape=(7, 2))
    except Mistake:
        raise Mistake("With little noise every exp() becomes 0 and you divide 0 by 0; "
                      "torch.softmax takes out the largest first.") from None
    expect(got, points[torch.cdist(points + 0.3, 0.9999**0.5 * points).argmin(1)],
           otherwise="With next to no noise the answer must be the nearest point.")
