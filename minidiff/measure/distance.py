"""Distances between two sets of feature vectors: Frechet, kernel (KID), precision and recall, density and coverage.

All take features (N, d) and (M, d), work in float64 on the CPU, and are exact: no approximate neighbours, no scipy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.errors import check_finite, require
from minidiff.rng import generator

__all__ = ["Kid", "Moments", "Prdc", "check_features", "frechet", "frechet_between", "frechet_limit", "kid", "mmd2", "moments",
           "nearest", "prdc"]


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d), unbiased (divided by N - 1), float64."""

    mean: Tensor
    covariance: Tensor


class Kid(NamedTuple):
    """Mean of the squared MMD over the subsets, and its standard deviation from subset to subset."""

    value: float
    spread: float


class Prdc(NamedTuple):
    """Shares in [0, 1], except density, which may exceed 1; all near 1 (0.95 and more) for two samples of one distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def check_features(argument: str, x: object, *, least: int = 2, width: int | None = None) -> Tensor:
    """``x`` as float64 on the CPU; raises BadInput unless it is (N, d), floating, finite, with N >= least and d = width."""
    require(isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point(), argument,
            f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__,
            "a float tensor of features (N, d)", f"features({argument}, reader)")
    assert isinstance(x, Tensor)
    require(len(x) >= least, argument, f"{len(x)} rows", f"at least {least}")
    require(width in (None, x.shape[1]), argument, f"{x.shape[1]} features a row", f"{width}, as in the other set")
    check_finite(argument, x)
    return x.detach().to("cpu", torch.float64)


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features (N, d), N >= 2."""
    x = check_features("features", features)
    mean = x.mean(0)
    return Moments(mean, (x - mean).T @ (x - mean) / (len(x) - 1))


def _root(covariance: Tensor) -> Tensor:
    """L (d, d) with L @ L.T = covariance; rounding below zero is cut off, so a singular covariance is welcome."""
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2)


def frechet_between(a: Moments, b: Moments) -> Tensor:
    """Squared Frechet distance of two Gaussians, |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau 1982).

    The trace of the root is the sum of the singular values of L1^T L2 with S = L L^T: no matrix root, no imaginary part.
    Leading dimensions broadcast; returns (...) float64, not below zero.
    """
    cross = torch.linalg.svdvals(_root(a.covariance).mT @ _root(b.covariance)).sum(-1)
    trace = (a.covariance + b.covariance).diagonal(dim1=-2, dim2=-1).sum(-1)
    return (((a.mean - b.mean) ** 2).sum(-1) + trace - 2 * cross).clamp(min=0)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between features (N, d) and (M, d) (Heusel et al. 2017, eq. 6), called FDmini on a reader's features.

    Biased upwards by about 1/N, so compare at equal N, with N of at least 20 d, beside a floor (real against real).
    """
    a = check_features("a", a)
    return float(frechet_between(moments(a), moments(check_features("b", b, width=a.shape[1]))))


def frechet_limit(a: Tensor, b: Tensor, *, points: int = 8, seed: int = 0) -> float:
    """The Frechet distance that endless samples would have: a straight line in 1/N, read at 0 (Chong and Forsyth 2020).

    N runs over ``points`` sizes from a quarter of the smaller set up to all of it, each from the front of a shuffled copy.
    """
    a = check_features("a", a, least=16)
    b = check_features("b", b, least=16, width=a.shape[1])
    rng = generator("frechet_limit", seed)
    n = min(len(a), len(b))
    sizes = torch.linspace(n / 4, n, points).long()
    found = []
    for size in sizes.tolist():
        rows = (torch.randperm(len(x), generator=rng)[:size] for x in (a, b))
        found.append(frechet(*(x[r] for x, r in zip((a, b), rows, strict=True))))
    line = torch.stack([torch.ones(points, dtype=torch.float64), 1 / sizes.double()], 1)
    return float(torch.linalg.lstsq(line, torch.tensor(found, dtype=torch.float64)[:, None]).solution[0, 0])


def mmd2(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / d + 1)^3 (Gretton et al. 2012, eq. 3). May be below zero."""
    a = check_features("a", a)
    b = check_features("b", b, width=a.shape[1])

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def kid(a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Kid:
    """Kernel distance (Binkowski et al. 2018): the mean of :func:`mmd2` over random subsets of ``size`` rows of each set.

    Unbiased at every N, unlike the Frechet distance. ``size`` is cut to the smaller set.
    """
    require(isinstance(subsets, int) and subsets >= 1, "subsets", repr(subsets), "a whole number from 1 on", "subsets=100")
    require(isinstance(size, int) and size >= 2, "size", repr(size), "a whole number from 2 on", "size=1000")
    a = check_features("a", a)
    b = check_features("b", b, width=a.shape[1])
    size, rng = min(size, len(a), len(b)), generator("kid", seed)
    values = torch.tensor([
        mmd2(*(x[torch.randperm(len(x), generator=rng)[:size]] for x in (a, b))) for _ in range(subsets)], dtype=torch.float64)
    return Kid(float(values.mean()), float(values.std(correction=0)))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(a: Tensor, b: Tensor | None = None, *, k: int = 1, chunk: int = 1024) -> Tensor:
    """(N,) float64: from each row of a, the distance to its k-th nearest row of b, or of the other rows of a.

    Ties count as different neighbours, so copies of a row are neighbours at distance 0.
    """
    a = check_features("a", a)
    b = None if b is None else check_features("b", b, least=1, width=a.shape[1])
    most = len(a) - 1 if b is None else len(b)
    require(isinstance(k, int) and 1 <= k <= most, "k", repr(k), f"a whole number from 1 to {most}", "k=1")
    out = []
    for start in range(0, len(a), chunk):
        rows = a[start:start + chunk]
        far = _distances(rows, a if b is None else b)
        if b is None:
            far[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = torch.inf
        out.append(far.kthvalue(k, dim=1).values)
    return torch.cat(out)


def prdc(real: Tensor, made: Tensor, *, k: int = 3, k_density: int = 5, chunk: int = 1024) -> Prdc:
    """Four shares from balls around the samples, each as wide as the way to its k-th nearest neighbour in its own set.

    precision: made samples inside some real ball; recall: real samples inside some made ball (Kynkaanniemi et al. 2019, k = 3);
    density: real balls around a made sample, divided by k; coverage: real balls that hold one (Naeem et al. 2020, k = 5).
    A sample on the edge is inside. real: (N, d), made: (M, d).
    """
    real = check_features("real", real)
    made = check_features("made", made, width=real.shape[1])
    ball, dense, back = nearest(real, k=k), nearest(real, k=k_density), nearest(made, k=k)
    inside_real = torch.zeros(len(made), dtype=torch.bool)
    recall, density, coverage = 0, 0, 0
    for start in range(0, len(real), chunk):
        rows = slice(start, start + chunk)
        far = _distances(real[rows], made)
        inside_real |= (far <= ball[rows, None]).any(0)
        recall += int((far <= back).any(1).sum())
        held = far <= dense[rows, None]
        density += int(held.sum())
        coverage += int(held.any(1).sum())
    n = len(real)
    return Prdc(float(inside_real.double().mean()), recall / n, density / (k_density * len(made)), coverage / n)
