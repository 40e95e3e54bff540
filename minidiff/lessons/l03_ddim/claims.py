"""Claims of lesson 03, each measured by a function of the sample size."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import fd_mini, reader_features, real, sampled
from minidiff.diffusion import Gaussian, Schedule, ddim, dpm2m, invert, last
from minidiff.measure.interval import Estimate, bootstrap, frechet_ratio
from minidiff.measure.pictures import psnr
from minidiff.rng import normal
from minidiff.zoo import load

__all__ = ["even_lambda", "convergence", "orders"]

FULL = 64  # below so many samples no DDPM-1000 is run: real pictures stand in for it
CLIP = "both"  # DDPM clips x0 too; here eps is worked out again from the clipped x0, as OpenAI's code does


# Pictures ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _features(n: int, loop: str, options: tuple[tuple[str, object], ...] = ()) -> Tensor:
    return reader_features(real(n, start=n) if loop == "real" else sampled(n, loop, **dict(options)))


def _of(n: int, loop: str, **options: object) -> Tensor:
    return _features(n, loop, tuple(sorted(options.items())))


def _against_ddpm(n: int, made: Tensor, target: str, bad: Callable[[], dict[str, Tensor]]) -> Outcome:
    """FDmini of ``made`` over FDmini of DDPM-1000, both against the same n held-out pictures, started from the same noise.

    Below FULL samples the denominator is a second set of real pictures, the hardest reference there is: the ratio is then
    too high, never too low.
    """
    truth = reader_features(real(n))
    small = n < FULL
    reference = _of(n, "real") if small else _of(n, "ddpm", clip="x0")

    def ratio(features: Tensor, resamples: int) -> Estimate:
        return frechet_ratio(features, reference, truth, n=resamples, paired=not small)

    found = ratio(made, 100 if small else 1000)
    floor = {"real against real": 1.0} if small else {"real against real": ratio(_of(n, "real"), 20).value}
    baseline = {} if small else {name: ratio(features, 20).value for name, features in bad().items()}
    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline=baseline,
        floor=floor,
        why=("so few pictures say little" if small else "the shortcut costs more than that"),
    )


def _noisy(n: int, steps: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {
        f"eta = 1, {steps} steps": _of(n, "ddim", steps=steps, eta=1.0, clip=CLIP),
        f"DDPM, large variance, {steps} steps": _of(n, "ddpm", steps=steps, variance="large", clip="x0"),
    }


@claim(
    "03.ddim_50_vs_ddpm_1000",
    "DDIM with 50 steps is nearly as good as DDPM with 1000 (Song et al. 2021, table 1)",
    unit="FDmini ratio",
    target="<= 1.3",
    n=128, small=16, reader="final",
)
def ddim_50(n: int) -> Outcome:
    return _against_ddpm(n, _of(n, "ddim", steps=50, clip=CLIP), "<= 1.3", _noisy(n, 50))


@claim(
    "03.ddim_20_vs_ddpm_1000",
    "DDIM with 20 steps is not much worse than DDPM with 1000 (Song et al. 2021, table 1)",
    unit="FDmini ratio",
    target="<= 1.5",
    n=128, small=16, reader="final",
)
def ddim_20(n: int) -> Outcome:
    return _against_ddpm(n, _of(n, "ddim", steps=20, clip=CLIP), "<= 1.5", _noisy(n, 20))


@claim(
    "03.dpm2m_10_vs_ddpm_1000",
    "DPM-Solver++(2M) with 10 steps is not much worse than DDPM with 1000 (Lu et al. 2022)",
    unit="FDmini ratio",
    target="<= 1.5",
    n=128, small=16, reader="final",
)
def dpm2m_10(n: int) -> Outcome:
    return _against_ddpm(
        n,
        _of(n, "dpm2m", steps=10, clip="x0"),
        "<= 1.5",
        lambda: {"DDIM, 10 steps": _of(n, "ddim", steps=10, clip=CLIP)} | _noisy(n, 10)(),
    )


@claim(
    "03.eta_at_10_steps",
    "With 10 steps eta = 0 is better than eta = 1 (Song et al. 2021, table 1)",
    unit="FDmini of eta = 0 over FDmini of eta = 1",
    target="<= 0.8",
    n=128, small=16, reader="final",
)
def eta_at_10(n: int) -> Outcome:
    truth = reader_features(real(n))
    still, noisy = (_of(n, "ddim", steps=10, eta=eta, clip=CLIP) for eta in (0.0, 1.0))
    found = frechet_ratio(still, noisy, truth, n=100 if n < FULL else 1000, paired=True)
    floor = fd_mini(real(n, start=n), real(n)) / max(float(_frechet(noisy, truth)), 1e-9)
    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline={"eta = 1": 1.0},
        floor={"real against real": floor},
        why="the network's own errors are larger than what the noise of eta = 1 adds",
    )


def _frechet(a: Tensor, b: Tensor) -> float:
    from minidiff.measure.distance import frechet

    return frechet(a, b)


# Inversion -----------------------------------------------------------------------------------------------------------


@claim(
    "03.inversion_psnr",
    "Picture to noise and back by DDIM, 100 steps each way, keeps the picture (Song et al. 2021, tab. 2)",
    unit="dB PSNR",
    target=">= 30",
    n=64, small=2,
)
def inversion(n: int) -> Outcome:
    model, pictures = load("pixel-ddpm"), real(n)

    def back(codes: Tensor, steps: int) -> Tensor:
        return torch.cat([last(ddim(model, part, steps=steps)).x for part in codes.split(32)])

    def there(steps: int) -> Tensor:
        return torch.cat([last(invert(model, part, steps=steps)).x for part in pictures.split(32)])

    codes = there(100)
    found = psnr(back(codes, 100).clamp(-1, 1), pictures)
    m = bootstrap(torch.mean, found)
    other = psnr(back(normal(tuple(pictures.shape), "inversion", 0), 10).clamp(-1, 1), pictures)
    floor = {} if n < 8 else {"exact, up to 8-bit rounding": float(psnr((pictures * 127.5).round() / 127.5, pictures).mean())}
    baseline = {"from other noise": float(other.mean())}
    if n >= 8:
        baseline["10 steps"] = float(psnr(back(there(10), 10).clamp(-1, 1), pictures).mean())
    return Outcome(
        m.value,
        m.low,
        m.high,
        baseline=baseline,
        floor=floor,
        why="the field bends too much between two of 100 steps",
    )


_COARSE = "too few steps for the leading term of the error to show"


# Orders on Gaussian data ---------------------------------------------------------------------------------------------


def even_lambda(steps: int, *, top: float = 4.0, bottom: float = -4.0) -> Schedule:
    """A schedule of steps + 1 levels, evenly spaced in lam = log(signal / noise): the finest grid that a solver may visit."""
    return Schedule(torch.sigmoid(2 * torch.linspace(top, bottom, steps + 1, dtype=torch.float64)), "even in lam")


def convergence(loop: Callable, finest: int, *, std: float = 0.5, **options: object) -> dict[int, float]:
    """Steps -> largest error at the end of the way, relative to the largest value, on data N(0, std^2), where it is known.

    Grids: finest / 8, / 4, / 2 and finest itself, from lam = -4 to lam = 4.
    """
    schedule = even_lambda(finest)
    model = Gaussian(schedule, std=std)
    x = normal((64, 2), "order", 0, dtype=torch.float64)
    exact = model.flow(x, finest, 0)
    out = {}
    for stride in (8, 4, 2, 1):
        end = last(loop(model, x, steps=list(range(finest, -1, -stride)), final_alpha="first", **options)).x
        out[finest // stride] = float((end - exact).abs().max() / exact.abs().max())
    return out


def orders(errors: dict[int, float]) -> tuple[float, float, float]:
    """The slope of -log error over log steps by least squares, then the least and the greatest slope of neighbours."""
    n, e = (torch.tensor(list(v), dtype=torch.float64).log2() for v in (errors, errors.values()))
    slope = float(-((n - n.mean()) * (e - e.mean())).sum() / (n - n.mean()).square().sum())
    steps = (-(e[1:] - e[:-1]) / (n[1:] - n[:-1])).tolist()
    return slope, min(steps), max(steps)


@claim(
    "03.order_ddim",
    "DDIM is of first order: twice the steps, half the error (Gaussian data, exact network)",
    unit="order (n = steps of the finest grid; range over pairs of grids)",
    target="1.0 +- 0.1",
    n=256, small=128,
)
def order_ddim(n: int) -> Outcome:
    finest = 8 * math.ceil(n / 8)
    found, mixed = orders(convergence(ddim, finest)), orders(convergence(ddim, finest, clip="x0"))
    return Outcome(
        *found, baseline={"x0 clipped, eps not: converges elsewhere": mixed[0]}, why=_COARSE
    )


@claim(
    "03.order_2m",
    "DPM-Solver++(2M) is of second order from one network call a step (Lu et al. 2022; Gaussian data)",
    unit="order (n = steps of the finest grid; range over pairs of grids)",
    target="2.0 +- 0.15",
    n=256, small=128,
)
def order_2m(n: int) -> Outcome:
    finest = 8 * math.ceil(n / 8)
    found = orders(convergence(dpm2m, finest, lower_order_final=False))
    return Outcome(*found, baseline={"DDIM": orders(convergence(ddim, finest))[0]}, why=_COARSE)
