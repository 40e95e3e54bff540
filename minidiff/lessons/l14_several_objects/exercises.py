"""Exercises of lesson 14: sorting failures, words that compete, the published loss, its kernel and its decay, a step for a batch,
the presence loss, SynGen's distance, composed predictions of Gaussians, how many pictures a gain needs, and a term for places."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _noise(*shape: int, key: int = 0) -> Tensor:
    return normal(shape, "lesson 14", key, dtype=torch.float64)


# 1 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.sort", "Sort the failures", points=2, hints=(
    "Begin with zeros and overwrite: which kind of failure must come last, so that it wins?",
    "(~there).any(1) says in which pictures a thing is not there.",
    "Replaced asks for two things of ONE object: not there, and its colour elsewhere. Combine them before .any(1).",
))
def sort_failures(there, right, borrowed):
    """there, right, borrowed: (n, K) bool, for each of K things asked for: is its kind in the picture, is
    it there in its own colour, does a thing of another kind wear its colour?

    Returns (n,) whole numbers: 0 all right; 1 missing: a kind is not there; 2 wrong colour: all kinds are
    there, one not in its colour; 3 replaced: a kind is not there, and another kind wears its colour.
    3 goes before 1.
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

        def codes(replaced: Tensor, missing: Tensor, wrong_colour: Tensor) -> Tensor:
            return torch.where(replaced, 3, torch.where(missing, 1, torch.where(wrong_colour, 2, 0)))

        replaced = (~there & borrowed).any(1)
        want = codes(replaced, gone, off)
        expect(call(fn, there, right, borrowed, shape=(n,), dtype=torch.int64), want, wrong=fits({
            "Replaced is one object's matter: not there, and ITS colour elsewhere; you ask for the two in any of the picture.":
                codes(gone & borrowed.any(1), gone, off),
            "A picture with a thing replaced counts as missing in your answer; 3 goes before 1.": torch.where(gone, 1, want),
            "A picture with a thing missing counts as wrong colour: that needs all of them there.": torch.where(off, 2, 0),
            "All things have to be gone before you call it missing; one is enough.":
                codes(replaced, (~there).all(1), off),
            "All colours have to be wrong before you call it that; one is enough.": codes(replaced, gone, (~right).all(1)),
            "A colour that is on another thing, too, is no failure as long as its own thing is there.":
                codes(borrowed.any(1), gone, off),
            "The numbers of missing and wrong colour are exchanged.": torch.tensor([0, 2, 1, 3])[want],
        }, want), otherwise="Go through one row by hand: which is the first of replaced, missing, wrong colour that holds?")


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


@exercise("14.kernel", "Debug: which Gaussian is it?", hints=(
    "A Gaussian of standard deviation s falls as exp(-d^2 / (2 s^2)). Bring the line into that form.",
    "(d / (2 std))^2 is d^2 / (4 std^2), and that should be d^2 / (2 s^2).",
))
def true_width():
    """The line exp(-((d / (2 * std)) ** 2)) is run with std = 0.5, d in cells. What is the standard
    deviation, in cells, of the Gaussian that comes out?
    """
    ### BEGIN SOLUTION
    return 0.5 * 2**0.5     # d^2 / (4 std^2) = d^2 / (2 s^2), so s is std times the root of 2
    ### END SOLUTION


@checks(true_width)
def _true_width(value: Any) -> None:
    expect_number(value, 0.5 * 2**0.5, tol=0.003, wrong={
        "That is what is asked for (and, by chance, the variance of what comes out).": 0.5,
        "That would be right if the 2 stood outside the square: exp(-(d / s)^2 / 2).": 1.0,
        "The other way round: the kernel is wider than asked for.": 0.5 / 2**0.5,
        "The root of 2 is the factor; times which width?": 2**0.5,
        "A quarter is 0.5 squared; compare the two exponents.": 0.25,
    }, otherwise="Set d^2 / (4 * 0.25) equal to d^2 / (2 s^2).")


@exercise("14.decay", "Debug: code or comment?", hints=(
    "np.linspace(1, 0.5, 50)[24] is 1 - 0.5 * 24 / 49.",
    "The code decides: its root, times 20.",
))
def last_step():
    """A comment says that the step size falls linearly from 20 to 10. The line below it is in effect
    20 * np.sqrt(np.linspace(1, 0.5, 50)[k]), and the latent is moved at k = 0 to 24. How long is the last
    step that is taken?
    """
    ### BEGIN SOLUTION
    return 20 * (1 - 0.5 * 24 / 49) ** 0.5     # 17.4, where the comment promises 15.1
    ### END SOLUTION


