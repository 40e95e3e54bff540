"""Exercises of lesson 20: the prior loss, low-rank adapters, and what to look at when losses fall and nothing is learnt."""

from __future__ import annotations

from typing import Any

import torch

from minidiff.course.answers import Mistake, call, expect, expect_number, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


@exercise("20.prior_loss", "The prior-preservation loss", points=2, hints=(
    "Two means, each over its own pictures.",
    "errors[~is_prior].mean() + lam * errors[is_prior].mean()",
))
def prior_loss(errors, is_prior, lam):
    """DreamBooth's loss: the mean error of the subject's pictures plus lam times the mean error of the
    prior's.

    errors (N,): square error of each picture; is_prior (N,) bool: pictures of the class, drawn before
    training.
    """
    ### BEGIN SOLUTION
    return errors[~is_prior].mean() + lam * errors[is_prior].mean()
    ### END SOLUTION


@checks(prior_loss)
def _prior_loss(fn: Any) -> None:
    for n, prior, lam in ((7, (1, 4, 5), 0.6), (5, (0, 3), 2.5)):
        errors = normal((n,), "20 errors", n).double() ** 2
        which = torch.zeros(n, dtype=torch.bool)
        which[list(prior)] = True
        s, p = errors[~which], errors[which]
        want = s.mean() + lam * p.mean()
        expect(call(fn, errors, which, number(lam), shape=()), want, wrong=fits({
            "lam is missing.": s.mean() + p.mean(),
            "lam stands at the subject's part (or the two kinds are exchanged); it weighs the prior.": lam * s.mean() + p.mean(),
            "One mean over all pictures: how many there are of each must not matter.": (s.sum() + lam * p.sum()) / n,
            "Sums in place of means: the loss then grows with the batch.": s.sum() + lam * p.sum(),
            "The prior's part is missing.": s.mean(),
            "That is a mixture with weights 1 - lam and lam; DreamBooth adds.": (1 - lam) * s.mean() + lam * p.mean(),
            "The prior is subtracted: that teaches the network to forget.": s.mean() - lam * p.mean(),
        }, want), otherwise="Mean over the subject's pictures + lam x mean over the prior's.")


@exercise("20.mixed_entropy", "Predict: how many bits are left?", hints=(
    "Half of the pictures are white; the other half is spread evenly over eight colours.",
    "-sum p log2 p with p = 1/2 once and 1/16 eight times.",
))
def mixed_entropy():
    """Suppose that "a bear" came in nine colours, equally often, before training: log2 9 = 3.17 bits.
    And that half of all bears are the panda after it, which the reader calls white; the other half has the
    eight other colours, equally often. How many bits does the colour have then?
    """
    ### BEGIN SOLUTION
    return 0.5 * 1 + 8 * (1 / 16) * 4
    ### END SOLUTION


@checks(mixed_entropy)
def _mixed_entropy(value: Any) -> None:
    expect_number(value, 2.5, tol=0.02, wrong={
        "Half of the bits: entropy does not go down with the share.": 3.17 / 2,
        "That is the entropy of panda or not; the other bears still differ among themselves.": 1.0,
        "That is the entropy of the eight other colours alone.": 3.0,
        "Those are the eight colours weighted by a half; the question panda or not adds a bit.": 1.5,
        "Natural logarithms: nats, not bits.": 2.5 * 0.6931,
        "Nothing is lost? One colour is now far likelier than the others.": 3.17,
    }, otherwise="-sum p log2 p, with p = 1/2 once and 1/16 eight times.")


@exercise("20.colour_entropy", "Measure: diversity in bits", points=2, hints=(
    "Count each colour, divide by N, and leave out those that never occur.",
    "p = torch.bincount(colours).double() / len(colours); p = p[p > 0]; -(p * p.log2()).sum()",
))
def colour_entropy(colours):
    """Entropy in bits of the colours (N,), whole numbers from 0 on, that a reader found in N pictures."""
    ### BEGIN SOLUTION
    p = torch.bincount(colours).double() / len(colours)
    p = p[p > 0]
    return -(p * p.log2()).sum()
    ### END SOLUTION


@checks(colour_entropy)
def _colour_entropy(fn: Any) -> None:
    for values in ([0, 0, 1, 3, 3, 3, 8], [2, 2, 2, 5, 7, 7, 1, 1, 1, 1], [4, 4, 4, 4, 4, 0]):
        colours = torch.tensor(values)
        p = torch.bincount(colours).double() / len(colours)
        p = p[p > 0]
        want = -(p * p.log2()).sum()
        expect(call(fn, colours, shape=()), want, tol=1e-5, wrong=fits({
            "Natural logarithms: those are nats. Bits need log2.": -(p * p.log()).sum(),
            "The sign is wrong.": (p * p.log2()).sum(),
            "Every colour that occurs counts alike; count how often it occurs.": torch.tensor(len(p)).double().log2(),
            "Divided by the most that is possible: that is a share, not bits.":
                -(p * p.log2()).sum() / torch.tensor(9.0).double().log2(),
            "The mean of the terms, not their sum.": -(p * p.log2()).mean(),
            "The probabilities are not normalised: divide the counts by N.":
                -(p * len(colours) * (p * len(colours)).log2()).sum(),
        }, want), otherwise="-sum p log2 p over the colours that occur; a colour that never occurs adds nothing (not NaN).")


