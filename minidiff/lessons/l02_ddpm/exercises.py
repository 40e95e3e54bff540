"""Exercises of lesson 02: the reverse mean, targets and weights, what a loss says, and a bug of a published implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []



def _noise(name: str, *shape: int) -> Tensor:
    return normal(shape, "lesson02", name, dtype=torch.float64)


@exercise("02.posterior_mean", "The mean of the posterior", points=2, hints=(
    "alpha_t is abar_t / abar_prev, and beta_t is 1 - alpha_t.",
    "c1 = beta_t sqrt(abar_prev) / (1 - abar_t) goes with x0.",
    "c2 = (1 - abar_prev) sqrt(alpha_t) / (1 - abar_t) goes with x_t.",
))
def posterior_mean(x0, x_t, abar_t, abar_prev):
    """Mean of q(x_{t-1} | x_t, x_0). x0, x_t: (B, C, H, W); abar_t, abar_prev: (B, 1, 1, 1), alpha-bar at t
    and at t - 1; at the last step abar_prev is 1."""
    ### BEGIN SOLUTION
    alpha = abar_t / abar_prev
    beta = 1 - alpha
    c1 = beta * abar_prev ** 0.5 / (1 - abar_t)
    c2 = (1 - abar_prev) * alpha ** 0.5 / (1 - abar_t)
    return c1 * x0 + c2 * x_t
    ### END SOLUTION


def _each(values: list[float]) -> Tensor:
    """One number a picture, (B, 1, 1, 1) float64."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


PICTURES = (((3, 2, 5, 4), [0.97, 0.5, 0.08], [0.99, 0.62, 0.11]),
            ((4, 5, 3, 6), [0.9, 0.002, 0.4, 0.71], [0.96, 0.03, 0.75, 0.72]))


"""Sizes of a batch (B, C, H, W), alpha-bar at t and alpha-bar at t - 1 of each picture."""


@checks(posterior_mean)
def _posterior_mean(fn) -> None:
    for shape, abar, before in (*PICTURES, ((2, 3, 4, 7), [0.9, 0.6], [1.0, 0.85])):              # the last step of one picture
        x0, x_t, a, p = _noise("x0", *shape), _noise("x_t", *shape), _each(abar), _each(before)
        alpha, beta = a / p, 1 - a / p
        c1, c2 = beta * p.sqrt() / (1 - a), (1 - p) * alpha.sqrt() / (1 - a)
        wrong = {
            "x0 and x_t are swapped.": c1 * x_t + c2 * x0,
            "In c1 it is the root of alpha-bar at t - 1, not at t.": beta * a.sqrt() / (1 - a) * x0 + c2 * x_t,
            "In c1 the root of alpha-bar is missing.": beta * p / (1 - a) * x0 + c2 * x_t,
            "In c2 it is the root of alpha_t, not of alpha-bar_t.": c1 * x0 + (1 - p) * a.sqrt() / (1 - a) * x_t,
            "In c2 the root of alpha_t is missing.": c1 * x0 + (1 - p) * alpha / (1 - a) * x_t,
            "The denominator is 1 - alpha-bar at t, not at t - 1.":
                (beta * p.sqrt() * x0 + (1 - p) * alpha.sqrt() * x_t) / (1 - p).clamp(min=1e-12),
            "That is the mean of the forward step; the posterior looks backwards.": alpha.sqrt() * x_t,
        }
        try:
            got = call(fn, x0, x_t, a, p, shape=shape)
        except Mistake as mistake:
            last = Mistake("At the last step abar_prev is 1: multiply through, so that nothing is divided by 1 - abar_prev.")
            raise last if "NaN" in str(mistake) and before[0] == 1 else mistake from None
        expect(got, c1 * x0 + c2 * x_t, wrong=wrong,
               otherwise="At abar_prev = 1 the mean must be x0 itself; does yours do that?")


@exercise("02.v_target", "The target v", hints=(
    "x_t is sqrt(abar) x0 + sqrt(1 - abar) eps: a rotation by an angle.",
    "v is the same rotation, a quarter turn further.",
))
def v_target(x0, eps, abar):
    """What a v-network is trained to predict: (B, C, H, W). abar: (B, 1, 1, 1)."""
    ### BEGIN SOLUTION
    return abar ** 0.5 * eps - (1 - abar) ** 0.5 * x0
    ### END SOLUTION


