"""Guidance, one function an equation: classifier guidance, classifier-free guidance and its variants, several conditions.

All are pure functions on tensors. Predictions (B, ...) may be eps, or x0 or v taken at the same x_t: every rule here that is
an affine combination with weights that sum to one means the same in each of them. Names: u has no condition, c has it.

Scales: ``s`` is Stable Diffusion's and guided-diffusion's number, where 1 is the plain conditional model; ``w`` = s - 1 is Ho
and Salimans' number, where 0 is the plain conditional model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.errors import require

__all__ = ["cfg", "cfg_plus_plus", "cfg_w", "composable", "dual", "eps_shift", "guided_mean", "instruct_pix2pix", "interaction",
           "interval_scale", "log_prob_gradient", "orthogonal_cfg", "rescale", "score_from_eps", "split_parallel"]

Scale = float | Tensor


def _same(reference: Tensor, **others: Tensor) -> None:
    for name, x in others.items():
        require(x.shape == reference.shape, name, f"shape {tuple(x.shape)}", f"{tuple(reference.shape)}, as the first prediction")


def _column(value: Scale, like: Tensor) -> Tensor | float:
    """A number as it is; a (B,) tensor shaped (B, 1, ...) to multiply ``like``."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value.to(like)
    require(value.shape == like.shape[:1] or value.ndim == like.ndim, "scale", f"shape {tuple(value.shape)}",
            f"a number, or one for each of the {len(like)} rows", f"torch.full(({len(like)},), 4.0)")
    return value.to(like) if value.ndim == like.ndim else value.to(like).view(-1, *(1,) * (like.ndim - 1))


def _noise_size(abar: Scale, like: Tensor) -> Tensor:
    """sqrt(1 - abar), worked out in float64, in the dtype of ``like``."""
    abar = torch.as_tensor(abar, dtype=torch.float64, device=like.device)
    return _column((1 - abar).sqrt(), like)


# classifier guidance -----------------------------------------------------------------------------------------------------


def score_from_eps(eps: Tensor, abar: Scale) -> Tensor:
    """grad log p_t(x_t) = -eps / sqrt(1 - abar) for the exact eps (Song et al. 2021; Dhariwal and Nichol 2021, eq. 11)."""
    return -eps / _noise_size(abar, eps)