@checks(last_step)
def _last_step(value: Any) -> None:
    expect_number(value, 20 * (1 - 12 / 49) ** 0.5, tol=0.02, wrong={
        "That is what the comment says; the line takes a root.": 20 * (1 - 12 / 49),
        "That is the end of the table, at k = 49; nothing is moved there.": 20 * 0.5**0.5,
        "That is the end of the table by the comment.": 10.0,
        "linspace reaches 0.5 at its last entry, k = 49: divide by 49, not by 50.": 20 * (1 - 12 / 50) ** 0.5,
        "k counts from 0: the 25th step is k = 24.": 20 * (1 - 12.5 / 49) ** 0.5,
        "The factor of 20 is missing.": (1 - 12 / 49) ** 0.5,
    }, otherwise="20 times the root of the table's entry 24.")


# 5 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.step", "Debug: one picture takes the whole step", points=2, hints=(
    "Whose length does .norm() give, without a dim? Of the whole batch.",
    "F.normalize(gradient.flatten(1), dim=1) has length 1 row by row, and leaves a row of zeros as it is.",
    "The length of row i is share * |z_i|: z.flatten(1).norm(dim=1)[:, None, None, None].",
))
def move(z, gradient, share):
    """z, gradient: (B, C, h, w). Returns z after a step against the gradient: each ROW moves by `share` of
    its own length |z_i|, however long the gradients of the others are; a row whose gradient is zero stays.
    """
    ### BEGIN SOLUTION
    direction = torch.nn.functional.normalize(gradient.flatten(1), dim=1).view_as(z)
    length = share * z.flatten(1).norm(dim=1)
    return z - length[:, None, None, None] * direction
    ### END SOLUTION


@checks(move)
def _move(fn: Callable) -> None:
    for key, (shape, share) in enumerate((((3, 4, 5, 2), 0.06), ((4, 2, 3, 6), 0.2))):
        z, g = _noise(*shape, key=200 + key), _noise(*shape, key=210 + key)
        z, g = z * torch.linspace(0.5, 2.0, len(z)).view(-1, 1, 1, 1), g * 0.01 ** torch.arange(len(z)).view(-1, 1, 1, 1)
        g[1] = 0.0
        with_zero = call(fn, z, g, share, shape=shape)
        if not torch.allclose(with_zero[1], z[1]):
            raise Mistake("A row whose gradient is zero should stay where it is.")
        g = _noise(*shape, key=220 + key) * 0.1 ** torch.arange(len(z)).view(-1, 1, 1, 1)
        long, reach = (x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (g, z))
        expect(call(fn, z, g, share, shape=shape), z - share * reach / long * g, wrong=fits({
            "Both lengths are those of the whole batch: the row with the longest gradient takes the step.":
                z - share * z.norm() / g.norm() * g,
            "The gradient's length is that of the whole batch.": z - share * reach / g.norm() * g,
            "|z| is that of the whole batch; each row has its own.": z - share * z.norm() / long * g,
            "The gradient is not brought to length 1.": z - share * reach * g,
            "The step has length share, not share of |z|.": z - share / long * g,
            "It goes up the gradient.": z + share * reach / long * g,
            "That is the step alone; add it to z.": -share * reach / long * g,
        }, z - share * reach / long * g), otherwise="Each row moves by share times its own length, against its own gradient.")


# 6 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.presence_loss", "Words of one thing do not compete", points=3, hints=(
    "The softmax is the same as before, with another sharpness. What changes comes after it.",
    "p[:, :, phrase].sum(-1) is the map of one thing, (B, N).",
    "A list of (1 - map.amax(1)), one for each phrase, stacked; its mean over the things.",
))
def presence_loss(a, words, phrases, sharpness):
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


@checks(presence_loss)
def _presence_loss(fn: Callable) -> None:
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


# 7 -------------------------------------------------------------------------------------------------------------------------


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


# 8 -------------------------------------------------------------------------------------------------------------------------


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


