"""Exercises of lesson 07, third part: the patch critic and its weight, the scale of the latent."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.tasks import Mistake, call, exercise, expect, fits
from minidiff.rng import normal

__all__: list[str] = []


@exercise("07.hinge", "The critic's hinge loss", name="critic_loss",
          stub='''
def critic_loss(real, fake):
    """Half of relu(1 - real) + relu(1 + fake), mean over patches. real, fake: logits (B, 1, h, w) -> (B,)."""
    ...
''',
          solution='''
import torch.nn.functional as F


def critic_loss(real, fake):
    """Half of relu(1 - real) + relu(1 + fake), mean over patches. real, fake: logits (B, 1, h, w) -> (B,)."""
    return 0.5 * (F.relu(1 - real) + F.relu(1 + fake)).mean((1, 2, 3))
''',
          hints=("Real patches should get logits above 1, false ones below -1: beyond that the loss is 0.",
                 "First relu for each patch, then the mean over the dimensions 1, 2, 3."))
def _hinge(fn: Callable) -> None:
    shift = torch.tensor([[2.5, 0.4, -1.0], [-2.5, 0.4, 0.5]], dtype=torch.float64).view(2, 3, 1, 1, 1)
    real, fake = 1.5 * normal((2, 3, 1, 5, 4), "lesson 07 hinge", 0, dtype=torch.float64) + shift

    def mean(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))

    want = 0.5 * mean(F.relu(1 - real) + F.relu(1 + fake))
    expect(call(fn, real, fake, shape=(3,)), want, wrong=fits({
        "The signs are turned: real patches should get high logits, false ones low.":
            0.5 * mean(F.relu(1 + real) + F.relu(1 - fake)),
        "Both terms ask for high logits: the false ones should be low.": 0.5 * mean(F.relu(1 - real) + F.relu(1 - fake)),
        "Without relu the critic is rewarded for ever larger logits.": 0.5 * mean(2 - real + fake),
        "The one half is missing.": 2 * want,
        "The mean was taken before the relu: then good patches excuse bad ones.":
            0.5 * (F.relu(1 - mean(real)) + F.relu(1 + mean(fake))),
        "The patches are summed; take their mean.": want * 20,
        "The margin of 1 is missing.": 0.5 * mean(F.relu(-real) + F.relu(fake)),
        "That is the logistic loss (softplus), not the hinge.": 0.5 * mean(F.softplus(-real) + F.softplus(fake)),
        "The false pictures are missing.": 0.5 * mean(F.relu(1 - real)),
        "The real pictures are missing.": 0.5 * mean(F.relu(1 + fake)),
    }, want), otherwise="Not the hinge loss. Logits of 2 on real and -2 on false patches must cost nothing.")


@exercise("07.adaptive", "Equal pull", name="balance", points=2,
          stub='''
def balance(rec, adv, last):
    """|d rec / d last| / (|d adv / d last| + 1e-4), between 0 and 1e4, a number without a graph. rec, adv: losses whose
    graph is still needed afterwards; last: the weight of the decoder's last layer."""
    ...
''',
          solution='''
import torch


def balance(rec, adv, last):
    """|d rec / d last| / (|d adv / d last| + 1e-4), between 0 and 1e4, a number without a graph. rec, adv: losses whose
    graph is still needed afterwards; last: the weight of the decoder's last layer."""
    a = torch.autograd.grad(rec, last, retain_graph=True)[0]
    b = torch.autograd.grad(adv, last, retain_graph=True)[0]
    return (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4).detach()
