"""Training losses, one number for each picture: shape (B,), float32 or better. Average them where you train.

A loss takes the wrapped network, so the same line trains eps, x0 and v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.diffusion.bound import vlb_term
from minidiff.diffusion.predict import LearnedRange, Prediction, batch_t, q_sample
from minidiff.diffusion.schedule import Schedule
from minidiff.errors import check_choice, require

__all__ = ["simple_loss", "hybrid_loss", "min_snr_weight"]


def _per_picture(square: Tensor) -> Tensor:
    return square.flatten(1).mean(1)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def min_snr_weight(schedule: Schedule, t: int | Tensor, kind: str, *, gamma: float = 5.0) -> Tensor:
    """Min-SNR-gamma (Hang et al. 2023): min(SNR, gamma) on ||x0 error||^2, for each kind of target. Float64, shaped like t.

    eps: min(SNR, gamma) / SNR; x0: min(SNR, gamma); v: min(SNR, gamma) / (SNR + 1). At SNR = 0 the eps weight is 1.
    Published codes divide by SNR first and get 0/0 there (Min-SNR repository, PR 4; diffusers #9451).
    """
    check_choice("kind", kind, ("eps", "x0", "v"))
    require(gamma > 0, "gamma", gamma, "a positive number", "gamma=5.0")
    abar = schedule.at(t)
    snr = abar / (1 - abar)
    if kind == "eps":
        return (gamma / snr).clamp(max=1.0)
    return snr.clamp(max=gamma) / (1 if kind == "x0" else snr + 1)


def simple_loss(model: torch.nn.Module, x0: Tensor, t: int | Tensor, noise: Tensor, *, cond: object = None,
                gamma: float | None = None) -> Tensor:
    """L_simple: mean square error of what the network predicts (Ho et al. 2020, eq. 14). Returns (B,).

    model: Eps, X0, V or LearnedRange; x0, noise: (B, C, H, W); t: (B,) integers in [0, T-1].
    gamma: weight by :func:`min_snr_weight`; None weights every t alike, which for eps is L_simple,
    for x0 is eps with weight 1/SNR and for v is eps with weight (SNR + 1)/SNR (errors of consistent predictions).
    """
    t = batch_t(t, x0)
    base = model.base if isinstance(model, LearnedRange) else model
    x_t = q_sample(x0, t, noise, model.schedule)
    out = base.output(x_t, t, cond, times=2 if base is not model else 1)[:, :x0.shape[1]]
    loss = _per_picture((_wide(out) - _wide(base.target(x0, noise, t))) ** 2)
    return loss if gamma is None else loss * min_snr_weight(model.schedule, t, base.kind, gamma=gamma).to(loss.dtype)


class _Frozen:
    """A prediction made earlier, its mean detached, in the place of the model: only the variance learns from it."""

    def __init__(self, schedule: Schedule, prediction: Prediction, frac: Tensor) -> None:
        self.schedule, self.frac = schedule, frac
        self.prediction = Prediction(prediction.x0.detach(), prediction.eps.detach())

    def with_variance(self, x: Tensor, t: Tensor, cond: object = None) -> tuple[Prediction, Tensor]:
        return self.prediction, self.frac


def hybrid_loss(model: LearnedRange, x0: Tensor, t: int | Tensor, noise: Tensor, *, cond: object = None, lam: float = 1e-3,
                weight: Tensor | float = 1.0) -> Tensor:
    """L_simple + lam L_vlb, where the bound teaches the variance only (Nichol and Dhariwal 2021, eq. 16). Returns (B,).

    L_vlb is a sum over T steps, so one t drawn evenly stands for T times its term (in bits/dim): OpenAI's RESCALED_MSE,
    which for lam = 1e-3 is T/1000. Their plain MSE setting adds the single term with weight 1: lam = 1 / T here.
    weight: multiplies both, for an importance sampler (``bound.LossAwareSampler``).
    """
    require(isinstance(model, LearnedRange), "model", type(model).__name__, "a network with a variance head",
            "LearnedRange(Eps(net, schedule))")
    t = batch_t(t, x0)
    x_t = q_sample(x0, t, noise, model.schedule)
    out = model.base.output(x_t, t, cond, times=2)
    mean, v = out.chunk(2, dim=1)
    simple = _per_picture((_wide(mean) - _wide(model.base.target(x0, noise, t))) ** 2)
    frozen = _Frozen(model.schedule, model.base.to_prediction(mean, x_t, t), (v + 1) / 2)
    bound = vlb_term(frozen, x0, t, noise, variance="learned")
    return (simple + lam * model.schedule.T * bound) * weight
