"""Flow matching (Lipman et al. 2023; Liu et al. 2023): straight lines from picture (t = 0) to noise (t = 1).

Its network predicts v = noise - x0. A trained diffusion model is one too, after x and t are rescaled: see :func:`velocity_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minidiff.diffusion.call import check_clip, check_model, predict_at
from minidiff.diffusion.predict import batch_t, check_state
from minidiff.diffusion.sample import Step
from minidiff.diffusion.schedule import Schedule
from minidiff.errors import checks_first, require

__all__ = ["flow_path", "flow_target", "flow_loss", "flow_times", "flow_euler", "flow_time", "flow_scale", "velocity_of"]


def _column(t: float | Tensor, x: Tensor) -> Tensor:
    return batch_t(t, x).to(x.dtype).view((-1,) + (1,) * (x.ndim - 1))


def flow_path(x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t noise; t in [0, 1], (B,) or a number."""
    t = _column(t, x0)
    return (1 - t) * x0 + t * noise


def flow_target(x0: Tensor, noise: Tensor) -> Tensor:
    """The speed along that line, the same at every t: noise - x0."""
    return noise - x0


def flow_loss(net: Callable, x0: Tensor, t: Tensor, noise: Tensor, *, cond: object = None) -> Tensor:
    """Mean square error of the speed, (B,). net(x, t, cond=None), t: (B,) in [0, 1]."""
    x = flow_path(x0, noise, t)
    out = net(x, t) if cond is None else net(x, t, cond)
    return (out - flow_target(x0, noise)).square().flatten(1).mean(1)


def flow_times(steps: int, *, shift: float = 1.0, T: int = 1000) -> list[float]:
    """steps + 1 falling times from 1 to 0, the last jump from about 1/T; shift > 1 spends more steps near the noise:
    t <- shift t / (1 + (shift - 1) t) (Esser et al. 2024, eq. 23). diffusers' FlowMatchEulerDiscreteScheduler shifts its
    smallest time 1/T once more than this formula says; for shift = 1 the two agree."""
    require(steps >= 1, "steps", steps, "at least 1")
    require(shift > 0, "shift", shift, "a positive number", "shift=1.0")
    require(T >= 1, "T", T, "a number of steps, at least 1", "T=1000")
    line = torch.linspace(1, 1 / T, steps, dtype=torch.float64)
    return [*(shift * line / (1 + (shift - 1) * line)).tolist(), 0.0]


@checks_first
def flow_euler(net: Callable, x: Tensor, *, steps: int | Sequence[float] = 50, shift: float = 1.0, clip: str | None = None,
               cond: object = None) -> Iterator[Step]:
    """Euler: x <- x + (t_next - t) v. x: (B, C, H, W) noise. steps: how many, or the falling times themselves.

    Yields Step with t and t_prev in [0, 1], x0 = x - t v and eps = x + (1 - t) v. clip: as in ``sample``; with "both",
    eps = (x - (1 - t) x0) / t.
    """
    check_state("x", x)
    check_clip(clip)
    times = flow_times(steps, shift=shift) if isinstance(steps, int) else [float(t) for t in steps]
    falls = len(times) > 1 and 1 >= times[0] and times[-1] >= 0 and all(a > b for a, b in zip(times, times[1:], strict=False))
    require(falls, "steps", times[:8], "at least two falling times in [0, 1]", "[1.0, 0.5, 0.0]")
    yield  # arguments are good; the rest runs as the caller asks for steps
    for index, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
        v = predict_at(net, x, t, cond)
        x0, eps = x - t * v, x + (1 - t) * v
        if clip is not None:
            x0 = x0.clamp(-1, 1)
            eps = (x - (1 - t) * x0) / t if clip == "both" else eps
        x = (1 - t_next) * x0 + t_next * eps  # x + (t_next - t) v, where nothing was clipped
        yield Step(index, len(times) - 1, t, t_next, x, x0, eps)


def flow_time(schedule: Schedule, t: int | Tensor) -> Tensor:
    """The flow time of a diffusion step: the noise's share sqrt(1 - abar) / (sqrt(abar) + sqrt(1 - abar)). Float64."""
    abar = schedule.at(t)
    return (1 - abar).sqrt() / flow_scale(schedule, t)


def flow_scale(schedule: Schedule, t: int | Tensor) -> Tensor:
    """sqrt(abar) + sqrt(1 - abar): x of the flow is x_t divided by it."""
    abar = schedule.at(t)
    return abar.sqrt() + (1 - abar).sqrt()


def velocity_of(model: Callable) -> Callable[..., Tensor]:
    """A diffusion model as a flow's network: v = eps - x0, asked at sqrt(abar_t) and sqrt(1 - abar_t) in place of 1 - u and u.

    With u = flow_time(schedule, t), flow_euler(velocity_of(model), x / flow_scale(schedule, ts[0]), steps=[u of ts, 0.0]) visits
    the pictures of ddim(model, x, steps=ts), each divided by its flow_scale. Between two steps of the model t is a float.
    """
    check_model(model)

    def net(x: Tensor, u: Tensor, cond: object = None) -> Tensor:
        u = u.cpu().double()
        t = model.schedule.t_from_sigma(u / (1 - u)).to(x)
        abar = model.schedule.at(t).to(x).view((-1,) + (1,) * (x.ndim - 1))
        x_t = x * (abar.sqrt() + (1 - abar).sqrt())
        x0, eps = model(x_t, t) if cond is None else model(x_t, t, cond)
        return eps - x0

    return net
