"""Exercises of lesson 21: mixing codes, where a path must jump, measures of a path, midpoints, attention of both ends."""

from __future__ import annotations

from typing import Any

import torch

from minidiff.course.answers import Mistake, call, expect, expect_number, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.diffusion import slerp
from minidiff.rng import normal

__all__: list[str] = []


@exercise("21.lerp_variance", "How quiet is a straight line?", points=2, hints=(
    "Var(u + v) = Var(u) + Var(v) + 2 Cov(u, v), with u = (1 - w) a and v = w b.",
    "(1 - w) ** 2 + w ** 2 + 2 * w * (1 - w) * rho",
))
def lerp_variance(w, rho):
    """Variance of (1 - w) a + w b for a and b of variance 1 and correlation rho. w, rho: 0-d tensors."""
    ### BEGIN SOLUTION
    return (1 - w) ** 2 + w ** 2 + 2 * w * (1 - w) * rho
    ### END SOLUTION


@checks(lerp_variance)
def _lerp_variance(fn: Any) -> None:
    for w, rho in ((0.3, 0.0), (0.8, 0.6), (0.25, -0.4)):
        a, b = (1 - w) ** 2, w**2
        want = torch.tensor(a + b + 2 * w * (1 - w) * rho, dtype=torch.float64)
        wrong = {
            "That holds for independent noises; codes of two pictures with one sky are alike: where is rho?": a + b,
            "That is lerp of two variances of 1; the weights are squared.": 1.0,
            "That is the standard deviation, not the variance.": float(want) ** 0.5,
            "The covariance counts twice.": a + b + w * (1 - w) * rho,
            "The sign of the covariance: like codes are louder.": a + b - 2 * w * (1 - w) * rho,
            "That is a mean of a full and a half variance at w = 1/2 only; take the weights.": 0.5 + 0.5 * rho,
            "The covariance is weighted by w (1 - w).": a + b + 2 * rho,
        }
        wrong = {k: torch.tensor(v, dtype=torch.float64) for k, v in wrong.items()}
        expect(call(fn, number(w), number(rho), shape=()), want, wrong=fits(wrong, want),
               otherwise="(1 - w)^2 + w^2 + twice w (1 - w) times the correlation.")


@exercise("21.jump_weight", "Where must the path jump?", points=2, hints=(
    "The picture flips where the mixed coordinate is zero: sin((1 - w) o) a + sin(w o) b = 0.",
    "sin((1 - w) o) = sin(o) cos(w o) - cos(o) sin(w o): tan(w o) = a sin(o) / (a cos(o) - b). Take atan2 of the two.",
))
def jump_weight(a, b, angle):
    """The weight w in (0, 1) at which slerp of two codes passes through zero in one coordinate.

    a > 0 and b < 0 (n,): that coordinate of the first and of the other code; angle (n,): between the whole
    codes, in radians.
    """
    ### BEGIN SOLUTION
    return torch.atan2(a * torch.sin(angle), a * torch.cos(angle) - b) / angle
    ### END SOLUTION


@checks(jump_weight)
def _jump_weight(fn: Any) -> None:
    for a, b, angle in (((1.5, 0.3, 0.7), (-0.5, -1.2, -0.7), (1.4, 1.7, 1.1)), ((0.2, 2.0), (-0.1, -0.3), (2.2, 2.6))):
        a, b, o = (torch.tensor(x, dtype=torch.float64) for x in (a, b, angle))
        want = torch.atan2(a * o.sin(), a * o.cos() - b) / o
        assert bool(((1 - want) * o).sin().mul(a).add((want * o).sin() * b).abs().max() < 1e-12)
        expect(call(fn, a, b, o, shape=a.shape), want, wrong=fits({
            "That is where the straight line crosses zero; on the circle it is elsewhere.": a / (a - b),
            "Half-way holds for |a| = |b| alone.": torch.full_like(a, 0.5),
            "That is the angle at the crossing; divide by the whole angle.": want * o,
            "Counted from the other end.": 1 - want,
            "arctan alone: where the denominator is negative it gives the wrong branch; atan2 knows both signs.":
                (a * o.sin() / (a * o.cos() - b)).atan() / o,
            "The sign of b: the denominator is a cos(angle) - b.": torch.atan2(a * o.sin(), a * o.cos() + b) / o,
        }, want), otherwise="Solve sin((1 - w) angle) a + sin(w angle) b = 0 for w.")