def log_prob_gradient(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of each row's log p(y | x_t) with respect to that row, shaped like x.

    log_prob: x (B, ...) -> (B,). The gradient of the *sum* is the rows' own only if a row's value does not depend on the other
    rows: true with GroupNorm, false with BatchNorm in training mode.
    """
    with torch.enable_grad():
        given = x.detach().requires_grad_(True)
        value = log_prob(given)
        require(value.shape == x.shape[:1], "log_prob", f"shape {tuple(value.shape)}", f"({len(x)},), one number a row",
                "logits.log_softmax(1)[torch.arange(len(y)), y]")
        return torch.autograd.grad(value.sum(), given)[0]


def guided_mean(mean: Tensor, variance: Scale, gradient: Tensor, scale: Scale = 1.0) -> Tensor:
    """DDPM: mu + s Sigma grad log p(y | x) (Dhariwal and Nichol 2021, algorithm 1).

    mean, gradient: (B, ...); variance: a number, (B,), or shaped like mean (learned variances). The paper derives the gradient
    at x = mu, the released code takes it at x_t (guided-diffusion issue 51).
    """
    _same(mean, gradient=gradient)
    return mean + _column(scale, mean) * _column(variance, mean) * gradient


def eps_shift(eps: Tensor, abar: Scale, gradient: Tensor, scale: Scale = 1.0) -> Tensor:
    """DDIM: eps - s sqrt(1 - abar) grad log p(y | x_t) (Dhariwal and Nichol 2021, algorithm 2).

    x0 must be worked out again from the new eps; the gradient is taken at x_t and at the network's own time.
    """
    _same(eps, gradient=gradient)
    return eps - _column(scale, eps) * _noise_size(abar, eps) * gradient


# classifier-free guidance ------------------------------------------------------------------------------------------------


def cfg(u: Tensor, c: Tensor, s: Scale) -> Tensor:
    """u + s (c - u): s = 0 forgets the condition, s = 1 is the conditional model, above 1 it is guided.

    The form of Stable Diffusion and diffusers (``guidance_scale`` = s). A negative prompt is this with u = the prediction for
    the negative prompt.
    """
    _same(u, c=c)
    return u + _column(s, u) * (c - u)


def cfg_w(u: Tensor, c: Tensor, w: Scale) -> Tensor:
    """(1 + w) c - w u (Ho and Salimans 2022, eq. 6): w = -1 forgets the condition, w = 0 is the conditional model."""
    _same(u, c=c)
    w = _column(w, u)
    return (1 + w) * c - w * u


def rescale(guided: Tensor, c: Tensor, phi: float = 0.7) -> Tensor:
    """phi guided std(c) / std(guided) + (1 - phi) guided (Lin et al. 2024, section 3.4); std over each row's own numbers.

    phi = 0 leaves guided; at phi = 1 each row has the standard deviation of c. diffusers: ``guidance_rescale`` = phi.
    """
    _same(guided, c=c)
    dims = tuple(range(1, guided.ndim))
    factor = c.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return phi * factor * guided + (1 - phi) * guided


def interval_scale(s: Scale, level: float | Tensor, low: float, high: float) -> Tensor:
    """s where low < level <= high, else 1 (Kynkaanniemi et al. 2024): guidance in the middle of the chain only.

    level: what the interval is given in, usually sigma = sqrt((1 - abar) / abar); a number or (B,).
    """
    require(low < high, "low, high", (low, high), "low below high", "interval_scale(s, sigma, 0.3, 5.0)")
    level = torch.as_tensor(level, dtype=torch.float64)
    inside = (level > low) & (level <= high)
    return torch.where(inside, torch.as_tensor(s, dtype=torch.float64), torch.ones((), dtype=torch.float64))


def cfg_plus_plus(u: Prediction, c: Prediction, lam: Scale) -> Prediction:
    """CFG++ (Chung et al. 2024): the picture from the guided prediction, the noise from the unconditional one.

    x0 = u.x0 + lam (c.x0 - u.x0) with lam in [0, 1]; eps = u.eps. A DDIM step takes both numbers as they are.
    """
    return Prediction(cfg(u.x0, c.x0, lam), u.eps)


def split_parallel(update: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """(parallel, orthogonal) parts of each row's ``update`` with respect to the same row of ``along``; they sum to update."""
    _same(update, along=along)
    a, b = update.flatten(1).double(), along.flatten(1).double()
    part = (a * b).sum(1, keepdim=True) / b.square().sum(1, keepdim=True).clamp(min=1e-30) * b
    parallel = part.view_as(update).to(update)
    return parallel, update - parallel


def orthogonal_cfg(u: Tensor, c: Tensor, s: Scale, *, keep: float = 0.0) -> Tensor:
    """c + (s - 1) (orthogonal + keep parallel), the parts of c - u with respect to c (Sadat et al. 2024, APG, eq. 5-7).

    Meant for x0 predictions: what is parallel to x0 makes the picture more saturated. keep = 1 is plain guidance;
    lucidrains removes the part in what the network predicts, by default (``remove_parallel_component``).
    """
    parallel, orthogonal = split_parallel(c - u, c)
    return c + (_column(s, c) - 1) * (orthogonal + keep * parallel)


# several conditions ------------------------------------------------------------------------------------------------------


def composable(u: Tensor, conditions: Sequence[Tensor], weights: Sequence[Scale]) -> Tensor:
    """u + sum_i w_i (c_i - u) (Liu et al. 2022, eq. 11): every condition pulls from the same unconditional prediction.

    A negative weight is "not". Two equal conditions of weight s / 2 are :func:`cfg` with s.
    """
    require(len(conditions) == len(weights) and len(conditions) > 0, "weights", len(weights),
            f"one weight for each of the {len(conditions)} conditions")
    for c in conditions:
        _same(u, conditions=c)
    total = u
    for c, w in zip(conditions, weights, strict=True):
        total = total + _column(w, u) * (c - u)
    return total


def dual(u: Tensor, style: Tensor, content: Tensor, g_style: Scale, g_content: Scale) -> Tensor:
    """u + g_s (e_s - u) + g_y (e_y - u) (PARASOL, Tarres et al. 2023): three evaluations, and never the joint one.

    At g_s = g_y = 1 it is e_s + e_y - u, which differs from the joint prediction by :func:`interaction`.
    """
    return composable(u, (style, content), (g_style, g_content))


def instruct_pix2pix(u: Tensor, image: Tensor, both: Tensor, s_image: Scale, s_text: Scale) -> Tensor:
    """u + s_I (e_I - u) + s_T (e_IT - e_I) (Brooks et al. 2023, eq. 3): a chain, so (1, 1) is the joint prediction exactly."""
    _same(u, image=image, both=both)
    return u + _column(s_image, u) * (image - u) + _column(s_text, u) * (both - image)


def interaction(u: Tensor, first: Tensor, second: Tensor, both: Tensor) -> Tensor:
    """e_12 - (e_1 + e_2 - u): zero where the two conditions are independent given x_t; what a sum of conditions leaves out."""
    _same(u, first=first, second=second, both=both)
    return both - (first + second - u)