@checks(v_target)
def _v_target(fn) -> None:
    for shape, abar, _ in (*PICTURES, ((2, 3, 4, 7), [0.35, 0.0], [])):
        x0, eps, a = _noise("x0", *shape), _noise("eps", *shape), _each(abar)
        c, s = a.sqrt(), (1 - a).sqrt()
        expect(call(fn, x0, eps, a, shape=shape), c * eps - s * x0, wrong={
            "The sign is turned round: v = sqrt(abar) eps - sqrt(1 - abar) x0.": s * x0 - c * eps,
            "x0 and eps are swapped.": c * x0 - s * eps,
            "The weights are swapped: eps gets sqrt(abar), x0 gets sqrt(1 - abar).": s * eps - c * x0,
            "The second term is subtracted: v = sqrt(abar) eps - sqrt(1 - abar) x0.": c * eps + s * x0,
            "The roots are missing.": a * eps - (1 - a) * x0,
            "That is x_t, the noised picture.": c * x0 + s * eps,
        }, otherwise="At abar = 1 (no noise) v must be eps; at abar = 0 it must be -x0.")


@exercise("02.lazy_loss", "Predict: a network that does nothing", hints=(
    "Write x_t out, and take eps from it: what is left of x0, and what of eps?",
    "x0 and eps are independent and of unit variance, so the squares of their weights add up.",
    "What is left is sqrt(abar) x0 + (sqrt(1 - abar) - 1) eps.",
))
def lazy_loss():
    """A network that predicts eps does nothing: it answers x_t itself. The pixels of the data have mean 0 and
    variance 1, and the noise is independent of them. Predict its mean squared error at alpha-bar = 0.19."""
    ### BEGIN SOLUTION
    return 0.2              # 0.19 of x0, and of eps (1 - 0.9)^2 = 0.01
    ### END SOLUTION


@checks(lazy_loss)
def _lazy_loss(value) -> None:
    expect_number(value, 0.2, tol=1e-4, wrong={
        "1 is the error of a network that answers 0; this one answers x_t, which is mostly eps.": 1.0,
        "That is what is left of x0 alone; of eps a little is left too.": 0.19,
        "That is what is left of eps alone; all of the picture in x_t is an error too.": 0.01,
        "The weight of x0 is sqrt(abar), and its square counts: 0.19, not its root.": 0.19 ** 0.5 + 0.01,
        "eps is taken away once from sqrt(1 - abar) of it, so 0.1 of it is left, and the square counts: 0.01.": 0.29,
        "That is 1 + (1 - abar), as if x_t and eps had nothing in common.": 1.81,
    }, otherwise="Not quite: work out the variance of x_t - eps.")


