"""Numbers that say how sure they are: bootstrap and Wilson intervals, and a small record that prints itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.measure.distance import Moments, check_features, frechet_between, moments
from minidiff.rng import generator

__all__ = ["Estimate", "bootstrap", "frechet_interval", "frechet_ratio", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """A measured number with its interval, and what to hold it against.

    n: how many samples it rests on. floor: what a perfect method would score (real against real). baseline: what a bad one
    scores. ``str(measured)`` is one line: "0.12 [0.10, 0.14] (floor 0.02, bad baseline 3.1, N = 512)".
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    floor: float | None = None
    baseline: float | None = None

    def replace(self, **changes: object) -> Estimate:
        """A changed copy: ``measured.replace(floor=0.02, baseline=3.1)``."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def to_dict(self) -> dict:
        """Plain numbers and words, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        width = 0.0 if self.low is None or self.high is None else self.high - self.low
        text = _digits(self.value, width)
        if self.low is not None and self.high is not None:
            text += f" [{_digits(self.low, width)}, {_digits(self.high, width)}]"
        if self.unit:
            text += f" {self.unit}"
        beside = [] if self.floor is None else [f"floor {_digits(self.floor, 0)}"]
        beside += [] if self.baseline is None else [f"bad baseline {_digits(self.baseline, 0)}"]
        beside += [] if self.n is None else [f"N = {self.n}"]
        return text + (f" ({', '.join(beside)})" if beside else "")


def _digits(x: float, width: float) -> str:
    """As many decimals as the width of the interval deserves; two significant digits when there is none."""
    scale = width / 3 if width > 0 else abs(x) / 10
    if not (math.isfinite(x) and math.isfinite(scale)) or scale == 0:
        return f"{x:g}"
    places = max(0, -math.floor(math.log10(scale)))
    if places > 6:
        return f"{x:.2e}"
    text = f"{x:.{places}f}"
    return text.rstrip("0").rstrip(".") if width == 0 and places else text


def _level(level: float) -> float:
    ok = isinstance(level, float) and 0.5 <= level < 1
    require(ok, "level", repr(level), "a number from 0.5 up to, not including, 1", "level=0.95")
    return (1 - level) / 2


def _repeats(n: int) -> None:
    require(isinstance(n, int) and n >= 20, "n", repr(n), "at least 20 resamples", "n=1000")


def _between(values: Tensor, level: float) -> tuple[float, float]:
    require(bool(torch.isfinite(values).all()), "statistic", "NaN or infinity for some resamples", "a finite number for each")
    tail = _level(level)
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def bootstrap(statistic: Callable[..., Tensor | float], *arrays: Tensor, n: int = 1000, seed: int = 0, level: float = 0.95,
              paired: bool = False) -> Estimate:
    """Percentile bootstrap (Efron 1979) of ``statistic(*arrays)``: rows are drawn again with replacement, n times.

    arrays: tensors whose first dimension counts samples. paired=True draws the same rows of every array, for numbers that
    were measured on the same samples. Good for means, quantiles, shares and their ratios; not for the Frechet distance or
    nearest neighbours, which resampled rows bias: see :func:`frechet_interval`.
    """
    _repeats(n)
    tail = _level(level)
    ok = bool(arrays) and all(isinstance(x, Tensor) and x.ndim >= 1 and len(x) >= 2 for x in arrays)
    require(ok, "arrays", f"{len(arrays)} arrays", "tensors of at least two rows", "bootstrap(torch.mean, values)")
    lengths = [len(x) for x in arrays]
    require(not paired or len(set(lengths)) == 1, "arrays", f"lengths {lengths}", "equal lengths when paired=True")
    rng = generator("bootstrap", seed)
    found = []
    for _ in range(n):
        rows = [torch.randint(length, (length,), generator=rng) for length in lengths[:1 if paired else None]]
        rows = rows * len(arrays) if paired else rows
        found.append(float(statistic(*(x[r.to(x.device)] for x, r in zip(arrays, rows, strict=True)))))
    low, high = _between(torch.tensor(found, dtype=torch.float64), 1 - 2 * tail)
    return Estimate(float(statistic(*arrays)), low, high, min(lengths))


