"""Exercises of lesson 06: what a Gaussian step leaves out, pairs, the penalty, the loop, what z does, counting cells, a cheat."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.diffusion.ddgan import ddgan_schedule
from minidiff.rng import normal

__all__: list[str] = []


def _n(shape: tuple[int, ...], *words: object) -> Tensor:
    return normal(shape, "lesson 06", *words, dtype=torch.float64)


def _over(v: Tensor, x: Tensor) -> Tensor:
    return v.view(-1, *[1] * (x.ndim - 1))


# 1 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.mean_modes", "Predict: one step, and the mean", hints=(
    "At T = 1 the only step starts from pure noise: x_1 says nothing about x_0.",
    "What is the mean of all the data, and is one of the 25 centres there?",
))
def modes_hit_in_one_step():
    """25 Gaussians, T = 1. The generator answers E[x0 | x_1], the mean. How many of the 25 do 10,000 samples hit?"""
    ### BEGIN SOLUTION
    return 1
    ### END SOLUTION


@checks(modes_hit_in_one_step)
def _mean_modes(value: object) -> None:
    expect_number(value, 1, tol=1e-6, wrong={
        "The mean is the same for nearly every x_1; it cannot reach them all.": 25,
        "The mean of this grid is a centre of the grid: there is a Gaussian in the very middle.": 0,
        "That is about what four steps give.": 9,
        "That is about what two steps give.": 4,
        "The number of samples changes nothing: they all lie at one place.": 10_000,
    }, otherwise="E[x0 | pure noise] is the mean of the data, whatever the noise.")


# 2 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.true_variance", "Derive: the variance of the true step", points=3, hints=(
    "Given x0 the step is Gaussian with mean c1 x0 + c2 x_t and variance var. x0 itself is +m or -m.",
    "Law of total variance: var + c1^2 Var(x0 | x_t), and a coin of values +-m has variance m^2 (1 - mean^2 / m^2).",
    "E[x0 | x_t] = m tanh(sqrt(abar) m x / (1 - abar)).",
))
def true_variance(x, abar, abar_prev, m):
    """Variance of q(x_{t-1} | x_t = x), (B,), for data that is +m or -m, each as likely.

    x: (B,); abar, abar_prev: signal left at t and at t - 1, abar < abar_prev < 1; m: a number.
    """
    ### BEGIN SOLUTION
    alpha = abar / abar_prev
    c1 = abar_prev**0.5 * (1 - alpha) / (1 - abar)
    var = (1 - alpha) * (1 - abar_prev) / (1 - abar)
    coin = 1 - torch.tanh(abar**0.5 * m * x / (1 - abar)) ** 2
    return var + (c1 * m) ** 2 * coin
    ### END SOLUTION


@checks(true_variance)
def _true_variance(fn: Callable) -> None:
    for n, a, p, m in ((9, 0.3, 0.75, 1.0), (14, 0.0787, 0.5217, 0.6), (6, 0.62, 0.7, 1.7)):
        x, (abar, prev, size) = 1.3 * _n((n,), "variance", n), (number(v) for v in (a, p, m))
        alpha = a / p
        c1, var = p**0.5 * (1 - alpha) / (1 - a), (1 - alpha) * (1 - p) / (1 - a)
        k = a**0.5 * m / (1 - a)
        coin = 1 - torch.tanh(k * x) ** 2
        want = var + (c1 * m) ** 2 * coin
        plus = torch.sigmoid(2 * k * x)
        expect(call(fn, x, abar, prev, size, shape=(n,)), want, wrong=fits({
            "That is the variance of the Gaussian step, with x0 known. Here x0 is a coin.": torch.full_like(x, var),
            "That is the coin alone; given x0 there is still the noise of the step.": (c1 * m) ** 2 * coin,
            "x0 enters the step with the factor c1, and its variance with the square of it.": var + c1 * m**2 * coin,
            "The coin is thrown at full size; x0 enters the step with a factor c1.": var + m**2 * coin,
            "The coin is fair in your answer; x_t has seen how it fell.": torch.full_like(x, var + (c1 * m) ** 2),
            "p (1 - p) is the variance of a coin of values 0 and 1. These values lie 2 m apart: four times as much.":
                var + (c1 * m) ** 2 * plus * (1 - plus),
            "The slope inside of the tanh is off by two: the logit is 2 sqrt(abar) m x / (1 - abar), the mean tanh(logit / 2).":
                var + (c1 * m) ** 2 * (1 - torch.tanh(2 * k * x) ** 2),
            "That is a standard deviation; take it without the root.": want.sqrt(),
            "The variance has the factor abar m inside, where sqrt(abar) m belongs: x_t is sqrt(abar) x0 plus noise.":
                var + (c1 * m) ** 2 * (1 - torch.tanh(a * m * x / (1 - a)) ** 2),
            "The values are +-1 in your answer; use m.": var + c1**2 * (1 - torch.tanh(a**0.5 * x / (1 - a)) ** 2),
        }, want), otherwise="Try x = 0: the coin is fair, and the answer var + (c1 m)^2. Far from 0 it must be var.")


# 3 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.pair", "Debug: two pictures of one path", points=2, hints=(
    "x_t must be made from x_{t-1}, by one more step of noise, not from x0 again.",
    "One step keeps alpha = abar_t / abar_{t-1} of the signal. Before the first step abar is 1.",
    "prev = 1 where t = 0, else abar[t - 1]; the index -1 of a table is its last entry.",
))
def path_pair(x0, t, abar, noise, more):
    """(2, B, ...): x_{t-1}, then x_t, on one path. x0: (B, ...); t: (B,) whole numbers; abar: (T,);
    noise, more: like x0.

    x_{t-1} is made with ``noise``, the step from it to x_t with ``more``; at t = 0 the first of the two
    is x0 itself.

    A colleague wrote, with q(x0, t, noise) = sqrt(abar[t]) x0 + sqrt(1 - abar[t]) noise:
    torch.stack([q(x0, t - 1, noise), q(x0, t, more)]). Two things are wrong with it.
    """
    ### BEGIN SOLUTION
    shape = (-1, *[1] * (x0.ndim - 1))
    prev = torch.where(t > 0, abar[t - 1], 1.0).view(shape)
    alpha = abar[t].view(shape) / prev
    before = prev**0.5 * x0 + (1 - prev) ** 0.5 * noise
    return torch.stack([before, alpha**0.5 * before + (1 - alpha) ** 0.5 * more])
    ### END SOLUTION


@checks(path_pair)
def _pair(fn: Callable) -> None:
    for shape, steps in (((5, 2, 4, 3), 4), ((7, 3), 8), ((3, 1, 5, 6), 2)):
        x0, a, b = (_n(shape, "pair", i, steps) for i in range(3))
        abar, t = ddgan_schedule(steps).abar, torch.tensor([1, 0, 1, 3, 2, 0, 3])[:shape[0]].clamp(max=steps - 1)
        prev = _over(torch.cat([torch.ones(1, dtype=torch.float64), abar])[t], x0)
        last, now = _over(abar[t - 1], x0), _over(abar[t], x0)
        alpha = now / prev
        before = prev.sqrt() * x0 + (1 - prev).sqrt() * a

        def after(old: Tensor, keep: Tensor, b: Tensor = b) -> Tensor:
            return keep.sqrt() * old + (1 - keep).clamp(min=0).sqrt() * b

        want = torch.stack([before, after(before, alpha)])
        expect(call(fn, x0, t, abar, a, b, shape=(2, *shape)), want, wrong=fits({
            "That is the colleague's code: two unrelated noises, and at t = 0 the index -1 reads the end of the table.":
                torch.stack([after(x0, last, a), after(x0, now)]),
            "The second is made from x0 again. Then the two do not lie on one path.": torch.stack([before, after(x0, now)]),
            "At t = 0 the index -1 reads the last entry of the table; before the first step abar is 1.":
                torch.stack([after(x0, last, a), after(after(x0, last, a), now / last)]),
            "The step keeps abar_t of x_{t-1} in your answer; it should keep alpha = abar_t / abar_{t-1}.":
                torch.stack([before, after(before, now)]),
            "Both have the same noise; the step needs one of its own.": torch.stack([before, after(before, alpha, a)]),
            "x_t comes first in your answer; the earlier one, x_{t-1}, does.": want.flip(0),
            "One step late: the pair is (x_t, x_{t+1}) or your first one has had t + 1 steps.":
                torch.stack([after(x0, now, a), after(after(x0, now, a), alpha)]),
        }, want), otherwise="One step of noise from x_{t-1}; given x0, x_t must have the variance 1 - abar_t.")


# 4 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.r1", "Build: the penalty of the discriminator", points=2, hints=(
    "The gradient is taken with respect to x_{t-1} alone; x_t is given.",
    "torch.autograd.grad(D(...).sum(), before, create_graph=True): the sum over rows, because no row's logit depends on another.",
    "Square, then sum over everything but the batch.",
))
def r1_penalty(D, before, t, after):  # noqa: N803
    """|| d D / d x_{t-1} ||^2 of each row, (B,), ready to be trained on. D(before, t, after) -> (B,) logits.

    before, after: x_{t-1} and x_t, (B, ...); t: (B,).
    """
    ### BEGIN SOLUTION
    before = before.detach().requires_grad_(True)
    gradient = torch.autograd.grad(D(before, t, after).sum(), before, create_graph=True)[0]
    return gradient.flatten(1).square().sum(1)
    ### END SOLUTION


@checks(r1_penalty)
def _r1(fn: Callable) -> None:
    for shape in ((4, 2, 3, 5), (6, 3), (3, 2, 7, 4)):
        before, after, t = _n(shape, "r1", 0), _n(shape, "r1", 1), torch.arange(shape[0]) * 3 % 5 + 1
        weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

        def d(x: Tensor, t: Tensor, y: Tensor, weight: Tensor = weight) -> Tensor:
            if len(t) != len(x) or x.shape != y.shape:
                raise Mistake(f"The discriminator got {len(x)} pictures, {len(t)} times and {len(y)} pictures to compare with.")
            return (torch.sin(weight * x * (1 + _over(t, x) / 4)) + x.square() * y.cos()).flatten(1).sum(1)

        def slope(at: int, before: Tensor = before, after: Tensor = after, t: Tensor = t, d: Callable = d) -> Tensor:
            pair = [before.clone().requires_grad_(True), after.clone().requires_grad_(True)]
            return torch.autograd.grad(d(pair[0], t, pair[1]).sum(), pair[at], create_graph=True)[0].flatten(1)

        g, other = slope(0), slope(1)
        want = g.square().sum(1)
        got = call(fn, d, before, t, after, shape=(shape[0],))
        expect(got.detach(), want.detach(), wrong=fits({k: v.detach() for k, v in {
            "That is the length of the gradient; the penalty is its square.": want.sqrt(),
            "That is the mean over the values of a picture; the squared length is their sum.": g.square().mean(1),
            "That is the gradient with respect to x_t, which is only given. Penalise x_{t-1}.": other.square().sum(1),
            "The gradient with respect to x_t is in it too; x_t is only given.": (g.square() + other.square()).sum(1),
            "Sum of absolute values; the squared length is the sum of squares.": g.abs().sum(1),
            "Square before you sum: positive and negative slopes must not cancel.": g.sum(1).square(),
            "Half of it; the factor gamma / 2 is put on outside.": want / 2,
        }.items()}, want.detach()), otherwise="For D = <w, x_{t-1}> it must be |w|^2 in every row.")
        if not got.requires_grad:
            raise Mistake("The numbers are right, but nothing can be trained on them: the gradient was made without a graph "
                          "(create_graph=True).")
        found = torch.autograd.grad(got.sum(), weight, allow_unused=True)[0]
        if found is None or not torch.allclose(found.double(), torch.autograd.grad(want.sum(), weight)[0], rtol=1e-4):
            raise Mistake("The numbers are right, but their gradient with respect to D's weights is not; was something detached?")


# 5 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.sampler", "Debug: four steps from noise", points=2, hints=(
    "The colleague's points do not end on data. Which step must be the last one, and what does it leave of the noise?",
    "Compare each of the three lines with the boxed formula: what is drawn anew for every step, and how wide is the posterior?",
    "From the most noise to the least; a z for every step; the noise times a standard deviation, the root of var.",
))
def draw_in_steps(G, x, c1, c2, var, z_of, noise_of):  # noqa: N803
    """Samples like x, (B, ...), by a denoising diffusion GAN. G(x_t, t, z) -> x0, with t (B,) whole numbers.

    c1, c2, var: (T,), of q(x_{t-1} | x_t, x0) = N(c1[t] x0 + c2[t] x_t, var[t]). z_of(t), noise_of(t):
    fresh numbers for step t.

    A colleague wrote, and the samples are poor, though no error is raised:
    z = z_of(0)
    for t in range(len(c1)):
        x = c1[t] * G(x, torch.full((len(x),), t), z) + c2[t] * x + var[t] * noise_of(t)
    """
    ### BEGIN SOLUTION
    for t in reversed(range(len(c1))):
        x0 = G(x, torch.full((len(x),), t), z_of(t))
        x = c1[t] * x0 + c2[t] * x + var[t] ** 0.5 * noise_of(t)
    return x
    ### END SOLUTION


@checks(draw_in_steps)
def _sampler(fn: Callable) -> None:
    for shape, steps, wide in (((3, 2, 5, 4), 4, 6), ((5, 3), 3, 4), ((4, 1, 3, 6), 8, 3)):
        c1, c2, var = ddgan_schedule(steps).posterior(torch.arange(steps))
        x, rows = _n(shape, "start", steps), shape[0]

        def z_of(t: int, rows: int = rows, wide: int = wide) -> Tensor:
            return _n((rows, wide), "z", int(t))

        def noise_of(t: int, shape: tuple[int, ...] = shape) -> Tensor:
            return _n(shape, "step", int(t))

        def net(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
            if t.shape != (len(x),) or len(z) != len(x):
                raise Mistake(f"G got {len(x)} states, {tuple(t.shape)} times and {len(z)} latents; one of each a row.")
            return torch.tanh(1.3 * x.sin() + _over(z.mean(1), x) + _over(t, x) / 5)

        def run(z: object = "fresh", up: bool = False, root: bool = True, last: str = "x", posterior: bool = True,
                fresh: bool = True, x: Tensor = x, steps: int = steps, c1: Tensor = c1, c2: Tensor = c2, var: Tensor = var,
                z_of: Callable = z_of, noise_of: Callable = noise_of, net: Callable = net) -> Tensor:
            for t in range(steps) if up else reversed(range(steps)):
                latent = {"fresh": z_of(t), "zero": 0 * z_of(t), "once": z_of(steps - 1), "once 0": z_of(0)}[z]
                x0 = net(x, torch.full((len(x),), t), latent)
                noise = noise_of(t if fresh else 0) * (var[t] ** 0.5 if root else var[t])
                x = c1[t] * x0 + c2[t] * x + noise if posterior else x0
            return x

        expect(call(fn, net, x, c1, c2, var, z_of, noise_of, shape=shape), run(), wrong=fits({
            "That is the colleague's loop, with its three faults.": run("once 0", up=True, root=False),
            "z is drawn once for all the steps; each step has a z of its own.": run("once"),
            "z is drawn once, at step 0, for all the steps; each step has a z of its own.": run("once 0"),
            "The steps go up: they must begin at t = T - 1, where x is pure noise.": run(up=True),
            "The noise is multiplied by the variance; its standard deviation is the root.": run(root=False),
            "z is zero all the way: then a generator can only draw one picture from each x_t.": run("zero"),
            "The posterior is missing: each step's x0 goes straight into the next step.": run(posterior=False),
            "Every step has the same noise.": run(fresh=False),
        }, run()), otherwise="From t = T - 1 down: z, x0 = G(x, t, z), then one draw of the posterior.")


# 6 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.z_share", "Measure: what z decides", points=2, hints=(
    "Keep x_t and change only z: what then varies, varies because of z.",
    "The variance over the draws of z, averaged over states and values; and the variance of all outputs taken together.",
    "torch.stack gives (K, B, ...). Inside: .var(0).mean(). All: .flatten(0, 1).var(0).mean().",
))
def share_of_z(G, x, t, z):  # noqa: N803
    """How much of the spread of x0 = G(x_t, t, z) is due to z: a number in [0, 1], a ratio of standard deviations.

    x: (B, ...) states; t: (B,); z: (K, B, z_dim), K draws for each state. Both are sample variances (the
    count less one below) of each value of x0, averaged over the values: once over the K draws at one x_t,
    once over all K B outputs.
    """
    ### BEGIN SOLUTION
    out = torch.stack([G(x, t, draw) for draw in z])
    inside = out.var(0).mean()
    whole = out.flatten(0, 1).var(0).mean()
    return (inside / whole).sqrt()
    ### END SOLUTION


@checks(share_of_z)
def _z_share(fn: Callable) -> None:
    for key, (shape, k, wide, strength) in enumerate((((5, 2, 4, 3), 7, 3, 0.4), ((9, 3), 4, 5, 2.0), ((3, 2, 3, 5), 6, 4, 0.0))):
        x, z, t = _n(shape, "share", key), _n((k, shape[0], wide), "share z", key), torch.arange(shape[0]) % 4 + 1

        def net(x: Tensor, t: Tensor, z: Tensor, strength: float = strength) -> Tensor:
            if len(t) != len(x) or len(z) != len(x) or z.ndim != 2:
                raise Mistake(f"G got {len(x)} states, {len(t)} times and latents of shape {tuple(z.shape)}; one of each a row.")
            return torch.sin(1.2 * x + 0.4 + strength * _over(z.sum(1), x) * x.cos()) + _over(t, x) / 6

        out = torch.stack([net(x, t, draw) for draw in z])
        inside, whole = out.var(0).mean(), out.flatten(0, 1).var(0).mean()
        want = (inside / whole).sqrt()
        between = out.mean(0).var(0).mean()
        got = call(fn, net, x, t, z, shape=())
        expect(got, want, tol=2e-5 if strength else 1.0, wrong=fits({
            "That is a ratio of variances; take its root.": inside / whole,
            "That is the share of what x_t decides; keep x_t and let z change.": (between / whole).sqrt(),
            "Divided by what x_t decides, not by the whole spread: that has no upper end.": (inside / between).sqrt(),
            "The counts stand below; with few draws of z that makes its share too small. Take the counts less one.":
                (out.var(0, unbiased=False).mean() / out.flatten(0, 1).var(0, unbiased=False).mean()).sqrt(),
            "The spread over z alone; divide by the spread of all outputs.": inside.sqrt(),
            "The whole spread is taken over all values at once, so that dark and bright places of one picture count as variety.":
                (inside / out.var()).sqrt(),
            "Only the first draws of z are compared; use all K.":
                (out[:2].var(0).mean() / out[:2].flatten(0, 1).var(0).mean()).sqrt(),
        }, want), otherwise="A generator that ignores z must get 0, one that ignores x_t and t about 1.")
        if not strength and abs(float(got)) > 1e-6:
            raise Mistake("A generator that ignores z must get 0.")


# 7 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.cells", "Measure: coverage at equal numbers", points=2, hints=(
    "For one cell: the chance that none of m pictures, drawn from the n without putting back, is one of its k pictures.",
    "That chance is (n-k)/n * (n-k-1)/(n-1) * ... with m factors; once a factor is 0, none can be missed.",
    "The expected number of cells is the sum of 1 minus those chances.",
))
def cells_among(counts, n, m):
    """How many cells m of the n pictures would show, on average over all choices of m of them. Returns one number.

    counts: (K,) pictures of each cell, float64; n: all pictures, those that show nothing countable
    included; m <= n.
    """
    ### BEGIN SOLUTION
    i = torch.arange(m)
    missed = ((n - counts[:, None] - i) / (n - i)).prod(1)
    return (1 - missed).sum()
    ### END SOLUTION


@checks(cells_among)
def _cells(fn: Callable) -> None:
    for counts, n, m in (([3, 0, 5, 1, 1], 12, 4), ([2, 7, 1], 10, 6), ([1, 1, 0, 9, 3, 2, 2], 30, 17), ([4, 4], 8, 8)):
        k = torch.tensor(counts, dtype=torch.float64)

        def missed(k: float, n: int, m: int) -> float:
            return math.comb(n - int(k), m) / math.comb(n, m)

        want = sum((1 - missed(v, n, m) for v in counts), 0.0)
        seen, all_of_it = number(float((k > 0).sum())), number(float(len(counts)))
        expect(call(fn, k, n, m, shape=()), number(want), wrong=fits({
            "That is with putting back; m different pictures are chosen.": (1 - (1 - k / n) ** m).sum(),
            "That is the number of cells among all n pictures; among m of them there are fewer.": seen,
            "The cells do not grow in proportion: the first pictures find more new cells than the last ones.": seen * m / n,
            "Pictures that show nothing countable are left out of n; they use up draws too.":
                number(sum((1 - missed(v, int(k.sum()), m) if m <= k.sum() else float(v > 0)) for v in counts)),
            "These are the cells that are missed.": all_of_it - want,
            "That is the share of the cells; their number is asked for.": number(want) / all_of_it,
            "One picture too few: m factors, not m - 1.": number(sum(1 - missed(v, n, m - 1) for v in counts)),
        }, number(want)), tol=1e-6,
               otherwise="With m = n it must be the number of cells seen, with m = 1 the share of countable ones.")


# 8 -------------------------------------------------------------------------------------------------------------------------


@exercise("06.fool", "Break it: a cheat that the usual figures praise", points=2, hints=(
    "Covered means: at least one sample. How few samples do you need for all the centres but one?",
    "Everything that is left may go to a single place.",
))
def cheat(centres, std, n):
    """n points (n, 2) that a table of "modes covered" and "share within 3 std" calls perfect, and that hardly vary.

    centres: (K, 2), n > 10 K. Every point within 3 std of a centre; every centre hit; yet the
    Kullback-Leibler divergence of the centres' shares from equal shares, sum p log(p K) in nats, must be
    at least half of its largest value log K.
    """
    ### BEGIN SOLUTION
    return torch.cat([centres, centres[:1].expand(n - len(centres), 2)])
    ### END SOLUTION


@checks(cheat)
def _fool(fn: Callable) -> None:
    axis = torch.tensor([-2.0, -0.5, 1.5, 4.0], dtype=torch.float64)
    for centres, std, n in ((torch.cartesian_prod(axis, axis[:3]), 0.05, 400), (torch.cartesian_prod(axis[:2], axis), 0.12, 150)):
        x = call(fn, centres, std, n, shape=(n, 2))
        far, nearest = torch.cdist(x.double(), centres).min(1)
        share = torch.bincount(nearest, minlength=len(centres)).double() / n
        if float(far.max()) >= 3 * std:
            raise Mistake(f"A point lies {float(far.max()) / std:.1f} std from the nearest centre; the quality figure sees that.")
        if bool((share == 0).any()):
            raise Mistake(f"{int((share == 0).sum())} of {len(centres)} centres have no point; the coverage figure sees that.")
        kl = float((share * (share * len(centres)).log()).sum())
        least = 0.5 * math.log(len(centres))
        if kl < least:
            raise Mistake(f"Your points are too honest: the divergence is {kl:.2f} nats, and {least:.2f} is asked for.")
