"""Exercises of lesson 00, the second half: distances that come with an interval."""

from __future__ import annotations

import torch

from minidiff.course.tasks import call, exercise, expect, expect_number
from minidiff.rng import normal

__all__: list[str] = []


@exercise(
    "00.frechet_1d",
    "Frechet distance of two Gaussians on the line",
    name="frechet_1d",
    points=2,
    stub='''
def frechet_1d(a, b):
    """a: (N,), b: (M,) numbers. Fit a Gaussian to each (unbiased variance); return the squared Frechet distance, a 0-d tensor."""
    ...
''',
    solution="""
def frechet_1d(a, b):
    return (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
""",
    hints=(
        "In one dimension the trace term S_a + S_b - 2 sqrt(S_a S_b) is a square.",
        "It is (sigma_a - sigma_b)^2.",
        "Add the squared distance of the means.",
    ),
)
def _frechet_1d(fn) -> None:
    a = normal((9,), "frechet", 0, dtype=torch.float64) * 2 + 1
    b = normal((7,), "frechet", 1, dtype=torch.float64) * 0.7 - 0.5
    mean, spread = (a.mean() - b.mean()) ** 2, (a.std() - b.std()) ** 2
    got = call(fn, a, b)
    expect(
        got,
        mean + spread,
        wrong={
            "The spread term compares variances; it is the standard deviations that are subtracted.": mean
            + (a.var() - b.var()) ** 2,
            "It uses the biased standard deviation (divided by N).": mean + (a.std(correction=0) - b.std(correction=0)) ** 2,
            "The cross term is missing: S_a + S_b - 2 sqrt(S_a S_b).": mean + a.var() + b.var(),
            "The means are not squared.": (a.mean() - b.mean()).abs() + spread,
            "Only the means are compared; the spreads count too.": mean,
            "Only the spreads are compared; the means count too.": spread,
            "It takes the root; the squared distance is what FID reports.": (mean + spread).sqrt(),
        },
    )


@exercise(
    "00.total_variation",
    "Total variation of two histograms",
    name="total_variation",
    points=1,
    stub='''
def total_variation(counts_a, counts_b):
    """counts_a, counts_b: (K,) how often each of K values came. Half the sum of |p - q| over the shares, a 0-d tensor."""
    ...
''',
    solution="""
def total_variation(counts_a, counts_b):
    p, q = counts_a / counts_a.sum(), counts_b / counts_b.sum()
    return (p - q).abs().sum() / 2
""",
    hints=("Turn counts into shares first: the two sets may differ in size.", "Then half the sum of absolute differences."),
)
def _total_variation(fn) -> None:
    a, b = torch.tensor([5.0, 0.0, 3.0, 12.0]).double(), torch.tensor([1.0, 4.0, 9.0, 2.0]).double()
    p, q = a / a.sum(), b / b.sum()
    expect(
        call(fn, a, b),
        (p - q).abs().sum() / 2,
        wrong={
            "The half is missing: two histograms without overlap should be 1 apart, not 2.": (p - q).abs().sum(),
            "Counts are compared, not shares: divide each by its own sum.": (a - b).abs().sum() / 2,
            "It takes the largest difference instead of half the sum.": (p - q).abs().max(),
            "It squares the differences; take absolute values.": ((p - q) ** 2).sum() / 2,
            "The signs cancel: take absolute values before summing.": (p - q).sum() / 2,
            "It takes a mean over the values; it is a sum.": (p - q).abs().mean() / 2,
        },
    )


@exercise(
    "00.forty_of_forty",
    "What forty of forty proves",
    name="answer",
    points=1,
    stub="""
# All of 40 samples were valid. Predict: how low may the true share of valid samples still be (95 %, Wilson)?
answer = ...
""",
    solution="""
from minidiff.measure import wilson

answer = wilson(40, 40).low
""",
    hints=(
        "It is not 1: forty samples cannot tell 100 % from 99 %.",
        "The rule of three says about 1 - 3 / 40; Wilson is a bit lower.",
        "from minidiff.measure import wilson",
    ),
)
def _forty(value) -> None:
    expect_number(
        value,
        0.9124,
        tol=0.006,
        wrong={
            "1 is the share that was seen; the interval reaches below it.": 1.0,
            "That is 39 of 40 seen.": 0.975,
            "That is 95 %, the confidence, not the bound.": 0.95,
            "That is the rule of three (1 - 3 / N), near but a different bound.": 0.925,
            "That is the normal approximation of a neighbour; at 40 of 40 it has no width at all.": 0.9524,
            "That is the width of the interval, not its lower end.": 0.0876,
        },
        otherwise="Not quite; compute it with minidiff.measure.wilson(40, 40).",
    )