# 9 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.how_many", "How many pictures does a gain need?", points=2, hints=(
    "The mean of n differences has standard error s / sqrt(n); the interval reaches 1.96 of those to each side.",
    "The measured mean itself varies: it is above gain - 0.84 standard errors with probability 0.8.",
    "So gain = (1.96 + 0.84) s / sqrt(n). Solve for n and round up.",
))
def how_many(differences, gain):
    """differences (m,): for each of m pictures of a first trial, the share of its things that are there with
    the method minus without, same prompt and same noise. gain: the mean difference that you expect.

    Returns the least number of pictures with which a true gain of that size is shown (the interval of 1.96
    standard errors lies above 0) with probability 0.8. The spread is that of the trial (divide by m - 1);
    a normal variable lies above its mean minus 0.84 standard deviations with probability 0.8.
    """
    ### BEGIN SOLUTION
    spread = differences.std()
    return math.ceil(float((1.96 + 0.84) * spread / gain) ** 2)
    ### END SOLUTION


@checks(how_many)
def _how_many(fn: Callable) -> None:
    for key, (m, gain) in enumerate(((12, 0.15), (9, 0.011), (15, 0.17))):
        d = (_noise(m, key=100 + key) * 0.4 + 0.2 + 0.1 * key).mul(3).round() / 3
        s, biased, mean = float(d.std()), float(d.std(correction=0)), float(d.mean())
        least = torch.tensor(math.ceil((2.8 * s / gain) ** 2))

        def whole(x: float) -> Tensor:
            return torch.tensor(math.ceil(x))

        expect(call(fn, d, gain, shape=()), least, tol=1e-9, wrong=fits({
            "With that many the interval excludes 0 in half of the repetitions only: the measured gain varies, too.":
                whole((1.96 * s / gain) ** 2),
            "The spread is divided by m; here by m - 1.": whole((2.8 * biased / gain) ** 2),
            "The square is missing: the error falls with the root of n.": whole(2.8 * s / gain),
            "1.96 is missing: 0.84 standard errors are not the interval.": whole((0.84 * s / gain) ** 2),
            "The trial's own mean is used; asked for is the expected gain.": whole((2.8 * s / mean) ** 2),
            "Round up: with the number below, it is shown less often.": torch.tensor(math.floor((2.8 * s / gain) ** 2)),
            "The spread is not squared.": whole(2.8**2 * s / gain**2),
            "Two unpaired samples would need twice as many; the differences are paired already.":
                whole(2 * (2.8 * s / gain) ** 2),
            "0.84 makes it harder, not easier: the two are added.": whole((1.12 * s / gain) ** 2),
        }, least), otherwise="Half the gain needs four times as many.")


# 10 -------------------------------------------------------------------------------------------------------------------------


@exercise("14.place_term", "Design: a term for places", points=3, hints=(
    "What matters is the SHARE of a thing's attention that lies near its place: then it is no way out to look less.",
    "Column j of w has its middle at (j + 0.5) / w. x as (w,), y as (h, 1), the positions as (B, K, 1, 1) each.",
    "share = (maps * inside).sum((2, 3)) / maps.sum((2, 3)); any smooth function that falls to 0 at 1 will do, its mean over K.",
))
def place_term(maps, positions, radius):
    """maps (B, K, h, w): the attention to each thing, above 0; positions (B, K, 2): where each should be,
    (x, y) in shares of the picture, (0, 0) the top left corner.

    Returns (B,), row by row. Design it so that it is
    1. 0 where each thing has all its attention in cells whose middle is at most `radius` from its place;
    2. larger, the more of the attention of any thing lies elsewhere;
    3. the same when a map is multiplied by a number, and when each thing is there twice;
    4. smooth: where a map is flat its gradient asks for more attention near the place.
    """
    ### BEGIN SOLUTION
    h, w = maps.shape[2:]
    x, y = (torch.arange(w) + 0.5) / w, ((torch.arange(h) + 0.5) / h)[:, None]
    at = positions[..., None, None]
    inside = (x - at[:, :, 0]) ** 2 + (y - at[:, :, 1]) ** 2 <= radius**2
    share = (maps * inside).sum((2, 3)) / maps.sum((2, 3))
    return ((1 - share) ** 2).mean(1)
    ### END SOLUTION


def _zero_where(fn: Callable, place: Tensor, radius: float, h: int, w: int) -> Tensor:
    """(h, w) bool: at which cells all the attention may be at no cost."""
    single = torch.eye(h * w, dtype=torch.float64).view(h * w, 1, h, w) + 1e-9
    return (call(fn, single, place.expand(h * w, 1, 2), radius, shape=(h * w,)).abs() < 1e-4).view(h, w)


