"""Fast solvers of the same ODE: DPM-Solver++(2M), Euler and Heun. Generators that yield :class:`sample.Step` after each step.

x goes in and comes out as everywhere in this package (variance about 1). Euler and Heun work on x / sqrt(abar), where the ODE is
d x / d sigma = eps (Song et al. 2021, eq. 14); there, Euler is DDIM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from minidiff.diffusion.edm import karras_sigmas
from minidiff.diffusion.predict import check_state
from minidiff.diffusion.sample import Step, abar_after, check_model, predict_at
from minidiff.diffusion.schedule import Schedule
from minidiff.diffusion.spacing import pairs, timesteps
from minidiff.errors import BadInput, check_choice

__all__ = ["dpm2m", "dpm2m_step", "euler", "heun"]


def _half_log_snr(abar: float) -> float:
    """lam = log(sqrt(abar) / sqrt(1 - abar)); infinite at the two ends."""
    if abar in (0.0, 1.0):
        return math.inf if abar else -math.inf
    return 0.5 * (math.log(abar) - math.log1p(-abar))


def dpm2m_step(x: Tensor, x0: Tensor, abar: float, abar_next: float, *, prev_x0: Tensor | None = None,
               h_before: float | None = None) -> Tensor:
    """One step in lam (Lu et al. 2022, DPM-Solver++, algorithm 2). h = lam_next - lam, r = h_before / h,

    D = (1 + 1/(2r)) x0 - 1/(2r) prev_x0,   x_next = sigma_next / sigma x - alpha_next (exp(-h) - 1) D.
    Without prev_x0, D = x0: the first-order step, which is DDIM.
    """
    h = _half_log_snr(abar_next) - _half_log_snr(abar)
    if prev_x0 is not None and h_before is not None:
        part = h / (2 * h_before)
        x0 = (1 + part) * x0 - part * prev_x0
    return ((1 - abar_next) / (1 - abar)) ** 0.5 * x - abar_next**0.5 * math.expm1(-h) * x0


def dpm2m(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 20, spacing: str = "linspace_open", offset: int = 0,
          final: str = "one", lower_order_final: bool = True, clip: bool = False, cond: object = None) -> Iterator[Step]:
    """DPM-Solver++(2M): second order from one network call a step. Good pictures in 10 to 20 steps.

    x: (B, C, H, W) standard normal noise. The first step is of first order, and so is the last one if it goes all the way to the
    clean picture, or if lower_order_final and there are fewer than 15 steps. clip: x0 to [-1, 1].
    """
    check_model(model)
    check_state("x", x)
    check_choice("final", final, ("one", "first"))
    route = pairs(model.schedule.T, steps, spacing=spacing, offset=offset)
    return _dpm2m(model, x, route, final, lower_order_final, clip, cond)


@torch.no_grad()
def _dpm2m(model: Callable, x: Tensor, route: list[tuple[int, int]], final: str, lower: bool, clip: bool,
           cond: object) -> Iterator[Step]:
    before, h_before = None, None
    for index, (t, t_prev) in enumerate(route):
        abar, abar_next = float(model.schedule.at(t)), abar_after(model.schedule, t_prev, final)
        x0, eps = predict_at(model, x, t, cond)
        x0 = x0.clamp(-1, 1) if clip else x0
        at_end = index == len(route) - 1
        first_order = at_end and (abar_next == 1 or (lower and len(route) < 15))
        if abar_next != abar:  # final="first" after a visit to t = 0: nothing is left to do
            x = dpm2m_step(x, x0, abar, abar_next, prev_x0=None if first_order else before, h_before=h_before)
        before, h_before = x0, _half_log_snr(abar_next) - _half_log_snr(abar)
        yield Step(index, len(route), t, t_prev, x, x0, eps)


def _levels(schedule: Schedule, steps: int | Sequence[int], spacing: str, offset: int, final: str,
            rho: float) -> tuple[list[int | float], list[float]]:
    """The steps (between two of the model's where the grid is Karras's) and their noise levels, then the last level."""
    check_choice("final", final, ("one", "first"))
    if schedule.zero_snr:
        raise BadInput("schedule", f"{schedule.name!r}, whose last noise level is infinite", "finite noise levels",
                       "ddim(model, x, spacing='trailing') or dpm2m(model, x, spacing='trailing')")
    lowest = float(schedule.sigma[0]) if final == "first" else 0.0
    if spacing == "karras" and not isinstance(steps, Iterable):
        sigmas = karras_sigmas(steps, sigma_min=float(schedule.sigma[0]), sigma_max=float(schedule.sigma[-1]), rho=rho)[:-1]
        return schedule.t_from_sigma(sigmas).tolist(), [*sigmas.tolist(), lowest]
    visited = timesteps(schedule.T, steps, spacing=spacing, offset=offset)
    return visited, [*schedule.sigma[visited].tolist(), lowest]


def euler(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 50, spacing: str = "linspace", offset: int = 0,
          final: str = "one", rho: float = 7.0, cond: object = None) -> Iterator[Step]:
    """Euler: x <- x + (sigma_next - sigma) eps on x / sqrt(abar). The same numbers as ddim(eta=0) on the same steps.

    x: (B, C, H, W) standard normal noise. spacing: as in ``grid``, or "karras" with its rho, where the network is asked between
    its training steps (t is then a float).
    """
    check_model(model)
    check_state("x", x)
    ts, sigmas = _levels(model.schedule, steps, spacing, offset, final, rho)
    return _ode(model, x, ts, sigmas, cond, second=False)


def heun(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 18, spacing: str = "karras", offset: int = 0,
         final: str = "one", rho: float = 7.0, cond: object = None) -> Iterator[Step]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1, without churn): 2 steps - 1 network calls.

    Euler's step, then the mean of the slopes at its two ends; the last step, to sigma = 0, is Euler's.
    """
    check_model(model)
    check_state("x", x)
    ts, sigmas = _levels(model.schedule, steps, spacing, offset, final, rho)
    return _ode(model, x, ts, sigmas, cond, second=True)


@torch.no_grad()
def _ode(model: Callable, x: Tensor, ts: list[int | float], sigmas: list[float], cond: object, *, second: bool) -> Iterator[Step]:
    scale = [(1 + s**2) ** 0.5 for s in sigmas]  # 1 / sqrt(abar)
    x = x * scale[0]
    for index, t in enumerate(ts):
        t_next = ts[index + 1] if index + 1 < len(ts) else -1
        step = sigmas[index + 1] - sigmas[index]
        x0, eps = predict_at(model, x / scale[index], t, cond)
        x_next = x + step * eps
        if second and t_next >= 0:
            eps = 0.5 * (eps + predict_at(model, x_next / scale[index + 1], t_next, cond).eps)
            x_next = x + step * eps
        x = x_next
        yield Step(index, len(ts), t, t_next, x / scale[index + 1], x0, eps)