@exercise("21.ghost", "Measure: how much of a ghost is it?", points=2, hints=(
    "The best w is a projection: <x - a, b - a> / |b - a|^2, cut to [0, 1].",
    "left = |x - a - w (b - a)|^2; 1 - left / min(|x - a|^2, |x - b|^2).",
))
def ghost(x, a, b):
    """What a blend of both ends explains of how x differs from the nearer end: 1 for a fade, 0 for no help.

    1 - min over w in [0, 1] of |x - (1 - w) a - w b|^2, over min(|x - a|^2, |x - b|^2). x, a, b (d,);
    returns a number.
    """
    ### BEGIN SOLUTION
    w = ((x - a) @ (b - a) / ((b - a) @ (b - a))).clamp(0, 1)
    left = (x - a - w * (b - a)).square().sum()
    return 1 - left / torch.minimum((x - a).square().sum(), (x - b).square().sum())
    ### END SOLUTION


@checks(ghost)
def _ghost(fn: Any) -> None:
    for d, share, noise, seed in ((7, 0.3, 0.4, 0), (5, 0.8, 0.3, 1), (6, -0.7, 0.5, 2), (6, 1.6, 0.5, 3)):
        a, b, e = normal((3, d), "21 ghost", seed, dtype=torch.float64)
        x = a + share * (b - a) + noise * e
        raw = (x - a) @ (b - a) / ((b - a) @ (b - a))
        near_a, near_b = (x - a).square().sum(), (x - b).square().sum()

        def left(w: Any, a: Any = a, b: Any = b, x: Any = x) -> Any:
            return (x - a - w * (b - a)).square().sum()

        w, near = raw.clamp(0, 1), torch.minimum(near_a, near_b)
        want = 1 - left(w) / near
        wrong = fits({
            "w is free to leave [0, 1]: beyond an end is no blend.": 1 - left(raw) / near,
            "Lengths in place of their squares.": 1 - (left(w) / near).sqrt(),
            "Compare with the nearer end, not with the first.": 1 - left(w) / near_a,
            "Compare with the nearer end, not with the farther.": 1 - left(w) / torch.maximum(near_a, near_b),
            "That is what is not explained; take it from 1.": left(w) / near,
            "The blend half and half; the best w is a projection.": 1 - left(0.5) / near,
            "Divided by the distance of the ends; of a frame close to an end too little would count.":
                1 - left(w) / (b - a).square().sum(),
        }, want)
        # beyond an end the answer is 0, and 0 has no relative error: all is compared one higher
        expect(call(fn, x, a, b, shape=()) + 1, want + 1, tol=1e-6, wrong={k: v + 1 for k, v in wrong.items()},
               otherwise="Project x - a on b - a, cut w to [0, 1], compare what is left with the nearer end.")


@exercise("21.smoothness", "Measure: how even are the hops?", points=2, hints=(
    "Gini: the mean absolute difference of all pairs of hops, over twice their mean.",
    "1 - (h[:, None] - h).abs().mean() / (2 * h.mean())",
))
def smoothness(h):
    """AID's smoothness: 1 minus the Gini coefficient of the hops h (n,), all >= 0.

    Gini = mean |h_i - h_j| over all n^2 pairs, divided by twice the mean hop.
    """
    ### BEGIN SOLUTION
    return 1 - (h[:, None] - h).abs().mean() / (2 * h.mean())
    ### END SOLUTION


@checks(smoothness)
def _smoothness(fn: Any) -> None:
    for values in ((0.1, 0.4, 0.05, 0.9, 0.2), (0.0, 0.0, 1.3, 0.0), (2.0, 1.0, 1.5, 0.5, 0.2, 2.0)):
        h = torch.tensor(values, dtype=torch.float64)
        n, far = len(h), (h[:, None] - h).abs()
        want = 1 - far.mean() / (2 * h.mean())
        expect(call(fn, h, shape=()), want, tol=1e-6, wrong=fits({
            "That is the Gini coefficient: 0 for equal hops. Take it from 1.": 1 - want,
            "Twice the mean: each pair counts in both orders.": 1 - far.mean() / h.mean(),
            "Divided by n (n - 1): a hop and itself are pairs too, or one jump in n would have 0 in place of 1/n.":
                1 - far.sum() / (n * (n - 1)) / (2 * h.mean()),
            "That is the coefficient of variation, another measure of the same.": 1 - h.std(correction=0) / h.mean(),
            "Differences of neighbours alone; all pairs count.": 1 - h.diff().abs().mean() / (2 * h.mean()),
            "Not divided by the mean: long paths would look less smooth.": 1 - far.mean(),
            "The largest hop against the mean; here all of them count.": h.mean() / h.max(),
        }, want), otherwise="1 - mean |h_i - h_j| / (2 mean h), over all pairs.")


