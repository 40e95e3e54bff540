"""Exercises of lesson 02: the reverse step, the targets, the weights, and a bug of a published implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []

_ABAR = torch.tensor([0.97, 0.5, 0.08], dtype=torch.float64).view(3, 1, 1, 1)
_PREV = torch.tensor([0.99, 0.62, 0.11], dtype=torch.float64).view(3, 1, 1, 1)


def _noise(name: str, *shape: int) -> Tensor:
    return normal(shape or (3, 2, 4, 4), "lesson02", name, dtype=torch.float64)


@exercise("02.posterior_mean", "The mean of the posterior", points=2, hints=(
    "alpha_t is abar_t / abar_prev, and beta_t is 1 - alpha_t.",
    "c1 = beta_t sqrt(abar_prev) / (1 - abar_t) goes with x0.",
    "c2 = (1 - abar_prev) sqrt(alpha_t) / (1 - abar_t) goes with x_t.",
))
def posterior_mean(x0, x_t, abar_t, abar_prev):
    """Mean of q(x_{t-1} | x_t, x_0). x0, x_t: (B, C, H, W); abar_t, abar_prev: (B, 1, 1, 1), alpha-bar at t and at t - 1."""
    ### BEGIN SOLUTION
    alpha = abar_t / abar_prev
    beta = 1 - alpha
    c1 = beta * abar_prev ** 0.5 / (1 - abar_t)
    c2 = (1 - abar_prev) * alpha ** 0.5 / (1 - abar_t)
    return c1 * x0 + c2 * x_t
    ### END SOLUTION


@checks(posterior_mean)
def _posterior_mean(fn) -> None:
    x0, x_t, a, p = _noise("x0"), _noise("x_t"), _ABAR, _PREV
    alpha, beta = a / p, 1 - a / p
    c1, c2 = beta * p.sqrt() / (1 - a), (1 - p) * alpha.sqrt() / (1 - a)
    expect(
        call(fn, x0, x_t, a, p, shape=(3, 2, 4, 4)),
        c1 * x0 + c2 * x_t,
        wrong={
            "x0 and x_t are swapped.": c1 * x_t + c2 * x0,
            "In c1 it is the root of alpha-bar at t - 1, not at t.": beta * a.sqrt() / (1 - a) * x0 + c2 * x_t,
            "In c1 the root of alpha-bar is missing.": beta * p / (1 - a) * x0 + c2 * x_t,
            "In c2 it is the root of alpha_t, not of alpha-bar_t.": c1 * x0 + (1 - p) * a.sqrt() / (1 - a) * x_t,
            "In c2 the root of alpha_t is missing.": c1 * x0 + (1 - p) * alpha / (1 - a) * x_t,
            "The denominator is 1 - alpha-bar at t, not at t - 1.": (beta * p.sqrt() * x0 + (1 - p) * alpha.sqrt() * x_t)
            / (1 - p),
            "That is the mean of the forward step; the posterior looks backwards.": alpha.sqrt() * x_t,
        },
        otherwise="At abar_prev = 1 the mean must be x0 itself; does yours do that?",
    )


@exercise("02.v_target", "The target v", hints=(
    "x_t is sqrt(abar) x0 + sqrt(1 - abar) eps: a rotation by an angle.",
    "v is the same rotation, a quarter turn further.",
))
def v_target(x0, eps, abar):
    """What a v-network is trained to predict: (B, C, H, W). abar: (B, 1, 1, 1)."""
    ### BEGIN SOLUTION
    return abar ** 0.5 * eps - (1 - abar) ** 0.5 * x0
    ### END SOLUTION


@checks(v_target)
def _v_target(fn) -> None:
    x0, eps, a = _noise("x0"), _noise("eps"), _ABAR
    c, s = a.sqrt(), (1 - a).sqrt()
    expect(
        call(fn, x0, eps, a, shape=(3, 2, 4, 4)),
        c * eps - s * x0,
        wrong={
            "The sign is turned round: v = sqrt(abar) eps - sqrt(1 - abar) x0.": s * x0 - c * eps,
            "x0 and eps are swapped.": c * x0 - s * eps,
            "That is x_t itself: the second term of v is subtracted.": c * eps + s * x0,
            "The weights are swapped: eps gets sqrt(abar), x0 gets sqrt(1 - abar).": s * eps - c * x0,
            "The roots are missing.": a * eps - (1 - a) * x0,
            "That is x_t, the noised picture.": c * x0 + s * eps,
        },
        otherwise="At abar = 1 (no noise) v must be eps; at abar = 0 it must be -x0.",
    )


@exercise("02.reverse_step", "One ancestral step", hints=(
    "A draw is the mean plus the standard deviation times noise.",
    "Rows with t = 0 get no noise: multiply by (t > 0).",
    "Shape (B,) must become (B, 1, 1, 1) to multiply a batch of pictures.",
))
def reverse_step(mean, variance, noise, t):
    """A draw from N(mean, variance), but the mean itself where t = 0. (B, C, H, W); variance (B, 1, 1, 1), t (B,)."""
    ### BEGIN SOLUTION
    moving = (t > 0).view(-1, 1, 1, 1)
    return mean + moving * variance ** 0.5 * noise
    ### END SOLUTION


@checks(reverse_step)
def _reverse_step(fn) -> None:
    mean, noise, t = _noise("mean"), _noise("noise"), torch.tensor([3, 0, 1])
    var = torch.tensor([0.2, 0.05, 0.01]).double().view(3, 1, 1, 1)
    moving = (t > 0).view(3, 1, 1, 1)
    expect(
        call(fn, mean, var, noise, t, shape=(3, 2, 4, 4)),
        mean + moving * var.sqrt() * noise,
        wrong={
            "It adds noise at t = 0 too: the last step returns the mean.": mean + var.sqrt() * noise,
            "It multiplies the noise by the variance; a draw needs the standard deviation.": mean + moving * var * noise,
            "It multiplies the noise by the variance, and adds it at t = 0 too.": mean + var * noise,
            "It adds no noise at all.": mean,
            "It leaves the noise out at t = 1 as well; only t = 0 goes without.": mean
            + (t > 1).view(3, 1, 1, 1) * var.sqrt() * noise,
            "It adds noise only at t = 0, and nowhere else.": mean + (t == 0).view(3, 1, 1, 1) * var.sqrt() * noise,
            "The noise is subtracted; that is fair in distribution, but not this draw.": mean - moving * var.sqrt() * noise,
        },
    )


@exercise("02.min_snr", "Min-SNR weights for eps", hints=(
    "SNR = abar / (1 - abar).",
    "min(SNR, gamma) / SNR = min(1, gamma / SNR).",
    "gamma / 0 is infinite, and min(1, infinity) is 1: no 0 / 0.",
))
def min_snr(abar, gamma):
    """Weight of the squared eps error: min(SNR, gamma) / SNR. abar: (T,). Returns (T,), finite also where abar is 0."""
    ### BEGIN SOLUTION
    snr = abar / (1 - abar)
    return (gamma / snr).clamp(max=1)
    ### END SOLUTION


@checks(min_snr)
def _min_snr(fn) -> None:
    a = torch.tensor([0.999, 0.95, 0.9, 0.6, 0.3, 0.01, 0.0], dtype=torch.float64)
    snr = a / (1 - a)
    want = (5 / snr).clamp(max=1)
    try:
        got = call(fn, a, 5.0, shape=(7,))
    except Mistake as mistake:
        raise (
            Mistake("At abar = 0 it divides zero by zero, as published codes do; write min(1, gamma / SNR).")
            if "NaN" in str(mistake)
            else mistake
        ) from None
    expect(
        got,
        want,
        wrong={
            "That is min(SNR, gamma), the weight for x0-prediction; for eps divide by SNR.": snr.clamp(max=5),
            "That is the weight for v-prediction: it divides by SNR + 1.": snr.clamp(max=5) / (snr + 1),
            "It takes the larger of the two; the weight is capped, so take the smaller.": (5 / snr.clamp(min=1e-30))
            .clamp(min=1)
            .clamp(max=1e30),
            "All weights are 1: SNR = abar / (1 - abar), and SNR above gamma is weighted down.": torch.ones_like(a),
            "The ratio is upside down: SNR = abar / (1 - abar).": (5 * snr).clamp(max=1),
            "SNR is a ratio of squares already; do not take its root.": (5 / snr.sqrt()).clamp(max=1),
        },
    )


@exercise("02.gaussian_kl", "One term of the bound", points=2, hints=(
    "0.5 (log(var2 / var1) - 1 + (var1 + difference^2) / var2).",
    "It must be 0 when the two are equal, and never negative.",
    "It is not symmetric: var2 divides.",
))
def gaussian_kl(mean1, var1, mean2, var2):
    """KL(N(mean1, var1) || N(mean2, var2)) in nats, element by element; all of one shape."""
    ### BEGIN SOLUTION
    return 0.5 * (torch.log(var2 / var1) - 1 + (var1 + (mean1 - mean2) ** 2) / var2)
    ### END SOLUTION


@checks(gaussian_kl)
def _gaussian_kl(fn) -> None:
    m1, m2 = _noise("m1", 5), _noise("m2", 5)
    v1, v2 = _noise("v1", 5).exp(), _noise("v2", 5).exp()
    square = (m1 - m2) ** 2
    want = 0.5 * (torch.log(v2 / v1) - 1 + (v1 + square) / v2)
    expect(
        call(fn, m1, v1, m2, v2, shape=(5,)),
        want,
        wrong={
            "The two Gaussians are swapped: KL is not symmetric.": 0.5 * (torch.log(v1 / v2) - 1 + (v2 + square) / v1),
            "The half is missing.": 2 * want,
            "The - 1 is missing: equal Gaussians must give 0.": want + 0.5,
            "The logarithm's ratio is upside down.": 0.5 * (torch.log(v1 / v2) - 1 + (v1 + square) / v2),
            "The means are not squared.": 0.5 * (torch.log(v2 / v1) - 1 + (v1 + (m1 - m2).abs()) / v2),
            "It is in bits; nats are asked for (natural logarithm).": want / torch.log(torch.tensor(2.0).double()),
            "The squared difference is not divided by var2.": 0.5 * (torch.log(v2 / v1) - 1 + v1 / v2 + square),
        },
    )


@exercise("02.learned_range", "A variance between two", hints=(
    "First turn v in [-1, 1] into a share in [0, 1].",
    "Interpolate the logarithms, then take the exponential.",
))
def learned_range(v, beta, beta_tilde):
    """The variance that the network's v in [-1, 1] means (iDDPM): -1 gives beta_tilde, 1 gives beta; in between log-linear."""
    ### BEGIN SOLUTION
    share = (v + 1) / 2
    return torch.exp(share * torch.log(beta) + (1 - share) * torch.log(beta_tilde))
    ### END SOLUTION


