"""The noise schedules of the papers, each a few lines that make one table of abar. ``schedule.Schedule`` derives the rest."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.diffusion.schedule import Posterior, Schedule
from minidiff.errors import BadInput, check_choice, require

__all__ = ["Schedule", "Posterior", "make_schedule", "linear", "cosine", "sigmoid", "sigmoid_beta", "scaled_linear",
           "quad", "warmup", "const", "jsd", "zero_terminal"]


def _ends(T: int, start: float, end: float, rescale: bool) -> tuple[float, float]:
    scale = 1000 / _count(T) if rescale else 1.0
    if scale * max(start, end) > 1 + 1e-12:
        least = math.ceil(1000 * max(start, end))
        raise BadInput("T", T, f"at least {least}: the last beta would be {scale * max(start, end):.3g}, above 1",
                       f"T={least} or more, or cosine({T})")
    return min(start * scale, 1.0), min(end * scale, 1.0)


def _count(T: int) -> int:
    require(isinstance(T, int) and not isinstance(T, bool) and T >= 1, "T", T, "a whole number of steps, at least 1", "1000")
    return T


def _line(a: float, b: float, n: int) -> Tensor:
    return torch.linspace(a, b, _count(n), dtype=torch.float64)


def linear(T: int = 1000, *, start: float = 1e-4, end: float = 0.02, rescale: bool = True) -> Schedule:
    """beta on a straight line (Ho et al. 2020). rescale multiplies both ends by 1000/T, so that abar_T stays near 0."""
    return Schedule.from_betas(_line(*_ends(T, start, end, rescale), T), "linear")


def _from_abar(T: int, abar: Callable[[Tensor], Tensor], name: str) -> Schedule:
    """beta_t = min(1 - abar(t/T) / abar((t-1)/T), 0.999) (Nichol and Dhariwal 2021, section 3.2)."""
    values = abar(_line(0, 1, _count(T) + 1))
    return Schedule.from_betas((1 - values[1:] / values[:-1]).clamp(max=0.999), name)


def cosine(T: int = 1000, *, s: float = 0.008) -> Schedule:
    """abar(u) = cos^2((u + s) / (1 + s) pi / 2) (Nichol and Dhariwal 2021, eq. 17); ``squaredcos_cap_v2`` in diffusers."""
    return _from_abar(T, lambda u: torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2, "cosine")


def sigmoid(T: int = 1000, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """abar(u) falls along a logistic curve (Jabri et al. 2022; what lucidrains calls sigmoid). Not :func:`sigmoid_beta`."""
    first, final = (torch.sigmoid(torch.tensor(v / tau, dtype=torch.float64)) for v in (start, end))
    return _from_abar(T, lambda u: (final - torch.sigmoid((u * (end - start) + start) / tau)) / (final - first), "sigmoid")


def sigmoid_beta(T: int = 1000, *, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """beta rises along a logistic curve (GeoDiff; what diffusers calls sigmoid). Not :func:`sigmoid`."""
    return Schedule.from_betas(torch.sigmoid(_line(-6, 6, T)) * (end - start) + start, "sigmoid_beta")


def scaled_linear(T: int = 1000, *, start: float = 0.00085, end: float = 0.012) -> Schedule:
    """sqrt(beta) on a straight line: Stable Diffusion (LDM: .0015 to .0195). CompVis calls this one "linear"."""
    return Schedule.from_betas(_line(math.sqrt(start), math.sqrt(end), T) ** 2, "scaled_linear")


def quad(T: int = 1000, *, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """The same curve as :func:`scaled_linear` with the ends of :func:`linear` ("quad" in Ho's and DDIM's code)."""
    return Schedule.from_betas(_line(math.sqrt(start), math.sqrt(end), T) ** 2, "quad")


def warmup(T: int = 1000, *, start: float = 1e-4, end: float = 0.02, part: float = 0.1) -> Schedule:
    """beta rises over the first ``part`` of the chain and then stays ("warmup10", "warmup50" in Ho's code)."""
    rise = int(_count(T) * part)
    return Schedule.from_betas(torch.cat([_line(start, end, rise) if rise else _line(end, end, 1)[:0],
                                          torch.full((T - rise,), end, dtype=torch.float64)]), "warmup")


def const(T: int = 1000, *, beta: float = 0.02) -> Schedule:
    """The same beta at every step."""
    return Schedule.from_betas(_line(beta, beta, T), "const")


def jsd(T: int = 1000) -> Schedule:
    """beta_t = 1 / (T - t + 1), t = 1..T: abar falls on a straight line to 0 (Sohl-Dickstein et al. 2015)."""
    return Schedule(1 - _line(1, T, T) / T, "jsd")


def zero_terminal(schedule: Schedule) -> Schedule:
    """Shift and scale sqrt(abar) so that it ends at 0 and starts where it did (Lin et al. 2023, algorithm 1).

    Then predict v or x0 and sample with spacing="trailing": at abar = 0 eps cannot say what the picture is.
    """
    root = schedule.abar.sqrt()
    require(schedule.T > 1, "schedule", "T = 1", "at least two steps")
    scaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return Schedule(scaled**2, schedule.name + "+zero_terminal")


_MAKERS = {f.__name__: f for f in (linear, cosine, sigmoid, sigmoid_beta, scaled_linear, quad, warmup, const, jsd)}


def make_schedule(name: str, T: int = 1000, *, zero_snr: bool = False, **options: float) -> Schedule:
    """A schedule from its name, as a config file writes it: make_schedule("linear", 1000, end=0.02)."""
    check_choice("name", name, _MAKERS)
    known = [p for p in inspect.signature(_MAKERS[name]).parameters if p != "T"]
    for option in options:
        check_choice(f"option of {name}", option, known or ["T"])
    made = _MAKERS[name](T, **options)
    return zero_terminal(made) if zero_snr else made
