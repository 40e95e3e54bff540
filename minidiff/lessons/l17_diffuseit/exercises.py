"""Exercises of lesson 17: keys and what they hold, the contrastive term, the push, the published mean, restarts, a start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, "lesson 17", seed, dtype=torch.float64)


# Keys ------------------------------------------------------------------------------------------------------------------------


@exercise("17.self_similarity", "Which places are alike", points=2, hints=(
    "Make every key a unit vector first; then a cosine is a dot product.",
    "All pairs at once: a matrix product of (B, N, D) with its own transpose (B, D, N).",
))
def similarity(keys):
    """keys: (B, N, D), one a patch. Returns S (B, N, N): the cosine of every two keys of a picture."""
    ### BEGIN SOLUTION
    unit = keys / keys.norm(dim=-1, keepdim=True)
    return unit @ unit.mT
    ### END SOLUTION


@checks(similarity)
def _similarity(fn: Callable) -> None:
    for case, shape in enumerate([(2, 5, 3), (3, 4, 6), (4, 7, 2)]):
        k = _noise(*shape, seed=10 * case) * (1 + _noise(*shape[:2], 1, seed=10 * case + 1).abs())
        unit = F.normalize(k, dim=-1)
        want = unit @ unit.mT
        expect(call(fn, k, shape=(shape[0], shape[1], shape[1])), want, wrong=fits({
            "Dot products of the keys as they are: long keys count for more. Divide each by its length.": k @ k.mT,
            "Each key is divided by its length once; in a cosine both are.": unit @ k.mT,
            "The keys are divided by the length of all of a picture's keys together.":
                k @ k.mT / k.flatten(1).norm(dim=1)[:, None, None] ** 2,
            "That is normalised over places, not over the key's own numbers.": F.normalize(k, dim=1) @ F.normalize(k, dim=1).mT,
            "The mean key is taken off first: that is a correlation, and changes when all keys move together.":
                F.normalize(k - k.mean(1, keepdim=True), dim=-1) @ F.normalize(k - k.mean(1, keepdim=True), dim=-1).mT,
            "Each key's own mean is taken off first; a cosine does not do that.":
                F.normalize(k - k.mean(2, keepdim=True), dim=-1) @ F.normalize(k - k.mean(2, keepdim=True), dim=-1).mT,
            "Distances, not cosines: 1 is alike, -1 is opposite.": torch.cdist(unit, unit),
            "A softmax makes attention of it; cosines as they are.": (unit @ unit.mT).softmax(-1),
        }, want), otherwise="Every diagonal entry is 1, and scaling one key changes nothing.")


@exercise("17.turn", "Break it: other keys, the same structure", points=2, hints=(
    "The loss sees cosines between keys only. What may happen to all keys at once without changing one of them?",
    "A rotation, a mirror image: any orthogonal map.",
    "The simplest orthogonal map needs no matrix.",
))
def turn(keys):
    """keys: (B, N, D). Returns keys of the same shape whose self-similarity is exactly that of `keys`,
    though every single key is far from what it was: |new - old| at least as long as the old key."""
    ### BEGIN SOLUTION
    return -1.0 * keys         # any orthogonal map will do; this one moves a key by twice its length
    ### END SOLUTION


@checks(turn)
def _turn(fn: Callable) -> None:
    for case, shape in enumerate([(2, 5, 4), (3, 6, 3), (2, 4, 6)]):
        k = _noise(*shape, seed=30 * case)
        got = call(fn, k, shape=shape)
        if bool((got.norm(dim=-1) < 1e-6).any()):
            raise Mistake("A key of length 0 has no cosine with anything.")
        gap = (F.normalize(got, dim=-1) @ F.normalize(got, dim=-1).mT - F.normalize(k, dim=-1) @ F.normalize(k, dim=-1).mT).abs()
        if float(gap.max()) > 1e-5:
            raise Mistake(f"The self-similarity changes by up to {float(gap.max()):.2g}: the loss sees that.")
        far = (got - k).norm(dim=-1) / k.norm(dim=-1)
        if float(far.min()) < 1 - 1e-6:
            raise Mistake(f"The structure is kept, but one key moved by {float(far.min()):.2g} of its length only; each must "
                          "move by at least its own length.")


@exercise("17.contrast", "The contrastive term", points=3, hints=(
    "logits[i, j]: the cosine of the edit's key i and the source's key j, over the temperature.",
    "Row i is a classification among N places, and the right class is i: -log softmax at the diagonal.",
    "The source's keys are data: detach() them, or the source would be asked to move.",
))
def contrast(keys, source, temperature):
    """keys, source: (B, N, D), of the edit and of the source. Key i should find the source's key i among
    all N of them.

    Returns (B,): -log softmax of cosine / temperature at the own place, mean over places. No gradient
    reaches `source`.
    """
    ### BEGIN SOLUTION
    a = keys / keys.norm(dim=-1, keepdim=True)
    b = (source / source.norm(dim=-1, keepdim=True)).detach()
    logits = a @ b.mT / temperature
    right = logits.diagonal(dim1=1, dim2=2)
    return (torch.logsumexp(logits, -1) - right).mean(1)
    ### END SOLUTION


@checks(contrast)
def _contrast(fn: Callable) -> None:
    for case, (shape, temperature) in enumerate([((2, 5, 4), 0.07), ((3, 4, 6), 0.3), ((4, 6, 3), 0.5)]):
        a, b = (_noise(*shape, seed=50 * case + k) for k in range(2))
        logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT

        def value(logits: Tensor) -> Tensor:
            return -logits.log_softmax(-1).diagonal(dim1=1, dim2=2).mean(1)

        want = value(logits / temperature)
        expect(call(fn, a, b, temperature, shape=shape[:1]), want, wrong=fits({
            "The temperature is left out.": value(logits),
            "Multiply by 1 / temperature: a small temperature sharpens.": value(logits * temperature),
            "Keys are compared by their cosine; divide each by its length.": value(a @ b.mT / temperature),
            "Each source place looks for its key among the edit's: turn the matrix.": value(logits.mT / temperature),
            "The places are summed, not averaged.": want * shape[1],
            "The sign is turned: this would drive the places apart.": -want,
            "The right place is missing below the fraction: logsumexp runs over all N places.":
                (torch.logsumexp((logits / temperature).masked_fill(torch.eye(shape[1], dtype=torch.bool), -1e9), -1)
                 - (logits / temperature).diagonal(dim1=1, dim2=2)).mean(1),
            "That is the mean of the cosines at the own places, without the others.":
                -(logits / temperature).diagonal(dim1=1, dim2=2).mean(1),
            "The edit's keys are compared among themselves.":
                value(F.normalize(a, dim=-1) @ F.normalize(a, dim=-1).mT / temperature),
        }, want), otherwise="With one place the softmax is 1 and the loss 0.")
    leaf, data = _noise(2, 4, 3, seed=91).requires_grad_(), _noise(2, 4, 3, seed=92).requires_grad_()
    with torch.enable_grad():
        out = fn(leaf, data, 0.2)
        if not out.requires_grad:
            raise Mistake("No gradient reaches the edit's keys: nothing would ever move.")
        mine, other = torch.autograd.grad(out.sum(), (leaf, data), allow_unused=True)
    if mine is None:
        raise Mistake("No gradient reaches the edit's keys: nothing would ever move.")
    if other is not None and bool(other.abs().sum() > 0):
        raise Mistake("A gradient reaches the source's keys, which are data: detach() them.")


NAMES = ("structure", "contrast", "style", "divergence", "range")


@exercise("17.zero", "Which losses are 0 at the source itself?", points=1, hints=(
    "Put the source's own keys and pooled vector in for P_t's.",
    "Four of them are a distance. One is a classification: do two patches of plain sky know their places?",
))
def zero():
    """P_t is the source picture itself, at the first step; "style" compares with the source's own pooled
    vector. Which of "structure", "contrast", "style", "divergence", "range" are exactly 0? A set of names.
    """
    ### BEGIN SOLUTION
    return {"structure", "style", "divergence", "range"}
    ### END SOLUTION


@checks(zero)
def _zero(value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, (set, frozenset, list, tuple)):
        raise Mistake(f"The answer is a set of names, not {type(value).__name__}.")
    named = set(value)
    if named - set(NAMES):
        raise Mistake(f"{sorted(map(str, named - set(NAMES)))} is none of {', '.join(NAMES)}.")
    if "contrast" in named:
        raise Mistake("The contrastive term is a cross-entropy: as long as two places look alike, it is above 0.")
    if "divergence" not in named:
        raise Mistake("The first step's \"step before\" is the source itself, so the divergence is minus the square of nothing.")
    for name, why in (("range", "A picture lies in [-1, 1], and nothing is clipped off."),
                      ("structure", "Equal keys have equal cosines."), ("style", "It is a distance of a vector from itself.")):
        if name not in named:
            raise Mistake(f"\"{name}\" is missing. {why}")


# The push --------------------------------------------------------------------------------------------------------------------


@exercise("17.push", "Where P_t goes", points=3, hints=(
    "First the push on eps: as long as share times |eps|, along the gradient, row by row.",
    "P_t = (x - sqrt(1 - abar) eps) / sqrt(abar): put eps + push in for eps.",
))
def pushed(x, eps, gradient, abar, share):
    """x, eps: x_t and the predicted noise (B, C, h, w); gradient of the loss with respect to x, like them;
    abar: a number.

    A push along the gradient, as long as `share` times |eps| in every row, is added to eps. Returns the
    new P_t.
    """
    ### BEGIN SOLUTION
    factor = share * eps.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    moved = eps + factor[:, None, None, None] * gradient
    return (x - (1 - abar) ** 0.5 * moved) / abar ** 0.5
    ### END SOLUTION


@checks(pushed)
def _pushed(fn: Callable) -> None:
    cases = [((3, 2, 4, 5), 0.3, 0.15), ((2, 4, 3, 3), 0.81, 0.4), ((4, 3, 2, 6), 0.05, 1.2)]
    for case, (shape, abar, share) in enumerate(cases):
        x, eps, g = (_noise(*shape, seed=100 * case + k) for k in range(3))
        g = 0.01 * g
        root = number(abar)

        def to_x0(e: Tensor, x: Tensor = x, a: Tensor = root) -> Tensor:
            return (x - (1 - a) ** 0.5 * e) / a**0.5

        long, want_long = g.flatten(1).norm(dim=1), share * eps.flatten(1).norm(dim=1)

        def along(factor: Tensor | float, g: Tensor = g) -> Tensor:
            return factor.view(-1, 1, 1, 1) * g if isinstance(factor, Tensor) and factor.ndim else factor * g

        push = along(want_long / long)
        want = to_x0(eps + push)
        expect(call(fn, x, eps, g, abar, share, shape=shape), want, wrong=fits({
            "The push is taken off eps: P_t walks up the loss.": to_x0(eps - push),
            "The push is share times the gradient: its length then depends on the loss.": to_x0(eps + along(share)),
            "It is as long as share, whatever eps is.": to_x0(eps + along(share / long)),
            "Every row has its own length; you took that of the whole batch.":
                to_x0(eps + along(share * eps.norm() / g.norm())),
            "A share of |x| is taken, not of |eps|.": to_x0(eps + along(share * x.flatten(1).norm(dim=1) / long)),
            "That is the pushed eps; P_t is asked for.": eps + push,
            "The push is taken off P_t itself; it belongs to eps, and P_t follows.": to_x0(eps) - push,
            "The gradient is divided by the square of its length.": to_x0(eps + along(want_long / long**2)),
            "Divide by sqrt(abar).": x - (1 - root) ** 0.5 * (eps + push),
            "The roots are missing: sqrt(1 - abar) and sqrt(abar).": (x - (1 - root) * (eps + push)) / root,
            "P_t has not moved at all.": to_x0(eps),
        }, want), otherwise="With share 0 it is the usual P_t; the difference from it is along -gradient.")


@exercise("17.mean_push", "What the published form does with the same push", points=2, hints=(
    "A DDPM step's mean is (x - (1 - alpha) / sqrt(1 - abar) eps) / sqrt(alpha). How far does a push p on eps move it?",
    "Published: the mean moves by -sigma^2 g, where g = p / sqrt(1 - abar) and sigma^2 = (1 - alpha)(1 - abar_prev)/(1 - abar).",
    "Divide the second by the first; 1 - alpha, sqrt(1 - abar) and p cancel.",
))
def mean_push(abar, abar_prev):
    """abar, abar_prev: at a step and after it (abar < abar_prev); alpha = abar / abar_prev.

    Returns how far the published push moves the mean of the step, as a share of what the same push on eps
    moves it.
    """
    ### BEGIN SOLUTION
    alpha = abar / abar_prev
    return alpha ** 0.5 * (1 - abar_prev) / (1 - abar)
    ### END SOLUTION


@checks(mean_push)
def _mean_push(fn: Callable) -> None:
    for a, b in ((0.2, 0.35), (0.01, 0.04), (0.7, 0.9), (0.5, 0.52)):
        alpha = a / b
        sigma2 = (1 - alpha) * (1 - b) / (1 - a)
        want = number(alpha**0.5 * (1 - b) / (1 - a))
        expect(call(fn, number(a), number(b), shape=()), want, tol=1e-6, wrong=fits({k: number(v) for k, v in {
            "The factor 1 / sqrt(alpha) of the mean is left out.": (1 - b) / (1 - a),
            "The ratio is turned: published over ours.": (1 - a) / ((1 - b) * alpha**0.5),
            "sqrt(alpha) stands above the fraction: the mean with eps is divided by it.": (1 - b) / (1 - a) / alpha**0.5,
            "That is sigma^2 alone.": sigma2,
            "alpha = abar / abar_prev, and its root.": alpha * (1 - b) / (1 - a),
            "sigma in place of sigma^2.": sigma2**0.5 / (1 - a) ** 0.5 / ((1 - alpha) / (1 - a) ** 0.5 / alpha**0.5),
        }.items()}, want), otherwise="Where the step is tiny, abar_prev near abar, the two forms agree: the ratio is 1.")


# The published loop ----------------------------------------------------------------------------------------------------------


@exercise("17.restart", "Debug: a restart without an end", points=3, hints=(
    "How often may draw be called at most? The first time, and `most` restarts.",
    "Keep the best picture so far and its loss; stop as soon as one is good enough.",
    "draw(0), draw(1), ... : another number is another noise.",
))
def restart(draw, loss, limit, most):
    """draw(k): the picture of try k = 0, 1, ...; loss(picture): how far it leaves the range, a number. The
    published code draws again `while True` until the loss is at most `limit`, and hangs where it never is.

    Draws try 0, and again while the loss is above `limit`, at most `most` times more. Returns (picture,
    tries): the picture with the smallest loss among those drawn, and how many were drawn.
    """
    ### BEGIN SOLUTION
    best, tries = draw(0), 1
    while tries <= most and loss(best) > limit:
        picture = draw(tries)
        tries += 1
        if loss(picture) < loss(best):
            best = picture
    return best, tries
    ### END SOLUTION


@checks(restart)
def _restart(fn: Callable) -> None:
    cases = (([0.5, 0.3, 0.4, 0.2], 0.05, 3, 3, 4), ([0.5, 0.01, 0.0, 0.0], 0.05, 3, 1, 2), ([0.02, 0.9, 0.9], 0.05, 2, 0, 1),
             ([0.5, 0.7, 0.6], 0.05, 2, 0, 3), ([0.4, 0.1, 0.3], 0.02, 0, 0, 1), ([0.05, 0.01], 0.05, 1, 0, 1),
             ([0.5, 0.5, 0.3, 0.3], 0.2, 3, 2, 4))
    for losses, limit, most, best, tries in cases:
        drawn: list[int] = []

        def draw(k: int, losses: list[float] = losses, drawn: list[int] = drawn) -> Tensor:
            if not 0 <= int(k) < len(losses) or len(drawn) > len(losses):
                raise Mistake(f"draw({k}) was called after {len(drawn)} tries; there may be {len(losses)} at most.")
            drawn.append(int(k))
            return torch.tensor([float(k), losses[int(k)]], dtype=torch.float64)

        found = fn(draw, lambda picture: float(picture[1]), limit, most)
        if not isinstance(found, tuple) or len(found) != 2:
            raise Mistake("It returns the picture and the number of tries, a pair.")
        if drawn != list(range(len(drawn))):
            raise Mistake(f"The tries were {drawn}: each number once, from 0 on; the same number is the same noise.")
        if len(drawn) < tries:
            raise Mistake(f"Losses {losses}, limit {limit}, at most {most} more: it stopped after {len(drawn)} of {tries} tries.")
        if len(drawn) > tries:
            raise Mistake(f"Losses {losses}, limit {limit}, at most {most} more: {len(drawn)} tries, {tries} are right. "
                          "A loss equal to the limit is good enough.")
        if found[1] != tries:
            raise Mistake(f"It drew {tries} times and says {found[1]}.")
        if not isinstance(found[0], Tensor) or int(found[0][0]) != best:
            raise Mistake(f"Losses {losses[:tries]}: the picture of try {best} is the one with the smallest.")


# The measure -----------------------------------------------------------------------------------------------------------------


@exercise("17.best_start", "Measure: the best start for an edit", points=2, hints=(
    "Which starts flip often enough at all?",
    "Among them the one whose IoU is largest; of two equal ones the one with less noise.",
    "If none flips often enough, the one that flips most.",
))
def best_start(starts, flips, ious, level):
    """starts: shares of the steps; flips, ious: what each of them gave; level: how often an edit must
    succeed.

    Returns the start of the largest IoU among those that flip at least as often as `level`; if two have
    the same IoU, the smaller start. If none flips often enough: the one that flips most (all flips are
    different then).
    """
    ### BEGIN SOLUTION
    good = [(-iou, start) for start, flip, iou in zip(starts, flips, ious) if flip >= level]
    if good:
        return min(good)[1]
    return max(zip(flips, starts))[1]
    ### END SOLUTION


@checks(best_start)
def _best_start(fn: Callable) -> None:
    cases = (([0.5, 0.7, 0.9, 0.95], [0.3, 0.8, 0.9, 1.0], [0.9, 0.7, 0.6, 0.4], 0.75, 0.7),
             ([1.0, 0.6, 0.8], [0.95, 0.5, 0.75], [0.3, 0.8, 0.5], 0.75, 0.8),
             ([0.4, 0.6, 1.0], [0.2, 0.3, 0.6], [0.9, 0.8, 0.5], 0.75, 1.0),
             ([0.9, 0.7, 0.8], [0.8, 0.75, 0.9], [0.6, 0.6, 0.2], 0.5, 0.7),
             ([0.3, 0.5, 0.9], [0.9, 0.8, 1.0], [0.2, 0.5, 0.4], 0.75, 0.5),
             ([0.8, 0.6, 0.4], [0.3, 0.6, 0.1], [0.5, 0.4, 0.9], 0.75, 0.6),
             ([0.8, 0.6, 0.4], [0.9, 0.85, 0.1], [0.5, 0.88, 0.3], 0.75, 0.6))
    for starts, flips, ious, level, best in cases:
        table = list(zip(starts, flips, ious, strict=True))
        ready = [row for row in table if row[1] >= level]
        wrong = {
            "A start that flips exactly as often as `level` counts.":
                -max(((r[2], -r[0]) for r in table if r[1] > level), default=(0, 0))[1],
            "Of two with the same IoU take the smaller start.": max(((r[2], r[0]) for r in ready), default=(0, 0))[1],
            "That is its place in the list, not the start.": starts.index(best),
            "That is the largest IoU of all: it does not flip often enough.": max(table, key=lambda r: r[2])[0],
            "That flips most; among those that flip often enough the IoU decides.": max(table, key=lambda r: r[1])[0],
            "That is the smallest start that flips often enough; its IoU need not be the largest.":
                min((r[0] for r in ready), default=None),
        }
        expect(call(fn, list(starts), list(flips), list(ious), level, shape=()), number(best), tol=1e-6, wrong=fits(
            {k: number(v) for k, v in wrong.items() if v is not None}, number(best)),
            otherwise="First cross out what does not flip often enough, then compare the IoUs of the rest.")
