"""Exercises of lesson 16: the causal share, the asymmetric step and its strength, means that vanish, hooks, cosines, sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minidiff.course.answers import Mistake, call, expect, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, "lesson 16", seed, dtype=torch.float64)


# Where an edit passes --------------------------------------------------------------------------------------------------------


@exercise("16.share", "How far did it go?", points=2, hints=(
    "The way from `here` to `there` is a vector for each picture: flatten(1).",
    "The part of (put - here) along that way, as a share of the way: a dot product over a squared length.",
))
def share(here, there, put):
    """here, there, put (B, C, h, w): the predicted picture of the source, of its right answer, and of the
    source with the right answer's bottleneck put into its pass.

    Returns (B,): how far `put` has gone along the way from `here` to `there`; 0 not at all, 1 all of it.
    What it moved at right angles to the way does not count.
    """
    ### BEGIN SOLUTION
    way = (there - here).flatten(1)
    return ((put - here).flatten(1) * way).sum(1) / way.square().sum(1)
    ### END SOLUTION


@checks(share)
def _share(fn: Callable) -> None:
    for case, shape in enumerate([(3, 2, 4, 5), (4, 3, 2, 6), (2, 5, 3, 3)]):
        here, there, put = (_noise(*shape, seed=10 * case + k) for k in range(3))
        way, gone = (there - here).flatten(1), (put - here).flatten(1)
        dot, long = (gone * way).sum(1), way.square().sum(1)
        want = dot / long
        expect(call(fn, here, there, put, shape=shape[:1]), want, wrong=fits({
            "That is how far is still to go: measure from `here`.": 1 - want,
            "Divide by the squared length of the way: the dot product holds one length more.": dot / long.sqrt(),
            "That is the cosine: the right direction counts as arrived, however short the way.":
                dot / (long.sqrt() * gone.norm(dim=1)),
            "Lengths alone count what went sideways, too.": gone.norm(dim=1) / long.sqrt(),
            "The sign is turned: from `here` to `there`.": -want,
            "One share for the whole batch; each picture has its own.": (dot.sum() / long.sum()).expand(shape[0]),
            "`put` itself is projected; take `here` off first.": (put.flatten(1) * way).sum(1) / long,
            "That divides by what was gone; the share is of the whole way.": dot / gone.square().sum(1),
        }, want), otherwise="With put = there the answer is 1, with put = here it is 0, and halfway between it is 0.5.")


# The step --------------------------------------------------------------------------------------------------------------------


@exercise("16.step", "The asymmetric step", points=3, hints=(
    "A DDIM step uses the predicted noise in two places. Which of them may see the shift?",
    "Write the plain step of notebook 03 with two names: one eps in the predicted picture, another in what is put back.",
    "The picture: (x - sqrt(1 - abar) * eps_shifted) / sqrt(abar). The noise that is put back: sqrt(1 - abar_prev) * eps.",
))
def step(x, eps, eps_shifted, abar, abar_prev):
    """x (B, C, h, w): the state at level abar; eps, eps_shifted: the network's noise without and with the
    shift of its bottleneck; abar, abar_prev: numbers, now and after the step.

    Returns the state after one DDIM step (eta = 0) whose predicted picture is the shifted pass's and whose
    noise is that of the pass without the shift.
    """
    ### BEGIN SOLUTION
    x0 = (x - (1 - abar) ** 0.5 * eps_shifted) / abar**0.5
    return abar_prev**0.5 * x0 + (1 - abar_prev) ** 0.5 * eps
    ### END SOLUTION


@checks(step)
def _step(fn: Callable) -> None:
    for case, (shape, a, b) in enumerate([((3, 2, 4, 5), 0.1, 0.3), ((2, 4, 3, 2), 0.55, 0.7), ((4, 3, 5, 6), 0.8, 0.97)]):
        x, e, s = (_noise(*shape, seed=30 * case + k) for k in range(3))

        def made(first: Tensor, second: Tensor, x: Tensor = x, a: float = a, b: float = b) -> Tensor:
            return b**0.5 * (x - (1 - a) ** 0.5 * first) / a**0.5 + (1 - b) ** 0.5 * second

        want = made(s, e)
        expect(call(fn, x, e, s, a, b, shape=shape), want, wrong=fits({
            "Both terms are shifted: that is the symmetric step, whose two changes nearly cancel.": made(s, s),
            "Only the direction to x_t is shifted; it is the predicted picture that should be.": made(e, s),
            "Nothing is shifted.": made(e, e),
            "The square roots of the noise levels are missing.": b**0.5 * (x - (1 - a) * s) / a**0.5 + (1 - b) * e,
            "abar and abar_prev are exchanged.": made(s, e, x, b, a),
            "That is the predicted picture; the noise must be put back.": (x - (1 - a) ** 0.5 * s) / a**0.5,
            "The predicted picture is not scaled by sqrt(abar_prev).":
                (x - (1 - a) ** 0.5 * s) / a**0.5 + (1 - b) ** 0.5 * e,
            "The noise belongs to abar_prev, the level after the step.":
                b**0.5 * (x - (1 - a) ** 0.5 * s) / a**0.5 + (1 - a) ** 0.5 * e,
        }, want), otherwise="With eps_shifted = eps it is the plain DDIM step.")


@exercise("16.same_push", "Predict: more steps, the same edit", points=2, hints=(
    "Divided by sqrt(abar'), each asymmetric push moves the state by sigma d. How many pushes are there?",
    "Between the same two ends the mean of sigma over the steps hardly knows how many they are; the number of pushes does.",
))
def same_push(c, steps, new_steps):
    """c: the strength of an asymmetric edit in `steps` steps. Returns the strength with which the same edit
    ends equally far away (to first order) if it is made in `new_steps` steps of the same schedule.
    """
    ### BEGIN SOLUTION
    return c * steps / new_steps
    ### END SOLUTION


@checks(same_push)
def _same_push(fn: Callable) -> None:
    for c, steps, new in ((0.2, 20, 50), (0.15, 50, 20), (0.6, 25, 100), (1.3, 40, 10)):
        want = number(c * steps / new)
        expect(call(fn, number(c), steps, new, shape=()), want, tol=1e-6, wrong=fits({k: number(v) for k, v in {
            "The same c: then twice as many steps push twice as often, each time as far.": c,
            "Upside down: more steps are more pushes, so each must be weaker.": c * new / steps,
            "That is the root of it: pushes in one direction add up, they do not average out like noise.":
                c * (steps / new) ** 0.5,
            "That is the strength of one step alone.": c / new,
            "That is what all pushes together amount to.": c * steps,
            "The square of it: each of the pushes is weaker, and there are more of them, but only one of the two is yours.":
                c * (steps / new) ** 2,
        }.items()}, want), otherwise="With as many steps as before it is c itself.")


@exercise("16.wrong_term", "Break it: the other term", points=2, hints=(
    "Write the step for a changed eps + d and take the plain step off it: only d is left.",
    "P_t loses sqrt(1 - abar) / sqrt(abar) d and is then scaled by sqrt(abar_prev); the noise gains d.",
))
def wrong_term(d, abar, abar_prev):
    """d: what the shift does to the predicted noise, any shape; abar, abar_prev: numbers.

    By how much does the state after the step change if the shift acts (first) on the predicted picture
    alone, (second) on the noise that is put back alone, (third) on both? Returns the three, stacked.
    """
    ### BEGIN SOLUTION
    through = -((abar_prev * (1 - abar) / abar) ** 0.5) * d
    back = (1 - abar_prev) ** 0.5 * d
    return torch.stack([through, back, through + back])
    ### END SOLUTION


@checks(wrong_term)
def _wrong_term(fn: Callable) -> None:
    for case, (shape, a, b) in enumerate([((3, 4), 0.1, 0.3), ((2, 3, 5), 0.55, 0.7), ((4, 2, 3), 0.8, 0.97)]):
        d = _noise(*shape, seed=50 * case)
        p, q = -((b * (1 - a) / a) ** 0.5) * d, (1 - b) ** 0.5 * d
        want = torch.stack([p, q, p + q])
        expect(call(fn, d, a, b, shape=(3, *shape)), want, wrong=fits({
            "More noise predicted is less picture: the first change has a minus.": torch.stack([-p, q, q - p]),
            "The predicted picture is scaled by sqrt(abar_prev) in the step.":
                torch.stack([p / b**0.5, q, p / b**0.5 + q]),
            "The first two are exchanged.": torch.stack([q, p, p + q]),
            "Both at once is the sum of the two; their signs differ.": torch.stack([p, q, p - q]),
            "The square roots are missing.": torch.stack([-b * (1 - a) / a * d, (1 - b) * d, -b * (1 - a) / a * d + (1 - b) * d]),
            "The noise that is put back has the level after the step, abar_prev.":
                torch.stack([p, (1 - a) ** 0.5 * d, p + (1 - a) ** 0.5 * d]),
        }, want), otherwise="At abar_prev = 1 no noise is put back: the second change is 0 and the third equals the first.")


# Directions ------------------------------------------------------------------------------------------------------------------


@exercise("16.vanishes", "Break it: a mean that vanishes", points=2, hints=(
    "A change that lies at the thing lies at another cell in every picture.",
    "Four rows with one 1 each, no two of them in the same column: what is the mean, and how long?",
))
def vanishes():
    """A mean direction is the average of h(after) - h(before) over pairs. Give the differences of four
    pairs as a 4 x 6 table (a list of lists): every row has length 1, no number is negative (so nothing
    cancels), and still the mean of the four rows is no longer than 0.51.
    """
    ### BEGIN SOLUTION
    return [[1.0 if j == i else 0.0 for j in range(6)] for i in range(4)]
    ### END SOLUTION


@checks(vanishes)
def _vanishes(value: Any) -> None:
    try:
        x = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(f"The answer is a table of numbers, a list of lists, not {type(value).__name__}.") from None
    if tuple(x.shape) != (4, 6):
        raise Mistake(f"The table has shape {tuple(x.shape)}; 4 x 6 is asked for.")
    if not bool(torch.isfinite(x).all()):
        raise Mistake("The table has values that are NaN or infinite.")
    if bool((x < 0).any()):
        raise Mistake("A number is negative: then rows can cancel, which would be too easy.")
    if float((x.norm(dim=1) - 1).abs().max()) > 1e-4:
        raise Mistake(f"The rows have lengths {[round(v, 3) for v in x.norm(dim=1).tolist()]}; each should be 1.")
    mean = float(x.mean(0).norm())
    if mean > 0.51:
        raise Mistake(f"The mean is {mean:.2f} long: the rows still share a direction. Let each change other cells.")


@exercise("16.cosine", "Measure: one direction for all pictures?", points=2, hints=(
    "The sum of all minus the own one is the sum of the others; a sum and a mean have the same cosine.",
    "torch.nn.functional.cosine_similarity of flattened vectors, dim=1.",
))
def cosine(d):
    """d (B, C, h, w): the change that f_t makes of the bottleneck of each of B pictures.

    Returns (B,): the cosine of each picture's change with the mean of the *other* pictures' changes.
    """
    ### BEGIN SOLUTION
    flat = d.flatten(1)
    others = flat.sum(0) - flat              # their sum: a cosine does not know lengths
    return torch.nn.functional.cosine_similarity(flat, others, dim=1)
    ### END SOLUTION


@checks(cosine)
def _cosine(fn: Callable) -> None:
    cos = torch.nn.functional.cosine_similarity
    for case, shape in enumerate([(3, 2, 4, 5), (5, 3, 2, 3), (4, 6, 3, 2)]):
        d = _noise(*shape, seed=70 * case) * (1 + torch.arange(shape[0], dtype=torch.float64)).view(-1, 1, 1, 1)
        d = d + 0.8 * _noise(1, *shape[1:], seed=70 * case + 1)
        flat, n = d.flatten(1), shape[0]
        others, unit = (flat.sum(0) - flat) / (n - 1), flat / flat.norm(dim=1, keepdim=True)
        want = cos(flat, others, dim=1)
        pairs = unit @ unit.T
        expect(call(fn, d, shape=shape[:1]), want, wrong=fits({
            "The picture itself is in the mean: with few pictures that alone makes the cosine large.":
                cos(flat, flat.mean(0, keepdim=True), dim=1),
            "That is the dot product; divide by both lengths.": (flat * others).sum(1),
            "Mean of the cosines with each other picture; the cosine with their mean is asked for.":
                (pairs.sum(1) - 1) / (n - 1),
            "The changes are made unit vectors first: the mean is of the changes as they are.":
                cos(flat, unit.sum(0) - unit, dim=1),
            "One number is repeated: each picture has its own.": want.mean().expand(n),
            "Averaged over places first: the vector is all of C x h x w.":
                cos(d.mean((2, 3)), (d.sum(0) - d).mean((2, 3)), dim=1),
            "The sign is turned: others = sum - own.": -want,
        }, want), otherwise="Equal changes give 1; with two pictures both answers are the same number.")


@exercise("16.compose", "Two directions at once", points=3, hints=(
    "Add the changes. How long is the sum, picture by picture? flatten(1).norm(dim=1).",
    "It should be as long as one of them: the root of the mean of their squared lengths. Scale by the one over the other.",
))
def compose(deltas):
    """deltas: a list of k changes of h, each (B, C, h, w), which need not be at right angles.

    Returns their sum (B, C, h, w), scaled in each picture so that it is as long as one of them: its length
    is the root of the mean of the k squared lengths.
    """
    ### BEGIN SOLUTION
    total = sum(deltas)
    want = sum(d.flatten(1).square().sum(1) for d in deltas) / len(deltas)
    factor = (want / total.flatten(1).square().sum(1)).sqrt()
    return factor[:, None, None, None] * total
    ### END SOLUTION


@checks(compose)
def _compose(fn: Callable) -> None:
    for case, (k, shape) in enumerate([(2, (3, 2, 4, 5)), (3, (2, 4, 3, 2)), (5, (4, 3, 2, 6))]):
        common = _noise(*shape, seed=90 * case + 50)
        deltas = [(1 + j) * _noise(*shape, seed=90 * case + j) + common for j in range(k)]
        deltas = [d * (1 + torch.arange(shape[0], dtype=torch.float64)).view(-1, 1, 1, 1) for d in deltas]
        total = sum(deltas)
        sizes = torch.stack([d.flatten(1).norm(dim=1) for d in deltas])
        long, size = total.flatten(1).norm(dim=1), sizes.square().mean(0).sqrt()

        def by(factor: Any, total: Tensor = total) -> Tensor:
            return factor.view(-1, 1, 1, 1) * total if isinstance(factor, Tensor) else factor * total

        want = by(size / long)
        expect(call(fn, deltas, shape=shape), want, wrong=fits({
            "That is the sum as it is: several directions push harder than one.": total,
            "1 / sqrt(k) is right for directions at right angles; these are not. Measure how long the sum is.":
                total / math.sqrt(k),
            "Divided by k: that is the mean of the changes, which is shorter than they are.": total / k,
            "Every picture has its own length; you took that of the whole batch.":
                by(float(sizes.square().sum().div(k).sqrt() / total.norm())),
            "That is the mean of the lengths; the root of the mean of their squares is asked for.": by(sizes.mean(0) / long),
            "That is as long as the first change.": by(sizes[0] / long),
            "The sum is made a unit vector; it should be as long as the changes are.": by(1 / long),
            "A root is missing: that factor is the square of the right one.": by((size / long) ** 2),
            "The factor is upside down.": by(long / size),
            "All k together: the mean over the k squared lengths is missing.": by(sizes.square().sum(0).sqrt() / long),
        }, want), otherwise="One direction alone comes back as it was.")


# Hooks, and when -------------------------------------------------------------------------------------------------------------


class _Toy(nn.Module):
    """Three blocks: ``first`` runs once, ``twice`` two times, ``box`` never as a module (only what it holds)."""

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        self.first, self.twice, self.times = nn.Linear(3, 3), nn.Linear(3, 3), times
        self.box = nn.Module()
        self.box.change, self.box.spare = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.times):
            x = self.twice(x)
        return self.box.change(x)


@exercise("16.fires", "Debug: the hook that never fires", points=3, hints=(
    "net.get_submodule(path) finds a module by its path.",
    "handle = module.register_forward_hook(f), with f(module, args, output); a list that f appends to counts the calls.",
    "handle.remove() afterwards, also if the network raises: try ... finally.",
))
def fires(net, path, x):
    """net: a torch module; path: of a module inside, such as "box.change"; x: an input of net.

    Returns how many times the module at `path` runs in one call net(x). The network must be as it was
    afterwards: no hook may stay.
    """
    ### BEGIN SOLUTION
    seen = []
    handle = net.get_submodule(path).register_forward_hook(lambda module, args, out: seen.append(module))
    try:
        net(x)
    finally:
        handle.remove()
    return len(seen)
    ### END SOLUTION


@checks(fires)
def _fires(fn: Callable) -> None:
    for times in (2, 3):
        net, x = _Toy(times), torch.zeros(times + 1, 3)
        for path, want in {"first": 1, "twice": times, "box": 0, "box.change": 1, "box.spare": 0}.items():
            got = int(call(fn, net, path, x, shape=(), dtype=torch.int64))
            if any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()):
                raise Mistake("A hook is still there after your function: remove its handle.")
            if got != want and want > 1 and got == 1:
                raise Mistake("A module may run more than once in a call: count the runs.")
            if got != want and want == 0:
                raise Mistake(f"{path!r} has never run: its forward is not called, whatever it holds. That is the silent hook.")
            if got != want:
                raise Mistake(f"{path!r} ran {want} times, you counted {got}. Call the network once.")
    net = _Toy()
    try:
        fn(net, "first", torch.zeros(2, 4))                          # does not fit: the network raises
    except RuntimeError:
        pass
    if any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()):
        raise Mistake("When the network raises, your hook stays behind: remove it in a finally.")


@exercise("16.activated", "Debug: one SiLU too many", points=2, hints=(
    "Plot SiLU(x) = x / (1 + exp(-x)) for x from -6 to 6. Which numbers does it never give?",
    "Its least value is -0.2785, near x = -1.28. What does a smaller number in e tell you?",
))
def activated(e):
    """e: (B, E), the time embedding as a block gets it. Returns True if these may be numbers that come out of
    a SiLU, False if one of them shows that they are not.
    """
    ### BEGIN SOLUTION
    return bool((e > -0.2785).all())         # the least value of x * sigmoid(x) is -0.27846
    ### END SOLUTION


@checks(activated)
def _activated(fn: Callable) -> None:
    silu = torch.nn.functional.silu
    for case, shape in enumerate([(3, 40), (2, 64), (5, 50)]):
        e, small = _noise(*shape, seed=110 * case), 0.05 * _noise(*shape, seed=110 * case + 1)
        low, deep = small.clone(), small.clone()
        low[-1, 2], deep[-1, 2] = -0.2782, -0.2789
        told = (
            (silu(2 * e), True, "A SiLU gives negative numbers, too."), (e, False, "Numbers down to "
             f"{float(e.min()):.2f} were not seen: no SiLU gives them."), (small, True, "Small numbers, but none that a SiLU "
             "could not give: the answer is about what is possible."), (low, True, "-0.2782 is just possible for a SiLU."),
            (deep, False, "One number of -0.2789 is enough: it is below what a SiLU can give."),
            (e.abs() * 4, True, "Large numbers come out of a SiLU as they went in."))
        for given, want, why in told:
            got = fn(given.clone())
            if isinstance(got, Tensor) and got.numel() == 1:
                got = bool(got)
            if not isinstance(got, (bool, np.bool_)):
                raise Mistake(f"The answer is True or False, not {type(got).__name__}.")
            if bool(got) != want:
                raise Mistake(f"You say {bool(got)} where it is {want}. {why}")
