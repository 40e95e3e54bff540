"""What time it is: embeddings of the step t, and the small network behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from minidiff.errors import check_choice, require

__all__ = ["TIMES", "sinusoid", "Sinusoid", "Fourier", "TimeEmbedding"]

TIMES = ("sinusoidal", "learned", "random")


def _check(dim: int, convention: str) -> None:
    check_choice("convention", convention, ("ho", "openai"))
    require(dim % 2 == 0 and dim >= 4, "dim", dim, "an even number, 4 or more", "dim=64")


def sinusoid(t: Tensor, dim: int, *, convention: str = "ho", theta: float = 10_000.0) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    t: (B,) integer or float steps. Returns (B, dim), float64 for a float64 t and float32 otherwise. Two conventions
    are in use and trained weights are not interchangeable between them:

    - ``"ho"``: [sin, cos], exponents i / (half - 1)   Ho et al. 2020, lucidrains; diffusers' function with freq_shift=1
    - ``"openai"``: [cos, sin], exponents i / half     improved-diffusion, LDM; diffusers' UNet2DModel (flip_sin_to_cos)
    """
    _check(dim, convention)
    half, dtype = dim // 2, torch.float64 if t.dtype == torch.float64 else torch.float32
    spread = half - 1 if convention == "ho" else half
    frequency = torch.exp(torch.arange(half, device=t.device, dtype=dtype) * (-math.log(theta) / spread))
    angle = t.to(dtype)[:, None] * frequency
    order = (angle.sin(), angle.cos()) if convention == "ho" else (angle.cos(), angle.sin())
    return torch.cat(order, dim=1)


class Sinusoid(nn.Module):
    """:func:`sinusoid` in Ho's convention, as a layer without weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        _check(dim, "ho")
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        return sinusoid(t, self.dim)


class Fourier(nn.Module):
    """Fourier features [u, sin 2 pi w u, cos 2 pi w u] of u = t / period, with w drawn once from N(0, scale^2).

    lucidrains' learned and random sinusoidal embeddings (dim 16), with two differences: u instead of the raw t, which
    would put a feature of size 999 beside features of size 1, and scale 16 as in Song et al. 2021 (score SDE).
    t: (B,). Returns (B, dim + 1). ``learned`` makes w a parameter; otherwise it is a buffer, saved but not trained.
    """

    def __init__(self, dim: int = 16, *, learned: bool = False, scale: float = 16.0, period: float = 1000.0) -> None:
        super().__init__()
        require(dim % 2 == 0 and dim > 0, "dim", dim, "an even number above 0", "dim=16")
        self.dim, self.period = dim, period
        weights = torch.randn(dim // 2) * scale
        if learned:
            self.weights = nn.Parameter(weights)
        else:
            self.register_buffer("weights", weights)

    def forward(self, t: Tensor) -> Tensor:
        u = (t.to(self.weights.dtype) / self.period)[:, None]
        angle = 2 * math.pi * u * self.weights
        return torch.cat((u, angle.sin(), angle.cos()), dim=1)


class TimeEmbedding(nn.Module):
    """Features of t, then Linear -> SiLU -> Linear to ``width`` (Ho et al. 2020: width = 4 dim).

    kind: ``"sinusoidal"`` (Ho's convention), ``"learned"`` or ``"random"`` (Fourier).
    """

    def __init__(self, kind: str, dim: int, width: int) -> None:
        super().__init__()
        check_choice("time", kind, TIMES)
        self.features: Sinusoid | Fourier
        if kind in ("learned", "random"):
            self.features = Fourier(learned=kind == "learned")
            inner = self.features.dim + 1
        else:
            self.features = Sinusoid(dim)
            inner = dim
        self.mlp = nn.Sequential(nn.Linear(inner, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        dtype = self.mlp[0].weight.dtype
        t = t.double() if dtype == torch.float64 else t
        return self.mlp(self.features(t).to(dtype))