@exercise("21.squared_hops", "Debug: the path that is shorter than straight", hints=(
    "Eight equal hops on a straight line: what is the distance of one hop, and its square?",
    "8 * (0.8 / 8) ** 2",
))
def squared_hops():
    """LPIPS is a squared distance. Two ends are 0.8 apart (so LPIPS says 0.64), and a path goes straight
    from one to the other in 8 equal hops. What is the sum of LPIPS over its hops?
    """
    ### BEGIN SOLUTION
    return 8 * (0.8 / 8) ** 2
    ### END SOLUTION


@checks(squared_hops)
def _squared_hops(value: Any) -> None:
    expect_number(value, 0.08, tol=0.002, wrong={
        "That is the square of the whole way; the squares of its parts add up to less.": 0.64,
        "That is the length: the hops before they are squared.": 0.8,
        "One hop only.": 0.01,
        "The hops of 0.08 are those of LPIPS itself cut into 8, squared once more.": 8 * 0.08**2,
        "Squared hops shrink by 8 x 8, and there are 8 of them.": 0.64 / 64 / 8,
    }, otherwise="One hop is 0.1 long, its LPIPS 0.01, and there are eight.")


@exercise("21.respace", "Even steps from an uneven path", points=3, hints=(
    "The way behind each weight is a running sum of the hops that begins with 0.",
    "Cut the whole way into equal parts and look up, linearly, which weight each cut belongs to: torch.searchsorted.",
))
def respace(weights, hops, count):
    """``count`` weights at which a path would have equal hops, both ends among them.

    weights (n,) rising; hops (n - 1,) > 0: measured between them. The way is taken as linear in between.
    """
    ### BEGIN SOLUTION
    way = torch.cat([torch.zeros(1, dtype=hops.dtype), hops.cumsum(0)])
    goal = torch.linspace(0, 1, count, dtype=hops.dtype) * way[-1]
    k = torch.searchsorted(way, goal).clamp(1, len(way) - 1)
    share = (goal - way[k - 1]) / (way[k] - way[k - 1])
    return weights[k - 1] + share * (weights[k] - weights[k - 1])
    ### END SOLUTION


@checks(respace)
def _respace(fn: Any) -> None:
    cases = (((0.0, 0.25, 0.5, 0.75, 1.0), (0.1, 0.2, 1.4, 0.3), 6), ((0.0, 0.2, 0.7, 1.0), (0.6, 0.1, 0.4), 4))
    for weights, hops, count in cases:
        w, h = (torch.tensor(x, dtype=torch.float64) for x in (weights, hops))
        way = torch.cat([torch.zeros(1, dtype=torch.float64), h.cumsum(0)])

        def table(goal: Any, xs: Any, ys: Any) -> Any:
            k = torch.searchsorted(xs, goal).clamp(1, len(xs) - 1)
            return ys[k - 1] + (goal - xs[k - 1]) / (xs[k] - xs[k - 1]) * (ys[k] - ys[k - 1])

        u = torch.linspace(0, 1, count, dtype=torch.float64)
        want = table(u * way[-1], way, w)
        expect(call(fn, w, h, count, shape=(count,)), want, tol=1e-6, wrong=fits({
            "Those are the weights as they were: evenly spaced in w, not along the way.": u,
            "That is the way behind even weights; you need its inverse, the weights behind an even way.":
                table(u, w, way / way[-1]),
            "Nearest of the weights that were measured; in between it is linear.":
                w[(u[:, None] * way[-1] - way).abs().argmin(1)],
            "The ends are missing: the first is 0 and the last 1.":
                table((u * (count - 1) + 1) / (count + 1) * way[-1], way, w),
            "It runs backwards.": want.flip(0),
        }, want), otherwise="Running sum of the hops, cut into equal parts, looked up backwards.")


