"""EDM (Karras et al. 2022): noise levels instead of steps, and a network whose input and output have size 1 at every level.

The noisy picture is x + sigma n; our x_t is that divided by sqrt(1 + sigma^2) = 1 / sqrt(abar).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion.predict import Denoiser, Prediction, batch_t
from minidiff.diffusion.schedule import Schedule
from minidiff.errors import require

__all__ = ["Scalings", "edm_scalings", "edm_weight", "edm_noise_levels", "karras_sigmas", "EDM"]


class Scalings(NamedTuple):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def edm_scalings(sigma: Tensor, *, sigma_data: float = 0.5) -> Scalings:
    """The preconditioning (table 1, column "Ours"): F's input and target have variance 1 if the data's is sigma_data^2."""
    both = sigma**2 + sigma_data**2
    return Scalings(sigma_data**2 / both, sigma * sigma_data / both.sqrt(), 1 / both.sqrt(), 0.25 * sigma.log())


def edm_weight(sigma: Tensor, *, sigma_data: float = 0.5) -> Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on ||D - x0||^2: weight 1 on F's own error."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def edm_noise_levels(n: int, generator: torch.Generator, *, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """(n,) float64 training levels: log sigma ~ N(mean, std^2)."""
    return (mean + std * torch.randn(n, generator=generator, dtype=torch.float64, device=generator.device)).exp()


def karras_sigmas(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """(steps + 1,) float64: sigma_i = (smax^(1/rho) + i / (N - 1) (smin^(1/rho) - smax^(1/rho)))^rho, then 0 (eq. 5)."""
    require(steps >= 1, "steps", steps, "at least 1")
    require(0 < sigma_min < sigma_max, "sigma_min, sigma_max", (sigma_min, sigma_max), "0 < sigma_min < sigma_max")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


class EDM(Denoiser):
    """A network F in EDM's clothes: every sampler and ``simple_loss`` of this package takes EDM(net, schedule).

    F is called with c_in (x + sigma n) and c_noise = log(sigma) / 4, shape (B,); its target is (x0 - c_skip x) / c_out.
    """

    kind = "edm"

    def __init__(self, net, schedule: Schedule, *, sigma_data: float = 0.5) -> None:  # noqa: ANN001 - as in Denoiser
        super().__init__(net, schedule)
        require(not schedule.zero_snr, "schedule", schedule.name, "finite noise levels", "a schedule without zero_terminal")
        self.sigma_data = sigma_data

    def scalings(self, t: int | float | Tensor, x: Tensor) -> tuple[Tensor, Scalings]:
        """(sigma, scalings), each (B, 1, 1, 1) in x's dtype."""
        abar = self.schedule.at(batch_t(t, x))
        sigma = ((1 - abar) / abar).sqrt()
        shape = (-1,) + (1,) * (x.ndim - 1)
        cast = [v.to(x.dtype).view(shape) for v in (sigma, *edm_scalings(sigma, sigma_data=self.sigma_data))]
        return cast[0], Scalings(*cast[1:])

    def output(self, x: Tensor, t: Tensor, cond: object = None, *, times: int = 1) -> Tensor:
        sigma, c = self.scalings(t, x)
        return super().output(c.c_in * x * (1 + sigma**2).sqrt(), c.c_noise.flatten(), cond, times=times)

    def to_prediction(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        sigma, c = self.scalings(t, x)
        noisy = x * (1 + sigma**2).sqrt()
        x0 = c.c_skip * noisy + c.c_out * out
        return Prediction(x0, (noisy - x0) / sigma)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sigma, c = self.scalings(t, x0)
        return (x0 - c.c_skip * (x0 + sigma * noise)) / c.c_out