@checks(learned_range)
def _learned_range(fn) -> None:
    v = torch.tensor([-1.0, -0.4, 0.0, 0.5, 1.0]).double()
    b, s = torch.full((5,), 0.02).double(), torch.full((5,), 0.004).double()
    share = (v + 1) / 2

    def blend(w: Tensor) -> Tensor:
        return torch.exp(w * b.log() + (1 - w) * s.log())

    expect(
        call(fn, v, b, s, shape=(5,)),
        blend(share),
        wrong={
            "v runs from -1 to 1; the share is (v + 1) / 2.": blend(v),
            "It interpolates the variances; iDDPM interpolates their logarithms.": share * b + (1 - share) * s,
            "The ends are swapped: v = 1 means beta.": blend(1 - share),
            "It returns the logarithm; take the exponential.": share * b.log() + (1 - share) * s.log(),
            "It returns the standard deviation; the variance is asked for.": blend(share).sqrt(),
            "It takes a sigmoid of v; v itself is the position between the two.": blend(v.sigmoid()),
        },
    )


@exercise("02.immiscible", "Spot the bug: noise that was reassigned", points=2, hints=(
    "The target of an eps-network is the noise that is in the picture.",
    "Reorder first, then use the reordered noise twice.",
))
def noised_pair(x0, noise, order, abar):
    """Immiscible training gives picture b the noise number order[b], then noises it.

    A published implementation reorders the noise inside q_sample but trains against the noise as it was. Write it
    right: return torch.stack([x_t, target]) for an eps-network. x0, noise: (B, C, H, W); order: (B,); abar: (B, 1, 1, 1).
    """
    ### BEGIN SOLUTION
    noise = noise[order]
    return torch.stack([abar ** 0.5 * x0 + (1 - abar) ** 0.5 * noise, noise])
    ### END SOLUTION


@checks(noised_pair)
def _immiscible(fn) -> None:
    x0, noise, order, a = _noise("x0"), _noise("noise"), torch.tensor([2, 0, 1]), _ABAR
    mine = noise[order]
    c, s = a.sqrt(), (1 - a).sqrt()
    x_t = c * x0 + s * mine
    got = call(fn, x0, noise, order, a, shape=(2, 3, 2, 4, 4))
    expect(
        got,
        torch.stack([x_t, mine]),
        wrong={
            "That is the published bug: the target is the noise before it was reordered.": torch.stack([x_t, noise]),
            "The target is reordered, but the picture holds the noise as it was.": torch.stack([c * x0 + s * noise, mine]),
            "The noise was not reordered at all.": torch.stack([c * x0 + s * noise, noise]),
            "The pictures were reordered instead of the noise.": torch.stack([c * x0[order] + s * noise, noise]),
            "The order was inverted: picture b gets noise number order[b].": torch.stack(
                [c * x0 + s * noise[order.argsort()], noise[order.argsort()]]
            ),
            "The two results are swapped: x_t first, then the target.": torch.stack([mine, x_t]),
            "The roots are missing in x_t.": torch.stack([a * x0 + (1 - a) * mine, mine]),
        },
    )