@exercise("02.deaf", "Break it: a network that is not told the time", hints=(
    "Return a function of x and t that calls net, but with another t.",
    "torch.full_like(t, T // 2) has the shape and the type of t.",
))
def deaf(net, T):  # noqa: N803
    """net(x, t), t: (B,) whole numbers from 0 to T - 1. Returns a function of x and t that asks net the same,
    but tells it for every picture that t is T // 2, whatever t is."""
    ### BEGIN SOLUTION
    return lambda x, t: net(x, torch.full_like(t, T // 2))
    ### END SOLUTION


@checks(deaf)
def _deaf(fn) -> None:
    for T, shape, steps in ((100, (3, 2, 5, 4), [7, 99, 0]), (41, (2, 3, 4, 6), [40, 3])):
        told: list[Tensor] = []

        def net(x: Tensor, t: Tensor, told: list[Tensor] = told) -> Tensor:
            if not isinstance(t, Tensor):
                raise Mistake(f"The network gets t as {type(t).__name__}; it wants a tensor with one time for each picture.")
            told.append(t)
            return torch.sin(x) + 0.01 * t.view(-1, *[1] * (x.ndim - 1))

        x, t = _noise("x0", *shape), torch.tensor(steps)
        made = fn(net, T)
        if not callable(made):
            raise Mistake(f"It returns {type(made).__name__}; a function of x and t is expected.")
        got = call(made, x, t, shape=shape)
        if not told:
            raise Mistake("The network is never asked.")
        if told[-1].shape != t.shape:
            raise Mistake(f"The network gets t of shape {tuple(told[-1].shape)}; one time a picture is {tuple(t.shape)}.")
        if told[-1].is_floating_point():
            raise Mistake("t stays whole numbers: T // 2 has no fraction.")
        clean = torch.sin(x)
        expect(got, clean + 0.01 * (T // 2), wrong={
            "It still tells the network the true t.": clean + 0.01 * t.view(-1, 1, 1, 1),
            "It tells the network T, which is no step at all; the middle is T // 2.": clean + 0.01 * T,
            "It tells every picture the time of the first one; that is a time, and not T // 2.": clean + 0.01 * t[0],
            "It tells the network 0: for every picture the last step.": clean,
            "It tells the network t // 2 of each picture; T // 2 is the same for all.": clean + 0.01 * (t // 2).view(-1, 1, 1, 1),
        }, otherwise="The answer must be that of net(x, T // 2), nothing added and nothing taken away.")


@exercise("02.loss_by_t", "Measure: the loss by t", points=2, hints=(
    "The stretch of step t is t * parts // T, a whole number from 0 to parts - 1.",
    "A mask for each stretch, and the mean over it; an empty stretch must not divide by zero.",
))
def loss_by_t(errors, t, T, parts):  # noqa: N803
    """errors: (N,) squared error of each training picture; t: (N,) its step, 0 to T - 1. Cuts the steps into
    ``parts`` equal stretches. Returns the mean error in each, (parts,), and 0 where no picture fell."""
    ### BEGIN SOLUTION
    stretch = t * parts // T
    total = errors.new_zeros(parts).index_add(0, stretch, errors)
    return total / torch.bincount(stretch, minlength=parts).clamp(min=1)
    ### END SOLUTION


@checks(loss_by_t)
def _loss_by_t(fn) -> None:
    for T, parts, steps in ((100, 4, [0, 99, 24, 25, 50, 7, 49, 12, 30, 74]), (60, 5, [47, 3, 12, 11, 36, 40, 23])):
        t = torch.tensor(steps)
        errors = _noise("errors", len(steps)).abs() + 0.2
        stretch = t * parts // T
        masks = torch.stack([stretch == k for k in range(parts)]).double()
        count = masks.sum(1)
        try:
            got = call(fn, errors, t, T, parts, shape=(parts,))
        except Mistake as mistake:
            empty = Mistake("A stretch without a picture gives 0 / 0; return 0 there.")
            raise empty if "NaN" in str(mistake) else mistake from None
        ends = torch.stack([(t > T * k / parts) & (t <= T * (k + 1) / parts) for k in range(parts)]).double()
        expect(got, masks @ errors / count.clamp(min=1), wrong={
            "Those are sums; divide each by the number of its pictures.": masks @ errors,
            "Each sum is divided by the number of all pictures; divide by those of the stretch.": masks @ errors / len(t),
            "A step on a border has fallen into the stretch before it; the first step of a stretch belongs to it.":
                ends @ errors / ends.sum(1).clamp(min=1),
            "The stretches come in falling order; the first is that of small t.": (masks @ errors / count.clamp(min=1)).flip(0),
            "Those are numbers of pictures; the mean of their errors is asked for.": count,
            "It takes roots; the mean of the squared errors is the loss.": (masks @ errors / count.clamp(min=1)).sqrt(),
        }, otherwise="With one picture in each stretch the answer must be its error; check the borders T k / parts.")


@exercise("02.min_snr", "Min-SNR weights for eps", hints=(
    "SNR = abar / (1 - abar).",
    "min(SNR, gamma) / SNR = min(1, gamma / SNR).",
    "gamma / 0 is infinite, and min(1, infinity) is 1: no 0 / 0.",
))
def min_snr(abar, gamma):
    """Min-SNR gives the squared error of x0 the weight min(SNR, gamma). Returns the weight of the squared
    error of eps that says the same, (T,), finite also where abar is 0. abar: (T,)."""
    ### BEGIN SOLUTION
    snr = abar / (1 - abar)
    return (gamma / snr).clamp(max=1)
    ### END SOLUTION


@checks(min_snr)
def _min_snr(fn) -> None:
    for gamma, levels in ((5.0, [0.999, 0.95, 0.9, 0.6, 0.3, 0.01]),
                          (0.7, [0.98, 0.5, 0.2, 0.4, 0.0]), (12.0, [0.3, 0.97, 0.9])):
        a = torch.tensor(levels, dtype=torch.float64)
        snr = a / (1 - a)
        try:
            got = call(fn, a, gamma, shape=a.shape)
        except Mistake as mistake:
            raise (
                Mistake("At abar = 0 it divides zero by zero, as published codes do; write min(1, gamma / SNR).")
                if "NaN" in str(mistake)
                else mistake
            ) from None
        expect(got, (gamma / snr).clamp(max=1), wrong={
            "That is min(SNR, gamma), the weight for x0-prediction; for eps divide by SNR.": snr.clamp(max=gamma),
            "That is the weight for v-prediction: it divides by SNR + 1.": snr.clamp(max=gamma) / (snr + 1),
            "It takes the larger of the two; the weight is capped, so take the smaller.":
                (gamma / snr.clamp(min=1e-30)).clamp(min=1, max=1e30),
            "All weights are 1: SNR = abar / (1 - abar), and SNR above gamma is weighted down.": torch.ones_like(a),
            "The ratio is upside down: SNR = abar / (1 - abar).": (gamma * snr).clamp(max=1),
            "SNR is a ratio of squares already; do not take its root.": (gamma / snr.sqrt()).clamp(max=1),
            "gamma is always 5 in your code; use the argument.": (5 / snr).clamp(max=1),
        }, otherwise="Where the SNR is at most gamma the weight is 1; where it is twice gamma the weight is one half.")


@exercise("02.gaussian_kl", "One term of the bound", points=2, hints=(
    "It is the mean of log p1(x) - log p2(x) where x is drawn from the first; write both log densities down.",
    "Drawn from the first, (x - mean2)^2 has the mean var1 + (mean1 - mean2)^2.",
    "It must be 0 when the two are equal, never negative, and var2 divides.",
))
def gaussian_kl(mean1, var1, mean2, var2):
    """KL(N(mean1, var1) || N(mean2, var2)) in nats, element by element; all of one shape."""
    ### BEGIN SOLUTION
    return 0.5 * (torch.log(var2 / var1) - 1 + (var1 + (mean1 - mean2) ** 2) / var2)
    ### END SOLUTION


@checks(gaussian_kl)
def _gaussian_kl(fn) -> None:
    for shape in ((5,), (3, 4), (2, 6)):
        m1, m2 = _noise("m1", *shape), _noise("m2", *shape)
        v1, v2 = _noise("v1", *shape).exp(), _noise("v2", *shape).exp()
        square = (m1 - m2) ** 2
        want = 0.5 * (torch.log(v2 / v1) - 1 + (v1 + square) / v2)
        expect(call(fn, m1, v1, m2, v2, shape=shape), want, wrong={
            "The two Gaussians are swapped: KL is not symmetric.": 0.5 * (torch.log(v1 / v2) - 1 + (v2 + square) / v1),
            "The half is missing.": 2 * want,
            "The - 1 is missing: equal Gaussians must give 0.": want + 0.5,
            "The logarithm's ratio is upside down.": 0.5 * (torch.log(v1 / v2) - 1 + (v1 + square) / v2),
            "The means are not squared.": 0.5 * (torch.log(v2 / v1) - 1 + (v1 + (m1 - m2).abs()) / v2),
            "It is in bits; nats are asked for (natural logarithm).": want / torch.log(torch.tensor(2.0).double()),
            "The squared difference is not divided by var2.": 0.5 * (torch.log(v2 / v1) - 1 + v1 / v2 + square),
        }, otherwise="Equal Gaussians must give 0; equal variances must give half the squared difference over the variance.")


@exercise("02.learned_range", "A variance between two", hints=(
    "First turn v in [-1, 1] into a share in [0, 1].",
    "Interpolate the logarithms, then take the exponential.",
))
def learned_range(v, beta, beta_tilde):
    """The variance that the network's v in [-1, 1] means (iDDPM): -1 gives beta_tilde, 1 gives beta; in
    between log-linear."""
    ### BEGIN SOLUTION
    share = (v + 1) / 2
    return torch.exp(share * torch.log(beta) + (1 - share) * torch.log(beta_tilde))
    ### END SOLUTION


@checks(learned_range)
def _learned_range(fn) -> None:
    for values, large, small in (([-1.0, -0.4, 0.0, 0.5, 1.0], [0.02] * 5, [0.004] * 5),
                                 ([0.3, -0.8, 0.9], [0.7, 0.05, 0.3], [0.0006, 0.04, 0.02])):
        v, b, s = (torch.tensor(x).double() for x in (values, large, small))
        share = (v + 1) / 2

        def blend(w: Tensor, b: Tensor = b, s: Tensor = s) -> Tensor:
            return torch.exp(w * b.log() + (1 - w) * s.log())

        expect(call(fn, v, b, s, shape=v.shape), blend(share), wrong={
            "v runs from -1 to 1; the share is (v + 1) / 2.": blend(v),
            "It interpolates the variances; iDDPM interpolates their logarithms.": share * b + (1 - share) * s,
            "The ends are swapped: v = 1 means beta.": blend(1 - share),
            "It returns the logarithm; take the exponential.": share * b.log() + (1 - share) * s.log(),
            "It returns the standard deviation; the variance is asked for.": blend(share).sqrt(),
            "It takes a sigmoid of v; v itself is the position between the two.": blend(v.sigmoid()),
        }, otherwise="v = 1 must give beta, v = -1 beta_tilde, and v = 0 their geometric mean.")


@exercise("02.immiscible", "Spot the bug: noise that was reassigned", points=2, hints=(
    "The target of an eps-network is the noise that is in the picture.",
    "Reorder first, then use the reordered noise twice.",
))
def noised_pair(x0, noise, order, abar):
    """Immiscible training gives picture b the noise number order[b], then noises it. A published code has

        loss = (net(q_sample(x0, t, noise), t) - noise) ** 2

    and in q_sample, as its first line, noise = noise[order]. It runs, and trains. Write it right: return
    torch.stack([x_t, target]) for an eps-network. x0, noise: (B, C, H, W); order: (B,); abar: (B, 1, 1, 1).
    """
    ### BEGIN SOLUTION
    noise = noise[order]
    return torch.stack([abar ** 0.5 * x0 + (1 - abar) ** 0.5 * noise, noise])
    ### END SOLUTION


@checks(noised_pair)
def _immiscible(fn) -> None:
    for (shape, abar, _), places in zip(PICTURES, ([2, 0, 1], [1, 2, 3, 0]), strict=True):
        x0, noise, order, a = _noise("x0", *shape), _noise("noise", *shape), torch.tensor(places), _each(abar)
        mine = noise[order]
        c, s = a.sqrt(), (1 - a).sqrt()
        x_t = c * x0 + s * mine
        expect(call(fn, x0, noise, order, a, shape=(2, *shape)), torch.stack([x_t, mine]), wrong={
            "That is the published bug: the target is the noise before it was reordered.": torch.stack([x_t, noise]),
            "The target is reordered, but the picture holds the noise as it was.": torch.stack([c * x0 + s * noise, mine]),
            "The noise was not reordered at all.": torch.stack([c * x0 + s * noise, noise]),
            "The pictures were reordered instead of the noise.": torch.stack([c * x0[order] + s * noise, noise]),
            "The order was inverted: picture b gets noise number order[b].":
                torch.stack([c * x0 + s * noise[order.argsort()], noise[order.argsort()]]),
            "The two results are swapped: x_t first, then the target.": torch.stack([mine, x_t]),
            "The roots are missing in x_t.": torch.stack([a * x0 + (1 - a) * mine, mine]),
        }, otherwise="The second result is noise[order]; the first is sqrt(abar) x0 + sqrt(1 - abar) times that same noise.")
