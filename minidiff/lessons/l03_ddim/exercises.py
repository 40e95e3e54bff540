"""Exercises of lesson 03, first part: the DDIM step, which steps to visit, the clip rule. The rest is in lesson03_more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from minidiff.course.tasks import Mistake, call, exercise, expect, number
from minidiff.diffusion import ddim_sigma, ddim_step, timesteps
from minidiff.rng import normal

__all__ = ["LEVELS"]

LEVELS = ((0.2, 0.5), (0.05, 0.9), (0.6, 0.8), (0.0004, 0.02), (0.3, 1.0))      # abar before and after the step


def _each(formula: Callable[[float, float, float], float]) -> Tensor:
    return torch.tensor([formula(a, b, eta) for a, b in LEVELS for eta in (1.0, 0.3)], dtype=torch.float64)


@exercise("03.sigma", "How much new noise?", name="sigma_of_eta",
          stub='''
def sigma_of_eta(abar, abar_prev, eta):
    """Standard deviation of the new noise for a step from level abar to level abar_prev. All three are numbers."""
    ...
''',
          solution='''
def sigma_of_eta(abar, abar_prev, eta):
    """Standard deviation of the new noise for a step from level abar to level abar_prev. All three are numbers."""
    return eta * ((1 - abar_prev) / (1 - abar)) ** 0.5 * (1 - abar / abar_prev) ** 0.5
''',
          hints=("Two square roots, and eta in front of both.",
                 "Under the first root stands the ratio of the noise variances, after the step over before it; under the second, "
                 "1 minus the ratio of the two abar, which is smaller than 1."))
def _sigma(fn: Callable) -> None:
    got = torch.stack([call(fn, number(a), number(b), number(eta), shape=()) for a, b in LEVELS for eta in (1.0, 0.3)])
    s = ddim_sigma
    expect(got, _each(s), wrong={
        "That is the variance, sigma squared; the step needs the standard deviation.": _each(lambda a, b, eta: s(a, b, eta) ** 2),
        "eta stands under the square root; it belongs in front.": _each(lambda a, b, eta: s(a, b, 1.0) * eta**0.5),
        "eta is squared; it scales the standard deviation once.": _each(lambda a, b, eta: s(a, b, 1.0) * eta**2),
        "eta has no effect.": _each(lambda a, b, eta: s(a, b, 1.0)),
        "The factor (1 - abar_prev) / (1 - abar) is missing: this is the large variance of DDPM, sigma-hat in the paper.":
            _each(lambda a, b, eta: eta * (1 - a / b) ** 0.5),
        "The factor 1 - abar / abar_prev is missing.": _each(lambda a, b, eta: eta * ((1 - b) / (1 - a)) ** 0.5),
        "You used 1 - abar where 1 - abar / abar_prev belongs: alpha of the jump is a ratio.":
            _each(lambda a, b, eta: eta * ((1 - b) / (1 - a) * (1 - a)) ** 0.5),
        "The second factor is missing its square root.": _each(lambda a, b, eta: eta * ((1 - b) / (1 - a)) ** 0.5 * (1 - a / b)),
        "The first factor is missing its square root.": _each(lambda a, b, eta: eta * (1 - b) / (1 - a) * (1 - a / b) ** 0.5),
    }, otherwise="Not the sigma of the formula; try eta = 1, where its square must be the posterior's variance of notebook 02.")


@exercise("03.ddim_step", "The step", name="ddim_update", points=2,
          stub='''
def ddim_update(x, eps, abar, abar_prev, sigma, noise):
    """x, eps, noise: (B, C, H, W); abar, abar_prev, sigma: numbers. Returns x at level abar_prev, nothing clipped."""
    ...
''',
          solution='''
def ddim_update(x, eps, abar, abar_prev, sigma, noise):
    """x, eps, noise: (B, C, H, W); abar, abar_prev, sigma: numbers. Returns x at level abar_prev, nothing clipped."""
    x0 = (x - (1 - abar) ** 0.5 * eps) / abar ** 0.5
    return abar_prev ** 0.5 * x0 + (1 - abar_prev - sigma ** 2) ** 0.5 * eps + sigma * noise
''',
          hints=("First x0: solve x = sqrt(abar) x0 + sqrt(1 - abar) eps for x0.",
                 "Three terms: the picture at its new strength, the old noise, the new noise. The variances of the two noises "
                 "must add up to 1 - abar_prev."))
def _ddim_step(fn: Callable) -> None:
    x, eps, z = normal((3, 2, 1, 4, 4), "lesson 03 step", 0, dtype=torch.float64)
    for a, b in ((0.2, 0.5), (0.6, 0.8)):
        for sigma in (0.0, 0.3):
            got = call(fn, x, eps, number(a), number(b), number(sigma), z, shape=x.shape)
            x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
            direction = (1 - b - sigma**2) ** 0.5
            new = sigma * z
            wrong = {
                "x stands where x0 belongs: first take the noise out of x.": b**0.5 * x + direction * eps + new,
                "The picture keeps its full size: x0 must be scaled by sqrt(abar_prev).": x0 + direction * eps + new,
                "The picture is scaled by sqrt(abar), its old strength; the new one is sqrt(abar_prev).":
                    a**0.5 * x0 + direction * eps + new,
                "The old noise keeps its old strength, sqrt(1 - abar...); after the step it is sqrt(1 - abar_prev - sigma^2).":
                    b**0.5 * x0 + max(1 - a - sigma**2, 0) ** 0.5 * eps + new,
                "Your x0 is not divided by sqrt(abar).": b**0.5 * (x - (1 - a) ** 0.5 * eps) + direction * eps + new,
                "Square roots are missing: variances were used as factors.": b * x0 + (1 - b - sigma**2) * eps + new,
            }
            if sigma:
                wrong |= {
                    "The old noise is too loud: sigma^2 must be taken off 1 - abar_prev, or the variances add up to too much.":
                        b**0.5 * x0 + (1 - b) ** 0.5 * eps + new,
                    "sigma was taken off where sigma squared belongs.": b**0.5 * x0 + max(1 - b - sigma, 0) ** 0.5 * eps + new,
                    "The new noise is scaled by sigma squared; noise is scaled by its standard deviation.":
                        b**0.5 * x0 + direction * eps + sigma**2 * z,
                    "The new noise is missing.": b**0.5 * x0 + direction * eps,
                }
            expect(got, b**0.5 * x0 + direction * eps + new, wrong=wrong)


def _list(steps: Iterable[int]) -> Tensor:
    return torch.tensor(list(steps), dtype=torch.float64)


@exercise("03.timesteps", "Two lists", name="visited_steps", points=2,
          stub='''
def visited_steps(T, S, spacing):
    """A list of S falling integers in [0, T-1]; spacing is "leading" or "trailing"."""
    ...
''',
          solution='''
def visited_steps(T, S, spacing):
    """A list of S falling integers in [0, T-1]; spacing is "leading" or "trailing"."""
    if spacing == "leading":
        return [i * (T // S) for i in reversed(range(S))]
    return [round(T - i * T / S) - 1 for i in range(S)]
''',
          hints=("For T = 1000, S = 4: leading is 750 500 250 0, trailing is 999 749 499 249.",
                 "leading: the stride is T // S, a whole number. trailing: it is T / S; round only at the end, then subtract 1."))
def _timesteps(fn: Callable) -> None:
    for T, S in ((1000, 10), (1000, 7), (1000, 16), (77, 21), (20, 20)):
        for spacing in ("leading", "trailing"):
            got = call(fn, T, S, spacing).reshape(-1).double()
            say = f"T = {T}, S = {S}, {spacing}: "
            want = _list(timesteps(T, S, spacing=spacing))
            if len(got) != S:
                more = " range(0, T, T // S) goes on when S does not divide T." if len(got) > S else ""
                raise Mistake(f"{say}{len(got)} steps instead of {S}.{more}")
            wrong = {
                f"{say}the list rises; a sampler goes from noise to picture.": want.flip(0),
                f"{say}each step is one too high: index 0 is one noising step, so subtract 1.": want + 1,
                f"{say}this is linspace from T - 1 to 0.": torch.linspace(T - 1, 0, S, dtype=torch.float64).round(),
            }
            if spacing == "trailing":
                floor = _list(int(T - i * T / S) - 1 for i in range(S))
                up = _list(int(T - i * T / S + 0.5) - 1 for i in range(S))
                whole = _list(T - i * (T // S) - 1 for i in range(S))
                wrong |= {f"{say}rounded down; take the nearest integer.": floor,
                          f"{say}halves are rounded up; round() takes the even neighbour.": up,
                          f"{say}the stride was made whole too early: T / S, not T // S.": whole}
            else:
                wrong |= {f"{say}the stride is a fraction; leading uses the whole number T // S.":
                              _list(int(i * T / S) for i in reversed(range(S))),
                          f"{say}the stride is a fraction, rounded; leading uses the whole number T // S.":
                              _list(round(i * T / S) for i in reversed(range(S))),
                          f"{say}this is the trailing list.": _list(timesteps(T, S, spacing="trailing"))}
            expect(got, want, wrong={k: v for k, v in wrong.items() if not torch.equal(v, want)}, tol=1e-9,
                   otherwise=f"{say}expected {[int(v) for v in want[:4]]} ..., not {[int(v) for v in got[:4]]} ...")


@exercise("03.clip_step", "Repair a step", name="clipped_step", points=2,
          stub='''
def clipped_step(x, eps, abar, abar_prev):
    """A DDIM step (eta = 0) with x0 clipped to [-1, 1] and everything after it consistent. abar, abar_prev: numbers."""
    ...
''',
          solution='''
def clipped_step(x, eps, abar, abar_prev):
    """A DDIM step (eta = 0) with x0 clipped to [-1, 1] and everything after it consistent. abar, abar_prev: numbers."""
    x0 = ((x - (1 - abar) ** 0.5 * eps) / abar ** 0.5).clamp(-1, 1)
    eps = (x - abar ** 0.5 * x0) / (1 - abar) ** 0.5
    return abar_prev ** 0.5 * x0 + (1 - abar_prev) ** 0.5 * eps
''',
          hints=("After clipping, x is no longer sqrt(abar) x0 + sqrt(1 - abar) eps. Which of the three may still change?",
                 "x is given and x0 has just been decided, so eps must be worked out again, at the level abar."))
def _clip_step(fn: Callable) -> None:
    x, eps = normal((2, 2, 1, 6, 6), "lesson 03 clip", 0, dtype=torch.float64)
    for a, b in ((0.2, 0.5), (0.05, 0.3)):
        got = call(fn, x, eps, number(a), number(b), shape=x.shape)
        free = (x - (1 - a) ** 0.5 * eps) / a**0.5

        def follow(x0: Tensor, level: float = a) -> Tensor:
            return (x - level**0.5 * x0) / (1 - level) ** 0.5  # noqa: B023  used before the loop goes on

        x0 = free.clamp(-1, 1)
        expect(got, ddim_step(x0, follow(x0), b), wrong={
            "eps is still the network's own: after clipping x0 it must be worked out again (yours is diffusers' default).":
                ddim_step(x0, eps, b),
            "Nothing is clipped.": ddim_step(free, eps, b),
            "The result is clipped, not x0.": ddim_step(free, eps, b).clamp(-1, 1),
            "x0 is clipped to [0, 1]; pictures here live in [-1, 1].": ddim_step(free.clamp(0, 1), follow(free.clamp(0, 1)), b),
            "eps was worked out at the level abar_prev, but x is at the level abar.": ddim_step(x0, follow(x0, b), b),
            "eps was worked out before the clip, so nothing changed in it; clip first.": ddim_step(x0, follow(free), b),
            "eps is clipped as well; only x0 is known to lie in [-1, 1].": ddim_step(x0, follow(x0).clamp(-1, 1), b),
            "eps is clipped in place of x0.": ddim_step(free, eps.clamp(-1, 1), b),
        }, otherwise="Not the step of OpenAI's code. In which line do x, x0 and eps stop fitting together?")
