"""The schedule: one float64 table of abar, everything else derived from it.

Index 0 means that one noising step was applied (t = 1 in the papers), and abar(-1) = 1 is the clean picture.
Notation: beta_t, alpha_t = 1 - beta_t, abar_t = alpha_0 * ... * alpha_t,
SNR = abar / (1 - abar), sigma = sqrt((1 - abar) / abar) (the noise level of EDM), lam = log(SNR) / 2.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.errors import BadInput, check_choice, require

__all__ = ["Schedule", "Posterior", "posterior"]


class Posterior(NamedTuple):
    """q(x_prev | x_t, x_0) = N(c1 x_0 + c2 x_t, var), float64, shaped like t."""

    c1: Tensor
    c2: Tensor
    var: Tensor


def posterior(abar: Tensor | float, abar_prev: Tensor | float) -> Posterior:
    """The posterior q(x_prev | x_t, x_0) between two noise levels (Ho et al. 2020, eq. 6-7), tensors or numbers.

    c1 = beta sqrt(abar_prev) / (1 - abar),  c2 = (1 - abar_prev) sqrt(alpha) / (1 - abar),
    var = beta (1 - abar_prev) / (1 - abar), with alpha = abar / abar_prev and beta = 1 - alpha.
    """
    alpha = abar / abar_prev
    beta = 1 - alpha
    return Posterior(beta * abar_prev**0.5 / (1 - abar), (1 - abar_prev) * alpha**0.5 / (1 - abar),
                     beta * (1 - abar_prev) / (1 - abar))


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """abar: (T,) strictly decreasing, in (0, 1), only the last may be 0. Kept as float64 on the CPU."""

    abar: Tensor
    name: str = "custom"

    def __post_init__(self) -> None:
        abar = torch.as_tensor(self.abar, dtype=torch.float64, device="cpu").detach().clone()
        require(abar.ndim == 1 and len(abar) > 0, "abar", f"shape {tuple(abar.shape)}", "shape (T,) with T >= 1")
        require(bool(torch.isfinite(abar).all()), "abar", "NaN or infinity", "finite numbers", "a list of betas in (0, 1)")
        padded = torch.cat([abar.new_ones(1), abar])
        falls = bool((padded[1:] < padded[:-1]).all()) and float(abar[-1]) >= 0
        require(falls, "abar", f"values from {float(abar[0]):.6g} to {float(abar[-1]):.6g} that do not fall at every step",
                "a strictly decreasing table below 1 and not below 0", "torch.cumprod(1 - betas, 0)")
        object.__setattr__(self, "abar", abar)
        object.__setattr__(self, "_tables", {})

    def __repr__(self) -> str:
        return f"Schedule({self.name!r}, T={self.T}, abar {float(self.abar[0]):.6g} .. {float(self.abar[-1]):.3g})"

    @classmethod
    def from_betas(cls, betas: Tensor, name: str = "custom") -> Schedule:
        """betas: (T,), each in (0, 1]; only the last may be 1."""
        betas = torch.as_tensor(betas, dtype=torch.float64)
        good = bool(((betas > 0) & (betas <= 1)).all())
        require(good, "betas", f"values from {float(betas.min()):.6g} to {float(betas.max()):.6g}", "every beta in (0, 1]",
                "more steps, or smaller ends")
        return cls(torch.cumprod(1 - betas, 0), name)

    @property
    def T(self) -> int:  # noqa: N802 - the name in every paper
        """Number of noising steps."""
        return len(self.abar)

    @cached_property
    def zero_snr(self) -> bool:
        """True where the last step is pure noise (abar = 0): then eps does not determine x0 there."""
        return float(self.abar[-1]) == 0.0

    @cached_property
    def alpha(self) -> Tensor:
        """(T,) alpha_t = abar_t / abar_{t-1}."""
        return self.abar / torch.cat([self.abar.new_ones(1), self.abar[:-1]])

    @cached_property
    def beta(self) -> Tensor:
        """(T,) beta_t = 1 - alpha_t."""
        return 1 - self.alpha

    @cached_property
    def snr(self) -> Tensor:
        """(T,) signal-to-noise ratio abar / (1 - abar)."""
        return self.abar / (1 - self.abar)

    @cached_property
    def sigma(self) -> Tensor:
        """(T,) sqrt((1 - abar) / abar): the noise level once the picture is scaled back to size 1; inf where abar = 0."""
        return ((1 - self.abar) / self.abar).sqrt()

    @cached_property
    def lam(self) -> Tensor:
        """(T,) half the log of the SNR; -inf where abar = 0 (Lu et al. 2022, DPM-Solver)."""
        return 0.5 * (self.abar.log() - torch.log1p(-self.abar))

    def _kept(self, key: str, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        """A table, made once and kept on each device. float64 (float32 where there is none: mps)."""
        if (key, device) not in self._tables:
            table = make()
            self._tables[key, device] = table.to(torch.float32).to(device) if device.type == "mps" else table.to(device)
        return self._tables[key, device]

    def _table(self, device: torch.device) -> Tensor:
        """(T + 1,) abar with abar(-1) = 1 in front."""
        return self._kept("abar", device, lambda: torch.cat([self.abar.new_ones(1), self.abar]))

    def at(self, t: int | float | Tensor) -> Tensor:
        """abar at t, float64, shaped like t (0-d for a number) and on its device.

        t: integer(s) in [-1, T-1], where -1 gives 1; or float(s) in [0, T-1], read between the steps, linearly in lam.
        The range is checked on the CPU only, so that a training step on a GPU never waits.
        """
        if isinstance(t, float):
            t = torch.tensor(t, dtype=torch.float64)
        if not isinstance(t, Tensor):
            try:
                t = operator.index(t)
            except TypeError:
                raise BadInput("t", type(t).__name__, "an integer, a float or a tensor of shape (B,)") from None
            if -1 <= t < self.T:
                return self._table(self.abar.device)[t + 1]
            t = torch.tensor(t)
        low = 0 if t.is_floating_point() else -1
        if t.device.type == "cpu" and not torch.compiler.is_compiling():
            least, most = t.aminmax() if t.numel() else (low, low)
            if not (least >= low and most <= self.T - 1):
                raise BadInput("t", f"{t.tolist()}", f"values in [{low}, {self.T - 1}] (index 0 = one noising step)",
                               f"t - 1 if your steps count from 1 to T = {self.T}")
        if not t.is_floating_point():
            return self._table(t.device)[t.long() + 1]
        table = self._table(t.device)[1:]
        lam = 0.5 * (table.log() - torch.log1p(-table))
        below = t.floor().long().clamp(max=max(self.T - 2, 0))
        above = (below + 1).clamp(max=self.T - 1)
        part = t.to(table.dtype) - below
        mixed = torch.where(part == 0, lam[below], torch.where(part == 1, lam[above], lam[below].lerp(lam[above], part)))
        return torch.sigmoid(2 * mixed)

    def t_from_sigma(self, sigma: Tensor) -> Tensor:
        """The step, in general between two, whose noise level is sigma: the inverse of :meth:`at` on floats. float64, CPU."""
        require(not self.zero_snr, "schedule", f"{self.name}, whose last sigma is infinite", "finite noise levels",
                "a schedule without zero_terminal")
        want = torch.as_tensor(sigma, dtype=torch.float64, device="cpu").log().clamp(-float(self.lam[0]), -float(self.lam[-1]))
        levels = -self.lam
        above = torch.searchsorted(levels, want).clamp(1, max(self.T - 1, 1)).clamp(max=self.T - 1)
        below = (above - 1).clamp(min=0)
        gap = (levels[above] - levels[below]).clamp(min=1e-300)
        return below + (want - levels[below]) / gap

    def posterior(self, t: int | Tensor, t_prev: int | Tensor | None = None) -> Posterior:
        """:func:`posterior` of two steps, for t_prev = t - 1 or any earlier step. float64, shaped like t."""
        return posterior(self.at(t), self.at(t - 1 if t_prev is None else t_prev))

    def variance(self, kind: str, t: int | Tensor, t_prev: int | Tensor | None = None) -> Tensor:
        """Reverse variance. small: the posterior's, best if the data is one point. large: beta, best if it is N(0, I).

        In between, the best is var + c1^2 Var(x_0 | x_t) (Bao et al. 2022, Analytic-DPM; see ``oracle.Gaussian.variance``).
        """
        check_choice("kind", kind, ("small", "large"))
        if kind == "small":
            return self.posterior(t, t_prev).var
        return 1 - self.at(t) / self.at(t - 1 if t_prev is None else t_prev)

    def log_variance(self, kind: str, *, first: str = "second", device: torch.device | str = "cpu") -> Tensor:
        """(T,) log of :meth:`variance` along the whole chain. At index 0 the small variance is 0, so its log needs a rule.

        first: "second" copies the small variance of index 1 into index 0 of both kinds (Ho's and OpenAI's code),
        "clamp" floors the variance at 1e-20 (lucidrains, LDM), "plain" leaves it (the DDIM code, for "large").
        It matters only for the decoder term of the bound: no noise is added at index 0.
        """
        check_choice("kind", kind, ("small", "large"))
        check_choice("first", first, ("second", "clamp", "plain"))
        return self._kept(f"{kind} {first}", torch.device(device), lambda: self._log_variance(kind, first))

    def _log_variance(self, kind: str, first: str) -> Tensor:
        t = torch.arange(self.T)
        var = self.variance(kind, t).clone()
        if first == "second":
            var[0] = self.posterior(1).var if self.T > 1 else self.beta[0]
        return (var if first == "plain" else var.clamp(min=1e-20)).log()
