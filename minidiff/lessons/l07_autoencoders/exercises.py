"""Exercises of lesson 07, first part: the Gaussian bottleneck, one layer of the encoder, the perceptual distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.tasks import call, exercise, expect, expect_number, fits
from minidiff.latent.bottleneck import kl_standard_normal, reparametrise
from minidiff.rng import normal

__all__: list[str] = []


@exercise("07.reparametrise", "Draw from the posterior", name="draw",
          stub='''
def draw(moments, noise):
    """z (B, C, h, w) from moments (B, 2C, h, w): means, then log variances, clamped to [-30, 20]. noise: (B, C, h, w)."""
    ...
''',
          solution='''
def draw(moments, noise):
    """z (B, C, h, w) from moments (B, 2C, h, w): means, then log variances, clamped to [-30, 20]. noise: (B, C, h, w)."""
    mu, logvar = moments.chunk(2, dim=1)
    sigma = (0.5 * logvar.clamp(-30, 20)).exp()
    return mu + sigma * noise
''',
          hints=("moments.chunk(2, dim=1) gives the two halves.",
                 "The second half is log sigma^2. What must it be multiplied by before exp, to give sigma?"))
def _reparametrise(fn: Callable) -> None:
    moments = normal((2, 6, 4, 4), "lesson 07 moments", 0, dtype=torch.float64)
    noise = normal((2, 3, 4, 4), "lesson 07 noise", 0, dtype=torch.float64)
    mu, logvar = moments.chunk(2, dim=1)
    want = reparametrise(moments, noise)[0]
    got = call(fn, moments, noise, shape=noise.shape)
    expect(got, want, wrong=fits({
        "exp(logvar) is the variance; the noise is multiplied by the standard deviation.": mu + logvar.exp() * noise,
        "The second half is used as sigma itself; it is the logarithm of the variance.": mu + logvar * noise,
        "The second half is used as the variance itself; it is its logarithm.": mu + logvar.abs().sqrt() * noise,
        "exp(2 logvar) takes the second half for half a logarithm; sigma is exp(logvar / 2).": mu + (2 * logvar).exp() * noise,
        "The halves are the wrong way round: the means come first.": logvar + (0.5 * mu).exp() * noise,
        "The channels are taken in turns; the means are the first half of them.":
            moments[:, ::2] + (0.5 * moments[:, 1::2]).exp() * noise,
        "The noise has no effect: this is the mean.": mu,
        "The mean is missing.": (0.5 * logvar).exp() * noise,
        "mu is multiplied as well; only the noise is.": (mu + noise) * (0.5 * logvar).exp(),
        "sigma has the wrong sign in the exponent.": mu + (-0.5 * logvar).exp() * noise,
    }, want), otherwise="Not mu + sigma * noise. Try moments of zeros: the answer is then the noise itself.")
    loud = torch.cat([mu, 44 + logvar], 1)
    expect(call(fn, loud, noise, shape=noise.shape), reparametrise(loud, noise)[0], wrong={
        "The log variance is not clamped to [-30, 20]: an untrained encoder can overflow here.":
            mu + (0.5 * (44 + logvar)).exp() * noise,
        "The clamp is put on half the log variance; it belongs on the log variance.":
            mu + (0.5 * (44 + logvar)).clamp(-30, 20).exp() * noise,
    }, otherwise="Right for small log variances, wrong for large ones: is it clamped to [-30, 20] before the exp?")


@exercise("07.kl", "The KL of a Gaussian from the standard one", name="kl_per_picture", points=2,
          stub='''
def kl_per_picture(mu, logvar):
    """KL(N(mu, sigma^2) || N(0, 1)) of each picture in nats, summed over its latent: (B, C, h, w) twice -> (B,)."""
    ...
''',
          solution='''
def kl_per_picture(mu, logvar):
    """KL(N(mu, sigma^2) || N(0, 1)) of each picture in nats, summed over its latent: (B, C, h, w) twice -> (B,)."""
    each = 0.5 * (mu ** 2 + logvar.exp() - 1 - logvar)
    return each.flatten(1).sum(1)
''',
          hints=("For one number: half of mu^2 + sigma^2 - 1 - log sigma^2. It is 0 at mu = 0, sigma = 1.",
                 "flatten(1) keeps the pictures apart; then sum over dimension 1."))
def _kl(fn: Callable) -> None:
    mu, logvar = normal((2, 3, 2, 4, 4), "lesson 07 kl", 0, dtype=torch.float64)
    want = kl_standard_normal(mu, logvar)

    def total(x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    var = logvar.exp()
    got = call(fn, mu, logvar, shape=want.shape)
    expect(got, want, wrong=fits({
        "It is averaged over the latent; the task (and latent diffusion) sums.": want / mu[0].numel(),
        "The factor one half is missing.": 2 * want,
        "The sign is wrong: a KL is never below zero.": -want,
        "The 1 is missing: at mu = 0 and sigma = 1 the answer must be 0.": total(0.5 * (mu**2 + var - logvar)),
        "logvar is used as the variance: its exp is missing.": total(0.5 * (mu**2 + logvar - 1 - logvar)),
        "exp(2 logvar) takes logvar for the logarithm of sigma; it is that of sigma squared.":
            total(0.5 * (mu**2 + (2 * logvar).exp() - 1 - 2 * logvar)),
        "sigma stands where sigma squared belongs.": total(0.5 * (mu**2 + (0.5 * logvar).exp() - 1 - logvar)),
        "This is the other KL, of the standard Gaussian from the posterior; KL is not symmetric.":
            total(0.5 * ((mu**2 + 1) / var - 1 + logvar)),
        "mu is not squared.": total(0.5 * (mu + var - 1 - logvar)),
        "The sign of logvar is wrong.": total(0.5 * (mu**2 + var - 1 + logvar)),
    }, want), otherwise="Not the KL. Check it at mu = 0, logvar = 0 (0 nats) and mu = 1, logvar = 0 (half a nat a number).")


@exercise("07.kl_weight", "Sums and means", name="kl_weight",
          stub='''
kl_weight = ...             # on means over 3 x 64 x 64 pixel values and over 4 x 16 x 16 latent values
''',
          solution='''
kl_weight = 1e-6 * (4 * 16 * 16) / (3 * 64 * 64)        # 1e-6 / 12 = 8.3e-8
''',
          hints=("Write both sums as (how many) times (mean), and divide the whole loss by the number of pixel values.",
                 "1e-6 * 1024 * mean KL against 12288 * mean error: what stands before the mean KL after dividing by 12288?"))
def _kl_weight(answer: object) -> None:
    expect_number(answer, 1e-6 / 12, tol=2e-10, wrong={
        "With the sums' own weight the KL counts twelve times too much: the two means divide by different numbers.": 1e-6,
        "The wrong way round: the latent has fewer numbers than the picture, so its mean is worth less, not more.": 1.2e-5,
        "That is the weight for a KL that is still a sum, beside a mean error. Here both are means.": 1e-6 / 12288,
        "That forgets the channels: 3 in the picture, 4 in the latent.": 1e-6 / 16,
        "That takes the KL's mean, but leaves the error a sum.": 1e-6 * 1024,
        "One side is divided by the other once too often: 64 / 16 is only one direction.": 1e-6 / 4,
    }, otherwise="Not the same training. (Number of latent values) / (number of pixel values) times 1e-6.")


@exercise("07.halve", "Half the size", name="halve",
          stub='''
def halve(x, weight, bias):
    """Zeros below and at the right (one row, one column), then a 3 x 3 convolution of stride 2: (B, D, H/2, W/2)."""
    ...
''',
          solution='''
import torch.nn.functional as F


def halve(x, weight, bias):
    """Zeros below and at the right (one row, one column), then a 3 x 3 convolution of stride 2: (B, D, H/2, W/2)."""
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)
''',
          hints=("F.pad(x, (left, right, top, bottom)), then F.conv2d without any padding of its own.",
                 "F.pad(x, (0, 1, 0, 1))"))
def _halve(fn: Callable) -> None:
    x = normal((2, 3, 8, 6), "lesson 07 halve", 0, dtype=torch.float64)
    weight, bias = normal((5, 3, 3, 3), "lesson 07 weight", 0, dtype=torch.float64), torch.arange(5.0, dtype=torch.float64)

    def conv(pad: tuple[int, ...], mode: str = "constant") -> Tensor:
        return F.conv2d(F.pad(x, pad, mode=mode), weight, bias, stride=2)

    want = conv((0, 1, 0, 1))
    full = F.conv2d(x, weight, bias, padding=1)
    expect(call(fn, x, weight, bias, shape=want.shape), want, wrong=fits({
        "That pads at the left and on top; so does padding=1, whose lower and right zeros a stride of 2 never meets. The size is "
        "right, but each output looks one pixel too far to the upper left: published weights give a slightly wrong latent.":
            conv((1, 0, 1, 0)),
        "That pads at the left and below: F.pad counts left, right, top, bottom.": conv((1, 0, 0, 1)),
        "That pads at the right and on top: F.pad counts left, right, top, bottom.": conv((0, 1, 1, 0)),
        "The border is repeated; the padding is zeros.": conv((0, 1, 0, 1), "replicate"),
        "The border is mirrored; the padding is zeros.": conv((0, 1, 0, 1), "reflect"),
        "The bias is missing.": want - bias.view(1, -1, 1, 1),
        "That is a convolution of stride 1, then an average over 2 x 2; the stride does the halving here.": F.avg_pool2d(full, 2),
    }, want), otherwise="Not the layer. Look at its last column: there the kernel's right third must meet zeros.")


@exercise("07.perceptual", "A distance between features", name="feature_distance", points=2,
          stub='''
def feature_distance(layers_x, layers_y):
    """Two lists of feature maps, (B, C, h, w) at each depth, of two pictures -> (B,). Unit vectors at each place, squared
    difference summed over channels, mean over places, mean over depths."""
    ...
''',
          solution='''
import torch.nn.functional as F


def feature_distance(layers_x, layers_y):
    """Two lists of feature maps, (B, C, h, w) at each depth, of two pictures -> (B,). Unit vectors at each place, squared
    difference summed over channels, mean over places, mean over depths."""
    total = 0
    for a, b in zip(layers_x, layers_y):
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        total = total + ((a - b) ** 2).sum(1).mean((1, 2))
    return total / len(layers_x)
''',
          hints=("Dimension 1 holds the channels: a / a.norm(dim=1, keepdim=True) has length 1 at each place.",
                 "Square the difference, sum over dimension 1, mean over the two dimensions of place; then over the depths."))
def _perceptual(fn: Callable) -> None:
    shapes = ((2, 4, 6, 6), (2, 8, 3, 3), (2, 3, 2, 2))
    xs = [normal(s, "lesson 07 features", i, dtype=torch.float64) * (1 + i) for i, s in enumerate(shapes)]
    ys = [x + 0.7 * normal(tuple(x.shape), "lesson 07 other", i, dtype=torch.float64) for i, x in enumerate(xs)]

    def of(each: Callable[[Tensor, Tensor], Tensor], dims: tuple[int, ...] | None = (1,), sum_depths: bool = False) -> Tensor:
        def unit(a: Tensor) -> Tensor:
            return a if dims is None else a / a.square().sum(dims, keepdim=True).sqrt()

        depths = torch.stack([each(unit(a), unit(b)) for a, b in zip(xs, ys, strict=True)])
        return depths.sum(0) if sum_depths else depths.mean(0)

    def right(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().sum(1).mean((1, 2))

    want = of(right)
    kept = [x.clone() for x in (*xs, *ys)]
    got = call(lambda: fn(list(xs), list(ys)), shape=want.shape)
    expect(torch.cat([x.flatten() for x in (*xs, *ys)]), torch.cat([x.flatten() for x in kept]), tol=0.0,
           otherwise="It changes the features in place; work on copies.")
    expect(got, want, wrong=fits({
        "The features are not brought to length 1 first: one loud depth then rules the sum.": of(right, None),
        "The length was taken over the places; it is that of the channels at each place (dim=1).": of(right, (2, 3)),
        "The length was taken over channels and places together; each place has its own.": of(right, (1, 2, 3)),
        "The channels are averaged; the squares are summed over them.": of(lambda a, b: (a - b).square().mean((1, 2, 3))),
        "The places are summed; take their mean, or large maps count more.": of(lambda a, b: (a - b).square().sum((1, 2, 3))),
        "The depths are summed; take their mean.": of(right, sum_depths=True),
        "The difference is not squared (its absolute value is used).": of(lambda a, b: (a - b).abs().sum(1).mean((1, 2))),
        "A square root too many: the distance stays squared.": of(lambda a, b: (a - b).square().sum(1).sqrt().mean((1, 2))),
        "This is the cosine between the features, not a distance: it must be 0 for equal pictures.":
            of(lambda a, b: (a * b).sum(1).mean((1, 2))),
    }, want), otherwise="Not the distance. It must be 0 for x = y, and not change when a feature map is multiplied by 3.")
