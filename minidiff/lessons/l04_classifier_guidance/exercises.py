"""Exercises of lesson 04: the gradient of an exact classifier and of a network, the shift of eps, AdaGN, the right time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.course.answers import call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


@exercise("04.mode_gradient", "Derive: the gradient of an exact classifier", points=3, hints=(
    "With no noise the two classes are N(+m, s^2) and N(-m, s^2). What are they at x_t = sqrt(abar) x_0 + noise?",
    "Both have variance v = abar s^2 + 1 - abar and centres +-sqrt(abar) m, so log p(+|x) - log p(-|x) is a straight line in x.",
    "p(+|x) = sigmoid(2 sqrt(abar) m x / v), and the derivative of log sigmoid(k x) is k (1 - sigmoid(k x)).",
))
def mode_gradient(x, abar, m, s):
    """d/dx log p(plus | x_t = x) for two equal modes at +m and -m of width s. x: (B,); abar, m, s:
    numbers."""
    ### BEGIN SOLUTION
    k = 2 * abar**0.5 * m / (abar * s**2 + 1 - abar)
    return k * (1 - torch.sigmoid(k * x))
    ### END SOLUTION


@checks(mode_gradient)
def _mode_gradient(fn: Callable) -> None:
    for n, abar, m, s in ((41, 0.8, 1.0, 0.3), (30, 0.15, 1.7, 0.6), (25, 0.995, 0.5, 0.9)):
        x = torch.linspace(-2.5, 2.2, n, dtype=torch.float64)

        def slope(k: float, x: Tensor = x) -> Tensor:
            return k * (1 - torch.sigmoid(k * x))

        v = abar * s**2 + 1 - abar
        k = 2 * abar**0.5 * m / v
        want = slope(k)
        wrong = {
            "That is the gradient of p, not of log p.": k * torch.sigmoid(k * x) * (1 - torch.sigmoid(k * x)),
            "That is the gradient of log p(minus | x).": -k * torch.sigmoid(k * x),
            "The modes of x_t are sqrt(abar) times as far apart as those of x_0.": slope(2 * m / v),
            "The factor 2 is missing: the log ratio of the modes is (x + c)^2 - (x - c)^2 over 2 v.": slope(k / 2),
            "The width of a mode has grown: abar s^2 + 1 - abar, the data's share and the noise's.":
                slope(2 * abar**0.5 * m / (1 - abar)),
            "The width of the data shrinks with abar before the noise is added.": slope(2 * abar**0.5 * m / (s**2 + 1 - abar)),
            "The whole width is s^2 here, as if there were no noise.": slope(2 * abar**0.5 * m / s**2),
            "That is the slope of the log ratio; the probability itself is missing.": k * torch.ones_like(x),
            "The width stands in the formula as a standard deviation; a Gaussian divides by the variance.":
                slope(2 * abar**0.5 * m / v**0.5),
        }
        expect(call(fn, x, abar, m, s, shape=(n,)), want, wrong=fits(wrong, want),
               otherwise="Write log p(plus | x) as -log(1 + exp(-k x)) and differentiate; k holds the distance and the variance.")


@exercise("04.row_gradient", "Every row its own gradient", points=2, hints=(
    "Make a copy of x that asks for a gradient; the caller's x must not.",
    "Pick from log_softmax the entry of each row's class; then the sum over rows has each row's gradient, if rows do not mix.",
    "torch.autograd.grad(chosen.sum(), x)[0]",
))
def row_gradient(classifier, x, t, y):
    """Gradient of log p(y | x_t) of each row with respect to its x. classifier(x, t) -> logits (B, K); y:
    (B,) classes."""
    ### BEGIN SOLUTION
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        chosen = classifier(x, t).log_softmax(1).gather(1, y[:, None])
        return torch.autograd.grad(chosen.sum(), x)[0]
    ### END SOLUTION


@checks(row_gradient)
def _row_gradient(fn: Callable) -> None:
    for rows, classes, shape in ((4, 3, (2, 3, 4)), (6, 5, (3, 2, 5))):
        x, t = normal((rows, *shape), "04 x", rows, dtype=torch.float64), torch.arange(rows) * 11 + 3
        weight = normal((x[0].numel(), classes), "04 w", classes, dtype=torch.float64)
        y = torch.arange(rows) * 2 % classes

        def classifier(x: Tensor, t: Tensor, weight: Tensor = weight) -> Tensor:
            return torch.sin(x.flatten(1)) @ weight * (1 + t[:, None] / 40)

        def slope(pick: Callable, t: Tensor = t, x: Tensor = x, classifier: Callable = classifier) -> Tensor:
            given = x.clone().requires_grad_(True)
            return torch.autograd.grad(pick(classifier(given, t)), given)[0]

        row = torch.arange(rows)
        want = slope(lambda z, row=row, y=y: z.log_softmax(1)[row, y].sum())
        wrong = {
            "That is divided by the number of rows: with the mean, a larger batch would be guided less.":
                slope(lambda z, row=row, y=y: z.log_softmax(1)[row, y].mean()),
            "That is the gradient of the cross-entropy, which goes down; guidance goes up.": -want,
            "Divided by the batch, and the wrong way: cross_entropy takes a mean, and a minus.": -want / rows,
            "That is the gradient of the logit; without the others it does not know what else the picture could be.":
                slope(lambda z, row=row, y=y: z[row, y].sum()),
            "That is the gradient of the probability; its logarithm is what Bayes' rule adds.":
                slope(lambda z, row=row, y=y: z.softmax(1)[row, y].sum()),
            "That is the gradient of all classes together; take the one that was asked for.":
                slope(lambda z: z.log_softmax(1).sum()),
            "Every row is asked for the class of the first one.": slope(lambda z, y=y: z.log_softmax(1)[:, y[0]].sum()),
            "All rows have the time of the first one.": slope(lambda z, row=row, y=y: z.log_softmax(1)[row, y].sum(),
                                                               t=t[:1].expand(rows)),
        }
        with torch.no_grad():
            got = call(fn, classifier, x, t, y, shape=x.shape)
        expect(got, want, wrong=fits(wrong, want), otherwise="Sum each row's log_softmax at its own class, then differentiate.")


@exercise("04.shifted_eps", "The push, for a sampler that works with noise", points=2, hints=(
    "The score of x_t given y is the score of x_t plus the gradient of log p(y | x_t).",
    "A score is -eps / sqrt(1 - abar). Put both sides into that form.",
    "eps - s sqrt(1 - abar) gradient, with abar shaped (B, 1, 1, 1).",
))
def shifted_eps(eps, gradient, abar, s):
    """The noise that DDIM should believe in. eps, gradient: (B, ...); abar: (B,); s: a number."""
    ### BEGIN SOLUTION
    return eps - s * (1 - abar).sqrt().view(-1, *[1] * (eps.ndim - 1)) * gradient
    ### END SOLUTION


@checks(shifted_eps)
def _shifted_eps(fn: Callable) -> None:
    for shape, s in (((3, 2, 5, 4), 2.5), ((5, 3), 0.4), ((2, 4, 3, 6), 1.2)):
        eps, g = (normal(shape, "04 eps", i, dtype=torch.float64) for i in (0, 1))
        abar = torch.linspace(0.95, 0.02, shape[0], dtype=torch.float64)

        def over(v: Tensor, shape: tuple[int, ...] = shape) -> Tensor:
            return v.view(-1, *[1] * (len(shape) - 1))

        root = over((1 - abar).sqrt())
        want = eps - s * root * g
        wrong = {
            "The sign is turned: more probable means less of the noise that points away.": eps + s * root * g,
            "The scale s is not used.": eps - root * g,
            "The factor sqrt(1 - abar) is missing: a gradient is a score, and eps is a score times that.": eps - s * g,
            "That is the variance 1 - abar; the factor is its root.": eps - s * over(1 - abar) * g,
            "That is the factor of the picture.": eps - s * over(abar.sqrt()) * g,
            "The factor belongs in front, not below.": eps - s * g / root,
            "Every row has the abar of the first one.": eps - s * (1 - abar[0]).sqrt() * g,
            "That is the shift alone.": -s * root * g,
        }
        expect(call(fn, eps, g, abar, s, shape=shape), want, wrong=fits(wrong, want),
               otherwise="Turn eps into a score, add s times the gradient, and turn it back.")


@exercise("04.forgotten_x0", "Break it: a step that forgets half of the push", points=2, hints=(
    "A DDIM step uses eps twice: to work out x0, and as the noise that is put back. Which of the two does the colleague forget?",
    "x0 is worked out from eps as it came; only the noise that is put back is the shifted one.",
    "The shift itself is that of 04.shifted_eps, with the factor of the level that the step leaves.",
))
def forgetful_step(x, eps, gradient, abar, abar_next, s):
    """One DDIM step (eta = 0) of a colleague who shifts eps, but has worked out x0 before that and keeps it.

    x, eps, gradient: (B, ...) at level abar; abar, abar_next, s: numbers. Returns x at level abar_next.
    """
    ### BEGIN SOLUTION
    x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
    shifted = eps - s * (1 - abar) ** 0.5 * gradient
    return abar_next**0.5 * x0 + (1 - abar_next) ** 0.5 * shifted
    ### END SOLUTION


@checks(forgetful_step)
def _forgotten_x0(fn: Callable) -> None:
    for shape, abar, after, s in (((3, 2, 5, 4), 0.35, 0.6, 2.5), ((5, 3), 0.04, 0.11, 0.4), ((2, 4, 3, 6), 0.7, 0.93, 1.2)):
        x, eps, g = (normal(shape, "04 forgotten", i, dtype=torch.float64) for i in range(3))

        def step(for_x0: Tensor, for_noise: Tensor, a: float = abar, b: float = after, x: Tensor = x) -> Tensor:
            return b**0.5 * (x - (1 - a) ** 0.5 * for_x0) / a**0.5 + (1 - b) ** 0.5 * for_noise

        def moved(by: float, eps: Tensor = eps, g: Tensor = g) -> Tensor:
            return eps - by * g

        right = moved(s * (1 - abar) ** 0.5)
        want = step(eps, right)
        wrong = {
            "That is the step as it should be; break it: x0 is that of the eps before the shift.": step(right, right),
            "That forgets the other half: x0 is worked out again, and the noise put back is the old one.": step(right, eps),
            "Nothing is shifted; the noise that is put back is the shifted one.": step(eps, eps),
            "The sign of the shift is turned.": step(eps, moved(-s * (1 - abar) ** 0.5)),
            "The scale s is not used.": step(eps, moved((1 - abar) ** 0.5)),
            "The factor sqrt(1 - abar) of the shift is missing.": step(eps, moved(s)),
            "The shift has the variance 1 - abar; its factor is the root.": step(eps, moved(s * (1 - abar))),
            "The shift belongs to the level that the step leaves, abar.": step(eps, moved(s * (1 - after) ** 0.5)),
            "It stays at the level abar.": step(eps, right, b=abar),
        }
        expect(call(fn, x, eps, g, abar, after, s, shape=shape), want, wrong=fits(wrong, want),
               otherwise="x0 from eps, then sqrt(abar_next) x0 + sqrt(1 - abar_next) times the shifted eps.")


@exercise("04.kept_time", "Debug: the classifier's clock", points=2, hints=(
    "The sampler counts its own steps, 0 to S - 1. Classifier and network were trained on 0 to T - 1.",
    "The table of kept steps says which is which; it rises, and the last step of the chain is the first one taken.",
    "kept[i], and i + 1 is not a time of anything.",
))
def classifier_time(i, kept):
    """Which time to tell the classifier at the spaced sampler's step i. i: (B,) in [0, S - 1]; kept: (S,)
    rising times in T.

    A colleague passes i itself, and in a second version i * (T / S). Write the one that is right for any
    table.
    """
    ### BEGIN SOLUTION
    return torch.gather(kept, 0, i)
    ### END SOLUTION


@checks(classifier_time)
def _kept_time(fn: Callable) -> None:
    for kept, i in ((torch.tensor([0, 40, 90, 150, 333, 600, 999]), torch.tensor([6, 2, 0, 5])),
                    (torch.tensor([1, 2, 30, 99]), torch.tensor([0, 3, 1]))):
        want = kept[i]
        top = int(kept.max()) + 1
        wrong = {
            "That is the sampler's own count; the classifier would think there is almost no noise.": i,
            "Evenly spaced only: this table is not.": (i * (top / len(kept))).long(),
            "Evenly spaced only, from 0 to the top: this table is not.": (i * ((top - 1) / (len(kept) - 1))).long(),
            "The table is read from the wrong end; it rises, and so does i.": kept.flip(0)[i],
            "One step early.": kept[(i - 1).clamp(min=0)],
            "One step late.": kept[(i + 1).clamp(max=len(kept) - 1)],
        }
        got = call(fn, i, kept, shape=i.shape)
        expect(got.double(), want.double(), wrong=fits({k: v.double() for k, v in wrong.items()}, want.double()), tol=1e-9,
               otherwise="Look the time up in the table of kept steps.")


@exercise("04.ada_gn", "Build: adaptive group normalisation", points=2, hints=(
    "F.group_norm(h, groups) without weights normalises; the condition gives scale and shift for each channel of each picture.",
    "(B, 2C) holds C scales, then C shifts; pictures need the shape (B, C, 1, 1).",
    "F.group_norm(h, groups) * (1 + scale) + shift: a condition of zeros must change nothing.",
))
def ada_gn(h, e, groups):
    """GroupNorm whose scale and shift come from the condition (ADM). h: (B, C, H, W); e: (B, 2C), first
    scales, then shifts."""
    ### BEGIN SOLUTION
    scale, shift = e[:, :, None, None].chunk(2, dim=1)
    return F.group_norm(h, groups) * (1 + scale) + shift
    ### END SOLUTION


@checks(ada_gn)
def _ada_gn(fn: Callable) -> None:
    for shape, groups in (((3, 8, 4, 6), 4), ((2, 12, 5, 3), 3)):
        c = shape[1]
        h, e = 2 + 3 * normal(shape, "04 h", dtype=torch.float64), normal((shape[0], 2 * c), "04 e", dtype=torch.float64)
        a, b = e[:, :c, None, None], e[:, c:, None, None]
        n = F.group_norm(h, groups)
        want = n * (1 + a) + b
        odd, even = e[:, 0::2, None, None], e[:, 1::2, None, None]
        wrong = {
            "With zeros from the condition everything would vanish: the scale is 1 + what the condition says.": n * a + b,
            "Scales and shifts are exchanged: the first half are the scales.": n * (1 + b) + a,
            "h itself is scaled; normalise it first.": h * (1 + a) + b,
            "The condition comes before the norm, which takes most of it away again.": F.group_norm(h * (1 + a) + b, groups),
            "The shift is missing.": n * (1 + a),
            "The shift is multiplied too: it stands outside of the bracket.": (n + b) * (1 + a),
            "Scales and shifts are taken in turn; e holds all the scales first.": n * (1 + odd) + even,
            "The norm has one group; use the number given.": F.group_norm(h, 1) * (1 + a) + b,
            "The norm has a group for each channel; use the number given.": F.group_norm(h, c) * (1 + a) + b,
        }
        expect(call(fn, h, e, groups, shape=shape), want, wrong=fits(wrong, want),
               otherwise="Normalise in groups, then multiply by 1 + scale and add shift.")


@exercise("04.entropy", "Measure: the variety of a set of pictures", points=2, hints=(
    "Turn counts into shares first.",
    "A class that never occurs adds nothing: 0 log 0 is 0, but the computer says NaN.",
    "-(p log2 p).sum() over the classes that occur.",
))
def entropy_bits(counts):
    """Entropy in bits of the shares counts / counts.sum(). counts: (K,) whole numbers, some may be 0. Returns
    one number."""
    ### BEGIN SOLUTION
    share = counts[counts > 0].double() / counts.sum()
    return -(share * share.log2()).sum()
    ### END SOLUTION


@checks(entropy_bits)
def _entropy(fn: Callable) -> None:
    for counts in (torch.tensor([3, 0, 5, 8, 1]), torch.tensor([7, 2, 2]), torch.tensor([0, 4, 0, 4])):
        share = counts[counts > 0].double() / counts.sum()
        want = -(share * share.log2()).sum()
        wrong = {
            "That is in nats; bits need the logarithm to base 2.": -(share * share.log()).sum(),
            "The sign is turned: logarithms of shares are negative.": (share * share.log2()).sum(),
            "These are counts, not shares; divide by their sum first.":
                -(counts[counts > 0].double() * counts[counts > 0].double().log2()).sum(),
            "That is the mean over the classes; the entropy is a sum weighted by the shares.": -(share * share.log2()).mean(),
            "The logarithms are not weighted by the shares.": -share.log2().sum(),
            "That is the largest entropy there could be, of equal shares.": torch.tensor(float(len(share))).double().log2(),
            "That is 1 - sum p^2, another measure of variety.": 1 - share.square().sum(),
            "That is the number of classes the entropy amounts to; its logarithm is asked for.": 2**want,
        }
        expect(call(fn, counts, shape=()), want, wrong=fits(wrong, want), otherwise="-sum p log2 p over the classes that occur.")


@exercise("04.heads", "Predict: how many heads", hints=(
    "ADM fixes the width of a head and lets their number follow.",
    "Level three of (1, 2, 3, 4) times 192 channels.",
))
def heads_at_level_three():
    """ADM's ImageNet-64 network: 192 channels, multiples (1, 2, 3, 4), 64 channels a head. How many heads at
    level three?"""
    ### BEGIN SOLUTION
    return 9
    ### END SOLUTION


@checks(heads_at_level_three)
def _heads(value: object) -> None:
    expect_number(value, 9, tol=1e-6, wrong={
        "That is level one.": 3, "That is level two.": 6, "That is level four.": 12,
        "That is the width of a head.": 64, "That is the width of the level, 3 x 192.": 576,
        "Four heads whatever the width is DDPM's habit.": 4,
    }, otherwise="The width of the level, divided by the width of a head.")