''',
          hints=("torch.autograd.grad(loss, last, retain_graph=True)[0] gives one gradient and leaves the graph standing.",
                 "norm() of a tensor of any shape is that of all its numbers."))
def _adaptive(fn: Callable) -> None:
    x = normal((2, 3, 6, 6), "lesson 07 adaptive", 0, dtype=torch.float64)
    for scale in (1.0, 2e-4, 0.0):
        last = normal((3, 3, 3, 3), "lesson 07 last", 0, dtype=torch.float64).requires_grad_()
        y = F.conv2d(x, last, padding=1).tanh()
        rec, adv = (y - x.roll(1, 0)).abs().mean() * 30, -scale * (y**3).mean()
        a, b = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rec, adv))
        got = fn(rec, adv, last)
        if not isinstance(got, (Tensor, float, int)):
            raise Mistake("It returns nothing; is a return missing?" if got is None else f"It returns {type(got).__name__}.")
        if last.grad is not None:
            raise Mistake("It leaves something in last.grad (backward() does); use torch.autograd.grad.")
        if isinstance(got, Tensor) and got.requires_grad:
            raise Mistake("The weight carries a graph; it is a number: detach it.")
        try:
            torch.autograd.grad(rec + adv, last)
        except RuntimeError:
            raise Mistake("Afterwards the losses have lost their graph: retain_graph=True in both calls.") from None
        got, ratio = torch.as_tensor(got).double(), (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4)
        if got.shape != ():
            raise Mistake(f"The shape is {tuple(got.shape)}, but one number is expected.")
        if not math.isfinite(float(got)):
            raise Mistake("It divides by zero when the critic's gradient vanishes: add 1e-4 to the norm below.")
        wrong = {
            "The ratio is upside down: a weak critic needs a large weight.": (b.norm() / (a.norm() + 1e-4)).clamp(0, 1e4),
            "The norms are squared.": (a.norm() ** 2 / (b.norm() ** 2 + 1e-4)).clamp(0, 1e4),
            "That is the ratio of the sums of absolute values; norm() is the Euclidean one.":
                (a.abs().sum() / (b.abs().sum() + 1e-4)).clamp(0, 1e4),
            "That is the ratio of the losses, not of their gradients.": (rec / (adv.abs() + 1e-4)).detach().clamp(0, 1e4),
            "The 1e-4 below is missing: it is small beside most gradients, but not beside a vanishing one.":
                (a.norm() / b.norm()).clamp(0, 1e4),
            "It is not clamped: at most 1e4.": a.norm() / (b.norm() + 1e-4),
            "The 1e-4 is added to the ratio; it belongs to the norm below.": (a.norm() / b.norm() + 1e-4).clamp(0, 1e4),
        }
        expect(got, ratio, tol=1e-6, wrong=fits(wrong, ratio),
               otherwise="Not the ratio of the gradients' norms on the last layer. With adv = rec it must be about 1.")


@exercise("07.scale", "One number for the latent", name="scale_factor",
          stub='''
def scale_factor(z):
    """z: (N, C, h, w), unscaled latents of many pictures. The number that brings their standard deviation to 1."""
    ...
''',
          solution='''
def scale_factor(z):
    """z: (N, C, h, w), unscaled latents of many pictures. The number that brings their standard deviation to 1."""
    return 1 / z.std()
''',
          hints=("One number for everything: over pictures, channels and places together.", "The standard deviation goes below."))
def _scale(fn: Callable) -> None:
    spread = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64).view(1, 3, 1, 1)
    z = normal((400, 3, 4, 4), "lesson 07 scale", 0, dtype=torch.float64) * spread * torch.linspace(0.5, 2, 400).view(-1, 1, 1, 1)
    z = z + torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64).view(1, 3, 1, 1)
    want = 1 / z.std()
    got = call(fn, z)
    if got.numel() > 1:
        raise Mistake(f"One number for all, not {got.numel()}: the published pipelines know a single scaling_factor.")
    expect(got.reshape(()), want, tol=1e-3, wrong={
        "That is the standard deviation itself; latents are multiplied by the factor.": z.std(),
        "That is one over the variance.": 1 / z.var(),
        "The mean is not taken off: that is one over the root mean square.": 1 / z.square().mean().sqrt(),
        "That is the mean of each channel's own factor.": (1 / z.std((0, 2, 3))).mean(),
        "That averages the channels' standard deviations; take one over everything.": 1 / z.std((0, 2, 3)).mean(),
        "That averages the pictures' standard deviations, and so leaves out how pictures differ.": 1 / z.std((1, 2, 3)).mean(),
        "Only the first picture was looked at; the factor then hangs on the draw.": 1 / z[0].std(),
        "That is one over the mean absolute value.": 1 / z.abs().mean(),
        "That is the factor of Stable Diffusion 1; each autoencoder has its own.": torch.tensor(0.18215, dtype=torch.float64),
    }, otherwise="(z * factor).std() must be 1.")
