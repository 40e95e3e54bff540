"""DDPM and DDIM. Both are generators: they yield a :class:`Step` after each step.

    picture = last(ddim(model, noise, steps=50)).x

The model is a network wrapped in what it predicts, Eps(net, schedule) and the like, or any callable with ``.schedule`` that
returns Prediction(x0, eps). One contract holds for all samplers (here, in ``solvers``, ``flow``, and for ``invert`` and
``interpolate``):

- ``steps``, ``spacing``, ``offset``: which steps are visited, see :func:`spacing.timesteps`. ``final_alpha``: the noise level of
  the result, "one" (abar = 1, the clean picture) or "first" (abar_0, Stable Diffusion's set_alpha_to_one=False).
- ``clip``: None; "x0" clips x0 to [-1, 1] and keeps eps (diffusers); "both" then works eps out again from the clipped x0 (OpenAI,
  lucidrains). For pixels only: latents are not bounded.
- ``cond``: handed to the model as it is; None calls ``model(x, t)``.
- ``seed`` and ``rows``: the noise of a step is a function of (seed, row number, t), see :func:`row_noise`. So a batch equals a
  loop of singles, ``ddim(model, x[b:b+1], eta=1, rows=[b])``, and cutting a batch into chunks changes nothing. There is no
  ``generator``: its stream would depend on who drew from it before.
- Gradients: nothing is recorded unless x or cond requires a gradient, so that a network in training can be sampled from as it
  is. With ``x.requires_grad_()`` (or a cond that does) the whole loop is differentiable, parameters included. A model may take
  gradients inside its own call (``torch.enable_grad()``) in either case. Under ``torch.no_grad()`` nothing is recorded.
- Arguments are refused at the call, before the first step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion.bound import Variance, check_variance
from minidiff.diffusion.call import check_clip, check_model, clipped, predict_at
from minidiff.diffusion.noise import check_rows, row_noise
from minidiff.diffusion.predict import check_state
from minidiff.diffusion.schedule import Schedule, posterior
from minidiff.diffusion.spacing import step_pairs
from minidiff.errors import check_choice, checks_first, require

__all__ = ["Step", "Visit", "last", "ddpm", "ddim", "ddim_sigma", "ddim_step", "prev_abar", "row_noise", "visits"]

FINAL_ALPHAS = ("one", "first")


class Step(NamedTuple):
    """The state after a step. x is at noise level t_prev (-1: the picture); x0 and eps are what the step was made of."""

    index: int
    steps: int
    t: int | float
    t_prev: int | float
    x: Tensor
    x0: Tensor
    eps: Tensor


class Visit(NamedTuple):
    """One step of the way, known before it is taken: from t (abar) to t_prev (abar_prev)."""

    index: int
    steps: int
    t: int
    t_prev: int
    abar: float
    abar_prev: float


def last(steps: Iterable[Step]) -> Step:
    """Run a sampler to its end and return its last step."""
    end = deque(steps, maxlen=1)
    require(len(end) == 1, "steps", "an empty loop", "at least one step", "last(ddim(model, x, steps=50))")
    return end[0]


def prev_abar(schedule: Schedule, t_prev: int, final_alpha: str = "one") -> float:
    """abar at t_prev; below the first step 1 (final_alpha="one") or abar_0 ("first", diffusers' final_alpha_cumprod)."""
    check_choice("final_alpha", final_alpha, FINAL_ALPHAS)
    return float(schedule.abar[0]) if t_prev < 0 and final_alpha == "first" else float(schedule.at(t_prev))


def visits(schedule: Schedule, steps: int | Sequence[int], *, spacing: str = "leading", offset: int = 0, final_alpha: str = "one",
           compat: str | None = None) -> list[Visit]:
    """The way from noise to picture: t, t_prev and their abar for every step (:func:`spacing.step_pairs`)."""
    pairs = step_pairs(schedule.T, steps, spacing=spacing, offset=offset, compat=compat)
    return [Visit(i, len(pairs), t, t_prev, float(schedule.at(t)), prev_abar(schedule, t_prev, final_alpha))
            for i, (t, t_prev) in enumerate(pairs)]


@checks_first
def ddpm(model: Callable, x: Tensor, *, steps: int | Sequence[int] | None = None, variance: Variance = "small",
         spacing: str = "leading", offset: int = 0, final_alpha: str = "one", clip: str | None = None, cond: object = None,
         seed: int = 0, rows: Sequence[int] | None = None, compat: str | None = None) -> Iterator[Step]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2): x_prev = c1 x0 + c2 x_t + sqrt(var) z, and no z into the clean picture.

    x: (B, C, H, W) standard normal noise. variance: "small" (the posterior's), "large" (beta), "learned" (LearnedRange), or a
    function (t, t_prev) -> variance. steps: None is all T; fewer skip (iDDPM, section 4), and "large" is then the sigma-hat of
    the DDIM paper. Ho's own sampler is clip="x0". The other keywords: see the head of this module.
    compat="diffusers" adds noise at the last step too when it is not t = 0 (offset > 0).
    """
    check_model(model)
    check_state("x", x)
    check_clip(clip)
    check_variance(model, variance)
    require(compat in (None, "diffusers"), "compat", compat, "None or 'diffusers'")
    seed, rows = check_rows(seed, rows, len(x))
    way = visits(model.schedule, model.schedule.T if steps is None else steps, spacing=spacing, offset=offset,
                 final_alpha=final_alpha)
    yield  # arguments are good; the rest runs as the caller asks for steps
    for index, count, t, t_prev, abar, abar_prev in way:
        frac = None
        if variance == "learned":
            prediction, frac = predict_at(model, x, t, cond, method="with_variance")
        else:
            prediction = predict_at(model, x, t, cond)
        x0, eps = clipped(prediction, x, abar, clip)
        c1, c2, small = posterior(abar, abar_prev)
        x = c1 * x0 + c2 * x
        if abar_prev < 1 or (compat == "diffusers" and t > 0):
            std = _std(variance, t, t_prev, small, 1 - abar / abar_prev, frac, x)
            x = x + std * row_noise(x.shape, seed=seed, t=t, rows=rows, dtype=x.dtype, device=x.device)
        yield Step(index, count, t, t_prev, x, x0, eps)


def _std(variance: Variance, t: int, t_prev: int, small: float, large: float, frac: Tensor | None, x: Tensor) -> Tensor | float:
    """sqrt of the reverse variance; learned: log var = frac log beta + (1 - frac) log var_small (iDDPM, eq. 15)."""
    if callable(variance):
        return torch.as_tensor(variance(t, t_prev), device=x.device).sqrt().to(x.dtype)
    if variance != "learned":
        return (small if variance == "small" else large) ** 0.5
    low, high = (math.log(max(value, 1e-20)) for value in (small, large))
    return (0.5 * (frac * high + (1 - frac) * low)).exp()


def ddim_sigma(abar: float, abar_prev: float, eta: float) -> float:
    """sigma_t = eta sqrt((1 - abar_prev) / (1 - abar)) sqrt(1 - abar / abar_prev) (Song et al. 2021, eq. 16).

    eta = 0: no noise, the probability flow ODE; eta = 1: DDPM with the small variance.
    """
    return eta * ((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)) ** 0.5


def ddim_step(x0: Tensor, eps: Tensor, abar_prev: float, *, sigma: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """x_prev = sqrt(abar_prev) x0 + sqrt(1 - abar_prev - sigma^2) eps + sigma z (Song et al. 2021, eq. 12).

    Two predictions: x0 is where to go, eps the direction in which to stay noisy. An editing method may pass different ones.
    """
    x = abar_prev**0.5 * x0 + max(1 - abar_prev - sigma**2, 0.0) ** 0.5 * eps
    return x if noise is None else x + sigma * noise


@checks_first
def ddim(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 50, eta: float = 0.0, spacing: str = "leading",
         offset: int = 0, final_alpha: str = "one", clip: str | None = None, cond: object = None, seed: int = 0,
         rows: Sequence[int] | None = None, compat: str | None = None) -> Iterator[Step]:
    """DDIM (Song et al. 2021) over a sub-sequence of the steps.

    x: (B, C, H, W) standard normal noise. steps: how many, or the steps themselves. eta: 0 (deterministic) to 1. compat: see
    :func:`spacing.step_pairs`. The other keywords: see the head of this module.
    """
    check_model(model)
    check_state("x", x)
    check_clip(clip)
    require(0 <= eta <= 1, "eta", eta, "a number from 0 (no noise) to 1 (DDPM)", "eta=0.0")
    seed, rows = check_rows(seed, rows, len(x))
    way = visits(model.schedule, steps, spacing=spacing, offset=offset, final_alpha=final_alpha, compat=compat)
    yield  # arguments are good; the rest runs as the caller asks for steps
    for index, count, t, t_prev, abar, abar_prev in way:
        x0, eps = clipped(predict_at(model, x, t, cond), x, abar, clip)
        sigma = ddim_sigma(abar, abar_prev, eta)
        noise = row_noise(x.shape, seed=seed, t=t, rows=rows, dtype=x.dtype, device=x.device) if sigma > 0 else None
        x = ddim_step(x0, eps, abar_prev, sigma=sigma, noise=noise)
        yield Step(index, count, t, t_prev, x, x0, eps)
