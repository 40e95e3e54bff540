"""Fast solvers of the same ODE: DPM-Solver++(2M), Euler and Heun. Generators that yield :class:`sample.Step` after each step.

x goes in and comes out as everywhere in this package (variance about 1). Euler and Heun work on x / sqrt(abar), where the ODE is
d x / d sigma = eps (Song et al. 2021, eq. 14); there, Euler is DDIM. The keywords are those of ``sample``; no noise is added, so
there is no eta, seed or rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from minidiff.diffusion.call import check_clip, check_model, clipped, predict_at
from minidiff.diffusion.edm import karras_sigmas
from minidiff.diffusion.predict import check_state
from minidiff.diffusion.sample import FINAL_ALPHAS, Step, visits
from minidiff.diffusion.schedule import Schedule
from minidiff.diffusion.spacing import timesteps
from minidiff.errors import BadInput, check_choice, checks_first

__all__ = ["dpm2m", "dpm2m_step", "euler", "heun"]


def _half_log_snr(abar: float) -> float:
    """lam = log(sqrt(abar) / sqrt(1 - abar)); infinite at the two ends."""
    if abar in (0.0, 1.0):
        return math.inf if abar else -math.inf
    return 0.5 * (math.log(abar) - math.log1p(-abar))


def dpm2m_step(x: Tensor, x0: Tensor, abar: float, abar_next: float, *, prev_x0: Tensor | None = None,
               prev_h: float | None = None) -> Tensor:
    """One step in lam (Lu et al. 2022, DPM-Solver++, algorithm 2). h = lam_next - lam, r = prev_h / h,

    D = (1 + 1/(2r)) x0 - 1/(2r) prev_x0,   x_next = sigma_next / sigma x - alpha_next (exp(-h) - 1) D.
    Without prev_x0, D = x0: the first-order step, which is DDIM.
    """
    h = _half_log_snr(abar_next) - _half_log_snr(abar)
    if prev_x0 is not None and prev_h is not None:
        part = h / (2 * prev_h)
        x0 = (1 + part) * x0 - part * prev_x0
    return ((1 - abar_next) / (1 - abar)) ** 0.5 * x - abar_next**0.5 * math.expm1(-h) * x0


@checks_first
def dpm2m(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 20, lower_order_final: bool = True,
          spacing: str = "linspace_open", offset: int = 0, final_alpha: str = "one", clip: str | None = None,
          cond: object = None) -> Iterator[Step]:
    """DPM-Solver++(2M): second order from one network call a step. Good pictures in 10 to 20 steps.

    x: (B, C, H, W) standard normal noise. The first step is of first order, and so is the last one if it goes all the way to the
    clean picture, or if lower_order_final and there are fewer than 15 steps. The other keywords: see ``sample``.
    """
    check_model(model)
    check_state("x", x)
    check_clip(clip)
    way = visits(model.schedule, steps, spacing=spacing, offset=offset, final_alpha=final_alpha)
    yield  # arguments are good; the rest runs as the caller asks for steps
    prev_x0, prev_h = None, None
    for index, count, t, t_prev, abar, abar_next in way:
        x0, eps = clipped(predict_at(model, x, t, cond), x, abar, clip)
        first_order = index == count - 1 and (abar_next == 1 or (lower_order_final and count < 15))
        if abar_next != abar:  # final_alpha="first" after a visit to t = 0: nothing is left to do
            x = dpm2m_step(x, x0, abar, abar_next, prev_x0=None if first_order else prev_x0, prev_h=prev_h)
        prev_x0, prev_h = x0, _half_log_snr(abar_next) - _half_log_snr(abar)
        yield Step(index, count, t, t_prev, x, x0, eps)


class _Level(NamedTuple):
    """One step of the ODE solvers: from t (noise level sigma) to t_next (sigma_next); t may lie between two of the model's."""

    index: int
    steps: int
    t: int | float
    t_next: int | float
    sigma: float
    sigma_next: float


