"""Exercises of lesson 17: keys and what they hold, the contrastive term, the push, one step back up, the published mean."""

from __future__ import annotations

import math
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


@exercise("17.push", "The whole push", points=4, hints=(
    "Make x a leaf (x.detach().requires_grad_()), predict eps, form P_t, take the loss, and ask torch.autograd.grad for g.",
    "The rows do not know of each other, so the gradient of loss.sum() has each row's own gradient in its row.",
    "Scale g row by row to share * |eps|, add it to eps, form P_t once more, and detach it.",
))
def pushed(x, predict, loss, abar, share):
    """x: x_t (B, C, h, w); predict(x): the predicted noise, like x; loss(x0): (B,), of predicted clean
    pictures; abar: a number.

    The gradient of each row's loss with respect to x_t, through the network as well, is made as long as
    `share` times |eps| of that row and added to eps. Returns the new P_t, without a graph.
    """
    ### BEGIN SOLUTION
    x = x.detach().requires_grad_()
    eps = predict(x)
    x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
    (g,) = torch.autograd.grad(loss(x0).sum(), x)
    factor = share * eps.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1)
    moved = eps + factor[:, None, None, None] * g
    return ((x - (1 - abar) ** 0.5 * moved) / abar**0.5).detach()
    ### END SOLUTION


@checks(pushed)
def _pushed(fn: Callable) -> None:
    cases = [((3, 2, 4, 5), 0.3, 0.15), ((2, 4, 3, 3), 0.81, 0.4), ((4, 3, 2, 6), 0.05, 1.2)]
    for case, (shape, abar, share) in enumerate(cases):
        x, goal = (_noise(*shape, seed=100 * case + k) for k in range(2))
        weight = (1 + torch.arange(shape[0], dtype=torch.float64)).view(-1, 1, 1, 1)

        def predict(x: Tensor) -> Tensor:
            return 0.4 * x + 0.7 * torch.tanh(2 * x.roll(1, 3)) + 0.3 * x.flip(2)

        def loss(x0: Tensor, goal: Tensor = goal, weight: Tensor = weight) -> Tensor:
            return (weight * (x0 - goal).square()).flatten(1).mean(1) + 0.1 * x0.flatten(1).pow(4).mean(1)

        root = number(abar)

        def to_x0(e: Tensor, x: Tensor = x, a: Tensor = root) -> Tensor:
            return (x - (1 - a) ** 0.5 * e) / a**0.5

        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            clean = to_x0(predict(leaf), leaf)
            at_x, at_x0 = torch.autograd.grad(loss(clean).sum(), (leaf, clean))
        eps = predict(x)

        def scaled(g: Tensor, length: Tensor | float | None = None, eps: Tensor = eps, share: float = share) -> Tensor:
            if length is None:
                length = share * eps.flatten(1).norm(dim=1)
            return (length / g.flatten(1).norm(dim=1)).view(-1, 1, 1, 1) * g

        push = scaled(at_x)
        want = to_x0(eps + push)

        def answer(*given: Any) -> Any:
            with torch.enable_grad():
                out = fn(*given)
            if isinstance(out, Tensor) and out.requires_grad:
                raise Mistake("The new P_t still carries its graph, and with it all of the step: detach() it.")
            return out

        wrong = {
            "The push is taken off eps: P_t walks up the loss.": to_x0(eps - push),
            "That is the gradient with respect to P_t; ask for that with respect to x_t.": to_x0(eps + scaled(at_x0)),
            "The push is share times the gradient: its length then depends on the loss.": to_x0(eps + share * at_x),
            "It is as long as share, whatever eps is.": to_x0(eps + scaled(at_x, torch.full((shape[0],), share).double())),
            "Every row has its own length; you took that of the whole batch.":
                to_x0(eps + share * eps.norm() / at_x.norm() * at_x),
            "A share of |x| is taken, not of |eps|.": to_x0(eps + scaled(at_x, share * x.flatten(1).norm(dim=1))),
            "That is the pushed eps; P_t is asked for.": eps + push,
            "The push is taken off P_t itself; it belongs to eps, and P_t follows.": to_x0(eps) - push,
            "The gradient is divided by the square of its length.":
                to_x0(eps + scaled(at_x) / at_x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)),
            "Divide by sqrt(abar).": x - (1 - root) ** 0.5 * (eps + push),
            "P_t has not moved at all.": to_x0(eps),
        }
        expect(call(answer, x.clone(), predict, loss, abar, share, shape=shape), want, wrong=fits(wrong, want),
               otherwise="With share 0 it is the usual P_t; its loss falls where share is small.")


