"""Noising, and the three things a network can predict: eps, x0, v. Wrapping a network states what it predicts.

    model = Eps(net, schedule)          # net(x, t, cond=None) -> eps
    x0, eps = model(x, t)               # the same two numbers whichever the network was trained on
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidiff.diffusion.schedule import Schedule
from minidiff.errors import BadInput, check_finite, require

__all__ = ["Prediction", "Denoiser", "Eps", "X0", "V", "LearnedRange", "q_sample", "x0_from_eps", "eps_from_x0", "v_from",
           "x0_from_v", "eps_from_v", "signal_noise", "batch_t", "check_state"]


class Prediction(NamedTuple):
    """What the model thinks the clean picture is and what the noise is; both shaped like x, neither clipped."""

    x0: Tensor
    eps: Tensor


def check_state(argument: str, x: object, *, finite: bool = True) -> None:
    """Raise unless x is a non-empty float tensor: pictures (B, C, H, W), or points (B, D) for the toy lessons."""
    require(isinstance(x, Tensor), argument, type(x).__name__, "a float tensor of shape (B, C, H, W) or (B, D)")
    assert isinstance(x, Tensor)
    require(x.ndim == 2 or x.ndim >= 4, argument, f"shape {tuple(x.shape)}", "shape (B, C, H, W), or (B, D) for points",
            f"{argument}[None] if it is one picture")
    require(x.is_floating_point(), argument, f"dtype {x.dtype}", "a float tensor in [-1, 1]",
            f"{argument}.float() / 127.5 - 1 for bytes")
    require(x.numel() > 0, argument, f"an empty tensor of shape {tuple(x.shape)}", "at least one picture")
    if finite:
        check_finite(argument, x)


def batch_t(t: int | float | Tensor, x: Tensor) -> Tensor:
    """t as a (B,) tensor on x's device; a number or a 0-d tensor is repeated for every row."""
    t = torch.as_tensor(t, device=x.device)
    require(t.ndim == 0 or t.shape == x.shape[:1], "t", f"shape {tuple(t.shape)}",
            f"shape ({len(x)},): one step for each row of x", "t.expand(len(x))")
    return t.expand(len(x))


def signal_noise(schedule: Schedule, t: int | float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t) and sqrt(1 - abar_t), taken in float64, then cast to x's dtype and shaped (B, 1, 1, 1) to multiply x."""
    abar = schedule.at(batch_t(t, x))
    shape = (-1,) + (1,) * (x.ndim - 1)
    return abar.sqrt().to(x.dtype).view(shape), (1 - abar).sqrt().to(x.dtype).view(shape)


