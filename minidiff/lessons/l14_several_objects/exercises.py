"""Exercises of lesson 14: sorting failures, words that compete, the published loss, its kernel, the loss of phrases, SynGen's
distance, a sum of predictions for Gaussians, how many pictures a gain needs, and an energy that gives each thing its place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minidiff.course.answers import call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _noise(*shape: int, key: int = 0) -> Tensor:
    return normal(shape, "lesson 14", key, dtype=torch.float64)


# 1 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.sort", "Sort the failures", points=2, hints=(
    "Begin with zeros and overwrite: which kind of failure must come last, so that it wins?",
    "(~there).any(1) says in which pictures a thing is not there.",
    "Merged asks for two things of ONE object: not there, and its colour elsewhere. Combine them before .any(1).",
))
def sort_failures(there, right, borrowed):
    """there, right, borrowed: (n, K) bool, for each of K things asked for: is its kind in the picture, is
    it there in its own colour, does a thing of another kind wear its colour?

    Returns (n,) whole numbers: 0 all right; 1 missing: a thing is not there; 2 leaked: all are there, one
    not in its colour; 3 merged: a thing is not there, and its colour is on another one. 3 goes before 1.
    """
    ### BEGIN SOLUTION
    out = torch.zeros(len(there), dtype=torch.int64)
    out[(~right).any(1)] = 2
    out[(~there).any(1)] = 1
    out[(~there & borrowed).any(1)] = 3
    return out
    ### END SOLUTION


@checks(sort_failures)
def _sort_failures(fn: Callable) -> None:
    for key, (n, k) in enumerate(((60, 3), (37, 2), (50, 4))):
        there, borrowed = _noise(n, k, key=10 + key) > -1.0, _noise(n, k, key=20 + key) > 0.6
        right = there & (_noise(n, k, key=30 + key) > -0.8)
        gone, off = (~there).any(1), (~right).any(1)

        def codes(merged: Tensor, missing: Tensor, leaked: Tensor) -> Tensor:
            return torch.where(merged, 3, torch.where(missing, 1, torch.where(leaked, 2, 0)))

        merged = (~there & borrowed).any(1)
        want = codes(merged, gone, off)
        expect(call(fn, there, right, borrowed, shape=(n,), dtype=torch.int64), want, wrong=fits({
            "Merged is one object's matter: not there, and ITS colour elsewhere; you ask for the two in any of the picture.":
                codes(gone & borrowed.any(1), gone, off),
            "A picture that is merged counts as missing in your answer; 3 goes before 1.": torch.where(gone, 1, want),
            "A picture with a thing missing counts as leaked: leaked needs all of them there.": torch.where(off, 2, 0),
            "All things have to be gone before you call it missing; one is enough.":
                codes(merged, (~there).all(1), off),
            "All colours have to be wrong before you call it leaked; one is enough.": codes(merged, gone, (~right).all(1)),
            "A colour that is on another thing, too, is no failure as long as its own thing is there.":
                codes(borrowed.any(1), gone, off),
            "The numbers of missing and leaked are exchanged.": codes(merged, torch.zeros_like(gone), off)
                + torch.where(gone & ~merged, 0, 0) - torch.where(off & ~gone & ~merged, 1, 0),
        }, want), otherwise="Go through one row by hand: which is the first of merged, missing, leaked that holds?")


# 2 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.competition", "How high can a noun climb?", hints=(
    "A softmax at one place: e^(100 a) of the noun over the sum of e^(100 a) of all ten words.",
    "Divide by the noun's own: 1 / (1 + 1 + 8 e^(...)).",
))
def competition():
    """At its peak "cat" gets attention 0.06 and so does "red"; the other eight words get 0.02 each. What is
    the softmax of 100 times the attention, over the ten words, of "cat"?
    """
    ### BEGIN SOLUTION
    return 1 / (2 + 8 * math.exp(100 * (0.02 - 0.06)))     # 0.466: never above a half, however high the peak; red has the rest
    ### END SOLUTION


@checks(competition)
def _competition(value: Any) -> None:
    expect_number(value, 1 / (2 + 8 * math.exp(-4)), tol=0.0006, wrong={
        "That would be so if \"red\" looked elsewhere; it has the same map.": 1 / (1 + 8 * math.exp(-4)),
        "That is both words together.": 2 / (2 + 8 * math.exp(-4)),
        "That is the share of the attention itself, without 100 and without a softmax.": 0.06 / 0.28,
        "The factor of 100 is missing: then the softmax hardly tells the words apart.": 1 / (2 + 8 * math.exp(-0.04)),
        "Nearly, but the other words take a little, too: e^-4 each.": 0.5,
        "That is the loss, 1 minus what is asked for.": 1 - 1 / (2 + 8 * math.exp(-4)),
        "That is the softmax over ten words that are all alike.": 0.1,
    }, otherwise="One over (two equal words, plus eight that are e^-4 as large).")


# 3 -------------------------------------------------------------------------------------------------------------------------


def _attention(b: int, n: int, length: int, key: int) -> tuple[Tensor, Tensor]:
    """Attention (b, n, L) with a strong begin token, and which tokens are words (b, L), of several lengths."""
    a = (2 * _noise(b, n, length, key=key)).softmax(-1)
    a[:, :, 0] += 0.4
    words = torch.zeros(b, length, dtype=torch.bool)
    for i in range(b):
        words[i, 1:length - 1 - i % 2] = True
    return a / a.sum(-1, keepdim=True), words


def _softmax(a: Tensor, words: Tensor, sharpness: float) -> Tensor:
    return (sharpness * a).masked_fill(~words[:, None], float("-inf")).softmax(-1)


@exercise("14.excite_loss", "The published loss", points=3, hints=(
    "Tokens that are no words must not take part in the softmax: masked_fill(~words[:, None], float('-inf')).",
    "p[:, :, tokens] has the chosen tokens of all rows, (B, N, K); their largest value over the places is .amax(1).",
    "max over tokens of (1 - peak): the loss is that of the word that is seen least.",
))
def excite_loss(a, words, tokens, sharpness):
    """a: attention (B, N, L) at N places to L tokens; words (B, L) bool: the tokens of the prompt, without
    begin, end and padding; tokens: a list of positions.

    Softmax of `sharpness` times a over the words of each row; for each of the tokens 1 minus the largest
    value over the places. Returns (B,): the largest of these, row by row.
    """
    ### BEGIN SOLUTION
    logits = (sharpness * a).masked_fill(~words[:, None], float("-inf"))
    peaks = logits.softmax(-1)[:, :, tokens].amax(1)
    return (1 - peaks).amax(1)
    ### END SOLUTION


@checks(excite_loss)
def _excite_loss(fn: Callable) -> None:
    for key, (b, n, length, tokens, sharpness) in enumerate(((3, 12, 9, [2, 4], 20.0), (2, 20, 11, [1, 3, 6], 35.0),
                                                             (4, 6, 8, [3, 5], 12.0))):
        a, words = _attention(b, n, length, key=40 + key)
        p = _softmax(a, words, sharpness)
        every = torch.ones_like(words)
        peaks = p[:, :, tokens].amax(1)
        want = (1 - peaks).amax(1)
        free = _softmax(a, every, sharpness)[:, :, tokens].amax(1)
        raw = a[:, :, tokens].amax(1)
        over_places = (sharpness * a).softmax(1)[:, :, tokens].amax(1)
        expect(call(fn, a, words, tokens, sharpness, shape=(b,)), want, wrong=fits({
            "The begin token and the padding take part in the softmax; mask them with minus infinity.": (1 - free).amax(1),
            "Without a softmax the words do not compete at all.": (1 - raw).amax(1),
            "The softmax runs over the places; it is over the words of each place.": (1 - over_places).amax(1),
            "That is the mean over the tokens: published is the worst one.": (1 - peaks).mean(1),
            "That is the best token's loss; published is the worst one's.": (1 - peaks).amin(1),
            "Sum in place of maximum.": (1 - peaks).sum(1),
            "The mean over the places is taken; one high place is enough for a thing.": (1 - p[:, :, tokens].mean(1)).amax(1),
            "One loss for the whole batch, repeated; each row has its own.": (1 - peaks).amax().expand(b).clone(),
            "That is the largest peak itself; the loss is 1 minus the smallest.": peaks.amax(1),
            "Sharpness is missing.": (1 - _softmax(a, words, 1.0)[:, :, tokens].amax(1)).amax(1),
            "Masked words get score 0 in place of minus infinity: they still take e^0 of the softmax.":
                (1 - (sharpness * a * words[:, None]).softmax(-1)[:, :, tokens].amax(1)).amax(1),
        }, want), otherwise="Where one token has all the attention of one place, its loss is 0.")


# 4 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.kernel", "Debug: which Gaussian is it?", points=2, hints=(
    "A Gaussian of standard deviation s is exp(-d^2 / (2 s^2)). What is (d / (2 s))^2?",
    "d2 = d[:, None] ** 2 + d ** 2 is the squared distance of each of the nine cells from the middle.",
    "Divide by the sum, so that a flat map stays as it is.",
))
def kernel(sigma):
    """The 3 x 3 weights of a Gaussian of standard deviation `sigma` cells, with sum 1, as (3, 3) float64.

    The published code has exp(-((d / (2 * sigma)) ** 2)) along each axis, d = -1, 0, 1. Write what its
    name promises.
    """
    ### BEGIN SOLUTION
    d = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    k = torch.exp(-(d[:, None] ** 2 + d**2) / (2 * sigma**2))
    return k / k.sum()
    ### END SOLUTION


@checks(kernel)
def _kernel(fn: Callable) -> None:
    for sigma in (0.6, 0.8, 1.3):
        d = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        d2 = d[:, None] ** 2 + d**2

        def of(power: Tensor, *, over: float | None = None) -> Tensor:
            k = torch.exp(-power)
            return k / (k.sum() if over is None else over)

        want = of(d2 / (2 * sigma**2))
        expect(call(fn, sigma, shape=(3, 3)), want, wrong=fits({
            "That is the published version: its true standard deviation is sigma times the root of 2.": of(d2 / (4 * sigma**2)),
            "The 2 is missing: exp(-d^2 / sigma^2) is narrower than sigma.": of(d2 / sigma**2),
            "The weights do not sum to 1: a flat map would change.": of(d2 / (2 * sigma**2), over=1.0),
            "The density's own factor 1 / (2 pi sigma^2) does not make nine weights sum to 1.":
                of(d2 / (2 * sigma**2), over=2 * math.pi * sigma**2),
            "The distance stands there without its square.": of(d2.sqrt() / (2 * sigma**2)),
            "sigma is not squared.": of(d2 / (2 * sigma)),
            "Nine equal weights are a box, not a Gaussian.": torch.full((3, 3), 1 / 9, dtype=torch.float64),
        }, want), otherwise="The ratio of a neighbour to the middle must be exp(-1 / (2 sigma^2)).")


# 5 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.phrase_loss", "Words of one thing do not compete", points=3, hints=(
    "The softmax is the same as before, with another sharpness. What changes comes after it.",
    "p[:, :, phrase].sum(-1) is the map of one thing, (B, N).",
    "A list of (1 - map.amax(1)), one for each phrase, stacked; its mean over the things.",
))
def phrase_loss(a, words, phrases, sharpness):
    """a: attention (B, N, L); words (B, L) bool; phrases: a list with the token positions of each thing,
    such as [[2, 3], [6, 7, 8]].

    Softmax of `sharpness` times a over the words of each row; a thing's map is the SUM over its phrase.
    Returns (B,): the MEAN over the things of 1 minus the largest value of the map.
    """
    ### BEGIN SOLUTION
    p = (sharpness * a).masked_fill(~words[:, None], float("-inf")).softmax(-1)
    losses = [1 - p[:, :, phrase].sum(-1).amax(1) for phrase in phrases]
    return torch.stack(losses).mean(0)
    ### END SOLUTION


@checks(phrase_loss)
def _phrase_loss(fn: Callable) -> None:
    for key, (b, n, length, phrases, sharpness) in enumerate(((3, 12, 9, [[1, 2], [4, 5, 6]], 9.0),
                                                              (2, 8, 12, [[2], [4, 5], [7, 8, 9]], 14.0))):
        a, words = _attention(b, n, length, key=60 + key)
        p = _softmax(a, words, sharpness)

        def loss(p: Tensor = p, phrases: list = phrases, inner: str = "sum", outer: str = "mean") -> Tensor:
            maps = [getattr(p[:, :, phrase], inner)(-1) for phrase in phrases]
            losses = torch.stack([1 - m.amax(1) for m in maps])
            return getattr(losses, outer)(0)

        want = loss()
        before = torch.stack([(1 - p[:, :, phrase].amax(1)).mean(1) for phrase in phrases]).mean(0)
        late = torch.stack([1 - p[:, :, phrase].amax(1).sum(1) for phrase in phrases]).mean(0)
        summed = [a[:, :, phrase].sum(-1) for phrase in phrases]
        expect(call(fn, a, words, phrases, sharpness, shape=(b,)), want, wrong=fits({
            "The worst thing alone is moved, as published; here it is the mean over the things.": loss(outer="amax"),
            "The losses are summed: more things would push harder. Take their mean.": loss(outer="sum"),
            "The words of a phrase are averaged: then even a perfect map has a loss. Take their sum.": loss(inner="mean"),
            "The strongest word of a phrase stands for it; its words still compete.": loss(inner="amax"),
            "Each word has a loss of its own, so the words of a thing compete.": before,
            "Each word's peak is taken first, then summed: they may be at different places. Sum the maps.": late,
            "The last word of each phrase alone: that is the noun, which competes with its adjective.":
                loss(phrases=[phrase[-1:] for phrase in phrases]),
            "There is no softmax: attention as it is, summed over the phrase.":
                torch.stack([1 - m.amax(1) for m in summed]).mean(0),
            "The begin token and the padding take part in the softmax.": loss(_softmax(a, torch.ones_like(words), sharpness)),
            "Sharpness is missing.": loss(_softmax(a, words, 1.0)),
            "The mean over the places is taken; one high place is enough.":
                torch.stack([1 - p[:, :, phrase].sum(-1).mean(1) for phrase in phrases]).mean(0),
        }, want), otherwise="With phrases of one word and one thing it is the published loss.")


# 6 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.distance", "SynGen's distance", points=2, hints=(
    "First each map divided by its own sum: then it says where, not how much.",
    "KL(p | q) = sum p log(p / q); both directions, halved.",
    "Half of sum (p - q) (log p - log q) is the same in one line.",
))
def distance(a, b):
    """a, b: two words' maps (B, h, w), all values above 0. Each is taken as a distribution over places.

    Returns (B,): (KL(p | q) + KL(q | p)) / 2, natural logarithms.
    """
    ### BEGIN SOLUTION
    p = a / a.sum((1, 2), keepdim=True)
    q = b / b.sum((1, 2), keepdim=True)
    return ((p - q) * (p.log() - q.log())).sum((1, 2)) / 2
    ### END SOLUTION


@checks(distance)
def _distance(fn: Callable) -> None:
    for key, shape in enumerate(((3, 4, 5), (2, 6, 3))):
        a, b = _noise(*shape, key=80 + key).exp() / 9, _noise(*shape, key=90 + key).exp() / 4
        p, q = a / a.sum((1, 2), keepdim=True), b / b.sum((1, 2), keepdim=True)

        def kl(p: Tensor, q: Tensor) -> Tensor:
            return (p * (p / q).log()).sum((1, 2))

        m = (p + q) / 2
        lines = [x / x.sum(2, keepdim=True) for x in (a, b)]
        pooled = [x / x.sum() for x in (a, b)]
        expect(call(fn, a, b, shape=shape[:1]), (kl(p, q) + kl(q, p)) / 2, wrong=fits({
            "The maps are not divided by their sums: how much attention a word gets is not where it looks.":
                (kl(a, b) + kl(b, a)) / 2,
            "One direction only: the distance of a from b must be that of b from a.": kl(p, q),
            "One direction only, and the other one.": kl(q, p),
            "The two directions are summed; take half.": kl(p, q) + kl(q, p),
            "That is the distance to the mean of the two (Jensen and Shannon); SynGen compares them directly.":
                (kl(p, m) + kl(q, m)) / 2,
            "Logarithms to the base of 2; natural ones are meant.": (kl(p, q) + kl(q, p)) / 2 / math.log(2),
            "Each line is divided by its own sum; it is the whole map.": (kl(*lines) + kl(*lines[::-1])) / 2,
            "The whole batch is one distribution in your answer.": (kl(*pooled) + kl(*pooled[::-1])) / 2,
            "The mean over places; a divergence is a sum.": (kl(p, q) + kl(q, p)) / 2 / (shape[1] * shape[2]),
            "The absolute difference of the maps is another distance.": (p - q).abs().sum((1, 2)) / 2,
        }, (kl(p, q) + kl(q, p)) / 2), otherwise="A map and its double must be at distance 0.")


# 7 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.composed", "Break it: what a sum of predictions draws", points=3, hints=(
    "A Gaussian's score is (mean - x) / variance: a straight line in x. A weighted sum of lines is a line.",
    "Its slope is minus the new precision: w1 / v1 + w2 / v2 + (1 - w1 - w2) / v0.",
    "Its zero is the new mean: (w1 m1 / v1 + w2 m2 / v2 + (1 - w1 - w2) m0 / v0) / precision.",
))
def composed(means, variances, weights, mean_0, variance_0):
    """Each prompt i draws a Gaussian of means[i], variances[i] (lists of numbers), the empty prompt one of
    mean_0, variance_0. The scores are composed: s = s_0 + sum_i weights[i] (s_i - s_0).

    Returns the mean and the variance of the Gaussian with that score, as a tensor of two numbers.
    """
    ### BEGIN SOLUTION
    rest = 1 - sum(weights)
    precision = rest / variance_0 + sum(w / v for w, v in zip(weights, variances))
    pull = rest * mean_0 / variance_0 + sum(w * m / v for w, m, v in zip(weights, means, variances))
    return torch.tensor([pull / precision, 1 / precision])
    ### END SOLUTION


@checks(composed)
def _composed(fn: Callable) -> None:
    cases = (([-2.0, 1.0], [0.5, 0.8], [1.0, 1.5], 0.3, 4.0), ([1.0, -0.5, 2.5], [0.4, 0.7, 1.1], [0.8, 0.6, 1.3], -0.4, 3.0),
             ([0.7, -1.4], [0.9, 0.6], [2.0, -0.4], 0.2, 5.0))
    for means, variances, weights, m0, v0 in cases:
        m, v, w = (torch.tensor(x, dtype=torch.float64) for x in (means, variances, weights))

        def line(rest: float, v0: float = v0, m0: float = m0, w: Tensor = w, v: Tensor = v, m: Tensor = m) -> Tensor:
            precision = rest / v0 + (w / v).sum()
            return torch.stack([(rest * m0 / v0 + (w * m / v).sum()) / precision, 1 / precision])

        want = line(1 - sum(weights))
        share = w / w.sum()
        mix = torch.stack([(share * m).sum(), (share * (v + m**2)).sum() - (share * m).sum() ** 2])
        plain_mean = torch.stack([(share * m).sum(), (share * v).sum()])
        expect(call(fn, means, variances, weights, m0, v0, shape=(2,)), want, tol=1e-5, wrong=fits({
            "The empty prompt is left out: it is there with weight 1 - sum(weights).": line(0.0),
            "The empty prompt has weight 1, and is not taken off again: each weight subtracts it.": line(1.0),
            "That is a mixture, one or the other; a sum of scores is a product, one AND the other.": mix,
            "Means and variances are averaged; what adds up are precisions, 1 / variance.": plain_mean,
            "The second number is the precision; the variance is 1 over it.": torch.stack([want[0], 1 / want[1]]),
            "The second number is the standard deviation.": torch.stack([want[0], want[1].abs().sqrt()]),
            "Mean and variance are exchanged.": want.flip(0),
            "The pull is not divided by the precision.": torch.stack([want[0] / want[1], want[1]]),
            "The weights are left out.": line(1.0 - len(weights), w=torch.ones_like(w)),
            "The sign of the empty prompt's weight is turned.": line(sum(weights) - 1),
            "The empty prompt's mean is taken as 0.": line(1 - sum(weights), m0=0.0),
        }, want), otherwise="With one prompt of weight 1 its own mean and variance must come out.")


# 8 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.how_many", "How many pictures does a gain need?", points=2, hints=(
    "The mean of n differences has standard error s / sqrt(n); the interval reaches 1.96 of those to each side.",
    "Above 0 means: gain > 1.96 s / sqrt(n). Solve for n.",
    "Round up: math.ceil.",
))
def how_many(differences, gain):
    """differences (m,): for each of m pictures of a first trial, the share of its things that are there with
    the method minus without, same prompt and same noise. gain: the mean difference that you expect.

    Returns the least number of pictures at which gain minus 1.96 standard errors is not below 0. The spread
    is that of the trial (divide by m - 1).
    """
    ### BEGIN SOLUTION
    spread = differences.std()
    return math.ceil(float(1.96 * spread / gain) ** 2)
    ### END SOLUTION


@checks(how_many)
def _how_many(fn: Callable) -> None:
    for key, (m, gain) in enumerate(((12, 0.1), (9, 0.04), (15, 0.17))):
        d = (_noise(m, key=100 + key) * 0.4 + 0.2 + 0.1 * key).mul(3).round() / 3
        s, biased, mean = float(d.std()), float(d.std(correction=0)), float(d.mean())
        least = torch.tensor(math.ceil((1.96 * s / gain) ** 2))

        def whole(x: float) -> Tensor:
            return torch.tensor(math.ceil(x))

        expect(call(fn, d, gain, shape=()), least, tol=1e-9, wrong=fits({
            "The spread is divided by m; here by m - 1.": whole((1.96 * biased / gain) ** 2),
            "The square is missing: the error falls with the root of n.": whole(1.96 * s / gain),
            "1.96 is missing: one standard error is not the interval.": whole((s / gain) ** 2),
            "The trial's own mean is used; asked for is the expected gain.": whole((1.96 * s / mean) ** 2),
            "Round up: with the number below, the interval reaches below 0.": torch.tensor(math.floor((1.96 * s / gain) ** 2)),
            "The spread is not squared.": whole(1.96**2 * s / gain**2),
            "Two unpaired samples would need twice as many; the differences are paired already.":
                whole(2 * (1.96 * s / gain) ** 2),
        }, least), otherwise="Half the gain needs four times as many.")


# 9 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.place_energy", "Design: a place for each thing", points=3, hints=(
    "Which cells are inside? Column j of w has its middle at (j + 0.5) / w; compare the squared distance with radius ** 2.",
    "x as (w,), y as (h, 1), the places as (B, K, 1, 1) each: then the comparison has shape (B, K, h, w).",
    "share = (maps * inside).sum((2, 3)) / maps.sum((2, 3)); two means over the K things.",
))
def place_energy(maps, peaks, positions, radius, weight):
    """maps (B, K, h, w): the attention to each thing, above 0; peaks (B, K): the largest value of each
    thing's map after the competition; positions (B, K, 2): where each should be, (x, y) in shares of the
    picture, (0, 0) the top left corner.

    Returns (B,): the mean over the things of 1 - peak, plus `weight` times the mean over the things of
    (1 - share)^2; share: how much of the map's sum lies in cells whose middle is at most `radius` away.
    """
    ### BEGIN SOLUTION
    h, w = maps.shape[2:]
    x, y = (torch.arange(w) + 0.5) / w, ((torch.arange(h) + 0.5) / h)[:, None]
    at = positions[..., None, None]
    inside = (x - at[:, :, 0]) ** 2 + (y - at[:, :, 1]) ** 2 <= radius**2
    share = (maps * inside).sum((2, 3)) / maps.sum((2, 3))
    return (1 - peaks).mean(1) + weight * ((1 - share) ** 2).mean(1)
    ### END SOLUTION


@checks(place_energy)
def _place_energy(fn: Callable) -> None:
    for key, (b, k, h, w, radius, weight) in enumerate(((4, 3, 5, 8, 0.3, 0.8), (3, 5, 9, 6, 0.21, 1.7))):
        maps, peaks = _noise(b, k, h, w, key=110 + key).exp() / 30, torch.sigmoid(_noise(b, k, key=120 + key))
        positions = torch.sigmoid(_noise(b, k, 2, key=130 + key))
        i, j = torch.arange(h, dtype=torch.float64)[:, None], torch.arange(w, dtype=torch.float64)

        def share(x: Tensor, y: Tensor, maps: Tensor = maps, at: Tensor = positions[..., None, None],
                  r: float = radius) -> Tensor:
            return (maps * ((x - at[:, :, 0]) ** 2 + (y - at[:, :, 1]) ** 2 <= r**2)).sum((2, 3)) / maps.sum((2, 3))

        def energy(share: Tensor, weight: float = weight, peaks: Tensor = peaks) -> Tensor:
            return (1 - peaks).mean(1) + weight * ((1 - share) ** 2).mean(1)

        x, y = (j + 0.5) / w, (i + 0.5) / h
        middle = share(x, y)
        want, at = energy(middle), positions[..., None, None]
        square = (maps * ((x - at[:, :, 0]).abs().maximum((y - at[:, :, 1]).abs()) <= radius)).sum((2, 3)) / maps.sum((2, 3))
        expect(call(fn, maps, peaks, positions, radius, weight, shape=(b,)), want, wrong=fits({
            "x and y are exchanged: x counts columns.": energy(share(x, y, at=positions.flip(-1)[..., None, None])),
            "You count a cell at its corner; its middle is at (j + 0.5) / w.": energy(share(j / w, i / h)),
            "The first cell lies at 0 and the last at 1; then maps of different sizes disagree.":
                energy(share(j / (w - 1), i / (h - 1))),
            "The squared distance is compared with the radius; square that, too.": energy(share(x, y, r=radius**0.5)),
            "A square in place of a disc.": energy(square),
            "The map's own sum is missing: it is the SHARE of the attention that counts.": energy(middle * maps.sum((2, 3))),
            "That is the share of cells times the mean: divide by the sum of the map, not by the number of cells.":
                energy(middle * maps.sum((2, 3)) / (h * w)),
            "The share outside and the share inside are exchanged.": energy(1 - middle),
            "Only the places are asked for: nothing keeps a thing there.": energy(middle) - (1 - peaks).mean(1),
            "weight is missing.": energy(middle, 1.0),
            "The square is missing.": (1 - peaks).mean(1) + weight * (1 - middle).mean(1),
            "Everything is summed over the things; take the mean, so that more things do not push harder.": k * want,
            "The worst thing's presence alone; take the mean.": want - (1 - peaks).mean(1) + (1 - peaks).amax(1),
            "The peaks count with the wrong sign: a high peak should make the energy small.": energy(middle, peaks=1 - peaks),
        }, want), otherwise="With all peaks at 1 and all attention at the places it is 0.")