@exercise("21.noised_midpoint", "A midpoint at one level of noise", points=2, hints=(
    "Noise both to the same level with q_sample's formula, with the same eps.",
    "slerp(abar ** 0.5 * a + (1 - abar) ** 0.5 * eps, abar ** 0.5 * b + (1 - abar) ** 0.5 * eps, 0.5)",
))
def noised_midpoint(a, b, eps, abar):
    """Where Wang and Golland's denoising of a midpoint begins: clean latents a and b (B, C, h, w), noised to
    abar, both with ``eps``, then slerp at one half.
    """
    ### BEGIN SOLUTION
    return slerp(abar ** 0.5 * a + (1 - abar) ** 0.5 * eps, abar ** 0.5 * b + (1 - abar) ** 0.5 * eps, 0.5)
    ### END SOLUTION


@checks(noised_midpoint)
def _noised_midpoint(fn: Any) -> None:
    for shape, abar in (((2, 3, 4, 5), 0.3), ((3, 2, 5, 4), 0.75)):
        a, b, eps, other = (normal(shape, "21 midpoint", k, dtype=torch.float64) for k in range(4))
        p, q = abar**0.5, (1 - abar) ** 0.5
        want = slerp(p * a + q * eps, p * b + q * eps, 0.5)
        mean = (a + b) / 2
        expect(call(fn, a, b, eps, number(abar), shape=shape), want, wrong=fits({
            "That is lerp of the noised parents, too quiet in what they do not share.": p * mean + q * eps,
            "Mixed first, then noised: the blend of two clean latents is a ghost, and its noise cannot tell.":
                p * slerp(a, b, 0.5) + q * eps,
            "abar and 1 - abar are variances: take their roots.":
                slerp(abar * a + (1 - abar) * eps, abar * b + (1 - abar) * eps, 0.5),
            "Signal and noise exchanged.": slerp(q * a + p * eps, q * b + p * eps, 0.5),
            "The clean latents, without noise.": slerp(a, b, 0.5),
            "Only the first parent is noised.": slerp(p * a + q * eps, b, 0.5),
            "The weight is missing or not one half.": slerp(p * a + q * eps, p * b + q * eps, 0.25),
        }, want), otherwise="Both parents with the same eps at the same level, then slerp at one half.")


@exercise("21.own_noise", "Break it: noise of its own for each parent", hints=(
    "Two codes of one picture with independent noises have cosine abar. What does slerp at one half multiply each by?",
    "sin(o / 2) / sin(o) = 1 / (2 cos(o / 2)), so the signal sqrt(abar) z comes out as sqrt(abar) / cos(o / 2), with "
    "cos(o / 2)^2 = (1 + abar) / 2.",
))
def own_noise():
    """Both parents are the same latent z, of variance 1, noised to abar = 0.4, but each with noise of its
    own. After slerp at one half: which share of the variance is z? (The network expects 0.4 at this level.)
    """
    ### BEGIN SOLUTION
    return 0.4 / ((1 + 0.4) / 2)
    ### END SOLUTION


@checks(own_noise)
def _own_noise(value: Any) -> None:
    expect_number(value, 0.4 / 0.7, tol=0.004, wrong={
        "That holds for shared noise; here the noises partly cancel and the picture does not.": 0.4,
        "That takes the two codes for independent, at a right angle; two codes of one picture have cosine abar.": 0.8,
        "That is a share of standard deviations.": (0.4 / 0.7) ** 0.5,
        "That is the noise's share.": 1 - 0.4 / 0.7,
        "lerp has a signal of 0.4 beside noise of 0.3, and that is 0.57 of the variance: now write the share.": 0.7,
    }, otherwise="abar over cos(o / 2) squared, with cos(o) = abar.")