def q_sample(x0: Tensor, t: int | Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (Ho et al. 2020, eq. 4).

    x0, noise: (B, C, H, W); t: (B,) integers in [-1, T-1], or one for all; t = -1 gives x0 back.
    """
    check_state("x0", x0, finite=False)
    require(noise.shape == x0.shape, "noise", f"shape {tuple(noise.shape)}", f"the shape of x0, {tuple(x0.shape)}",
            "torch.randn(x0.shape, generator=...)")
    a, s = signal_noise(schedule, t, x0)
    return a * x0 + s * noise


def _no_zero(schedule: Schedule, t: int | float | Tensor) -> None:
    """Refuse to divide by sqrt(abar) = 0."""
    if schedule.zero_snr and not torch.compiler.is_compiling() and bool((schedule.at(t) == 0).any()):
        raise BadInput("t", f"the last step of {schedule.name!r}, where abar = 0",
                       "abar > 0: x0 = (x - sqrt(1 - abar) eps) / sqrt(abar) divides by zero there, "
                       "because the noise in pure noise does not determine the picture",
                       "V(net, schedule) or X0(net, schedule), trained for a schedule of zero terminal SNR")


def x0_from_eps(x: Tensor, eps: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar) (Ho et al. 2020, eq. 15). Refuses abar = 0."""
    _no_zero(schedule, t)
    a, s = signal_noise(schedule, t, x)
    return (x - s * eps) / a


def eps_from_x0(x: Tensor, x0: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """eps = (x_t - sqrt(abar) x_0) / sqrt(1 - abar)."""
    a, s = signal_noise(schedule, t, x)
    return (x - a * x0) / s


def v_from(x0: Tensor, eps: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022, section 4)."""
    a, s = signal_noise(schedule, t, x0)
    return a * eps - s * x0


def x0_from_v(x: Tensor, v: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """x_0 = sqrt(abar) x_t - sqrt(1 - abar) v."""
    a, s = signal_noise(schedule, t, x)
    return a * x - s * v


def eps_from_v(x: Tensor, v: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """eps = sqrt(1 - abar) x_t + sqrt(abar) v."""
    a, s = signal_noise(schedule, t, x)
    return s * x + a * v


class Denoiser(nn.Module):
    """net(x, t, cond=None) with its meaning and its schedule: what every sampler and loss takes.

    net: any callable that gives a tensor shaped like x, or an object whose ``sample`` is one: diffusers' UNet2DModel as it is.
    """

    kind = ""

    def __init__(self, net: Callable[..., Tensor], schedule: Schedule) -> None:
        super().__init__()
        require(callable(net), "net", type(net).__name__, "a network or function net(x, t, cond=None)")
        require(isinstance(schedule, Schedule), "schedule", type(schedule).__name__, "a Schedule", "linear(1000)")
        self.net, self.schedule = net, schedule

    def forward(self, x: Tensor, t: int | float | Tensor, cond: object = None) -> Prediction:
        """x: (B, C, H, W), t: (B,) integer or float steps (or one number). Returns Prediction(x0, eps), unclipped."""
        t = batch_t(t, x)
        return self.to_prediction(self.output(x, t, cond), x, t)

    def output(self, x: Tensor, t: Tensor, cond: object = None, *, times: int = 1) -> Tensor:
        """The bare network, its shape checked against x (``times`` its channels); of a diffusers output its ``sample``."""
        out = self.net(x, t) if cond is None else self.net(x, t, cond)
        out = out if isinstance(out, Tensor) else getattr(out, "sample", out)
        if not isinstance(out, Tensor):
            raise BadInput("net", f"an output of type {type(out).__name__}", "a tensor shaped like x, or an object with .sample",
                           f"{type(self).__name__}(lambda x, t: net(x, t)[0], schedule) if it is the first of several")
        want = (len(x), times * x.shape[1], *x.shape[2:])
        if tuple(out.shape) != want:
            double = tuple(out.shape) == (len(x), 2 * x.shape[1], *x.shape[2:])
            raise BadInput("net", f"an output of shape {tuple(out.shape)} for x of shape {tuple(x.shape)}", f"shape {want}",
                           f"LearnedRange({type(self).__name__}(net, schedule)) if half of it is the variance" if double else "")
        return out

    def to_prediction(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        """From what the network predicts to (x0, eps)."""
        raise NotImplementedError

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should have predicted."""
        raise NotImplementedError


class Eps(Denoiser):
    """The network predicts the noise (Ho et al. 2020)."""

    kind = "eps"

    def to_prediction(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return Prediction(x0_from_eps(x, out, t, self.schedule), out)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise


class X0(Denoiser):
    """The network predicts the clean picture."""

    kind = "x0"

    def to_prediction(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return Prediction(out, eps_from_x0(x, out, t, self.schedule))

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return x0


class V(Denoiser):
    """The network predicts v, the speed along the circle between picture and noise (Salimans and Ho 2022)."""

    kind = "v"

    def to_prediction(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return Prediction(x0_from_v(x, out, t, self.schedule), eps_from_v(x, out, t, self.schedule))

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return v_from(x0, noise, t, self.schedule)


class LearnedRange(nn.Module):
    """A network with 2C output channels: C for the mean, C for the variance (Nichol and Dhariwal 2021, eq. 15).

    LearnedRange(Eps(net, schedule)); called, it gives Prediction(x0, eps) like any other. ``with_variance`` also gives
    frac = (v + 1) / 2, not clamped: 0 means the small variance, 1 the large one, and the log variance lies between.
    """

    def __init__(self, base: Denoiser) -> None:
        super().__init__()
        require(isinstance(base, Denoiser), "base", type(base).__name__, "a wrapped network", "LearnedRange(Eps(net, schedule))")
        self.base = base

    @property
    def schedule(self) -> Schedule:
        return self.base.schedule

    @property
    def kind(self) -> str:
        return self.base.kind

    def forward(self, x: Tensor, t: int | float | Tensor, cond: object = None) -> Prediction:
        return self.with_variance(x, t, cond)[0]

    def with_variance(self, x: Tensor, t: int | float | Tensor, cond: object = None) -> tuple[Prediction, Tensor]:
        """(Prediction(x0, eps), frac), each shaped like x."""
        t = batch_t(t, x)
        mean, v = self.base.output(x, t, cond, times=2).chunk(2, dim=1)
        return self.base.to_prediction(mean, x, t), (v + 1) / 2
