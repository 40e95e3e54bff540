"""Exercises of lesson 11: exact codes, their statistics, fixed points, guidance on the way back, and three exact inversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__ = ["step_slope"]

# abar_prev, abar of a step towards the noise
LEVELS = [(0.99, 0.9), (0.8, 0.35), (1.0, 0.6), (0.3, 0.02)]


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, "lesson 11", seed, dtype=torch.float64)


# Where the answer is exact ---------------------------------------------------------------------------------------------------


@exercise("11.grey_code", "The code of a grey picture", hints=(
    "What does a perfect network of this world predict for the clean picture, whatever it is shown?",
    "One input, one deterministic way up: how many codes are there?",
))
def grey_code():
    """A world with a single picture: grey, all values 0. Its perfect network is known: eps(x, t) = x /
    sqrt(1 - abar_t). The picture is inverted in 50 steps of DDIM. What is the standard deviation of the
    numbers in its code, which should be noise with 1?
    """
    ### BEGIN SOLUTION
    return 0.0          # eps(0, t) = 0 at every step, so a picture of zeros stays one of zeros
    ### END SOLUTION


@checks(grey_code)
def _grey_code(value: Any) -> None:
    expect_number(value, 0.0, tol=1e-6, wrong={
        "That is what it should be. Follow one step: what is eps at x = 0?": 1.0,
        "Nothing is averaged over steps: each of them maps 0 to the same number.": 1 / 50**0.5,
        "Each step maps the picture by a factor; what is any factor times 0?": 1 / 50,
        "The steps do not add up: each one begins with what the step before gave.": 50.0,
        "No noise is added anywhere: DDIM's way up is deterministic.": 50**0.5,
    }, otherwise="Put x = 0 into eps(x, t), then into the step.")


@exercise("11.code_gain", "What one step does to Gaussian data", points=2, hints=(
    "At level abar the perfect prediction is eps(x) = sqrt(1 - abar) x / (abar s^2 + 1 - abar).",
    "Everything is proportional to x, so take x = 1: first eps, then x0, then the new x.",
    "x0 = (1 - sqrt(1 - abar_prev) eps) / sqrt(abar_prev), and back to level abar: sqrt(abar) x0 + sqrt(1 - abar) eps.",
))
def code_gain(s, abar_prev, abar):
    """The data is Gaussian with mean 0 and standard deviation s, the network perfect. One step of DDIM
    inversion, from level abar_prev to the noisier abar, with the prediction made at the new level for
    the old x, multiplies x by a number. Returns that number.
    """
    ### BEGIN SOLUTION
    eps = (1 - abar) ** 0.5 / (abar * s**2 + 1 - abar)
    x0 = (1 - (1 - abar_prev) ** 0.5 * eps) / abar_prev**0.5
    return abar**0.5 * x0 + (1 - abar) ** 0.5 * eps
    ### END SOLUTION


@checks(code_gain)
def _code_gain(fn: Callable) -> None:
    for s, p, a in ((0.5, 0.99, 0.9), (0.03, 1.0, 0.6), (1.7, 0.8, 0.35), (0.2, 0.5, 0.1), (3.0, 0.3, 0.02)):
        def gain(at: float = a, noisy: float = a, clean: float = p, s: float = s) -> Tensor:
            """The step with eps of level ``at``, from ``clean`` to ``noisy``."""
            eps = (1 - at) ** 0.5 / (at * s**2 + 1 - at)
            x0 = (1 - (1 - clean) ** 0.5 * eps) / clean**0.5
            return torch.tensor(noisy**0.5 * x0 + (1 - noisy) ** 0.5 * eps, dtype=torch.float64)

        got = call(fn, s, p, a, shape=())
        ode = torch.tensor(((a * s**2 + 1 - a) / (p * s**2 + 1 - p)) ** 0.5, dtype=torch.float64)
        expect(got, gain(), tol=1e-6, wrong=fits({
            "That is the exact way of the ODE. The step is only near it: its prediction is made for the old x.": ode,
            "The prediction is made at the new level abar, not at abar_prev.": gain(p),
            "That is the step of sampling, from noise to picture.": gain(a, p, a),
            "s is a standard deviation: the variance of x at level abar is abar s^2 + 1 - abar.": gain(s=s**0.5),
            "You use s = 1: there eps is sqrt(1 - abar) x.": gain(s=1.0),
            "The noise is missing: x = sqrt(abar) x0 + sqrt(1 - abar) eps.":
                torch.tensor(a**0.5 * (1 - (1 - p) ** 0.5 * (1 - a) ** 0.5 / (a * s**2 + 1 - a)) / p**0.5, dtype=torch.float64),
        }, gain()), otherwise="Check s = 1 with abar_prev = 1: eps is sqrt(1 - abar) x, and the factor sqrt(abar) + 1 - abar.")


@exercise("11.whiteness", "Measure: is a code noise?", points=2, hints=(
    "Neighbours: code[..., :-1] and code[..., 1:], columns 0 to w - 2 and 1 to w - 1.",
    "A correlation is the mean product of the two, each with its own mean taken off and divided by its own standard deviation.",
    "torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]",
))
def whiteness(code):
    """code: latents (C, h, w) of one picture. Returns a tensor of two: the standard deviation of all its
    numbers, and the correlation between horizontal neighbours, over all pairs of all channels together.

    White noise has 1 and 0, up to chance.
    """
    ### BEGIN SOLUTION
    left, right = code[..., :-1].flatten(), code[..., 1:].flatten()
    return torch.stack([code.std(), torch.corrcoef(torch.stack([left, right]))[0, 1]])
    ### END SOLUTION


@checks(whiteness)
def _whiteness(fn: Callable) -> None:
    for case, (c, h, w) in enumerate([(4, 9, 7), (3, 8, 12), (5, 10, 10)]):
        code = _noise(c, h, w, seed=case) * (0.5 + case) + 2 * case + torch.linspace(0, 3, w, dtype=torch.float64)
        code = code + torch.linspace(0, 2, h, dtype=torch.float64)[:, None] ** 2

        def pair(x: Tensor, y: Tensor) -> Tensor:
            return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]

        left, right, std = code[..., :-1], code[..., 1:], code.std()
        want = torch.stack([std, pair(left, right)])
        down = pair(code[:, :-1], code[:, 1:])
        product = (left * right).mean()
        centred = ((left - code.mean()) * (right - code.mean())).mean() / code.var()
        got = call(fn, code, shape=(2,))
        expect(got, want, tol=2e-3, wrong=fits({
            "The two numbers are exchanged: the standard deviation first.": want.flip(0),
            "Those are vertical neighbours; take columns side by side.": torch.stack([std, down]),
            "That is the mean product: take the means off and divide by the standard deviations.": torch.stack([std, product]),
            "The first number is the variance, not its root.": torch.stack([code.var(), want[1]]),
            "Pairs in the same place are the same number. Shift one of them by a column.":
                torch.stack([std, torch.ones_like(std)]),
            "That is the covariance; divide by both standard deviations.":
                torch.stack([std, torch.cov(torch.stack([left.flatten(), right.flatten()]))[0, 1]]),
            "Each channel has its own mean; here all pairs are taken together.":
                torch.stack([std, torch.stack([pair(a, b) for a, b in zip(left, right, strict=True)]).mean()]),
        }, want) | ({} if torch.allclose(centred, want[1], atol=4e-3) else {
            "Each side has its own mean and standard deviation; the ends of a row are in one side only.":
                torch.stack([std, centred])}), otherwise="Check it on white noise of standard deviation 3: about 3 and 0.")


def step_slope(abar_prev: float, abar: float) -> float:
    """How strongly the next x of an inversion step depends on eps: d x_t / d eps."""
    return (1 - abar) ** 0.5 - (abar / abar_prev) ** 0.5 * (1 - abar_prev) ** 0.5


@exercise("11.break_fixed_point", "Break it: a network that repeats make worse", points=2, hints=(
    "Write the new x as A x_prev + C eps(x): what is C, from the two levels?",
    "With eps(x) = k x a repeat multiplies the error by C k. When does it grow?",
    "C = sqrt(1 - 0.5) - sqrt(0.5 / 0.9) sqrt(1 - 0.9), about 0.47.",
))
def break_fixed_point():
    """A fixed point repeats x = A x_prev + C eps(x), from abar_prev = 0.9 to abar = 0.5, each time with
    the newest x. Let eps(x) = k x. Give a k for which every repeat takes x further away from the
    solution, instead of nearer.
    """
    ### BEGIN SOLUTION
    return 3.0          # C = 0.471, so an error grows by 1.41 at each repeat; any |k| above 2.12 will do
    ### END SOLUTION


@checks(break_fixed_point)
def _break_fixed_point(value: Any) -> None:
    try:
        k = float(value)
    except (TypeError, ValueError):
        raise Mistake(f"The answer is one number k, not {type(value).__name__}.") from None
    c, a = step_slope(0.9, 0.5), (0.5 / 0.9) ** 0.5
    if not -1e3 < k < 1e3:
        raise Mistake("A slope of a network is no such number; keep it between -1000 and 1000.")
    if abs(1 - c * k) < 0.02:
        raise Mistake("There the equation has no solution at all: A x_prev = x - C k x = 0. Go a little further.")
    errors, x, solution = [], 1.0, a / (1 - c * k)
    for _ in range(4):
        x = a + c * k * x
        errors.append(abs(x - solution))
    if k == 0:
        raise Mistake("With k = 0 the first guess is the solution already.")
    if errors[-1] > errors[0] * 1.05:
        return
    if k < 0:
        raise Mistake(f"That one converges, from alternating sides: the error shrinks to {abs(c * k):.2f} of itself. "
                      "Larger slopes, of either sign.")
    raise Mistake(f"That one converges: each repeat leaves {abs(c * k):.2f} of the error. Make C k larger than 1.")


# Guidance on the way back -----------------------------------------------------------------------------------------------------


@exercise("11.npi_target", "The source prompt in place of the empty one", hints=(
    "Guidance is u + w (c - u). What stands for u in negative-prompt inversion, what for c?",
    "u = 1.0, c = 1.2, w = 7.5.",
))
def npi_target():
    """In some direction the network predicts 0 for the empty prompt, 1.0 for the source prompt "a red cat",
    1.2 for the target "a blue cat". Negative-prompt inversion puts the source prompt in the place of the
    empty one. What does the guided prediction of the *target* become at w = 7.5?
    """
    ### BEGIN SOLUTION
    return 1.0 + 7.5 * (1.2 - 1.0)          # 2.5, where ordinary guidance gives 9: "cat" is no longer pushed
    ### END SOLUTION


@checks(npi_target)
def _npi_target(value: Any) -> None:
    expect_number(value, 2.5, tol=1e-4, wrong={
        "That is ordinary guidance, from the empty prompt: 0 + 7.5 * 1.2.": 9.0,
        "That is the source's own prediction, at any w: 1 + 7.5 * (1 - 1).": 1.0,
        "That is the target without guidance.": 1.2,
        "That is only the push; it starts at the source's prediction.": 1.5,
        "Target and source are exchanged: 1.2 + 7.5 * (1.0 - 1.2).": -0.3,
        "That starts at the target: it is the weight of Ho and Salimans, one less.": 1.2 + 7.5 * 0.2,
    }, otherwise="u + w (c - u) with u = 1.0 and c = 1.2.")


@exercise("11.null_loss", "Null-text: how far a guided step misses", points=3, hints=(
    "Three lines: the guided eps, u + w (c - u); the clean z0 it means; the step down to abar_prev.",
    "z0 = (z - sqrt(1 - abar) eps) / sqrt(abar), and the step sqrt(abar_prev) z0 + sqrt(1 - abar_prev) eps.",
    "One number a picture: the mean over channels and places, not over the batch.",
))
def null_loss(eps_empty, eps_prompt, z, goal, abar, abar_prev, w):
    """eps_empty, eps_prompt: predictions at z; z: latents at level abar; goal: where the step should end,
    at abar_prev. All (B, C, h, w).

    Returns the mean squared distance (B,) between the DDIM step with guidance w and the goal.
    """
    ### BEGIN SOLUTION
    eps = eps_empty + w * (eps_prompt - eps_empty)
    z0 = (z - (1 - abar) ** 0.5 * eps) / abar**0.5
    step = abar_prev**0.5 * z0 + (1 - abar_prev) ** 0.5 * eps
    return (step - goal).square().mean((1, 2, 3))
    ### END SOLUTION


@checks(null_loss)
def _null_loss(fn: Callable) -> None:
    for case, ((p, a), shape, w) in enumerate(zip(LEVELS, [(3, 4, 5, 6), (2, 3, 7, 4), (4, 2, 3, 5), (5, 4, 6, 3)],
                                                  [7.5, 2.0, -1.0, 4.0], strict=True)):
        u, c, z, goal = (_noise(*shape, seed=10 * case + k) for k in range(4))
        got = call(fn, u, c, z, goal, a, p, w, shape=(shape[0],))

        def miss(u: Tensor = u, c: Tensor = c, a: float = a, p: float = p, w: float = w, z: Tensor = z, goal: Tensor = goal
                 ) -> Tensor:
            eps = u + w * (c - u)
            return p**0.5 * (z - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - p) ** 0.5 * eps - goal

        def mean(gap: Tensor) -> Tensor:
            return gap.square().mean((1, 2, 3))

        want = mean(miss())
        expect(got, want, wrong=fits({
            "Empty and prompt are exchanged in the guidance.": mean(miss(c, u)),
            "The levels are exchanged: the step goes from abar down to abar_prev.": mean(miss(a=p, p=a)),
            "There is no guidance: that is the prompt's prediction alone.": mean(miss(w=1.0)),
            "That is Ho and Salimans' weight, (1 + w) c - w u; here w = 1 means no guidance.": mean(miss(w=1 + w)),
            "Sums grow with the size of the picture: take the mean.": miss().square().sum((1, 2, 3)),
            "That is the mean distance, not its square.": miss().abs().mean((1, 2, 3)),
            "You compare with z, where the step begins, not with the goal.": mean(miss(goal=z)),
        }, want), otherwise="Check w = 1: the empty prompt must have no say at all.")


@exercise("11.hold", "Direct inversion", points=2, hints=(
    "What must the source branch be after this step? It is in `pivot`.",
    "A new table with the same branches: {**z, \"source\": ...} leaves the other branches as they are.",
))
def hold(z, pivot, index):
    """z: {branch: latents} after step `index` of a run, with a branch "source" and others; pivot: the
    latents of the inversion (S + 1, ...), pivot[0] the noise, pivot[S] the picture; step `index` (0 to
    S - 1) leads from pivot[index] to the one after it.

    Returns the same branches, with the source put back on its way and the others left alone.
    """
    ### BEGIN SOLUTION
    return {**z, "source": pivot[index + 1]}
    ### END SOLUTION


@checks(hold)
def _hold(fn: Callable) -> None:
    for case, (steps, shape, index, others) in enumerate([(5, (2, 3, 4, 5), 1, ("edit",)), (3, (1, 4, 6, 3), 0, ("a", "b")),
                                                          (4, (3, 2, 3, 6), 3, ())]):
        pivot = _noise(steps + 1, *shape, seed=20 * case)
        z = {name: _noise(*shape, seed=20 * case + 1 + k) for k, name in enumerate(["source", *others])}
        given = {name: x.clone() for name, x in z.items()}
        kept = pivot.clone()
        out = fn(given, kept, index)
        if out is None:
            raise Mistake("It returns nothing; is a return missing?")
        if not isinstance(out, dict) or set(out) != set(z):
            raise Mistake(f"It returns {type(out).__name__ if not isinstance(out, dict) else sorted(out)}, "
                          f"but a table with the branches {sorted(z)} is expected.")
        if not torch.equal(kept, pivot):
            raise Mistake("It changes the pivot; the next step needs it as it is.")
        if not all(isinstance(x, Tensor) and x.shape == shape for x in out.values()):
            raise Mistake(f"Every branch has latents of shape {shape}.")
        for name in others:
            if torch.allclose(out[name], pivot[index + 1]):
                raise Mistake("You put every branch on the source's way: then nothing is edited.")
            if torch.allclose(out[name], z[name] + pivot[index + 1] - z["source"]):
                raise Mistake("You add the source's error to the other branches, too; only the source is corrected.")
            if not torch.equal(out[name], z[name]):
                raise Mistake(f"The branch {name!r} is changed; it must be left alone.")
        got = out["source"]
        expect(got, pivot[index + 1], tol=1e-9, wrong=fits({
            "That is where this step began; the step has been taken, so it is the next one.": pivot[index],
            "The source is not put back: it drifts away as before.": z["source"],
            "The pivot runs from the noise to the picture, as the steps do.": pivot[steps - index - 1],
            "That is the finished picture, at the wrong noise level.": pivot[steps],
            "Half way back is still a drift: replace it.": (z["source"] + pivot[index + 1]) / 2,
        }, pivot[index + 1]), otherwise="After step 0 the source must be pivot[1], after the last one pivot[S].")


# Noises ----------------------------------------------------------------------------------------------------------------------


@exercise("11.noisy_path", "Debug: the path that loses the picture", points=2, hints=(
    "Compare x after two steps with q(x_t | x_0): what is the factor in front of the clean picture?",
    "Each level is noised from the clean picture, with a noise of its own; nothing is carried over.",
))
def noisy_path(clean, noises, abars):
    """clean: latents (B, C, h, w); noises (S, B, C, h, w), standard normal; abars: S noise levels, abar
    of each.

    Returns the picture noised to each level, (S, B, C, h, w): level i with noises[i] and no other, so
    that each has the marginal q(x_t | x_0) and the noises of any two are independent.
    """
    ### BEGIN SOLUTION
    return torch.stack([abar**0.5 * clean + (1 - abar) ** 0.5 * noise for abar, noise in zip(abars, noises)])
    ### END SOLUTION


@checks(noisy_path)
def _noisy_path(fn: Callable) -> None:
    for case, (steps, shape) in enumerate([(4, (2, 3, 4, 5)), (6, (3, 2, 5, 4)), (3, (4, 5, 3, 7))]):
        abars = torch.linspace(0.03 + 0.01 * case, 0.95, steps, dtype=torch.float64).tolist()
        clean, noises = 1.5 + _noise(*shape, seed=30 * case), _noise(steps, *shape, seed=30 * case + 1)
        got = call(fn, clean, noises, list(abars), shape=noises.shape)

        def path(noises: Tensor = noises, abars: list[float] = abars, clean: Tensor = clean) -> Tensor:
            return torch.stack([a**0.5 * clean + (1 - a) ** 0.5 * n for a, n in zip(abars, noises, strict=True)])

        chain, x = [], clean
        for a, n in zip(abars, noises, strict=True):
            x = a**0.5 * x + (1 - a) ** 0.5 * n
            chain.append(x)
        true, x, before = [], clean, 1.0
        for a, n in list(zip(abars, noises, strict=True))[::-1]:
            x, before = (a / before) ** 0.5 * x + (1 - a / before) ** 0.5 * n, a
            true.append(x)
        expect(got, path(), wrong=fits({
            "You noise what is noised already: begin with the clean picture at every level.": torch.stack(chain),
            "That is the chain of the forward process: right at every level, but the noises of neighbours are nearly the same.":
                torch.stack(true[::-1]),
            "All levels have the same noise; each has its own.": path(noises[:1].expand_as(noises)),
            "Signal and noise are exchanged.": path(abars=[1 - a for a in abars]),
            "The roots are missing: sqrt(abar) and sqrt(1 - abar).":
                torch.stack([a * clean + (1 - a) * n for a, n in zip(abars, noises, strict=True)]),
            "The clean picture is missing.": path(clean=torch.zeros_like(clean)),
        }, path()), otherwise="At level i: sqrt(abar_i) clean + sqrt(1 - abar_i) noises[i].")


@exercise("11.kept_noise", "What the step must add", points=2, hints=(
    "The mean of the step is sqrt(abar_prev) x0 + sqrt(1 - abar_prev - sigma^2) eps.",
    "What has to be added to the mean so that it becomes x_prev?",
))
def kept_noise(x0, eps, x_prev, abar_prev, sigma):
    """x0, eps: predictions of a step; x_prev: where the path goes next, at level abar_prev. All (B, C, h,
    w). sigma: standard deviation of the noise that DDPM adds at this step.

    Returns the z for which (mean of the step) + sigma z is x_prev.
    """
    ### BEGIN SOLUTION
    mean = abar_prev**0.5 * x0 + (1 - abar_prev - sigma**2) ** 0.5 * eps
    return (x_prev - mean) / sigma
    ### END SOLUTION


@checks(kept_noise)
def _kept_noise(fn: Callable) -> None:
    for case, (p, sigma, shape) in enumerate([(0.6, 0.3, (2, 3, 4, 5)), (0.5, 0.6, (3, 4, 6, 2)), (0.2, 0.8, (4, 2, 5, 6))]):
        x0, eps, after = (_noise(*shape, seed=40 * case + k) for k in range(3))
        got = call(fn, x0, eps, after, p, sigma, shape=shape)

        def mean(p: float = p, sigma: float = sigma, x0: Tensor = x0, eps: Tensor = eps) -> Tensor:
            return p**0.5 * x0 + (1 - p - sigma**2) ** 0.5 * eps

        want = (after - mean()) / sigma
        expect(got, want, wrong=fits({
            "That is what is added; divided by sigma it is the noise.": after - mean(),
            "The sign is turned: mean + sigma z = x_prev.": -want,
            "That is DDIM's mean: with noise to come, less of eps is left, sqrt(1 - abar_prev - sigma^2).":
                (after - mean(sigma=0.0)) / sigma,
            "It is divided by sigma, not by its square.": want / sigma,
            "x0 and eps are exchanged.": (after - mean(x0=eps, eps=x0)) / sigma,
            "The direction towards eps is missing.": (after - p**0.5 * x0) / sigma,
            "sigma is a standard deviation: its square goes off under the root.":
                (after - p**0.5 * x0 - max(1 - p - sigma, 0.0) ** 0.5 * eps) / sigma,
        }, want), otherwise="Put your z back: mean + sigma z must be x_prev.")


# Two latents -----------------------------------------------------------------------------------------------------------------


@exercise("11.undo_mix", "Undo EDICT's mixing", points=2, hints=(
    "Undo the second line first: it is the only one whose inputs you have both.",
    "After the two lines you know the new x and the new y. In the second line the new x already stands: solve it for the old y.",
    "y = (y - (1 - p) x) / p, then x = (x - (1 - p) y) / p.",
))
def undo_mix(x, y, p):
    """EDICT ends each step with x = p x + (1 - p) y, then, with this new x, y = p y + (1 - p) x. Given
    both results (..., of one shape), returns what x and y were before: a tuple (x, y).
    """
    ### BEGIN SOLUTION
    y = (y - (1 - p) * x) / p
    x = (x - (1 - p) * y) / p
    return x, y
    ### END SOLUTION


@checks(undo_mix)
def _undo_mix(fn: Callable) -> None:
    for case, (shape, p) in enumerate([((2, 3, 4, 5), 0.93), ((3, 4, 6, 2), 0.6), ((5, 2, 3, 6), 1.3)]):
        x, y = (_noise(*shape, seed=50 * case + k) for k in range(2))
        a = p * x + (1 - p) * y
        b = p * y + (1 - p) * a

        def both(given: Any) -> Tensor:
            if given is None:
                raise Mistake("It returns nothing; is a return missing?")
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise Mistake("The answer is a pair: (x, y).")
            return torch.stack([torch.as_tensor(v) for v in given])

        got = call(lambda *args: both(fn(*args)), a, b, p, shape=(2, *shape))

        def pair(x: Tensor, y: Tensor) -> Tensor:
            return torch.stack([x, y])

        first = (a - (1 - p) * b) / p
        old = (b - (1 - p) * a) / p
        expect(got, pair(x, y), wrong=fits({
            "x and y are exchanged.": pair(y, x),
            "You mix once more, instead of undoing it.": pair(p * a + (1 - p) * b, p * b + (1 - p) * (p * a + (1 - p) * b)),
            "The order is wrong: the line that came last is undone first.": pair(first, (b - (1 - p) * first) / p),
            "You undo the first line with the mixed y; it had the old one.": pair(first, old),
            "The division by p is missing.": pair(a - (1 - p) * (b - (1 - p) * a), b - (1 - p) * a),
            "Nothing is undone.": pair(a, b),
        }, pair(x, y)), otherwise="Mix your result again: both lines must give back what you were given.")