@exercise("21.inner", "Attention of both ends", points=3, hints=(
    "Mix the keys and the values of the ends first; then put the frame's own before them along the tokens.",
    "k = torch.cat([k, (1 - w) * ka + w * kb], -2), the same for v, then softmax(q k^T / sqrt(d)) v.",
))
def inner(q, k, v, ka, va, kb, vb, w):
    """Fused inner interpolation for one frame: Attn(Q, [K, (1 - w) K_A + w K_B], [V, (1 - w) V_A + w V_B]).

    q (h, N, d); k, v, ka, va, kb, vb (h, L, d); w: a number. Returns (h, N, d).
    """
    ### BEGIN SOLUTION
    keys = torch.cat([k, (1 - w) * ka + w * kb], -2)
    values = torch.cat([v, (1 - w) * va + w * vb], -2)
    return (q @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ values
    ### END SOLUTION


@checks(inner)
def _inner(fn: Any) -> None:
    for h, n, length, d, w in ((2, 6, 4, 3, 0.3), (3, 4, 5, 7, 0.85)):
        q = 1.5 * normal((h, n, d), "21 q", d, dtype=torch.float64)
        k, v, ka, va, kb, vb = (normal((h, length, d), "21 kv", i, d, dtype=torch.float64) for i in range(6))

        def attend(k: Any, v: Any, q: Any = q, d: int = d) -> Any:
            return (q @ k.transpose(-1, -2) / d**0.5).softmax(-1) @ v

        mk, mv = (1 - w) * ka + w * kb, (1 - w) * va + w * vb
        fk, fv = torch.cat([k, mk], -2), torch.cat([v, mv], -2)
        want = attend(fk, fv)
        outer = [attend(torch.cat([k, x], -2), torch.cat([v, y], -2)) for x, y in ((ka, va), (kb, vb))]
        expect(call(fn, q, k, v, ka, va, kb, vb, number(w), shape=(h, n, d)), want, tol=1e-6, wrong=fits({
            "The frame's own keys and values are missing: that is not fused.": attend(mk, mv),
            "That is the outer interpolation: two outcomes, mixed.": (1 - w) * outer[0] + w * outer[1],
            "The weights are exchanged: w = 0 is the first end.":
                attend(torch.cat([k, w * ka + (1 - w) * kb], -2), torch.cat([v, w * va + (1 - w) * vb], -2)),
            "The scores are not divided by sqrt(d).": attend(fk * d**0.5, fv),
            "Two softmaxes added: own and mixed tokens must share one, so that they compete.": attend(k, v) + attend(mk, mv),
            "Ordinary attention: the ends are left out.": attend(k, v),
            "Only the keys are mixed; the values of the first end alone.": attend(fk, torch.cat([v, va], -2)),
            "All three side by side: the ends are mixed first.":
                attend(torch.cat([k, ka, kb], -2), torch.cat([v, va, vb], -2)),
        }, want), otherwise="Mix, put own and mixed side by side, one softmax.")


@exercise("21.same_as_lerp", "Predict: where is AID nothing new?", hints=(
    "In cross-attention keys are W_K times the text. What is W_K of a lerp?",
    "In self-attention keys come from each row's own picture; and own keys beside the mixed ones change the softmax.",
))
def same_as_lerp():
    """In which cases is inner interpolation, with lerp of the text for the frames, exactly plain sampling of
    the same frames? A list with some of "cross, fused", "cross, not fused", "self, fused", "self, not fused",
    "outer, cross, not fused".
    """
    ### BEGIN SOLUTION
    return ["cross, fused", "cross, not fused"]
    ### END SOLUTION


@checks(same_as_lerp)
def _same_as_lerp(value: Any) -> None:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise Mistake("A list of cases.")
    known = {"cross, fused", "cross, not fused", "self, fused", "self, not fused", "outer, cross, not fused"}
    given = {str(v) for v in value}
    if given - known:
        raise Mistake(f"There is no case {sorted(given - known)[0]!r}.")
    if given & {"self, fused", "self, not fused"}:
        raise Mistake("In self-attention the keys come from the rows' own latents, which are no lerp of each other.")
    if "outer, cross, not fused" in given:
        raise Mistake("Outer mixes what comes after the softmax, and the softmax is not linear.")
    if "cross, not fused" not in given:
        raise Mistake("Keys and values are linear in the text: W_K of a lerp is the lerp of W_K. Not fused is the plain case.")
    if "cross, fused" not in given:
        raise Mistake("If the mixed keys are the frame's own, fused holds each token twice, and doubles change no softmax.")


