"""DDPM and DDIM. Both are generators: they yield a :class:`Step` after each step.

    picture = last(ddim(model, noise, steps=50)).x

The model is a wrapped network, Eps(net, schedule) and the like, or any callable with ``.schedule`` that returns
Prediction(x0, eps).
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import rng
from minidiff.diffusion.bound import Variance, check_variance
from minidiff.diffusion.predict import Prediction, check_state
from minidiff.diffusion.schedule import Schedule
from minidiff.diffusion.spacing import pairs, timesteps
from minidiff.errors import BadInput, check_choice, require

__all__ = ["Step", "last", "timesteps", "ddpm", "ddim", "ddim_sigma", "ddim_step", "check_model", "noise_source", "predict_at"]


class Step(NamedTuple):
    """The state after a step. x is at noise level t_prev (-1: the picture); x0 and eps are what the step was made of."""

    index: int
    steps: int
    t: int | float
    t_prev: int | float
    x: Tensor
    x0: Tensor
    eps: Tensor


def last(steps: Iterable[Step]) -> Step:
    """Run a sampler to its end and return its last step."""
    end = deque(steps, maxlen=1)
    require(len(end) == 1, "steps", "an empty loop", "at least one step", "last(ddim(model, x, steps=50))")
    return end[0]


def check_model(model: object) -> None:
    """Raise unless the model says what it predicts and on which schedule."""
    if not isinstance(getattr(model, "schedule", None), Schedule) or not callable(model):
        raise BadInput("model", type(model).__name__, "a model that says what it predicts",
                       "Eps(net, schedule), X0(net, schedule) or V(net, schedule)")


def predict_at(model: Callable, x: Tensor, t: int | float, cond: object) -> Prediction:
    """The model at one t for the whole batch."""
    between = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = torch.full((len(x),), t, device=x.device, dtype=torch.long if isinstance(t, int) else between)
    return model(x, rows) if cond is None else model(x, rows, cond)


def noise_source(x: Tensor, generator: torch.Generator | None) -> Callable[[], Tensor]:
    """Draws noise like x, on the generator's device, then moves it. None: a stream that is a pure function of x itself,
    so the chain repeats for the same x, and two batches that start from different noise never share theirs."""
    if generator is None:
        digest = zlib.crc32(x.detach().float().cpu().contiguous().numpy().tobytes())
        generator = rng.generator("sampler", digest)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return lambda: torch.randn(x.shape, generator=generator, device=generator.device, dtype=dtype).to(x)


def ddpm(model: Callable, x: Tensor, *, variance: Variance = "small", clip: bool = True, steps: int | Sequence[int] | None = None,
         spacing: str = "leading", offset: int = 0, cond: object = None, generator: torch.Generator | None = None,
         compat: str | None = None) -> Iterator[Step]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2): x_prev = c1 x0 + c2 x_t + sqrt(var) z, and no z at the end.

    x: (B, C, H, W) standard normal noise. variance: "small" (the posterior's), "large" (beta), "learned" (LearnedRange), or a
    function (t, t_prev) -> variance. clip: x0 to [-1, 1] before the mean. steps: None is all T; fewer skip (iDDPM, section 4),
    and "large" is then the sigma-hat of the DDIM paper. generator: see :func:`noise_source`.
    compat="diffusers" adds noise at the last step too when it is not t = 0 (offset > 0).
    """
    check_model(model)
    check_state("x", x)
    check_variance(model, variance)
    T = model.schedule.T
    route = pairs(T, T if steps is None else steps, spacing=spacing, offset=offset)
    require(compat in (None, "diffusers"), "compat", compat, "None or 'diffusers'")
    return _ddpm(model, x, variance, clip, route, cond, noise_source(x, generator), compat)


@torch.no_grad()
def _ddpm(model: Callable, x: Tensor, variance: Variance, clip: bool, route: list[tuple[int, int]], cond: object,
          draw: Callable[[], Tensor], compat: str | None) -> Iterator[Step]:
    schedule = model.schedule
    for index, (t, t_prev) in enumerate(route):
        if variance == "learned":
            (x0, eps), frac = model.with_variance(x, torch.full((len(x),), t, device=x.device), cond)
        else:
            (x0, eps), frac = predict_at(model, x, t, cond), None
        x0 = x0.clamp(-1, 1) if clip else x0
        c1, c2, _ = (float(c) for c in schedule.posterior(t, t_prev))
        x = c1 * x0 + c2 * x
        if t_prev >= 0 or (compat == "diffusers" and t > 0):
            x = x + _std(schedule, variance, t, t_prev, frac, x) * draw()
        yield Step(index, len(route), t, t_prev, x, x0, eps)


