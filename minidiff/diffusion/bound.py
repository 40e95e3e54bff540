"""The variational bound in bits per dimension, progressive coding, and the importance sampler of iDDPM.

-log2 p(x0) <= L_T + sum_t L_{t-1} + L_0 (Sohl-Dickstein et al. 2015; Ho et al. 2020, eq. 5).
All values are means over the dimensions of a picture, divided by ln 2, one for each picture: shape (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion.call import check_clip
from minidiff.diffusion.noise import check_rows, row_noise
from minidiff.diffusion.predict import batch_t, check_state, q_sample
from minidiff.diffusion.schedule import Schedule
from minidiff.errors import BadInput, check_choice, checks_first, require

__all__ = ["Variance", "normal_kl", "decoder_nll", "density_nll", "prior_term", "vlb_term", "bound_steps", "bits_per_dim",
           "BoundStep", "Bound", "LossAwareSampler"]

Variance = str | Callable[[Tensor, Tensor], Tensor]
"""small, large, learned, or a function (t, t_prev) -> variance, both (B,) integers."""

_LN2 = math.log(2.0)


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) in nats, element by element."""
    return 0.5 * (logvar2 - logvar1 - 1 + (logvar1 - logvar2).exp() + (mean1 - mean2) ** 2 * (-logvar2).exp())


def _cdf(z: Tensor, kind: str) -> Tensor:
    if kind == "tanh":  # the approximation in OpenAI's code, off by up to 2e-4
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    return 0.5 * torch.erfc(-z / math.sqrt(2))  # torch.special.ndtr loses its digits below -5


def decoder_nll(x0: Tensor, mean: Tensor, logvar: Tensor, *, cdf: str = "erf") -> Tensor:
    """-log of the Gaussian's mass in the bin of the byte x0, in nats, element by element (Ho et al. 2020, eq. 13).

    x0 in [-1, 1] holds bytes: bins reach 1/255 to both sides, and the outermost two are open (|x0| > 0.999).
    cdf: "erf" is the equation; "tanh" is what the published code computes. Mass is floored at 1e-12.
    """
    check_choice("cdf", cdf, ("erf", "tanh"))
    std = (0.5 * logvar).exp()
    high = torch.where(x0 > 0.999, math.inf, (x0 - mean + 1 / 255) / std)
    low = torch.where(x0 < -0.999, -math.inf, (x0 - mean - 1 / 255) / std)
    flip = low > 0  # both in the upper tail, where 1 - 1 loses every digit: use the mirror image
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    big = 40.0  # beyond it every normal CDF is 0 or 1; finite, so that gradients stay finite
    return -(_cdf(high.clamp(-big, big), cdf) - _cdf(low.clamp(-big, big), cdf)).clamp(min=1e-12).log()


