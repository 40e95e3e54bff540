"""Exercises of lesson 01: noising, schedules, zero terminal SNR, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number
from minidiff.course.tasks import checks, exercise
from minidiff.diffusion import linear, scaled_linear, sigmoid, sigmoid_beta
from minidiff.rng import generator, normal

__all__: list[str] = []


@exercise("01.q_sample", "Spot the bugs: noise a batch", points=2, hints=(
    "Look up alpha-bar for each picture: abar[t] has the shape (B,).",
    "To multiply pictures, (B,) must become (B, 1, 1, 1); otherwise it is lined up with the last axis, the width.",
    "The picture is multiplied by the square root of alpha-bar, the noise by the square root of 1 - alpha-bar.",
))
def noise_batch(x0, t, noise, abar):
    """x_t for a batch. x0, noise: (B, C, H, W). t: (B,) integers. abar: (T,), index 0 = one noising step.

    A colleague wrote abar[t - 1] * x0 + (1 - abar[t - 1]) * noise. Three things are wrong with it.
    """
    ### BEGIN SOLUTION
    a = abar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise
    ### END SOLUTION


@checks(noise_batch)
def _q_sample(fn: Callable) -> None:
    # As many pictures as columns: the wrong broadcast runs without an error. Then other sizes, another table, other steps.
    for (B, C, H, W), T, steps in (((4, 3, 5, 4), 40, [0, 7, 21, 39]), ((3, 2, 6, 5), 25, [24, 3, 0])):
        abar, t = linear(T).abar, torch.tensor(steps)
        x0, noise = (normal((B, C, H, W), "01", word, dtype=torch.float64) for word in ("x0", "noise"))

        def mix(signal: Tensor, rest: Tensor, x0: Tensor = x0, noise: Tensor = noise) -> Tensor:
            return signal.view(-1, 1, 1, 1) * x0 + rest.view(-1, 1, 1, 1) * noise

        a, early, late = abar[t], abar[t - 1], abar[(t + 1).clamp(max=T - 1)]
        wrong = {
            "The square roots are missing: alpha-bar and 1 - alpha-bar are variances, and x is multiplied by their roots.":
                mix(a, 1 - a),
            "The noise needs its standard deviation, the square root of 1 - alpha-bar, not its variance.": mix(a.sqrt(), 1 - a),
            "The picture needs the square root of alpha-bar.": mix(a, (1 - a).sqrt()),
            "1 - sqrt(alpha-bar) is not sqrt(1 - alpha-bar): the squares of the two factors must add up to 1.":
                mix(a.sqrt(), 1 - a.sqrt()),
            "Picture and noise have swapped their factors.": mix((1 - a).sqrt(), a.sqrt()),
            "You look up alpha-bar one index early: index 0 already means one noising step.":
                mix(early.sqrt(), (1 - early).sqrt()),
            "You look up alpha-bar one index late.": mix(late.sqrt(), (1 - late).sqrt()),
            "Every picture has the step of the first one; t holds one step for each.":
                mix(*(v.sqrt().expand(B) for v in (a[:1], 1 - a[:1]))),
        }
        if B == W:
            wrong["The factors are lined up with the width of the pictures, not with the batch: give them the shape (B, 1, 1, 1)."
                  ] = a.sqrt() * x0 + (1 - a).sqrt() * noise
        got = call(fn, x0, t, noise, abar, shape=x0.shape)
        if torch.equal(call(fn, x0, t, noise, abar), call(fn, x0, t, -noise, abar)):
            raise Mistake("The result does not depend on the noise that was given; use it instead of drawing your own.")
        if not torch.equal(got, call(fn, x0, t, noise, abar)):
            raise Mistake("Two calls with the same arguments differ: use the noise that was given instead of drawing your own.")
        expect(got, mix(a.sqrt(), (1 - a).sqrt()), wrong=wrong,
               otherwise="The picture should keep sqrt(abar[t]) of itself and gain sqrt(1 - abar[t]) of the noise.")


@exercise("01.snr_one", "Predict: where signal and noise are equal", hints=(
    "SNR = abar / (1 - abar), so it is 1 where abar = 0.5.",
    "Roughly: abar is about exp(-sum of beta), and for betas on a straight line that sum grows like t squared.",
    "(linear(1000).snr < 1).nonzero()[0] finds it exactly.",
))
def half_way():
    """The first index t of linear(1000) at which SNR < 1."""
    ### BEGIN SOLUTION
    return int((linear(1000).snr < 1).nonzero()[0])
    ### END SOLUTION


@checks(half_way)
def _snr_one(value: object) -> None:
    plan = linear(1000)
    want = int((plan.snr < 1).nonzero()[0])
    expect_number(value, want, tol=0.25, wrong={
        "Half of the steps is not half of the signal: beta grows, but so does what it has already taken.": 500,
        "That is where the cosine schedule has it.": 496,
        "Counted from 1 as in the papers; an index counts from 0.": want + 1,
        "That is the last index at which the SNR is still above 1; the next one is the first below.": want - 1,
        "That is where the square root of alpha-bar falls below one half; there the SNR is already one third.":
            int((plan.abar.sqrt() < 0.5).nonzero()[0]),
        "That is where the SNR falls below one half.": int((plan.snr < 0.5).nonzero()[0]),
        "A share of the chain is not an index; multiply by 1000.": want / 1000,
    }, otherwise="Look for the first index at which alpha-bar is below one half.")


@exercise("01.cosine_betas", "The cosine schedule from its definition", points=2, hints=(
    "T steps lie between T + 1 moments u = 0, 1/T, ..., 1.",
    "One step keeps abar(t) / abar(t - 1) of the variance of the picture; beta is what it does not keep.",
    "At u = 1 the cosine is 0, so the last beta would be 1: clip it.",
))
def cosine_betas(T, s=0.008):
    """(T,) float64 betas of the cosine schedule: abar(u) = cos^2((u + s) / (1 + s) * pi / 2), u = t/T; beta
    at most 0.999."""
    ### BEGIN SOLUTION
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    abar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    ### END SOLUTION


@checks(cosine_betas)
def _cosine_betas(fn: Callable) -> None:
    def betas(T: int, s: float, *, power: int = 2, top: float = 0.999) -> Tensor:
        u = torch.arange(T + 1, dtype=torch.float64) / T
        abar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** power
        return (1 - abar[1:] / abar[:-1]).clamp(max=top)

    for T, offset in ((20, (0.008,)), (12, (0.1,)), (300, (0.03,)), (15, ())):          # the last without s: 0.008
        got, s = call(fn, T, *offset, dtype=torch.float64), offset[0] if offset else 0.008
        if tuple(got.shape) == (T + 1,):
            raise Mistake(f"There are {T + 1} moments but only {T} steps between them; {T} betas are expected.")
        if tuple(got.shape) == (T - 1,):
            raise Mistake(f"{T} moments have only {T - 1} steps between them; you need T + 1 moments.")
        if float(got.max()) > 1 + 1e-9 or float(got.min()) < -1e-9:
            raise Mistake("Some betas are below 0 or above 1: alpha-bar must fall from start to end. Is it pi / 2 in the cosine?")
        u = torch.arange(T + 1, dtype=torch.float64) / T
        abar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        expect(got, betas(T, s), tol=1e-9, wrong={
            "The last beta is 1, which leaves nothing of the picture: clip the betas at 0.999.": betas(T, s, top=1.0),
            "The small offset s is missing.": betas(T, 0.0),
            "The offset s is always 0.008 in your code; use the argument.": betas(T, 0.008),
            "The cosine must be squared.": betas(T, s, power=1),
            "These are values of alpha-bar, not betas: beta = 1 - abar(t) / abar(t - 1).": abar[1:],
            "These are the alphas, the shares that are kept; beta is 1 minus that.": 1 - betas(T, s),
            "1 - alpha-bar is the variance of all the noise so far; beta is that of one step alone.": 1 - abar[1:],
            "The moments are one step early: beta number t goes from t to t + 1.":
                torch.cat([betas(T, s)[:1] * 0, betas(T, s)[:-1]]),
        }, otherwise="beta = 1 - abar(t / T) / abar((t - 1) / T), at most 0.999, in float64 throughout; s is 0.008 by default.")


@exercise("01.same_noise", "Break it, then mend it: two schedules called sigmoid", points=2, hints=(
    "log SNR = log(abar / (1 - abar)), which torch calls logit.",
    "Compare every wanted value with every value that there is, (B, 1) with (1, T), and take the nearest.",
))
def same_noise(t, abar_from, abar_to):
    """The indices of abar_to whose log-SNR is nearest to that of abar_from at t. t: (B,) integers; returns
    (B,) integers."""
    ### BEGIN SOLUTION
    want, have = torch.logit(abar_from[t]), torch.logit(abar_to)      # logit(abar) = log(abar / (1 - abar)) = log SNR
    return (have - want[:, None]).abs().argmin(1)
    ### END SOLUTION


@checks(same_noise)
def _same_noise(fn: Callable) -> None:
    def nearest(want: Tensor, have: Tensor) -> Tensor:
        return (have[None] - want[:, None]).abs().argmin(1)

    # All indices in an odd order (in another measure than log-SNR the nearest differs only now and then), then the way back.
    long, short = sigmoid(1000).abar, sigmoid_beta(40, start=0.0025, end=0.5).abar
    for here, there, t in ((long, short, torch.arange(1000) * 7 % 1000), (short, long, torch.tensor([39, 3, 3, 20, 0, 11, 28]))):
        want, have = torch.logit(here[t]), torch.logit(there)
        got = call(fn, t, here, there, shape=t.shape, dtype=torch.int64)
        below = torch.searchsorted(-there, -here[t]).clamp(max=len(there) - 1)
        expect(got, nearest(want, have), tol=1e-9, wrong={
            "You give back the same t: the same index is another amount of noise on another schedule.": t,
            "You scale t by the lengths: that is the same share of the steps, not the same noise.": t * len(there) // len(here),
            "You compare alpha-bar, not log-SNR: near both ends of the chain that cannot tell noise levels apart.":
                nearest(here[t], there),
            "You compare the SNR, not its log: for much noise all SNRs are close to 0, for little all differences are huge.":
                nearest(here[t] / (1 - here[t]), there / (1 - there)),
            "The schedules have changed places.": nearest(torch.logit(there[t.clamp(max=len(there) - 1)]), torch.logit(here)),
            "You take the first index with more noise; the one before may be nearer.": below,
            "You take the last index with less noise; the one after may be nearer.": (below - 1).clamp(min=0),
            "You look one index late.": nearest(want, have) + 1,
        }, otherwise="Find, for each t, the index whose log-SNR differs least.")


@exercise("01.zero_terminal", "End in pure noise", hints=(
    "Work on the square root of abar, the factor in front of the picture, and square at the end.",
    "A straight line a * root + b has two unknowns; two conditions: 0 at the last index, root[0] at the first.",
))
def end_in_noise(abar):
    """abar (T,) -> abar (T,) that ends at exactly 0 and begins where it did: shift and scale sqrt(abar) (Lin
    et al. 2023)."""
    ### BEGIN SOLUTION
    root = abar.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root**2
    ### END SOLUTION


@checks(end_in_noise)
def _zero_terminal(fn: Callable) -> None:
    for abar in (scaled_linear(1000).abar, torch.tensor([0.9, 0.7, 0.5, 0.3], dtype=torch.float64)):
        root = abar.sqrt()
        want = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        got, only = call(fn, abar, shape=abar.shape), abar.clone()
        only[-1] = 0
        expect(got, want, tol=1e-5, wrong={
            "You shift and scale abar itself; the paper does it to its square root, the factor in front of the picture.":
                (abar - abar[-1]) * abar[0] / (abar[0] - abar[-1]),
            "Only the last value has changed: now the last step alone destroys all that was left.": only,
            "The last value is 0, but the first has moved: scale as well as shift.": (root - root[-1]) ** 2,
            "The first value is now 1, no noise at all; it should stay where it was.":
                ((root - root[-1]) / (root[0] - root[-1])) ** 2,
            "These are square roots; square them at the end.": want.sqrt(),
            "The last value is not 0: something is scaled but not shifted.": abar,
            "The scale is upside down.": ((root - root[-1]) * (root[0] - root[-1]) / root[0]) ** 2,
        }, otherwise="The first value must stay, the last must be 0, and in between sqrt(abar) moves along a straight line.")
        if float(got[-1]) != 0:
            raise Mistake("The last value must be exactly 0, not merely small.")


@exercise("01.when_lost", "Measure: from when on it is lost", hints=(
    "A curve that was measured jitters: the first value below the level need not be where it stays below.",
    "Look for the last share that still reaches the level; what is asked for is the step after it.",
))
def lost_for_good(ts, share, level):
    """ts: (N,) rising steps; share: (N,) read right at each of them. Returns the first of the steps from
    which on the share is below ``level`` and stays there. The first share reaches the level, the last does
    not."""
    ### BEGIN SOLUTION
    last = (share >= level).nonzero()[-1, 0]
    return ts[last + 1]
    ### END SOLUTION


@checks(lost_for_good)
def _when_lost(fn: Callable) -> None:
    for ts, share, level in (
        ([0, 20, 50, 60, 100, 130, 170], [1.0, 0.85, 0.95, 0.8, 0.9, 0.6, 0.1], 0.9),
        ([3, 10, 40, 45, 90], [0.8, 0.45, 0.55, 0.2, 0.3], 0.5),
    ):
        t, s = torch.tensor(ts), torch.tensor(share, dtype=torch.float64)
        reach = (s >= level).nonzero()[:, 0]
        first, last = int((s < level).nonzero()[0]), int(reach[-1])
        above = int((s > level).nonzero()[-1])
        expect(call(fn, t, s, level, shape=()), t[last + 1], tol=1e-9, wrong={
            "That is the first time it is below; it comes back to the level later: a measured curve jitters.": t[first],
            "That is the last step at which it still reaches the level; the one after it is asked for.": t[last],
            "A share that equals the level reaches it.": t[above + 1],
            "That is a place in the list; the step that stands there is asked for.": torch.tensor(last + 1),
            "That is the last step of all.": t[-1],
        }, otherwise="From the answer on every share is below the level, and just before it one is not.")


@exercise("01.fuse", "Two witnesses: the product of two Gaussians", points=2, hints=(
    "Multiply the densities and collect the terms in x squared: 1 / var = 1 / v1 + 1 / v2. Precisions add.",
    "The mean is the average of m1 and m2, each weighted by its precision: the surer witness counts more.",
    "Multiply through by v1 * v2, and a variance of 0 does no harm.",
))
def fuse(m1, v1, m2, v2):
    """N(x; m1, v1) * N(x; m2, v2) is, up to a factor, N(x; mean, var). All (B,); v1 may hold 0. Returns
    stack([mean, var])."""
    ### BEGIN SOLUTION
    mean = (m1 * v2 + m2 * v1) / (v1 + v2)
    return torch.stack([mean, v1 * v2 / (v1 + v2)])
    ### END SOLUTION


@checks(fuse)
def _fuse(fn: Callable) -> None:
    def both(mean: Tensor, var: Tensor) -> Tensor:
        return torch.stack([mean, var])

    for B in (6, 5):
        rng = generator("01 fuse", B)
        m1, m2 = (torch.randn(B, generator=rng, dtype=torch.float64) for _ in range(2))
        v1, v2 = (torch.rand(B, generator=rng, dtype=torch.float64) + 0.1 for _ in range(2))
        total = v1 + v2
        mean, var = (m1 * v2 + m2 * v1) / total, v1 * v2 / total
        s1, s2 = v1.sqrt(), v2.sqrt()
        expect(call(fn, m1, v1, m2, v2, shape=(2, B)), both(mean, var), wrong={
            "The mean is the plain average, but the surer witness (the smaller variance) must count more.":
                both((m1 + m2) / 2, var),
            "The weights are swapped: you give more weight to the larger variance.": both((m1 * v1 + m2 * v2) / total, var),
            "The variances add up when you add two numbers; when you multiply densities their inverses do.": both(mean, total),
            "The second row is the precision 1 / var; the variance is expected.": both(mean, 1 / var),
            "The second row is a standard deviation; the variance is expected.": both(mean, var.sqrt()),
            "The variance is the average of the two, but two witnesses together are surer than either.": both(mean, total / 2),
            "Weigh with variances, not with standard deviations.": both((m1 * s2 + m2 * s1) / (s1 + s2), var),
            "The means are added without dividing by the sum of the weights.": both(m1 / v1 + m2 / v2, var),
            "The harmonic mean of the variances is twice what is wanted.": both(mean, 2 * var),
            "First the mean, then the variance, please: the rows are swapped.": both(var, mean),
        }, otherwise="1 / var = 1 / v1 + 1 / v2, and mean / var = m1 / v1 + m2 / v2.")
        sure = v1 * torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)[:B]        # some certain, some not
        try:
            got = call(fn, m1, sure, m2, v2, shape=(2, B))
        except Mistake:
            raise Mistake("With v1 = 0, a witness who is certain, it divides by zero; multiply through by v1 * v2. "
                          "This case comes up at the very last step, where x_0 itself is the answer.") from None
        expect(got, both((m1 * v2 + m2 * sure) / (sure + v2), sure * v2 / (sure + v2)),
               otherwise="Where v1 = 0 the answer must be m1 exactly, with variance 0; the other rows stay as they were.")


@exercise("01.ideal_denoiser", "The denoiser that knows all the data", points=3, hints=(
    "Given that it began at point n, x_t is N(sqrt(abar) * point_n, 1 - abar).",
    "Bayes: the weight of point n is that density at x, divided by the sum over all points. That is a softmax over n.",
    "The result is the average of the points themselves, not of the scaled ones, with these weights.",
))
def ideal_denoiser(x, points, abar):
    """E[x_0 | x_t = x] when the data are exactly these points, each as likely. x: (B, D), points: (N, D),
    abar: a float."""
    ### BEGIN SOLUTION
    far = ((x[:, None] - abar**0.5 * points) ** 2).sum(-1)             # (B, N)
    weight = torch.softmax(-far / (2 * (1 - abar)), dim=1)
    return weight @ points
    ### END SOLUTION


@checks(ideal_denoiser)
def _ideal_denoiser(fn: Callable) -> None:
    for abar, B, N, D in ((0.3, 5, 7, 2), (0.8, 4, 6, 3), (0.55, 3, 5, 4)):
        points = normal((N, D), "01 points", dtype=torch.float64)
        x = abar**0.5 * points[:B] + (1 - abar) ** 0.5 * normal((B, D), "01 noise", dtype=torch.float64)

        def mean(*, a: float = abar**0.5, width: float = 2 * (1 - abar), sign: float = -1.0, dim: int = 1, power: int = 2,
                 x: Tensor = x, points: Tensor = points) -> Tensor:
            far = torch.cdist(x, a * points, compute_mode="donot_use_mm_for_euclid_dist") ** power
            return torch.softmax(sign * far / width, dim) @ points

        want, near = mean(), torch.cdist(x, abar**0.5 * points).argmin(1)
        expect(call(fn, x, points, abar, shape=(B, D)), want, wrong={
            "The points must be scaled by sqrt(abar) before they are compared with x: the chain shrinks them.": mean(a=1.0),
            "The points are scaled by abar; the forward chain scales them by its square root.": mean(a=abar),
            "The width is off: divide by 2 (1 - abar), twice the variance, not by the variance.": mean(width=1 - abar),
            "Divide by twice the variance 1 - abar, not by twice the standard deviation.": mean(width=2 * (1 - abar) ** 0.5),
            "Divide by twice the noise variance 1 - abar; you use abar.": mean(width=2 * abar),
            "The sign is wrong: far points get the large weights.": mean(sign=1.0),
            "The softmax runs over the batch; it must run over the points, so that each row adds up to 1.": mean(dim=0),
            "The distance must be squared.": mean(power=1),
            "That is the nearest point, but several points are possible: average them with their probabilities.": points[near],
            "These are scaled by sqrt(abar); average the points themselves.": abar**0.5 * want,
            "That is the plain mean of the data, right only for pure noise.": points.mean(0).expand(B, D),
        }, otherwise="Weights softmax_n(-|x - sqrt(abar) p_n|^2 / (2 (1 - abar))), then the weighted average of the points.")
    try:
        got = call(fn, points + 0.3, points, 0.9999, shape=points.shape)
    except Mistake:
        raise Mistake("With little noise every exp() becomes 0 and you divide 0 by 0; "
                      "torch.softmax takes out the largest first.") from None
    expect(got, points[torch.cdist(points + 0.3, 0.9999**0.5 * points).argmin(1)], tol=1e-6,
           otherwise="With next to no noise the answer must be the nearest point.")