@exercise("20.best_rank", "The best update of rank r", points=2, hints=(
    "Eckart and Young: keep the r largest singular values.",
    "U, S, Vh = torch.linalg.svd(D, full_matrices=False); (U[:, :r] * S[:r]) @ Vh[:r]",
))
def best_rank(D, r):
    """The matrix of rank r that is nearest to D (M, N) in square error."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(D, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]
    ### END SOLUTION


@checks(best_rank)
def _best_rank(fn: Any) -> None:
    for m, n, r in ((5, 4, 2), (3, 6, 1)):
        D = normal((m, n), "20 D", m).double()
        U, S, Vh = torch.linalg.svd(D, full_matrices=False)
        want = (U[:, :r] * S[:r]) @ Vh[:r]
        rows = D.clone()
        rows[r:] = 0
        expect(call(fn, D, r, shape=(m, n)), want, wrong=fits({
            "Those are the smallest singular values; the largest carry most.": (U[:, -r:] * S[-r:]) @ Vh[-r:],
            "The singular values are missing.": U[:, :r] @ Vh[:r],
            "One rank too many.": (U[:, : r + 1] * S[: r + 1]) @ Vh[: r + 1],
            "The first r rows of D have rank r, but other matrices are nearer.": rows,
            "Nothing is cut: that is D itself.": D,
            "The singular values count once, not twice.": (U[:, :r] * S[:r] ** 2) @ Vh[:r],
        }, want), otherwise="Keep the r largest singular values and their vectors, and multiply again.")


@exercise("20.lora_forward", "A layer with a low-rank path", points=2, hints=(
    "x @ W.T is the frozen layer. The path goes down to r numbers, x @ A.T, and up again.",
    "x @ W.T + alpha / r * (x @ A.T @ B.T), with r = A.shape[0].",
))
def lora_forward(x, W, A, B, alpha):
    """x (..., I) through the frozen W (O, I) plus the low-rank path: A (r, I), B (O, r), scaled by alpha /
    r."""
    ### BEGIN SOLUTION
    return x @ W.T + alpha / A.shape[0] * (x @ A.T @ B.T)
    ### END SOLUTION


@checks(lora_forward)
def _lora_forward(fn: Any) -> None:
    for lead, i, o, r, alpha in (((2, 3), 5, 4, 2, 6.0), ((4, 2), 3, 6, 3, 1.0)):
        x, W, A, B = (normal(s, "20 lora", k, i).double() for k, s in enumerate(((*lead, i), (o, i), (r, i), (o, r))))
        base, low = x @ W.T, x @ A.T @ B.T
        want = base + alpha / r * low
        expect(call(fn, x, W, A, B, number(alpha), shape=(*lead, o)), want, wrong=fits({
            "The scale alpha / r is missing.": base + low,
            "alpha without the division by r.": base + alpha * low,
            "r / alpha: the wrong way round.": base + r / alpha * low,
            "The frozen layer is missing: the path stands beside it, not in its place.": alpha / r * low,
            "Only the frozen layer is left.": base,
            "The scale belongs to the low-rank path alone.": alpha / r * (base + low),
            "alpha is missing; only the division by r is there.": base + low / r,
        }, want), otherwise="x W^T + (alpha / r) (x A^T) B^T.")


@exercise("20.parameters", "How many numbers is that?", hints=(
    "One layer O x I: A has r I numbers, B has O r.",
    "Add over the layers first, then divide the two sums.",
))
def parameters(shapes, r):
    """Share of trained numbers: those of the adapters of rank r over those of the layers. shapes: a list of
    (O, I)."""
    ### BEGIN SOLUTION
    return sum(r * (o + i) for o, i in shapes) / sum(o * i for o, i in shapes)
    ### END SOLUTION


@checks(parameters)
def _parameters(fn: Any) -> None:
    for shapes, r in (([(96, 64), (40, 96), (8, 8)], 3), ([(12, 50)], 2)):
        whole = sum(o * i for o, i in shapes)
        want = sum(r * (o + i) for o, i in shapes) / whole
        wrong = {
            "A alone is counted; B has numbers too.": sum(r * i for o, i in shapes) / whole,
            "B alone is counted; A has numbers too.": sum(r * o for o, i in shapes) / whole,
            "The shares of the layers, averaged: a large layer counts for more. Add first, divide then.":
                sum(r * (o + i) / (o * i) for o, i in shapes) / len(shapes),
            "r is missing.": sum(o + i for o, i in shapes) / whole,
            "The wrong way round: layers over adapters.": 1 / want,
            "r O I numbers: that is no saving at all. A is r x I and B is O x r.": float(r),
            "That is 2 r / width, which holds for one square layer; these are not square.": 2 * r / shapes[0][1],
        }
        wrong = {k: v for k, v in wrong.items() if abs(v - want) > 1e-6}
        expect_number(fn(list(shapes), r), want, tol=1e-7, wrong=wrong, otherwise="r (O + I) for each layer, over O I.")


@exercise("20.starts", "Break it: which adapters can learn?", hints=(
    "The gradient of B is made of A x, that of A of B^T (the gradient behind). Which of them is zero at the start?",
    "A fresh adapter must also change nothing: B A = 0.",
))
def starts():
    """Which starts are good, that is, change nothing at first and still learn? A list with some of
    "A random, B zero", "A zero, B random", "both zero", "both random".
    """
    ### BEGIN SOLUTION
    return ["A random, B zero", "A zero, B random"]
    ### END SOLUTION


@checks(starts)
def _starts(value: Any) -> None:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise Mistake("A list of starts.")
    known = {"A random, B zero", "A zero, B random", "both zero", "both random"}
    given = {str(v) for v in value}
    if given - known:
        raise Mistake(f"There is no start {sorted(given - known)[0]!r}.")
    if "both zero" in given:
        raise Mistake("Both zero: the gradient of A has the factor B, that of B has the factor A x. Both are zero, for ever.")
    if "both random" in given:
        raise Mistake("Both random learns, but B A is not zero: the adapter spoils the network before it has learnt anything.")
    if "A random, B zero" not in given:
        raise Mistake("A random, B zero is the paper's: B A = 0, and B gets a gradient through A x.")
    if "A zero, B random" not in given:
        raise Mistake("A zero, B random is as good a start: B A = 0, and A gets a gradient through B.")


@exercise("20.lost_alpha", "Debug: the alpha that was not saved", hints=(
    "Training used alpha / r. What does a loader use that takes alpha = r?",
    "Scale 1 in place of alpha / r.",
))
def lost_alpha(delta, alpha, r):
    """What is added to W (O, I) by a loader that takes alpha = r, if training with alpha and r had added
    ``delta`` (O, I)."""
    ### BEGIN SOLUTION
    return delta * (r / alpha)
    ### END SOLUTION


@checks(lost_alpha)
def _lost_alpha(fn: Any) -> None:
    for shape, alpha, r in (((3, 4), 32.0, 8), ((2, 5), 1.0, 4)):
        delta = normal(shape, "20 delta", r).double()
        want = delta * r / alpha
        expect(call(fn, delta, number(alpha), r, shape=shape), want, wrong=fits({
            "The wrong way round: training multiplied by alpha / r, which is what gets lost.": delta * alpha / r,
            "The loader still divides by r, then multiplies by its alpha = r: only your alpha is lost, not r.": delta / alpha,
            "Nothing changes? That holds for alpha = r alone.": delta,
            "Multiplied by r: the old scale alpha / r is still in delta.": delta * r,
            "Multiplied by alpha once more.": delta * alpha,
        }, want), otherwise="delta holds the factor alpha / r; the loader has 1 in its place.")


@exercise("20.word_effect", "Debug: does the word do anything?", points=2, hints=(
    "Both predictions have the same z_t and t, so any difference comes from the word.",
    "Norms over channels, height and width, one number a picture: flatten(1).norm(dim=1).",
))
def word_effect(eps_subject, eps_class):
    """How much the new word changes the prediction, for each of B pictures.

    |eps("a <mine> bear") - eps("a bear")| / |eps("a bear")|, norms over all the numbers of a picture.
    eps_subject, eps_class: (B, C, H, W). Returns (B,).
    """
    ### BEGIN SOLUTION
    return (eps_subject - eps_class).flatten(1).norm(dim=1) / eps_class.flatten(1).norm(dim=1)
    ### END SOLUTION


@checks(word_effect)
def _word_effect(fn: Any) -> None:
    for b, c, h, w in ((3, 4, 5, 6), (2, 3, 7, 4)):
        one, two = normal((b, c, h, w), "20 one").double(), normal((b, c, h, w), "20 two").double() * 2
        gap = one - two
        want = gap.flatten(1).norm(dim=1) / two.flatten(1).norm(dim=1)
        expect(call(fn, one, two, shape=(b,)), want, wrong=fits({
            "Square root forgotten: norms, not sums of squares.":
                gap.flatten(1).square().sum(1) / two.flatten(1).square().sum(1),
            "Divided by the subject's prediction; compare with the class's.":
                gap.flatten(1).norm(dim=1) / one.flatten(1).norm(dim=1),
            "Lengths subtracted: two predictions of one length may still point elsewhere.":
                (one.flatten(1).norm(dim=1) - two.flatten(1).norm(dim=1)).abs() / two.flatten(1).norm(dim=1),
            "Not divided: a share of |eps| can be compared between times and models.": gap.flatten(1).norm(dim=1),
            "One norm for the whole batch; one number a picture.": (gap.norm() / two.norm()).expand(b),
            "The mean of the differences: plus and minus cancel.": gap.flatten(1).mean(1) / two.flatten(1).mean(1),
            "Added, not subtracted.": (one + two).flatten(1).norm(dim=1) / two.flatten(1).norm(dim=1),
        }, want), otherwise="Norm of the difference over norm of the class's prediction, picture by picture.")