def density_nll(x0: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """-log N(x0; mean, var) in nats: the decoder where the data are real numbers, not bytes."""
    return 0.5 * (math.log(2 * math.pi) + logvar + (x0 - mean) ** 2 * (-logvar).exp())


def _bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / _LN2


def prior_term(x0: Tensor, schedule: Schedule) -> Tensor:
    """L_T = KL(q(x_T | x0) || N(0, I)) in bits/dim, (B,). Nothing is learned here; it is 0 where abar_T = 0."""
    abar = schedule.abar[-1].to(x0.device)
    mean, var = abar.sqrt().to(x0.dtype) * x0, (1 - abar).to(x0.dtype)
    return _bits(0.5 * (var - 1 - var.log() + mean**2))


def _log_variance(model: Callable, variance: Variance, t: Tensor, frac: Tensor | None, x: Tensor) -> Tensor:
    """log Sigma of p(x_{t-1} | x_t), ready to broadcast with x. At t = 0 the small variance is that of t = 1 (Ho's rule)."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    schedule = model.schedule
    if callable(variance):
        return torch.as_tensor(variance(t, t - 1), dtype=torch.float64, device=x.device).log().to(x.dtype).view(shape)
    tables = {kind: schedule.log_variance(kind, device=x.device)[t].to(x.dtype).view(shape) for kind in ("small", "large")}
    if variance != "learned":
        return tables[variance]
    assert frac is not None
    large = (1 - schedule.at(t) / schedule.at(t - 1)).log().to(x.dtype).view(shape)  # log beta, at index 0 as well
    return frac * large + (1 - frac) * tables["small"]


def check_variance(model: Callable, variance: Variance) -> None:
    """Raise unless this model can be sampled with this variance."""
    if not callable(variance):
        check_choice("variance", variance, ("small", "large", "learned"))
    if variance == "learned" and not hasattr(model, "with_variance"):
        raise BadInput("variance", "'learned' with a model that predicts no variance", "a model with 2C output channels",
                       "LearnedRange(Eps(net, schedule)), or variance='small'")


def _term(model: Callable, x0: Tensor, t: Tensor, noise: Tensor, variance: Variance, clip: str | None, decoder: str,
          cond: object) -> tuple[Tensor, Tensor]:
    """(bits (B,), x0 as the model sees it in x_t)."""
    x_t = q_sample(x0, t, noise, model.schedule)
    frac = None
    if variance == "learned":
        prediction, frac = model.with_variance(x_t, t, cond)
    else:
        prediction = model(x_t, t) if cond is None else model(x_t, t, cond)
    guess = prediction.x0 if clip is None else prediction.x0.clamp(-1, 1)
    shape = (-1,) + (1,) * (x0.ndim - 1)
    c1, c2, _ = (c.to(x0.dtype).view(shape) for c in model.schedule.posterior(t))
    true_logvar = model.schedule.log_variance("small", device=x0.device)[t].to(x0.dtype).view(shape)
    logvar = _log_variance(model, variance, t, frac, x0)
    mean = c1 * guess + c2 * x_t
    kl = normal_kl(c1 * x0 + c2 * x_t, true_logvar, mean, logvar)
    last = density_nll(x0, mean, logvar) if decoder == "density" else decoder_nll(x0, mean, logvar, cdf=decoder)
    return _bits(torch.where((t == 0).view(shape), last, kl)), guess


def vlb_term(model: Callable, x0: Tensor, t: int | Tensor, noise: Tensor, *, variance: Variance = "small",
             clip: str | None = None, decoder: str = "erf", cond: object = None) -> Tensor:
    """L_{t-1} = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)), at t = 0 the decoder term. Bits/dim, (B,).

    x0, noise: (B, C, H, W); t: (B,) integers in [0, T-1]. One noise is a Monte Carlo sample of the expectation over q(x_t | x0).
    decoder: "erf" (bytes, exact), "tanh" (bytes, as published), "density" (real numbers).
    """
    check_state("x0", x0, finite=False)
    check_choice("decoder", decoder, ("erf", "tanh", "density"))
    check_clip(clip)
    check_variance(model, variance)
    return _term(model, x0, batch_t(t, x0), noise, variance, clip, decoder, cond)[0]


class BoundStep(NamedTuple):
    """One step of the code. To know x_t the receiver was sent ``rate`` bits/dim; it then guesses x0 with an error of
    ``distortion`` (root mean square, on the scale 0 to 255), and ``term`` more bits/dim tell it x_{t-1}."""

    t: int
    rate: Tensor
    distortion: Tensor
    term: Tensor
    x0: Tensor


class Bound(NamedTuple):
    """total, prior: (B,); terms, rate, distortion: (B, T), index t. total = prior + terms.sum(1). Bits/dim."""

    total: Tensor
    prior: Tensor
    terms: Tensor
    rate: Tensor
    distortion: Tensor


@checks_first
def bound_steps(model: Callable, x0: Tensor, *, variance: Variance = "small", clip: str | None = None, decoder: str = "erf",
                cond: object = None, seed: int = 0, rows: Sequence[int] | None = None) -> Iterator[BoundStep]:
    """Progressive coding (Ho et al. 2020, section 4.3): yields :class:`BoundStep` for t = T-1 .. 0, one noise for each t.

    clip: as in the samplers; bytes are coded with "x0" (OpenAI). The noise of a picture is a function of (seed, row number, t),
    so that two models are compared on equal terms and batches may be cut as one likes. Nothing is recorded for gradients.
    """
    check_state("x0", x0)
    check_choice("decoder", decoder, ("erf", "tanh", "density"))
    check_clip(clip)
    check_variance(model, variance)
    seed, rows = check_rows(seed, rows, len(x0))
    yield  # arguments are good; the rest runs as the caller asks for steps
    rate = prior_term(x0, model.schedule)
    for t in reversed(range(model.schedule.T)):
        noise = row_noise(x0.shape, seed=seed, t=t, rows=rows, dtype=x0.dtype, device=x0.device, stream="bound")
        with torch.no_grad():
            term, guess = _term(model, x0, batch_t(t, x0), noise, variance, clip, decoder, cond)
        distortion = 127.5 * (guess - x0).pow(2).flatten(1).mean(1).sqrt()
        yield BoundStep(t, rate, distortion, term, guess)
        rate = rate + term


def bits_per_dim(model: Callable, x0: Tensor, **options: object) -> Bound:
    """The whole bound: drains :func:`bound_steps` (same options). T network calls."""
    steps = list(bound_steps(model, x0, **options))[::-1]
    terms = torch.stack([s.term for s in steps], 1)
    prior = steps[-1].rate
    return Bound(prior + terms.sum(1), prior, terms, torch.stack([s.rate for s in steps], 1),
                 torch.stack([s.distortion for s in steps], 1))


class LossAwareSampler:
    """Draw t where the bound is large (Nichol and Dhariwal 2021, eq. 18): p_t ~ sqrt(E[L_t^2]) over the last losses of each t,
    mixed with a little of the even distribution, which is used alone until every t has ``history`` losses."""

    def __init__(self, T: int, *, history: int = 10, uniform: float = 0.001) -> None:
        require(T >= 1 and history >= 1, "T, history", (T, history), "at least 1 each")
        require(0 <= uniform <= 1, "uniform", uniform, "a share in [0, 1]")
        self.uniform = uniform
        self.losses = torch.zeros(T, history, dtype=torch.float64)
        self.count = torch.zeros(T, dtype=torch.long)

    def probability(self) -> Tensor:
        """(T,) float64, sums to 1."""
        T, history = self.losses.shape
        if int(self.count.min()) < history:
            return torch.full((T,), 1 / T, dtype=torch.float64)
        p = self.losses.square().mean(1).sqrt()
        return (1 - self.uniform) * p / p.sum() + self.uniform / T

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(t (n,), weight (n,) = 1 / (T p_t)): loss * weight has the mean that even sampling would give."""
        p = self.probability()
        t = torch.multinomial(p, n, replacement=True, generator=generator)
        return t, 1 / (len(p) * p[t])

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Tell it the unweighted bound terms of a batch: t (n,), losses (n,)."""
        for step, loss in zip(t.tolist(), losses.detach().double().tolist(), strict=True):
            self.losses[step] = torch.cat([self.losses[step, 1:], self.losses.new_tensor([loss])])
            self.count[step] += 1
