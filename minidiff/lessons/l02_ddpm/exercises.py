"""Exercises of lesson 02: the reverse step, the targets, the weights, and a bug of a published implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.course.tasks import call, exercise, expect
from minidiff.rng import normal

__all__: list[str] = []

_ABAR = torch.tensor([0.97, 0.5, 0.08], dtype=torch.float64).view(3, 1, 1, 1)
_PREV = torch.tensor([0.99, 0.62, 0.11], dtype=torch.float64).view(3, 1, 1, 1)


def _noise(name: str, *shape: int) -> Tensor:
    return normal(shape or (3, 2, 4, 4), "lesson02", name, dtype=torch.float64)


@exercise(
    "02.posterior_mean",
    "The mean of the posterior",
    name="posterior_mean",
    points=2,
    stub='''
def posterior_mean(x0, x_t, abar_t, abar_prev):
    """Mean of q(x_{t-1} | x_t, x_0). x0, x_t: (B, C, H, W); abar_t, abar_prev: (B, 1, 1, 1), alpha-bar at t and at t - 1."""
    ...
''',
    solution="""
def posterior_mean(x0, x_t, abar_t, abar_prev):
    alpha = abar_t / abar_prev
    beta = 1 - alpha
    c1 = beta * abar_prev ** 0.5 / (1 - abar_t)
    c2 = (1 - abar_prev) * alpha ** 0.5 / (1 - abar_t)
    return c1 * x0 + c2 * x_t
""",
    hints=(
        "alpha_t is abar_t / abar_prev, and beta_t is 1 - alpha_t.",
        "c1 = beta_t sqrt(abar_prev) / (1 - abar_t) goes with x0.",
        "c2 = (1 - abar_prev) sqrt(alpha_t) / (1 - abar_t) goes with x_t.",
    ),
)
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


@exercise(
    "02.v_target",
    "The target v",
    name="v_target",
    points=1,
    stub='''
def v_target(x0, eps, abar):
    """What a v-network is trained to say: (B, C, H, W). abar: (B, 1, 1, 1)."""
    ...
''',
    solution="""
def v_target(x0, eps, abar):
    return abar ** 0.5 * eps - (1 - abar) ** 0.5 * x0
""",
    hints=(
        "x_t is sqrt(abar) x0 + sqrt(1 - abar) eps: a rotation by an angle.",
        "v is the same rotation, a quarter turn further.",
    ),
)
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


@exercise(
    "02.reverse_step",
    "One ancestral step",
    name="reverse_step",
    points=1,
    stub='''
def reverse_step(mean, variance, noise, t):
    """A draw from N(mean, variance), but the mean itself where t = 0. (B, C, H, W); variance (B, 1, 1, 1), t (B,)."""
    ...
''',
    solution="""
def reverse_step(mean, variance, noise, t):
    moving = (t > 0).view(-1, 1, 1, 1)
    return mean + moving * variance ** 0.5 * noise
""",
    hints=(
        "A draw is the mean plus the standard deviation times noise.",
        "Rows with t = 0 get no noise: multiply by (t > 0).",
        "Shape (B,) must become (B, 1, 1, 1) to multiply a batch of pictures.",
    ),
)
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
