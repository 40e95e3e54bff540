"""Exercises of lesson 23: two predictions about tilted Gaussians, three projects (an energy, its score, its diagnosis), and the N
that a row would need."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from minidiff.course.answers import Mistake, call, expect, expect_number, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import generator, normal

__all__: list[str] = []


@exercise("23.tilt", "Predict: where does the cloud go?", hints=(
    "Complete the square in -x S^-1 x / 2 - s E(x): the covariance stays, the mean moves by s times S times a direction.",
    "The direction is (1, 0), downhill. Multiply: 2 * S @ (1, 0), and take the second number.",
))
def tilt():
    """Points of the plane are N(0, S), S = [[1, 0.5], [0.5, 0.5]]. The energy E(x) = -x_1 wants them to the
    right.
    Density times exp(-2 E), made to integrate to one: at which x_2, the height, is the mean of what is left?
    """
    ### BEGIN SOLUTION
    return 2 * 0.5
    ### END SOLUTION


@checks(tilt)
def _tilt(value: Any) -> None:
    expect_number(value, 1.0, tol=5e-4, wrong={
        "The height does not stay: points further to the right are higher, too, and the tilt keeps that.": 0.0,
        "That is how far it goes to the right; the height was asked for.": 2.0,
        "That is the shift at scale 1.": 0.5,
        "Downhill is to the right: E falls as x_1 grows.": -1.0,
        "The covariance itself, not its inverse, multiplies the direction.": -4.0,
    }, otherwise="Mean = scale times S times (1, 0); take the second number.")


@exercise("23.too_hard", "Break it: through a guess", hints=(
    "x0 given x_t is N(guess, V). exp(-s (x0 - c)^2 / 2) averaged over it is a Gaussian in the guess, of variance 1/s + V.",
    "The right slope is (guess - c) / (1/s + V), the page's is s (guess - c): their quotient is 1 + s V, at V = 1.",
))
def too_hard():
    """On a line: data N(0, 1), energy E(x) = (x - 2)^2 / 2, scale s = 4. At the first step the noise says
    nothing, and x0 given x_t still has variance 1. The loop takes E of the guess of x0, in place of the average
    of exp(-s E) over all x0 that are possible. How many times too long is its first push?
    """
    ### BEGIN SOLUTION
    return 1 + 4 * 1
    ### END SOLUTION


@checks(too_hard)
def _too_hard(value: Any) -> None:
    expect_number(value, 5.0, tol=0.02, wrong={
        "That would be right if x0 were known; it has variance 1.": 1.0,
        "Nearly: the width of exp(-s E) itself counts too, 1/s + V.": 4.0,
        "Upside down: the push through the guess is the longer one.": 0.2,
        "That is at scale 1.": 2.0,
        "1/s + V is the variance; the quotient is s times it.": 1.25,
    }, otherwise="s (guess - c) against (guess - c) / (1/s + V).")


# Project 1 -----------------------------------------------------------------------------------------------------------------


@exercise("23.paint", "Project 1: an energy of your own", points=4, hints=(
    "Two weighted means. Inside: the squared distance to the colour, mean over the channels, weighted by the shape.",
    "A weighted mean: (weight * value).sum((1, 2)) / weight.sum((1, 2)); the value is .square().mean(1) of a difference.",
    "colour[:, :, None, None] brings the colour to the picture's axes. Outside: 1 - shape and before.",
))
def paint(picture, shape, colour, before, weight):
    """The energy "this thing in that colour, all else as it was", one number a row: (B,).

    picture (B, C, h, w): what is predicted now; shape (B, h, w) in [0, 1]: where the thing is; colour (B, C);
    before (B, C, h, w): what the run without an energy predicts at this step; weight: a number.
    `weight` times the mean squared distance (over channels) of the picture from the colour, weighted by the
    shape, plus that from `before`, weighted by 1 - shape. Each is a mean: divide by the sum of its weights.
    """
    ### BEGIN SOLUTION
    inside = (picture - colour[:, :, None, None]).square().mean(1)
    outside = (picture - before).square().mean(1)
    rest = 1 - shape
    return weight * (inside * shape).sum((1, 2)) / shape.sum((1, 2)) + (outside * rest).sum((1, 2)) / rest.sum((1, 2))
    ### END SOLUTION


@checks(paint)
def _paint(fn: Any) -> None:
    for key, (b, c, h, w, weight) in enumerate(((2, 3, 4, 5, 0.7), (3, 4, 6, 3, 2.5))):
        picture, before = normal((2, b, c, h, w), "23 paint", key, dtype=torch.float64)
        shape = torch.sigmoid(2 * normal((b, h, w), "23 shape", key, dtype=torch.float64))
        colour = normal((b, c), "23 colour", key, dtype=torch.float64)

        def energy(weight: Any = weight, inner: Any = None, outer: Any = None, near: Any = None, far: Any = None,
                   areas: Any = None, picture: Any = picture, shape: Any = shape, colour: Any = colour,
                   before: Any = before) -> Any:
            inner, outer = shape if inner is None else inner, 1 - shape if outer is None else outer
            near = (picture - colour[:, :, None, None]).square().mean(1) if near is None else near
            far = (picture - before).square().mean(1) if far is None else far
            sums = (inner.sum((1, 2)), outer.sum((1, 2))) if areas is None else areas
            return weight * (near * inner).sum((1, 2)) / sums[0] + (far * outer).sum((1, 2)) / sums[1]

        flat = (picture - colour[:, :, None, None]), (picture - before)
        mean = (picture * shape[:, None]).sum((2, 3)) / shape.sum((1, 2))[:, None]
        want = energy()
        given = (picture, shape, colour, before, number(weight))
        out = call(lambda *copies: _with_gradient(fn, *copies), *given, shape=(2, b, c, h, w))
        leaf = picture.clone().requires_grad_()
        (slope,) = torch.autograd.grad(energy(picture=leaf).sum(), leaf)
        expect(out[0].flatten(1)[:, 0], want, wrong=fits({
            "Nothing is kept: the part outside is missing.": energy() - energy(0.0),
            "The weight is left out.": energy(1.0),
            "Inside and outside are exchanged.": energy(inner=1 - shape, outer=shape),
            "The shape has no effect inside: the whole picture is painted.": energy(inner=torch.ones_like(shape)),
            "Everything is kept, the thing too: weigh by 1 - shape.": energy(outer=torch.ones_like(shape)),
            "Sums over the channels; take means.": c * want,
            "You divide by the number of cells: a small thing is then hardly painted. Divide by the sum of the weights.":
                energy(areas=(h * w, h * w)),
            "The weighted sums are not divided at all.": energy(areas=(1.0, 1.0)),
            "Differences as they are cancel; square them.": energy(near=flat[0].mean(1), far=flat[1].mean(1)),
            "Absolute differences; squares were asked for.": energy(near=flat[0].abs().mean(1), far=flat[1].abs().mean(1)),
            "That compares the mean colour of the shape; then half white, half black is grey enough. Compare each cell.":
                weight * (mean - colour).square().mean(1) + energy(0.0),
            "The weight multiplies the part outside; it belongs to the part inside.":
                energy(1.0) - energy(0.0) + weight * energy(0.0),
        }, want), otherwise="With weight = 0 it is the distance from before, in the mean outside of the shape.")
        if not torch.allclose(out[1], slope, atol=1e-8):
            raise Mistake("The values are right, but no gradient reaches the picture: no detach(), no numpy().")


def _with_gradient(fn: Any, picture: Any, *given: Any) -> Any:
    """(2, *picture.shape): the energies of the rows, spread over their cells, and the gradient; zeros where there is none."""
    leaf = picture.requires_grad_()
    before = leaf.detach().clone()
    value = torch.as_tensor(_one_a_row(fn(leaf, *given), len(picture)))
    if not torch.equal(leaf.detach(), before):
        raise Mistake("It changes the picture in place; work on a copy.")
    slope = torch.autograd.grad(value.sum(), leaf)[0] if value.requires_grad else torch.zeros_like(before)
    picture.requires_grad_(False)
    return torch.stack([value.detach().double().view(-1, 1, 1, 1).expand(before.shape), slope])


def _one_a_row(value: Any, rows: int) -> Any:
    """The value where it is one number a row, else a Mistake that says what came."""
    if value is None or value is Ellipsis:
        raise Mistake("It returns nothing; is a return missing?")
    value = torch.as_tensor(value)
    if tuple(value.shape) != (rows,):
        raise Mistake(f"The shape is {tuple(value.shape)}, but ({rows},) is expected: one number a row.")
    return value


# Project 2 -----------------------------------------------------------------------------------------------------------------


@exercise("23.gain", "Project 2: a score of it", points=3, hints=(
    "One difference for each edit that counts; only then means. The draws choose among the differences that count.",
    "d = (ours - plain)[counts]; means = d[draws].mean(1): one mean a draw.",
    "torch.quantile(means, 0.025) and 0.975 are the ends; stack them behind d.mean().",
))
def gain(ours, plain, counts, draws):
    """What one method gains over another, edit by edit, with its 95 % interval: (3,) value, low, high.

    ours, plain (n,): scores of the same n edits; counts (n,) bool: the edits that count, m of them;
    draws (R, m): R resamples, each m numbers from 0 to m - 1 with replacement, which number the edits that
    count. The interval goes from the 2.5 % to the 97.5 % quantile of the R resampled mean differences.
    """
    ### BEGIN SOLUTION
    d = (ours - plain)[counts]
    means = d[draws].mean(1)
    return torch.stack([d.mean(), torch.quantile(means, 0.025), torch.quantile(means, 0.975)])
    ### END SOLUTION


@checks(gain)
def _gain(fn: Any) -> None:
    for key, (n, least, repeats) in enumerate(((17, 5, 300), (23, 4, 500))):
        common, own, other = normal((3, n), "23 gain", key, dtype=torch.float64)
        ours, plain = common + 0.4 * own + 0.3, common + 0.4 * other
        counts = torch.arange(n) % least != 1
        m = int(counts.sum())
        draws = torch.randint(m, (repeats, m), generator=generator("23 draws", key))
        twice = torch.randint(m, (repeats, m), generator=generator("23 draws again", key))

        def interval(d: Any, means: Any = None, ends: Any = (0.025, 0.975), draws: Any = draws) -> Any:
            means = d[draws].mean(1) if means is None else means
            return torch.stack([d.mean(), *(torch.quantile(means, q) for q in ends)])

        d = (ours - plain)[counts]
        want, spread = interval(d), 1.96 * d.std() / m**0.5
        means = d[draws].mean(1)
        expect(call(fn, ours, plain, counts, draws, shape=(3,)), want, wrong=fits({
            "Edits that do not count are in it, too.": interval(ours - plain),
            "The sign: ours minus plain.": interval(-d),
            "The ends of the interval are exchanged.": want[[0, 2, 1]],
            "Those are the quantiles of single edits, not of means of m edits.": interval(d, d[draws].flatten()),
            "2.5 % on each side: 95 % lie between.": interval(d, ends=(0.05, 0.95)),
            "The extremes of all resamples; take quantiles.": interval(d, ends=(0.0, 1.0)),
            "That is the rule of 1.96 standard errors; here the draws give the interval.":
                torch.stack([d.mean(), d.mean() - spread, d.mean() + spread]),
            "The value is the mean of the edits themselves, not of the resamples.": torch.stack([means.mean(), *interval(d)[1:]]),
            "The two are drawn apart: then what makes an edit hard for both counts twice. Draw pairs.":
                interval(d, ours[counts][draws].mean(1) - plain[counts][twice].mean(1)),
            "Sums in place of means.": torch.stack([d.sum(), *interval(d, d[draws].sum(1))[1:]]),
            "Medians in place of means.": torch.stack([d.median(), *interval(d, d[draws].median(1).values)[1:]]),
        }, want), otherwise="One difference an edit, means over each row of draws, quantiles of those.")


# Project 3 -----------------------------------------------------------------------------------------------------------------


@exercise("23.turning", "Project 3: what did the energy not ask for?", points=3, hints=(
    "A hop is the difference of neighbours, all its numbers as one vector: path.flatten(2).diff(dim=1).",
    "The cosine of two vectors: their product summed, over the product of their norms. Neighbours: h[:, 1:] and h[:, :-1].",
    "torch.nn.functional.cosine_similarity(h[:, 1:], h[:, :-1], dim=2).mean(1)",
))
def turning(path):
    """How straight a path goes on: the mean cosine of the angle between each hop and the next, (B,).

    path (B, n, ...): n frames of each of B paths, of any shape. 1: straight on, 0: a right angle at every
    frame, -1: each hop takes the last one back.
    """
    ### BEGIN SOLUTION
    h = path.flatten(2).diff(dim=1)
    return F.cosine_similarity(h[:, 1:], h[:, :-1], dim=2).mean(1)
    ### END SOLUTION


@checks(turning)
def _turning(fn: Any) -> None:
    for key, (shape, back) in enumerate((((2, 6, 3, 4), 0.2), ((3, 5, 2, 3, 4), 1.4), ((2, 7, 4, 5, 3), 0.9))):
        b, n = shape[:2]
        line = torch.linspace(0, 3, n, dtype=torch.float64).view(1, n, *[1] * (len(shape) - 2))
        path = line * normal((b, 1, *shape[2:]), "23 line", key, dtype=torch.float64)
        path = path + back * normal(shape, "23 turning", key, dtype=torch.float64)
        f = path.flatten(2)
        h = f.diff(dim=1)
        cosines = F.cosine_similarity(h[:, 1:], h[:, :-1], dim=2)
        dots = (h[:, 1:] * h[:, :-1]).sum(2)
        want = cosines.mean(1)
        every = path.diff(dim=1)
        expect(call(fn, path, shape=(b,)), want, wrong=fits({
            "Those are cosines of the frames themselves; take differences first.":
                F.cosine_similarity(f[:, 1:], f[:, :-1], dim=2).mean(1),
            "Each hop is compared with the first one, not with the one before it.":
                F.cosine_similarity(h[:, 1:], h[:, :1], dim=2).mean(1),
            "Each hop is compared with the way from first to last.":
                F.cosine_similarity(h, f[:, -1:] - f[:, :1], dim=2).mean(1),
            "The sum of the cosines; take their mean.": cosines.sum(1),
            "Products of hops; divide by both lengths.": dots.mean(1),
            "Divided by the lengths once for the whole path: long hops then count more.":
                dots.sum(1) / (h[:, 1:].norm(dim=2) * h[:, :-1].norm(dim=2)).sum(1),
            "The angle itself; its cosine was asked for.": cosines.clamp(-1, 1).acos().mean(1),
            "The absolute cosine: then back and forth looks straight.": cosines.abs().mean(1),
            "The last axis alone; a hop is all of a frame's numbers.":
                F.cosine_similarity(every[:, 1:], every[:, :-1], dim=-1).flatten(1).mean(1),
            "Two steps apart; compare each hop with the next.": F.cosine_similarity(h[:, 2:], h[:, :-2], dim=2).mean(1),
        }, want), otherwise="On a straight path it is 1, whatever the lengths of the hops.")


@exercise("23.needed", "Measure: how many would it take?", points=2, hints=(
    "Only one side of the interval lies across the edge: the one towards it. How far does it reach, and how far may it?",
    "It shrinks like 1 / sqrt(N): N = n * (reach / gap) ** 2.",
    "reach = value - low if edge < value else high - value; gap = |value - edge|; at gap 0 no N is enough.",
))
def needed(n, value, low, high, edge):
    """The N at which a row is decided if its value stays: the interval [low, high], found at n, shrinks
    towards the value like 1 / sqrt(N), each side for itself, until it just reaches `edge`, the target.
    Numbers in, a number out; math.inf where the value lies on the edge.
    """
    ### BEGIN SOLUTION
    if value == edge:
        return math.inf
    reach = value - low if edge < value else high - value
    return n * (reach / (value - edge)) ** 2
    ### END SOLUTION


@checks(needed)
def _needed(fn: Any) -> None:
    if (never := fn(12, 0.4, 0.1, 0.6, 0.4)) is None or not math.isinf(float(never)) or float(never) < 0:
        raise Mistake("The value lies on the edge: no N decides it, so the answer is math.inf.")
    for n, value, low, high, edge in ((64, 0.82, 0.7, 0.87, 0.75), (24, 0.71, 0.55, 0.88, 0.85), (6, -0.485, -1.14, 0.01, -0.2),
                                      (100, 1.3, 1.1, 1.45, 1.2)):
        reach, gap = (value - low, value - edge) if edge < value else (high - value, edge - value)
        want = n * (reach / gap) ** 2
        other = high - value if edge < value else value - low
        try:
            found = float(fn(n, value, low, high, edge))
        except TypeError:
            raise Mistake("The answer is one number.") from None
        expect_number(found, want, tol=1e-6 * want, wrong={
            "The other side of the interval: the one towards the edge has to shrink.": n * (other / gap) ** 2,
            "Half of the interval's width: its two sides are not equal.": n * ((high - low) / 2 / gap) ** 2,
            "The whole width; one side is what reaches across.": n * ((high - low) / gap) ** 2,
            "It shrinks like 1 / sqrt(N): square the quotient.": n * reach / gap,
            "Upside down: the further across, the more is needed.": n * (gap / reach) ** 2,
            "By what factor; times n.": (reach / gap) ** 2,
        }, otherwise="n times the square of (reach of the side towards the edge / distance of the value from it).")