def _std(schedule: Schedule, variance: Variance, t: int, t_prev: int, frac: Tensor | None, x: Tensor) -> Tensor | float:
    """sqrt of the reverse variance; learned: log var = frac log beta + (1 - frac) log var_small (iDDPM, eq. 15)."""
    if callable(variance):
        return torch.as_tensor(variance(t, t_prev), device=x.device).sqrt().to(x.dtype)
    if variance != "learned":
        return float(schedule.variance(variance, t, t_prev)) ** 0.5
    small = float(schedule.variance("small", t, t_prev).clamp(min=1e-20).log())
    large = float(schedule.variance("large", t, t_prev).log())
    return (0.5 * (frac * large + (1 - frac) * small)).exp()


def ddim_sigma(abar: float, abar_prev: float, eta: float) -> float:
    """sigma_t = eta sqrt((1 - abar_prev) / (1 - abar)) sqrt(1 - abar / abar_prev) (Song et al. 2021, eq. 16).

    eta = 0: no noise, the probability flow ODE; eta = 1: DDPM with the small variance.
    """
    return eta * ((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)) ** 0.5


def ddim_step(x0: Tensor, eps: Tensor, abar_prev: float, *, sigma: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """x_prev = sqrt(abar_prev) x0 + sqrt(1 - abar_prev - sigma^2) eps + sigma z (Song et al. 2021, eq. 12).

    Two predictions: x0 says where to go, eps in which direction to stay noisy. An editing method may pass different ones.
    """
    x = abar_prev**0.5 * x0 + max(1 - abar_prev - sigma**2, 0.0) ** 0.5 * eps
    return x if noise is None else x + sigma * noise


def abar_after(schedule: Schedule, t_prev: int, final: str) -> float:
    """abar at t_prev; below the first step 1 (final="one") or abar_0 (final="first", diffusers' set_alpha_to_one=False)."""
    return float(schedule.abar[0]) if t_prev < 0 and final == "first" else float(schedule.at(t_prev))


def ddim(model: Callable, x: Tensor, *, steps: int | Sequence[int] = 50, eta: float = 0.0, spacing: str = "leading",
         offset: int = 0, final: str = "one", clip: str | None = None, cond: object = None,
         generator: torch.Generator | None = None, compat: str | None = None) -> Iterator[Step]:
    """DDIM (Song et al. 2021) over a sub-sequence of the steps.

    x: (B, C, H, W) standard normal noise. steps, spacing, offset: see ``grid``; steps may be the steps themselves.
    eta: 0 (deterministic) to 1. final: noise level of the result, "one" (clean) or "first" (abar_0, Stable Diffusion).
    clip: None; "x0" clips x0 to [-1, 1] and keeps the eps of before (diffusers); "both" then works eps out again from the
    clipped x0 (OpenAI, lucidrains; diffusers' use_clipped_model_output). compat: see ``grid.pairs``.
    """
    check_model(model)
    check_state("x", x)
    require(0 <= eta <= 1, "eta", eta, "a number from 0 (no noise) to 1 (DDPM)", "eta=0.0")
    check_choice("final", final, ("one", "first"))
    if clip is not None:
        require(clip in ("x0", "both"), "clip", repr(clip), "None, 'x0' or 'both'", "clip='both'")
    route = pairs(model.schedule.T, steps, spacing=spacing, offset=offset, compat=compat)
    draw = noise_source(x, generator) if eta > 0 else None
    return _ddim(model, x, route, eta, final, clip, cond, draw)


@torch.no_grad()
def _ddim(model: Callable, x: Tensor, route: list[tuple[int, int]], eta: float, final: str, clip: str | None, cond: object,
          draw: Callable[[], Tensor] | None) -> Iterator[Step]:
    schedule = model.schedule
    for index, (t, t_prev) in enumerate(route):
        abar, abar_prev = float(schedule.at(t)), abar_after(schedule, t_prev, final)
        x0, eps = predict_at(model, x, t, cond)
        x0 = x0 if clip is None else x0.clamp(-1, 1)
        if clip == "both":
            eps = (x - abar**0.5 * x0) / (1 - abar) ** 0.5
        sigma = ddim_sigma(abar, abar_prev, eta)
        x = ddim_step(x0, eps, abar_prev, sigma=sigma, noise=None if draw is None else draw())
        yield Step(index, len(route), t, t_prev, x, x0, eps)