def _levels(schedule: Schedule, steps: int | Sequence[int], spacing: str, offset: int, final_alpha: str,
            rho: float) -> list[_Level]:
    check_choice("final_alpha", final_alpha, FINAL_ALPHAS)
    if schedule.zero_snr:
        raise BadInput("schedule", f"{schedule.name!r}, whose last noise level is infinite", "finite noise levels",
                       "ddim(model, x, spacing='trailing') or dpm2m(model, x, spacing='trailing')")
    if spacing == "karras" and not isinstance(steps, Iterable):
        levels = karras_sigmas(steps, sigma_min=float(schedule.sigma[0]), sigma_max=float(schedule.sigma[-1]), rho=rho)[:-1]
        ts = schedule.t_from_sigma(levels).tolist()
    else:
        ts = timesteps(schedule.T, steps, spacing=spacing, offset=offset)
        levels = schedule.sigma[ts]
    sigmas = [*levels.tolist(), float(schedule.sigma[0]) if final_alpha == "first" else 0.0]
    return [_Level(i, len(ts), *step) for i, step in enumerate(zip(ts, [*ts[1:], -1], sigmas, sigmas[1:], strict=False))]


def _shrunk(bar: Tensor, sigma: float) -> Tensor:
    """x = sqrt(abar) (x / sqrt(abar)) at the noise level sigma."""
    return bar / (1 + sigma**2) ** 0.5


@checks_first
def euler(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 50, rho: float = 7.0, spacing: str = "linspace",
          offset: int = 0, final_alpha: str = "one", clip: str | None = None, cond: object = None) -> Iterator[Step]:
    """Euler: x <- x + (sigma_next - sigma) eps on x / sqrt(abar). The same numbers as ddim(eta=0) on the same steps.

    x: (B, C, H, W) standard normal noise. spacing: as in ``timesteps``, or "karras" with its rho, where the network is
    called between its training steps (t is then a float). The other keywords: see ``sample``.
    """
    check_model(model)
    check_state("x", x)
    check_clip(clip)
    way = _levels(model.schedule, steps, spacing, offset, final_alpha, rho)
    yield  # arguments are good; the rest runs as the caller asks for steps
    for index, count, t, t_next, sigma, sigma_next in way:
        x0, eps = clipped(predict_at(model, x, t, cond), x, 1 / (1 + sigma**2), clip)
        bar = x0 + sigma * eps  # x / sqrt(abar), with the x0 that the clip rule left
        x = _shrunk(bar + (sigma_next - sigma) * eps, sigma_next)
        yield Step(index, count, t, t_next, x, x0, eps)


@checks_first
def heun(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 18, rho: float = 7.0, spacing: str = "karras",
         offset: int = 0, final_alpha: str = "one", clip: str | None = None, cond: object = None) -> Iterator[Step]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1, without churn): 2 steps - 1 network calls.

    Euler's step, then the mean of the slopes at its two ends; the last step, to sigma = 0, is Euler's. Keywords: as in
    :func:`euler`.
    """
    check_model(model)
    check_state("x", x)
    check_clip(clip)
    way = _levels(model.schedule, steps, spacing, offset, final_alpha, rho)
    yield  # arguments are good; the rest runs as the caller asks for steps
    for index, count, t, t_next, sigma, sigma_next in way:
        x0, eps = clipped(predict_at(model, x, t, cond), x, 1 / (1 + sigma**2), clip)
        bar = x0 + sigma * eps
        x = _shrunk(bar + (sigma_next - sigma) * eps, sigma_next)
        if t_next >= 0:
            ahead = clipped(predict_at(model, x, t_next, cond), x, 1 / (1 + sigma_next**2), clip).eps
            eps = 0.5 * (eps + ahead)
            x = _shrunk(bar + (sigma_next - sigma) * eps, sigma_next)
        yield Step(index, count, t, t_next, x, x0, eps)
