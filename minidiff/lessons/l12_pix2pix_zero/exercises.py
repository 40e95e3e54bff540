"""Exercises of lesson 12: smeared and aligned directions, the distance of maps, a relative step, whiteness, two rows, success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, "lesson 12", seed, dtype=torch.float64)


# The direction ---------------------------------------------------------------------------------------------------------------


@exercise("12.smeared", "How long an average is", hints=(
    "At position 2 the mean over the bank has the noun in a quarter of the sentences, something else in the others.",
    "What else stands there is the same in both banks, so it cancels: what is left of (dog - cat)?",
))
def smeared():
    """Every token's vector is its word's own, nothing is mixed. 100 sentences name a cat, 25 of them at
    position 2, 75 elsewhere; the second bank has "dog" in its place. Both are averaged position by
    position and subtracted. How long is the direction at position 2, as a share of |dog - cat|?
    """
    ### BEGIN SOLUTION
    return 25 / 100          # the other 75 sentences have the same word there in both banks, and it cancels
    ### END SOLUTION


@checks(smeared)
def _smeared(value: Any) -> None:
    expect_number(value, 0.25, tol=1e-6, wrong={
        "That holds where every sentence has the noun at position 2.": 1.0,
        "That is the share of the sentences whose noun stands elsewhere.": 0.75,
        "That is one sentence's part; 25 of them agree.": 0.01,
        "The root is for noise of random sign; here 25 equal differences are averaged.": 0.5,
        "The other 75 do not pull the other way: what they have at position 2 cancels.": -0.5,
        "The sum is divided by all 100 sentences, not by 25.": 25.0,
    }, otherwise="Average 100 differences: 25 of them are (dog - cat), 75 are zero.")


@exercise("12.direction", "A direction at the noun's own token", points=3, hints=(
    "row[tokens].mean(0) is the mean vector of one sentence's noun; a noun may have two tokens.",
    "One mean over the sentences of each bank, the difference of the two: (D,).",
    "Zeros like a prompt, (L, D); the difference at every token in `at`.",
))
def direction(source, target, source_tokens, target_tokens, at):
    """source, target: encoded banks (n, L, D) and (m, L, D); source_tokens, target_tokens: for each
    sentence the list of its noun's token positions; at: those of the noun in the prompt to be edited.

    Each noun is the mean of its tokens, each bank the mean of its nouns. Returns (L, D): the target's
    mean minus the source's at every token of `at`, zero elsewhere.
    """
    ### BEGIN SOLUTION
    nouns = [torch.stack([row[i].mean(0) for row, i in zip(bank, tokens)]).mean(0)
             for bank, tokens in ((source, source_tokens), (target, target_tokens))]
    out = torch.zeros_like(source[0])
    out[at] = nouns[1] - nouns[0]
    return out
    ### END SOLUTION


@checks(direction)
def _direction(fn: Callable) -> None:
    cases = (((3, 2), 6, 4, [[1], [3, 4], [2]], [[2, 3], [5]], [2]),
             ((2, 4), 7, 3, [[4, 5], [1]], [[3], [6], [1, 2], [2]], [3, 4]))
    for case, ((n, m), length, d, one, two, at) in enumerate(cases):
        a, b = _noise(n, length, d, seed=10 * case), _noise(m, length, d, seed=10 * case + 1)

        def noun(bank: Tensor, tokens: list[list[int]]) -> Tensor:
            return torch.stack([row[i].mean(0) for row, i in zip(bank, tokens, strict=True)]).mean(0)

        def put(value: Tensor, where: list[int] = at, length: int = length, d: int = d) -> Tensor:
            out = torch.zeros(length, d, dtype=torch.float64)
            out[where] = value
            return out

        gap = noun(b, two) - noun(a, one)
        both = [list(zip(bank, tokens, strict=True)) for bank, tokens in ((a, one), (b, two))]
        flat = [torch.cat([row[i] for row, i in rows]).mean(0) for rows in both]
        first = [torch.stack([row[i[0]] for row, i in rows]).mean(0) for rows in both]
        want = put(gap)
        expect(call(fn, a, b, one, two, at, shape=(length, d)), want, wrong=fits({
            "The sign is turned: target minus source.": -want,
            "Averaged position by position: the noun is smeared over the places where sentences have it.": b.mean(0) - a.mean(0),
            "The difference stands at every token; it belongs at those of `at` only.": put(gap, list(range(length))),
            "Each sentence counts once: a noun of two tokens must not count twice.": put(flat[1] - flat[0]),
            "A noun of two tokens is the mean of both, not its first.": put(first[1] - first[0]),
            "That is the target's mean alone; subtract the source's.": put(noun(b, two)),
            "It is divided by the number of tokens in `at`; each of them gets the whole difference.":
                put(gap / len(at)) if len(at) > 1 else put(gap, []),
        }, want), otherwise="With one sentence in each bank it is the plain difference of two vectors, put at `at`.")


# Cross-attention guidance ------------------------------------------------------------------------------------------------------


@exercise("12.map_distance", "How far the maps have gone", points=2, hints=(
    "Squares of the differences, then one reduction for each axis: which of them is a mean?",
    "(maps - reference).square().sum((2, 3)) leaves (B, heads).",
))
def map_distance(maps, reference):
    """maps, reference: attention of one site (B, heads, places, tokens), now and in the source's run.

    Returns (B,): the squared differences, summed over places and tokens, averaged over heads.
    """
    ### BEGIN SOLUTION
    return (maps - reference).square().sum((2, 3)).mean(1)
    ### END SOLUTION


@checks(map_distance)
def _map_distance(fn: Callable) -> None:
    for case, shape in enumerate([(2, 3, 5, 4), (4, 2, 6, 7), (3, 5, 2, 8)]):
        a, b = (torch.softmax(2 * _noise(*shape, seed=30 * case + k), -1) for k in range(2))
        square, want = (a - b).square(), (a - b).square().sum((2, 3)).mean(1)
        expect(call(fn, a, b, shape=shape[:1]), want, wrong=fits({
            "The heads are averaged, not summed.": square.sum((1, 2, 3)),
            "Places and tokens are summed: a mean is a number too small to steer with.": square.mean((1, 2, 3)),
            "Places are averaged in your answer; they are summed.": square.sum(3).mean((1, 2)),
            "That is the length of the difference; here it is its square.": square.sum((2, 3)).sqrt().mean(1),
            "Absolute differences; squares are meant.": (a - b).abs().sum((2, 3)).mean(1),
            "The heads are averaged before they are compared: what they disagree in is lost.":
                (a.mean(1) - b.mean(1)).square().sum((1, 2)),
            "Signed differences cancel: each row of a map sums to 1, so their sum is 0.": (a - b).sum((2, 3)).mean(1),
        }, want), otherwise="Let one head, one place and one token differ by 0.1: the answer is 0.01 over the number of heads.")


@exercise("12.relative_step", "A step as long as you say", points=2, hints=(
    "The length of each row: x.flatten(1).norm(dim=1).",
    "How long may the step be? share times the length of z. Which factor makes the gradient that long?",
    "Where a gradient is exactly zero its length is zero, too: a small number under the quotient keeps 0 / 0 away.",
))
def relative_step(z, gradient, share):
    """z: latents (B, C, h, w); gradient of the loss with respect to z, like it; share: a number.

    Returns the latents one step down the gradient; each row moves by `share` times its own length |z|.
    A row whose gradient is exactly zero stays where it is.
    """
    ### BEGIN SOLUTION
    want = share * z.flatten(1).norm(dim=1)
    factor = want / (gradient.flatten(1).norm(dim=1) + 1e-30)    # 1e-30: 0 / 0 is 0 where there is no gradient
    return z - factor[:, None, None, None] * gradient
    ### END SOLUTION


@checks(relative_step)
def _relative_step(fn: Callable) -> None:
    for case, (shape, share) in enumerate([((3, 2, 4, 5), 0.04), ((4, 3, 6, 2), 0.3), ((2, 5, 3, 4), 1.5)]):
        z, g = _noise(*shape, seed=50 * case), 0.1 * (1 + case) * _noise(*shape, seed=50 * case + 1)
        g[1] = 0
        long, want_long = g.flatten(1).norm(dim=1) + 1e-30, share * z.flatten(1).norm(dim=1)

        def moved(factor: Tensor | float, z: Tensor = z, g: Tensor = g) -> Tensor:
            return z - (factor.view(-1, 1, 1, 1) if isinstance(factor, Tensor) and factor.ndim else factor) * g

        want = moved(want_long / long)
        expect(call(fn, z, g, share, shape=shape), want, wrong=fits({
            "You walk up the gradient: the loss grows.": 2 * z - want,
            "The step is share times the gradient; its length then depends on the loss.": moved(share),
            "Every row must have its own length: you took that of the whole batch.": moved(share * z.norm() / g.norm()),
            "The step is as long as share, whatever z: take share of |z|.": moved(share / long),
            "The gradient is divided by the square of its length.": moved(want_long / long.clamp(min=1e-12) ** 2),
            "That is the step alone; take it off z.": z - want,
            "Only the sign of the gradient is used; its direction is lost.":
                z - want_long.view(-1, 1, 1, 1) * g.sign() / z[0].numel() ** 0.5,
        }, want), otherwise="A row with a gradient must move by share |z|, a row without by nothing.")


# What the published code does ------------------------------------------------------------------------------------------------


@exercise("12.two_rows", "Debug: the row that goes on", points=2, hints=(
    "Which of the two rows carries the maps of the edited prompt? What does the other one compare with the reference?",
    "At the first step the empty prompt's maps are those of the reference: its gradient is exactly zero.",
    "One latent, one gradient: that of the loss on the prompt's row. gradient(x) gives both rows' gradients.",
))
def one_latent(z, gradient, amount):
    """z: a latent (C, h, w). gradient(pair): for a pair (2, C, h, w), the empty prompt's copy first and the
    prompt's second, the gradient of each row's own loss, like the pair. amount: the step size.

    The published code moves both copies and goes on from pair[0]. Returns the latent (C, h, w) moved as
    the loss above means it: one step down the loss of the prompt's maps.
    """
    ### BEGIN SOLUTION
    pair = torch.stack([z, z])
    return z - amount * gradient(pair)[1]
    ### END SOLUTION


@checks(one_latent)
def _one_latent(fn: Callable) -> None:
    for case, (shape, amount) in enumerate([((2, 3, 4), 0.1), ((4, 5, 3), 2.0), ((3, 2, 6), 0.7)]):
        z, centres = _noise(*shape, seed=70 * case), _noise(2, *shape, seed=70 * case + 1)

        def gradient(pair: Tensor, shape: tuple[int, ...] = shape, centres: Tensor = centres) -> Tensor:
            if not isinstance(pair, Tensor) or tuple(pair.shape) != (2, *shape):
                raise Mistake(f"gradient takes a pair of latents, shape {(2, *shape)}.")
            return torch.tanh(pair - centres) + 0.3 * pair**3

        both = gradient(torch.stack([z, z]))
        want = z - amount * both[1]
        expect(call(fn, z, gradient, amount, shape=shape), want, wrong=fits({
            "That is the published row: it follows the empty prompt's maps, which were never to be held.": z - amount * both[0],
            "You walk up: a step goes down its loss.": z + amount * both[1],
            "Both rows pull in your answer; the empty prompt's maps are not to be held.": z - amount * both.sum(0),
            "That is the mean of both rows; the empty prompt still has half a say.": z - amount * both.mean(0),
            "The amount is left out.": z - both[1],
            "That is the step; take it off z.": amount * both[1],
            "The prompt's copy has gone two steps; the update takes one.":
                want - amount * gradient(torch.stack([want, want]))[1],
            "Nothing is moved.": z,
        }, want), otherwise="z minus amount times one row of the gradient at (z, z): which row?")


# The noise -------------------------------------------------------------------------------------------------------------------


@exercise("12.auto_correlation", "How much a noise looks like itself", points=2, hints=(
    "noise.roll(d, dims) shifts with what leaves coming in on the other side.",
    "Per channel: the mean of the products over both axes, squared; then a sum over channels.",
    "Twice: once rolled down (axis 2) by `down`, once to the right (axis 3) by `right`; the two are added.",
))
def self_likeness(noise, down, right):
    """noise (B, C, h, w); down, right: whole numbers. For each row: the mean over places of the noise times
    itself rolled by `down` rows, squared, summed over channels; and the same for `right` columns.

    Returns the sum of the two, (B,): one level of the pyramid.
    """
    ### BEGIN SOLUTION
    vertical = (noise * noise.roll(down, 2)).mean((2, 3)).square().sum(1)
    horizontal = (noise * noise.roll(right, 3)).mean((2, 3)).square().sum(1)
    return vertical + horizontal
    ### END SOLUTION


@checks(self_likeness)
def _self_likeness(fn: Callable) -> None:
    for case, (shape, down, right) in enumerate([((2, 3, 6, 5), 1, 2), ((4, 2, 5, 8), 2, 3), ((3, 4, 7, 6), 3, 1)]):
        noise = (1 + 0.3 * case) * _noise(*shape, seed=90 * case)
        noise = noise + 0.7 * noise.roll(1, 3) + 0.4 * noise.roll(1, 2)
        axes = [(noise * noise.roll(d, axis)).mean((2, 3)) for d, axis in ((down, 2), (right, 3))]
        turned = [(noise * noise.roll(d, axis)).mean((2, 3)) for d, axis in ((down, 3), (right, 2))]
        want = sum(a.square().sum(1) for a in axes)
        expect(call(fn, noise, down, right, shape=shape[:1]), want, wrong=fits({
            "The axes are exchanged: `down` rolls rows, axis 2.": sum(a.square().sum(1) for a in turned),
            "The mean product is squared, so that likeness and opposition count alike.": sum(a.sum(1) for a in axes),
            "The channels are summed, not averaged.": sum(a.square().mean(1) for a in axes),
            "The channels are added before the square: there they may cancel.": sum(a.sum(1).square() for a in axes),
            "Only the rows; columns count as well.": axes[0].square().sum(1),
            "Only the columns; rows count as well.": axes[1].square().sum(1),
            "That is one roll along both axes; it takes two, each alone.":
                (noise * noise.roll((down, right), (2, 3))).mean((2, 3)).square().sum(1),
            "The mean over places is missing: a sum grows with the size.":
                sum((a * shape[2] * shape[3]).square().sum(1) for a in axes),
            "Squares of the products, averaged: that measures strength, not likeness.":
                sum((noise * noise.roll(d, axis)).square().mean((2, 3)).sum(1) for d, axis in ((down, 2), (right, 3))),
        }, want), otherwise="A noise of 1 and -1 in stripes of one column gives C for any `down`, and C for right = 1.")


@exercise("12.break_kl", "Break it: perfect, and no noise at all", points=2, hints=(
    "The divergence knows two numbers of the whole: the mean and the variance. Both must be right.",
    "Which pattern has mean 0 and variance 1, and yet every number is known from its left neighbour?",
    "1 and -1 by turns.",
))
def break_kl():
    """The second regulariser is var + mean^2 - 1 - log var over all numbers of a latent; 0 means "as good
    as noise". Give an 8 x 8 table of numbers (a list of lists) for which it is 0, and in which the
    correlation of horizontal neighbours is above 0.7 or below -0.7.
    """
    ### BEGIN SOLUTION
    return [[1.0, -1.0] * 4] * 8
    ### END SOLUTION


@checks(break_kl)
def _break_kl(value: Any) -> None:
    try:
        x = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(f"The answer is a table of numbers, a list of lists, not {type(value).__name__}.") from None
    if tuple(x.shape) != (8, 8):
        raise Mistake(f"The table has shape {tuple(x.shape)}; 8 x 8 is asked for.")
    mean, var = float(x.mean()), float(x.var(unbiased=False))
    if not bool(torch.isfinite(x).all()) or var == 0:
        raise Mistake("The variance must be 1: a table of equal numbers has none, and its logarithm is minus infinity.")
    if abs(mean) > 2e-4:
        raise Mistake(f"The mean is {mean:.3g}; the divergence then is at least its square.")
    if abs(var - 1) > 2e-4:
        raise Mistake(f"The variance is {var:.3g}, not 1: var - 1 - log var is above 0. Scale the table.")
    a, b = x[:, :-1].flatten(), x[:, 1:].flatten()
    if float(a.std() * b.std()) == 0:
        raise Mistake("The columns but one are all alike, so no correlation is defined.")
    r = float(torch.corrcoef(torch.stack([a, b]))[0, 1])
    if abs(r) <= 0.7:
        raise Mistake(f"Mean and variance are right, but horizontal neighbours have a correlation of {r:.2f} only.")


# The measure -----------------------------------------------------------------------------------------------------------------


@exercise("12.at_equal_success", "Measure: kept, at equal success", points=3, hints=(
    "Sort the points by success first; a strength that changes more need not be the next in the list.",
    "Find the two neighbours, success[k] <= level <= success[k + 1], and the share of the way between them.",
    "kept[k] + share * (kept[k + 1] - kept[k]), share = (level - success[k]) / (success[k + 1] - success[k]).",
))
def at_equal_success(success, kept, level):
    """success, kept: lists of the same length, one point for each strength of a method, in any order;
    successes are all different. level: the success of another method.

    Returns what the first method keeps where its success is `level`: linear between its two neighbours;
    its end points beyond them.
    """
    ### BEGIN SOLUTION
    points = sorted(zip(success, kept))
    if level <= points[0][0]:
        return points[0][1]
    for (s0, k0), (s1, k1) in zip(points, points[1:]):
        if level <= s1:
            return k0 + (level - s0) / (s1 - s0) * (k1 - k0)
    return points[-1][1]
    ### END SOLUTION


@checks(at_equal_success)
def _at_equal_success(fn: Callable) -> None:
    tables = (([0.5, 0.81, 0.97, 0.2], [0.7, 0.6, 0.45, 0.85], (0.9, 0.6, 0.1, 0.99)),
              ([0.95, 0.3, 0.7], [0.5, 0.9, 0.74], (0.8, 0.95, 0.31, 0.2)),
              ([0.1, 0.4, 0.6, 0.65, 0.9], [0.95, 0.9, 0.8, 0.6, 0.55], (0.62, 0.25, 0.7, 0.95)))
    for success, kept, levels in tables:
        for level in levels:
            points = sorted(zip(success, kept, strict=True))

            def between(points: list[tuple[float, float]] = points, level: float = level, past: bool = False,
                        turned: bool = False) -> float:
                if not past:
                    level = min(max(level, points[0][0]), points[-1][0])
                pairs = list(zip(points, points[1:], strict=False))
                ends = pairs[0] if level < points[0][0] else pairs[-1]
                (s0, k0), (s1, k1) = next((p for p in pairs if p[0][0] <= level <= p[1][0]), ends)
                share = (level - s0) / (s1 - s0)
                return k0 + (1 - share if turned else share) * (k1 - k0)

            above, below = next((k for s, k in points if s >= level), points[-1][1]), [k for s, k in points if s <= level][-1:]
            inside = points[0][0] < level < points[-1][0]
            want = torch.tensor(between(), dtype=torch.float64)
            gaps = {
                "Beyond its last point a method keeps what it keeps there; a straight line goes on to values nobody measured.":
                    between(past=True),
                "Sort by success first.": _unsorted(list(zip(success, kept, strict=True)), level),
                "The share of the way is turned: at the lower success it is the lower point's value.": between(turned=True),
                "That is the next point with more success; go linearly between the two.": above if inside else between(),
                "That is the point with less success; go linearly between the two.": below[0] if inside else between(),
                "That is the mean of all points, whatever the level.": sum(kept) / len(kept),
            }
            expect(call(fn, list(success), list(kept), level, shape=()), want, tol=1e-6, wrong=fits(
                {k: torch.tensor(v, dtype=torch.float64) for k, v in gaps.items()}, want),
                otherwise="At a level that the method has itself, the answer is what it keeps there.")


def _unsorted(points: list[tuple[float, float]], level: float) -> float:
    """The same walk through points as they come."""
    if level <= points[0][0]:
        return points[0][1]
    for (s0, k0), (s1, k1) in zip(points, points[1:], strict=False):
        if level <= s1:
            return k0 + (level - s0) / (s1 - s0) * (k1 - k0)
    return points[-1][1]
