"""Claims of lesson 03, each measured by a function of the sample size."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import reader_features, real, sampled
from minidiff.diffusion import Gaussian, Schedule, ddim, dpm2m, invert, last
from minidiff.measure.interval import Estimate, bootstrap, frechet_ratio
from minidiff.measure.pictures import psnr
from minidiff.rng import normal
from minidiff.zoo import load

__all__ = ["even_lambda", "convergence", "orders"]

FULL = 64  # below so many samples, on a page, no long DDPM is run and nothing is compared with
CLIP = "both"  # DDPM clips x0 too; here eps is worked out again from the clipped x0, as OpenAI's code does


# Pictures ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _features(n: int, loop: str, options: tuple[tuple[str, object], ...] = ()) -> Tensor:
    return reader_features(real(n, start=n) if loop == "real" else sampled(n, loop, **dict(options)))


def _of(n: int, loop: str, **options: object) -> Tensor:
    return _features(n, loop, tuple(sorted(options.items())))


def _ratio(n: int, made: Tensor, reference: Tensor, *, paired: bool, why: str,
           others: dict[str, Tensor] | None = None) -> Outcome:
    """FDmini of ``made`` over FDmini of ``reference``, both features against the same n held-out pictures."""
    truth = reader_features(real(n))

    def ratio(features: Tensor, resamples: int) -> Estimate:
        return frechet_ratio(features, reference, truth, n=resamples, paired=paired)

    found = ratio(made, 100 if n < FULL else 1000)
    if n < FULL:
        return Outcome(found.value, found.low, found.high, floor={"real against real": 1.0}, why=why)
    weak = _of(n, "ddim", name="pixel-small-eps", steps=20, clip=CLIP)
    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline={"pixel-small-eps": ratio(weak, 20).value},
        floor={"real against real": ratio(_of(n, "real"), 20).value},
        settings={k: ratio(v, 20).value for k, v in (others or {}).items()},
        why=why,
    )


@claim(
    "03.ddim_50_vs_ddpm_100",
    "DDIM with 50 steps is as good as DDPM with 100 (Song et al. 2021, table 1: FID 4.67 against 5.78)",
    unit="FDmini ratio",
    target="<= 1.3",
    n=256, small=8, reader="final",
)
def ddim_50(n: int) -> Outcome:
    """Below FULL samples a second set of real pictures stands in for DDPM: the ratio is then too high, never too low."""
    full = n >= FULL
    reference = _of(n, "ddpm", steps=100, clip="x0") if full else _of(n, "real")
    return _ratio(n, _of(n, "ddim", steps=50, clip=CLIP), reference, paired=full,
                  why="the shortcut costs more than that" if full else "so few pictures say little")


def _against_ddim_50(n: int, made: Tensor, **others: Tensor) -> Outcome:
    """The reference that a thousand pictures can be made of: DDIM with 50 steps from the same noises."""
    reference = _of(n, "ddim", steps=50, clip=CLIP)
    return _ratio(n, made, reference, paired=True, others=others, why="the shortcut costs more than that")


@claim(
    "03.ddim_20_vs_50",
    "DDIM with 20 steps is not much worse than with 50 (Song et al. 2021, table 1: FID 6.84 against 4.67)",
    unit="FDmini ratio",
    target="<= 1.5",
    n=512, small=8, reader="final",
)
def ddim_20(n: int) -> Outcome:
    return _against_ddim_50(n, _of(n, "ddim", steps=20, clip=CLIP))


@claim(
    "03.dpm2m_10_vs_ddim_50",
    "DPM-Solver++(2M) with 10 steps is not much worse than DDIM with 50 (Lu et al. 2022)",
    unit="FDmini ratio",
    target="<= 1.5",
    n=512, small=8, reader="final",
)
def dpm2m_10(n: int) -> Outcome:
    others = {} if n < FULL else {"DDIM, 10 steps": _of(n, "ddim", steps=10, eta=0.0, clip=CLIP),
                                  "DDIM, eta = 1, 10 steps": _of(n, "ddim", steps=10, eta=1.0, clip=CLIP)}
    return _against_ddim_50(n, _of(n, "dpm2m", steps=10, clip="x0"), **others)


@claim(
    "03.eta_at_10_steps",
    "With 10 steps eta = 0 is better than eta = 1 (Song et al. 2021, table 1: FID 13.36 against 41.07)",
    unit="FDmini of eta = 0 over FDmini of eta = 1",
    target="<= 0.8",
    n=512, small=8, reader="final",
)
def eta_at_10(n: int) -> Outcome:
    still, noisy = (_of(n, "ddim", steps=10, eta=eta, clip=CLIP) for eta in (0.0, 1.0))
    return _ratio(n, still, noisy, paired=True,
                  why="the network's own errors are larger than what the noise of eta = 1 adds")


# Inversion -----------------------------------------------------------------------------------------------------------


@claim(
    "03.inversion_psnr",
    "Picture to noise and back by DDIM, 100 steps each way, keeps the picture (Song et al. 2021, tab. 2)",
    unit="dB PSNR",
    target=">= 30",
    n=32, small=2,
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


def _unlike_noise(codes: Tensor) -> dict[str, float]:
    """What tells codes (B, C, H, W) from standard normal noise: 1, 0 for that."""
    near = (codes[..., 1:] * codes[..., :-1]).mean() / codes.square().mean()
    return {"standard deviation": float(codes.std()), "correlation of neighbours": float(near)}


@claim(
    "03.code_std",
    "Inverted by DDIM with 100 steps and a fixed point of 3, the model's own samples become noise of standard deviation 1",
    unit="standard deviation of the code",
    target="1.0 +- 0.1",
    n=8, small=2,
)
def code_std(n: int) -> Outcome:
    model = load("pixel-ddpm")

    def code(x: Tensor, **options: int) -> Tensor:
        return last(invert(model, x, steps=100, **options)).x

    made, true = sampled(n, "ddim", steps=50, clip=CLIP), real(n)
    found = code(made, fixed_point=3)
    m = bootstrap(torch.mean, found.flatten(1).std(1).double())
    codes = {"own samples": found}
    if n >= 8:
        codes |= {"own samples, no fixed point": code(made), "real pictures": code(true, fixed_point=3),
                  "real pictures, no fixed point": code(true)}
    other = {f"{name}: {k}": v for name, c in codes.items() for k, v in _unlike_noise(c).items()}
    return Outcome(m.value, m.low, m.high, {"the pictures themselves": float(made.std())}, {"noise": 1.0},
                   "flat areas and errors of the network at low noise are not undone", other)


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