@checks(place_term)
def _place_term(fn: Callable) -> None:
    for key, (b, k, h, w, radius) in enumerate(((4, 3, 7, 10, 0.23), (3, 5, 9, 6, 0.31))):
        positions = 0.2 + 0.6 * torch.sigmoid(_noise(b, k, 2, key=130 + key))
        i, j = torch.arange(h, dtype=torch.float64)[:, None], torch.arange(w, dtype=torch.float64)
        at = positions[..., None, None]

        def disc(x: Tensor, y: Tensor, at: Tensor = at, r: float = radius) -> Tensor:
            return (x - at[:, :, 0]) ** 2 + (y - at[:, :, 1]) ** 2 <= r**2

        x, y = (j + 0.5) / w, (i + 0.5) / h
        inside = disc(x, y)
        named = {
            "x and y are exchanged: x counts columns.": disc(x, y, at=positions.flip(-1)[..., None, None]),
            "You count a cell at its corner; its middle is at (j + 0.5) / w.": disc(j / w, i / h),
            "The first cell lies at 0 and the last at 1; then maps of different sizes disagree.":
                disc(j / (w - 1), i / (h - 1)),
            "The squared distance is compared with the radius; square that, too.": disc(x, y, r=radius**0.5),
            "A square in place of a disc.": ((x - at[:, :, 0]).abs().maximum((y - at[:, :, 1]).abs()) <= radius),
            "Outside and inside are exchanged.": ~inside,
            "Something is left, or something goes below 0, where all attention is at its place.": torch.zeros_like(inside),
        }
        free = torch.stack([_zero_where(fn, positions[n, :1][None], radius, h, w) for n in range(b)])
        if not torch.equal(free, inside[:, 0]):
            for message, mask in named.items():
                if torch.equal(free, mask[:, 0]):
                    raise Mistake(message)
            raise Mistake("With all attention in one cell it should be 0 where that cell's middle is within the radius only.")
        full = _noise(b, k, h, w, key=110 + key).exp() / 30
        near, far = (full * mask / (full * mask).sum((2, 3), keepdim=True) for mask in (inside, ~inside))

        def mixed(s: float | Tensor, near: Tensor = near, far: Tensor = far) -> Tensor:
            return near + s * (far - near)

        def value(maps: Tensor, positions: Tensor = positions, radius: float = radius) -> Tensor:
            return call(fn, maps, positions, radius, shape=maps.shape[:1])

        values = torch.stack([value(mixed(s)) for s in (0.02, 0.2, 0.5, 0.8, 0.98)])
        if not bool((values.diff(dim=0) > 1e-6).all()):
            raise Mistake("It should grow with every bit of attention that lies elsewhere.")
        for n in range(k):
            more = torch.full((b, k, 1, 1), 0.5, dtype=torch.float64)
            more[:, n] = 0.4
            if not bool((value(mixed(more)) < value(mixed(0.5)) - 1e-6).all()):
                raise Mistake("One thing that comes nearer to its place changes nothing: all count, not the worst alone.")
        times = 0.2 + 3 * torch.sigmoid(_noise(b, k, 1, 1, key=140 + key))
        if not torch.allclose(value(mixed(0.5) * times), value(mixed(0.5)), atol=1e-5):
            raise Mistake("It changes with HOW MUCH attention a thing gets; looking less is no way out. Divide by the map's sum.")
        twice = value(torch.cat([mixed(0.5)] * 2, 1), torch.cat([positions] * 2, 1))
        if not torch.allclose(twice, value(mixed(0.5)), atol=1e-5):
            raise Mistake("With each thing there twice it is not the same: take the mean over the things, not the sum.")
        uneven = mixed(torch.linspace(0.2, 0.8, b, dtype=torch.float64).view(b, 1, 1, 1))
        rows = torch.cat([value(uneven[n:n + 1], positions[n:n + 1]) for n in range(b)])
        if not torch.allclose(rows, value(uneven), atol=1e-5):
            raise Mistake("A row's value changes with the other rows; each picture has its own.")
        flat = torch.full_like(full, 0.02).requires_grad_()
        out = value(flat)
        if not out.requires_grad:
            raise Mistake("There is no gradient: a comparison or a count of cells has none; sum the attention itself.")
        (gradient,) = torch.autograd.grad(out.sum(), flat)
        means = [(gradient * mask).sum((2, 3)) / mask.sum((2, 3)) for mask in (inside, ~inside)]
        if not bool((means[0] < means[1] - 1e-9).all()):
            raise Mistake("On a flat map its gradient does not ask for more attention near the place.")
