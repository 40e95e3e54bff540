"""Claims of lesson 03, each measured by a function of the sample size."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import real, sampled
from minidiff.diffusion import Gaussian, Schedule, ddim, dpm2m, invert, last
from minidiff.measure.interval import bootstrap
from minidiff.measure.pictures import psnr
from minidiff.measure.reading import read
from minidiff.rng import normal
from minidiff.zoo import load

__all__ = ["even_lambda", "convergence", "orders"]

FULL = 64  # below so many samples, on a page, only the difference itself is computed
CLIP = "both"  # DDPM clips x0 too; here eps is worked out again from the clipped x0, as OpenAI's code does
_COST = "the shortcut costs more than that"
_NOISE = "fresh noise washes out some of the network's errors, and obedience keeps them"


# Pictures ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _pictures(n: int, loop: str, options: tuple[tuple[str, object], ...]) -> Tensor:
    return real(n) if loop == "real" else sampled(n, loop, **dict(options))


def _of(n: int, loop: str, **options: object) -> Tensor:
    return _pictures(n, loop, tuple(sorted(options.items())))


def confident(images: Tensor) -> Tensor:
    """Which pictures show a thing whose kind the reader is sure of (probability 0.9 or more), (B,) of 0 and 1."""
    seen = read(images, load("readers/final"))
    return (seen.scenes.present[:, 0] & (seen.probs["kind"][:, 0].amax(-1) >= 0.9)).double()


def _readable(n: int, made: Tensor, reference: Tensor, why: str = _COST, others: dict[str, Tensor] | None = None) -> Outcome:
    """Share of readable pictures of ``made`` minus that of ``reference``, which started from the same noises."""
    base, mine = confident(reference), confident(made)
    found = bootstrap(torch.mean, mine - base)
    if n < FULL:
        return Outcome(found.value, found.low, found.high, floor={"real pictures": float((1 - base).mean())}, why=why)

    def apart(images: Tensor) -> float:
        return float((confident(images) - base).mean())

    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline={"pixel-small-eps, DDIM, 20 steps": apart(_of(n, "ddim", name="pixel-small-eps", steps=20, clip=CLIP))},
        floor={"real pictures": apart(real(n))},
        settings={name: apart(x) for name, x in (others or {}).items()},
        why=why,
    )


@claim(
    "03.ddim_vs_ddpm_20",
    "With 20 steps DDIM draws more readable pictures than DDPM (small variance; Song et al. 2021, table 1: 6.84 against 18.36)",
    unit="difference of shares",
    target=">= 0",
    n=256, small=4, reader="final",
)
def ddim_ddpm(n: int) -> Outcome:
    return _readable(n, _of(n, "ddim", steps=20, clip=CLIP), _of(n, "ddpm", steps=20, variance="small", clip="x0"), _NOISE)


@claim(
    "03.ddim_20_vs_50",
    "DDIM with 20 steps draws as many readable pictures as with 50, give or take 5 points (Song et al. 2021, table 1)",
    unit="difference of shares",
    target=">= -0.05",
    n=512, small=4, reader="final",
)
def ddim_20(n: int) -> Outcome:
    return _readable(n, _of(n, "ddim", steps=20, clip=CLIP), _of(n, "ddim", steps=50, clip=CLIP))


@claim(
    "03.dpm2m_10_vs_ddim_50",
    "DPM-Solver++(2M) with 10 steps draws as many readable pictures as DDIM with 50, give or take 5 points (Lu et al. 2022)",
    unit="difference of shares",
    target=">= -0.05",
    n=512, small=4, reader="final",
)
def dpm2m_10(n: int) -> Outcome:
    others = {} if n < FULL else {"DDIM, 10 steps": _of(n, "ddim", steps=10, eta=0.0, clip=CLIP)}
    return _readable(n, _of(n, "dpm2m", steps=10, clip="x0"), _of(n, "ddim", steps=50, clip=CLIP), others=others)


@claim(
    "03.eta_at_10_steps",
    "With 10 steps eta = 0 draws more readable pictures than eta = 1 (Song et al. 2021, table 1: FID 13.36 against 41.07)",
    unit="difference of shares",
    target=">= 0",
    n=2048, small=4, reader="final",
)
def eta_at_10(n: int) -> Outcome:
    still, noisy = (_of(n, "ddim", steps=10, eta=eta, clip=CLIP) for eta in (0.0, 1.0))
    return _readable(n, still, noisy, _NOISE)


# Inversion -----------------------------------------------------------------------------------------------------------


@claim(
    "03.inversion_psnr",
    "Picture to noise and back by DDIM, 100 steps each way, keeps the picture (Song et al. 2021, tab. 2)",
    unit="dB PSNR",
    target=">= 30",
    n=16, small=2,
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
        why="at low noise the error of a network that predicts x0 is divided by a number as small as 0.01",
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