def wilson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share successes / n with the interval of Wilson (1927): right also near 0 and 1, where plus-minus is not."""
    require(isinstance(n, int) and n >= 1, "n", repr(n), "a whole number from 1 on", "n=len(outcomes)")
    require(isinstance(successes, int) and 0 <= successes <= n, "successes", repr(successes), f"a whole number from 0 to {n}",
            "int(outcomes.sum())")
    z = NormalDist().inv_cdf(1 - _level(level))
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return Estimate(share, low, 1.0 if successes == n else min(1.0, middle + half), n)


def _weighted(x: Tensor, weights: Tensor) -> Moments:
    """Moments of the samples in which row i comes weights[r, i] times: x (N, d), weights (R, N) -> (R, d), (R, d, d)."""
    n = len(x)
    mean = weights @ x / n
    second = torch.stack([(x * w[:, None]).T @ x for w in weights])
    return Moments(mean, (second - n * mean[:, :, None] * mean[:, None, :]) / (n - 1))


def _counts(rng: torch.Generator, repeats: int, n: int) -> Tensor:
    """(repeats, n) float64: how often each of n rows comes in a resample."""
    drawn = torch.randint(n, (repeats, n), generator=rng)
    return torch.zeros(repeats, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(repeats, n, dtype=torch.float64))


def _resampled(made: list[Tensor], real: Tensor, n: int, seed: int, paired: bool) -> Tensor:
    """(n, len(made)) Frechet distances of resampled sets to one resampled real set, in chunks of 50."""
    rng, out = generator("frechet", seed), []
    centre = real.mean(0)                        # near the origin second moments lose no digits
    made, real = [x - centre for x in made], real - centre
    for start in range(0, n, 50):
        repeats = min(50, n - start)
        truth = _weighted(real, _counts(rng, repeats, len(real)))
        weights = [_counts(rng, repeats, len(x)) for x in made[:1 if paired else None]]
        weights = weights * len(made) if paired else weights
        out.append(torch.stack([frechet_between(_weighted(x, w), truth) for x, w in zip(made, weights, strict=True)], 1))
    return torch.cat(out)


def frechet_interval(made: Tensor, real: Tensor, *, n: int = 1000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Frechet distance of made (N, d) from real (M, d), with an interval for its mean over such samples of N and M.

    Resampled rows repeat, which adds a second helping of the 1/N bias; it is taken off, so that the interval surrounds the
    value. It does not remove the bias of the value itself: set the floor at the same N beside it. Near the floor the
    interval is cautious (up to half as wide again as it need be).
    """
    _repeats(n)
    made = check_features("made", made)
    real = check_features("real", real, width=made.shape[1])
    value = float(frechet_between(moments(made), moments(real)))
    found = _resampled([made], real, n, seed, False)[:, 0]
    low, high = _between(found - (found.mean() - value), level)
    return Estimate(value, max(0.0, low), max(0.0, high), min(len(made), len(real)))


def frechet_ratio(made: Tensor, baseline: Tensor, real: Tensor, *, n: int = 1000, seed: int = 0, level: float = 0.95,
                  paired: bool = False) -> Estimate:
    """Frechet distance of ``made`` divided by that of ``baseline``, both from the same real set; bias as in frechet_interval.

    All three sets are resampled, the real one once for both distances. paired=True draws the same rows of made and baseline,
    for samplers that started from the same noise.
    """
    _repeats(n)
    made = check_features("made", made)
    baseline = check_features("baseline", baseline, width=made.shape[1])
    real = check_features("real", real, width=made.shape[1])
    require(not paired or len(made) == len(baseline), "baseline", f"{len(baseline)} rows", f"{len(made)} rows when paired=True")
    values = frechet_between(Moments(*map(torch.stack, zip(moments(made), moments(baseline), strict=True))), moments(real))
    require(float(values[1]) > 0, "baseline", "a distance of 0 from the real set", "a set that differs from the real one")
    found = _resampled([made, baseline], real, n, seed, paired)
    found = found - (found.mean(0) - values)
    found = torch.maximum(found, 0.01 * values)
    low, high = _between(found[:, 0] / found[:, 1], level)
    return Estimate(float(values[0] / values[1]), low, high, min(len(made), len(baseline), len(real)), "FDmini ratio")