@exercise("17.renoise", "Derive: one step back up", points=3, hints=(
    "Write x as sqrt(abar_prev) x0 + sqrt(1 - abar_prev) n and look for u x + v noise.",
    "Two conditions: what stands before x0 must become sqrt(abar), and the variances of n and noise must add up to 1 - abar.",
))
def renoise(x, noise, abar, abar_prev):
    """x: a state at the level abar_prev, that is sqrt(abar_prev) x0 + sqrt(1 - abar_prev) times a unit noise;
    noise: fresh unit noise, like x; abar: a noisier level (abar < abar_prev).

    Returns a state of the same x0 at the level abar, with `noise` in it: what forward noising would make
    of x.
    """
    ### BEGIN SOLUTION
    left = abar / abar_prev
    return left**0.5 * x + (1 - left) ** 0.5 * noise
    ### END SOLUTION


@checks(renoise)
def _renoise(fn: Callable) -> None:
    for case, (shape, a, b) in enumerate([((3, 2, 4, 5), 0.1, 0.3), ((2, 4, 3, 2), 0.5, 0.9), ((4, 3, 5, 6), 0.02, 0.05)]):
        x, n = (_noise(*shape, seed=400 * case + k) for k in range(2))
        left = a / b
        want = left**0.5 * x + (1 - left) ** 0.5 * n
        expect(call(fn, x, n, number(a), number(b), shape=shape), want, wrong=fits({
            "That noises x as if it were clean: it has noise in it already, and would get too much.":
                a**0.5 * x + (1 - a) ** 0.5 * n,
            "The variance is right only if x is not scaled: its own noise shrinks with it.": left**0.5 * x + (b - a) ** 0.5 * n,
            "What stands before x0 is still sqrt(abar_prev): x must be scaled down, too.": x + (b - a) ** 0.5 * n,
            "The square roots are missing.": left * x + (1 - left) * n,
            "The fresh noise replaces the old one; the old one stays in x.": left**0.5 * x + (1 - a) ** 0.5 * n,
            "x and the noise have exchanged their factors.": (1 - left) ** 0.5 * x + left**0.5 * n,
            "That is abar_prev's own noising.": b**0.5 * x + (1 - b) ** 0.5 * n,
            "abar and abar_prev are exchanged.": (b / a) ** 0.5 * x + abs(1 - b / a) ** 0.5 * n,
            "No noise is added.": left**0.5 * x,
        }, want), otherwise="With abar = abar_prev it gives x back, and two steps up are one longer step.")


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


# A loss without a gradient ---------------------------------------------------------------------------------------------------


@exercise("17.silent", "Debug: a loss that pushes nothing", points=3, hints=(
    "Under torch.no_grad a number has no history: no gradient can come back through it. Where does that belong, and where not?",
    "A push needs one number a row; the mean over the batch makes the push of one picture depend on the others.",
    "The target is data. If it is computed with a history, the loss would rather move the target.",
))
def alike(tower, images, target):
    """tower(pictures): (B, E), a network; images, target: (B, C, H, W). The version above has faults.

    Returns (B,): the mean squared difference of each picture's vector from its target's, with a gradient that
    reaches `images`, and does not reach `target`.
    """
    ### BEGIN SOLUTION
    with torch.no_grad():
        want = tower(target)
    return (tower(images) - want).square().mean(1)
    ### END SOLUTION


@checks(alike)
def _alike(fn: Callable) -> None:
    for case, (shape, width) in enumerate([((3, 2, 4, 5), 6), ((2, 3, 5, 3), 4), ((4, 1, 3, 6), 5)]):
        n, weight = shape[0], _noise(math.prod(shape[1:]), width, seed=500 * case)

        def tower(x: Tensor, weight: Tensor = weight) -> Tensor:
            return torch.tanh(x.flatten(1) @ weight)

        x, y = (0.3 * _noise(*shape, seed=500 * case + k) for k in (1, 2))
        gap = (tower(x) - tower(y)).square()
        leaf, data = x.clone().requires_grad_(), y.clone().requires_grad_()
        with torch.enable_grad():
            out = fn(tower, leaf, data)
        if isinstance(out, Tensor) and out.ndim == 0:
            raise Mistake("One number for the whole batch: then the push of a picture depends on who is beside it. One a row.")
        expect(call(lambda *given, out=out: out.detach() if isinstance(out, Tensor) else out, tower, x, y, shape=(n,)),
               gap.mean(1), wrong=fits({
                   "The sum over the vector; the mean is asked for.": gap.sum(1),
                   "That is the root of it.": gap.mean(1).sqrt(),
                   "The sign is turned: the push would lead away from the target.": -gap.mean(1),
                   "Pictures are compared as they are; compare what the tower sees.": (x - y).square().flatten(1).mean(1),
               }, gap.mean(1)), otherwise="Equal pictures give 0.")
        if not out.requires_grad:
            raise Mistake("No gradient reaches the pictures: the loss is a constant, and its push is nothing.")
        mine, other = torch.autograd.grad(out.sum(), (leaf, data), allow_unused=True)
        if mine is None or not bool(mine.abs().sum() > 0):
            raise Mistake("No gradient reaches the pictures: the loss is a constant, and its push is nothing.")
        if other is not None and bool(other.abs().sum() > 0):
            raise Mistake("A gradient reaches the target, which is data.")


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
