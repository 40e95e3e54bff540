"""Exercises of lesson 05: the classifier inside two predictions, dropout, one batched call, intervals, several conditions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _two(shape: tuple[int, ...], word: str) -> tuple[Tensor, Tensor]:
    return normal(shape, "05", word, 0, dtype=torch.float64), normal(shape, "05", word, 1, dtype=torch.float64)


@exercise("05.implicit", "Derive: the classifier that is hidden in two predictions", points=2, hints=(
    "Bayes: log p(c | x) = log p(x | c) - log p(x) + a constant, and the constant has no gradient.",
    "A prediction of the noise is a score with a factor: grad log p = -eps / sqrt(1 - abar).",
    "So take the difference of two scores, and mind which of the two minus signs is left over.",
))
def implicit_gradient(u, c, abar):
    """grad log p(c | x_t) from the predicted noise without (u) and with (c) the condition, both (B, ...).
    abar: (B,)."""
    ### BEGIN SOLUTION
    return (u - c) / (1 - abar).sqrt().view(-1, *[1] * (u.ndim - 1))
    ### END SOLUTION


@checks(implicit_gradient)
def _implicit(fn: Callable) -> None:
    for shape in ((3, 2, 5, 4), (6, 3), (2, 4, 3, 7)):
        u, c = _two(shape, "implicit")
        abar = torch.linspace(0.9, 0.05, shape[0], dtype=torch.float64)

        def over(value: Tensor, u: Tensor = u) -> Tensor:
            return value.view(-1, *[1] * (u.ndim - 1))

        want = (u - c) / over((1 - abar).sqrt())
        wrong = {
            "The sign is turned: a score is minus the noise, so the unconditional prediction comes first.": -want,
            "Divide by sqrt(1 - abar); without it the gradient is right only at pure noise.": u - c,
            "That is divided by the variance 1 - abar; a score has the standard deviation below it.":
                (u - c) / over(1 - abar),
            "The factor is that of the picture, sqrt(abar); noise has sqrt(1 - abar).": (u - c) / over(abar.sqrt()),
            "The factor belongs below, not in front: eps is small next to the score when there is little noise.":
                (u - c) * over((1 - abar).sqrt()),
            "That is the score of p(x | c) alone; subtract the score of p(x).": -c / over((1 - abar).sqrt()),
            "Every row has the abar of the first one; there is one for each.": (u - c) / (1 - abar[0]).sqrt(),
        }
        expect(call(fn, u, c, abar, shape=shape), want, wrong=fits(wrong, want),
               otherwise="It should be the score with the condition minus the score without it.")


@exercise("05.drop", "Dropout for two conditions with one random number", points=2, hints=(
    "Draw a line from 0 to 1 and mark p, 2p, 3p on it. Which stretch drops which condition?",
    "Below p only the text goes, from p to 2p both, from 2p to 3p only the image.",
    "So the text goes where r < 2p and the image where p <= r < 3p.",
))
def drop_masks(r, p):
    """InstructPix2Pix's dropout. r: (B,) in [0, 1); a share p loses the text only, p both, p the image only.

    Returns a (2, B) bool tensor: first whether the text is dropped, then whether the image is.
    """
    ### BEGIN SOLUTION
    return torch.stack([r < 2 * p, (r >= p) & (r < 3 * p)])
    ### END SOLUTION


@checks(drop_masks)
def _drop(fn: Callable) -> None:
    for n, p in ((1000, 0.05), (601, 0.2)):
        r = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        want = torch.stack([r < 2 * p, (r >= p) & (r < 3 * p)])
        got = call(fn, r, p, shape=(2, n)).bool()
        wrong = {
            "Text and image have changed places: the text goes where r < 2p.": want.flip(0),
            "The two are dropped together only: below p the text goes alone, above 2p the image does.":
                torch.stack([r < 3 * p, r < 3 * p]),
            "The two are never dropped together, so the network never learns to do without both.":
                torch.stack([r < p, (r >= p) & (r < 2 * p)]),
            "The text is kept where it should go: p is a share to drop, not to keep.": ~want,
            "The image is dropped at the bottom of the line too; there the text goes alone.":
                torch.stack([r < 2 * p, r < 3 * p]),
            "The stretches end at fixed places; use p.": torch.stack([r < 0.1, (r >= 0.05) & (r < 0.15)]),
            "A half-open stretch is missing: the image goes from p to 3p only.": torch.stack([r < 2 * p, r >= p]),
        }
        expect(got.double(), want.double(), wrong=fits({k: v.double() for k, v in wrong.items()}, want.double()),
               otherwise="Three stretches of length p from the left: text only, both, image only.")
        edge = torch.tensor([0.0, p, 2 * p, 3 * p], dtype=torch.float64)
        at = call(fn, edge, p, shape=(2, 4)).bool()
        if not torch.equal(at, torch.stack([edge < 2 * p, (edge >= p) & (edge < 3 * p)])):
            raise Mistake("It is right except at the ends of a stretch: each holds its left end and not its right one.")


@exercise("05.batched", "Debug: one call for both predictions", points=2, hints=(
    "Look at which half of the network's answer belongs to which condition: the order of `torch.cat` is the order of `chunk`.",
    "`t` has one entry a row, and there are twice as many rows now.",
    "With the no-condition rows first: u, c = out.chunk(2), and u + s (c - u).",
))
def batched_cfg(net, x, t, cond, s):
    """Guided prediction with one call of net(x, t, cond). x: (B, ...); t: (B,); cond: (B, D), zeros mean
    none; s: a number.

    A colleague wrote:  out = net(torch.cat([x, x]), t, torch.cat([cond, 0 * cond])); u, c = out.chunk(2);
    return u + s * (c - u). Two things are wrong with it.
    """
    ### BEGIN SOLUTION
    out = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([torch.zeros_like(cond), cond]))
    u, c = out.chunk(2)
    return u + s * (c - u)
    ### END SOLUTION


@checks(batched_cfg)
def _batched(fn: Callable) -> None:
    for rows, s, shape, wide in ((3, 4.5, (2, 5, 4), 3), (5, -0.5, (1, 6, 2), 4)):
        x, cond = normal((rows, *shape), "05 x", rows, dtype=torch.float64), normal((rows, wide), "05 c", dtype=torch.float64)
        t = torch.arange(rows) * 37 + 5
        asked: list[int] = []

        def net(x: Tensor, t: Tensor, c: Tensor, asked: list[int] = asked) -> Tensor:
            asked.append(len(x))
            if t.shape != (len(x),) or len(c) != len(x):
                raise Mistake(f"The network got {len(x)} pictures, {len(t)} times and {len(c)} conditions; one of each a row.")
            return torch.sin(x * (1 + t.view(-1, 1, 1, 1) / 50)) + (c**2 + c).sum(1).view(-1, 1, 1, 1) * x.cos()

        got = call(fn, net, x, t, cond, s, shape=x.shape)
        if len(asked) != 1:
            raise Mistake(f"The network was called {len(asked)} times; one call with all the rows is enough.")
        u, c = net(x, t, torch.zeros_like(cond)), net(x, t, cond)
        want = u + s * (c - u)
        wrong = {
            "The halves are exchanged: what you call u was made with the condition.": c + s * (u - c),
            "That is 1 + s instead of s: the other convention.": c + s * (c - u),
            "That is the difference alone; it is added to a prediction.": s * (c - u),
            "The unconditional prediction is missing from the sum.": s * c,
            "That is the conditional prediction; s is not used.": c,
            "All rows have the time of the first one.": (lambda a, b: a + s * (b - a))(
                net(x, t[:1].expand(rows), 0 * cond), net(x, t[:1].expand(rows), cond)),
        }
        expect(got, want, wrong=fits(wrong, want), otherwise="With one call: u + s (c - u), u from the rows without a condition.")


@exercise("05.saturation", "Measure: how much of a picture is burnt out", points=2, hints=(
    "A pixel value that lies beyond -1 or 1 will be clipped when the picture is shown.",
    "(x.abs() > limit) is a bool tensor of the shape of x; you want one number for each picture.",
    "(images.abs() > limit).double().flatten(1).mean(1)",
))
def burnt_share(images, limit=1.0):
    """The share of values of each picture that lie beyond +-limit. images: (B, C, H, W), not clipped. Returns
    (B,) floats."""
    ### BEGIN SOLUTION
    return (images.abs() > limit).double().flatten(1).mean(1)
    ### END SOLUTION


@checks(burnt_share)
def _saturation(fn: Callable) -> None:
    for shape, limit in (((3, 3, 5, 7), 1.0), ((4, 1, 8, 6), 1.4)):
        spread = torch.linspace(0.4, 2.5, shape[0], dtype=torch.float64).view(-1, 1, 1, 1)
        x = normal(shape, "05 burnt", dtype=torch.float64) * spread
        over = x.abs() > limit
        want = over.double().flatten(1).mean(1)
        wrong = {
            "Dark values burn out as well: look at the size of the value, not only above the limit.":
                (x > limit).double().flatten(1).mean(1),
            "That is the share of values that are still good.": 1 - want,
            "That is a count; divide by the number of values of one picture.": over.double().flatten(1).sum(1),
            "The limit is always 1 in your code; use the argument.": (x.abs() > 1).double().flatten(1).mean(1),
            "That is how far they lie beyond the limit, not how many do.": (x.abs() - limit).clamp(min=0).flatten(1).mean(1),
            "A pixel counts here if one of its colours is beyond; count values.": over.any(1).double().flatten(1).mean(1),
        }
        got = call(fn, x, limit)
        if got.ndim == 0:
            raise Mistake("That is one number for the whole batch; each picture needs its own.")
        expect(got, want, wrong=fits(wrong, want), otherwise="Count the values beyond the limit in each picture, as a share.")
    if float(call(fn, 1.2 * torch.ones(2, 2, 3, 3)).sum()) != 2:
        raise Mistake("Without a limit given, everything beyond 1 is burnt out.")
    if float(call(fn, torch.ones(2, 3, 4, 5)).sum()) != 0:
        raise Mistake("A value of exactly 1 is white, not burnt out: only what lies beyond counts.")


@exercise("05.interval", "Guide only in the middle", points=2, hints=(
    "sigma = sqrt((1 - abar) / abar) says how noisy a step is, whatever the schedule.",
    "Where sigma lies outside the interval the scale is 1, not 0: the condition stays, only the extra push goes.",
    "torch.where((sigma > low) & (sigma <= high), s, 1.0)",
))
def middle_scale(abar, s, low, high):
    """The scale of each step: s where low < sigma <= high, else the plain conditional model. abar: (N,).
    Returns (N,) floats."""
    ### BEGIN SOLUTION
    sigma = ((1 - abar) / abar).sqrt()
    return torch.where((sigma > low) & (sigma <= high), s, 1.0)
    ### END SOLUTION


@checks(middle_scale)
def _interval(fn: Callable) -> None:
    for n, s, low, high in ((40, 6.0, 0.4, 3.0), (33, 2.5, 0.1, 12.0)):
        abar = torch.linspace(0.995, 0.005, n, dtype=torch.float64)
        sigma = ((1 - abar) / abar).sqrt()
        one = torch.ones(n, dtype=torch.float64)

        def scale(level: Tensor, inside: float = s, outside: Tensor = one, low: float = low, high: float = high) -> Tensor:
            return torch.where((level > low) & (level <= high), torch.full_like(outside, inside), outside)

        want = scale(sigma)
        wrong = {
            "Outside of the interval the scale is 1: with 0 the condition is forgotten there.": scale(sigma, s, 0 * one),
            "It is turned round: the push belongs inside the interval.": torch.where(want == 1, s * one, one),
            "That is the interval of sigma squared; take the root.": scale(sigma**2),
            "That is 1 - abar, a variance of the noise; sigma compares it with abar.": scale((1 - abar).sqrt()),
            "That is sqrt(abar / (1 - abar)), the inverse: large where there is little noise.": scale(1 / sigma),
            "Only the lower end is looked at.": torch.where(sigma > low, s * one, one),
            "Only the upper end is looked at.": torch.where(sigma <= high, s * one, one),
            "Inside it is s, not s more than 1.": scale(sigma, s + 1),
        }
        expect(call(fn, abar, s, low, high, shape=(n,)), want, wrong=fits(wrong, want),
               otherwise="s for the steps with low < sigma <= high, 1 for all others.")
    half = torch.tensor([0.5, 0.9], dtype=torch.float64)                    # sigma is exactly 1 at the first
    if [float(call(fn, half, 3.0, *ends)[0]) for ends in ((0.5, 1.0), (1.0, 2.0))] != [3.0, 1.0]:
        raise Mistake("It is right except at the ends: the interval holds its upper end and not its lower one.")


@exercise("05.compose", "Two conditions and a 'not'", points=2, hints=(
    "Every condition pulls from the same point, the prediction without any.",
    "A 'not' pulls the other way: its weight has a minus.",
    "u + s_a (a - u) + s_b (b - u) - s_n (n - u)",
))
def and_not(u, a, b, n, s_a, s_b, s_n):
    """Composable guidance towards a and b and away from n. u, a, b, n: predictions (B, ...); the scales are
    numbers >= 0."""
    ### BEGIN SOLUTION
    return u + s_a * (a - u) + s_b * (b - u) - s_n * (n - u)
    ### END SOLUTION


@checks(and_not)
def _compose(fn: Callable) -> None:
    for shape, (p, q, r) in (((3, 2, 4, 5), (2.0, 3.5, 0.75)), ((5, 3), (0.5, 6.0, 1.5)), ((2, 4, 3, 6), (1.2, 0.4, 2.5))):
        u, a = _two(shape, "compose")
        b, n = _two(shape, "compose more")
        want = u + p * (a - u) + q * (b - u) - r * (n - u)
        wrong = {
            "The 'not' pulls towards n: it needs a minus.": u + p * (a - u) + q * (b - u) + r * (n - u),
            "The chain of InstructPix2Pix starts the second difference at a; here all start at u.":
                u + p * (a - u) + q * (b - a) - r * (n - u),
            "A weighted sum of predictions is no guidance: subtract u from each.": u + p * a + q * b - r * n,
            "The starting point u is missing.": p * (a - u) + q * (b - u) - r * (n - u),
            "Here n is the starting point, as for a negative prompt in diffusers; that is another rule.":
                n + p * (a - n) + q * (b - n),
            "The scales of a and b are exchanged.": u + q * (a - u) + p * (b - u) - r * (n - u),
            "The 'not' is left out.": u + p * (a - u) + q * (b - u),
            "This is an average of two guided predictions; each pulls only half as far.":
                u + (p * (a - u) + q * (b - u)) / 2 - r * (n - u),
        }
        expect(call(fn, u, a, b, n, p, q, r, shape=shape), want, wrong=fits(wrong, want),
               otherwise="u, plus each scale times (its prediction - u), the last with a minus.")


@exercise("05.convention", "Predict: whose seven and a half", hints=(
    "Which scale should you have typed? And what does a pipeline do at or below 1?",
    "At or below 1 the pass without a condition is not made. Which prediction is left, and which s is that?",
))
def my_guidance_scale():
    """A paper that writes (1 + w) c - w u reports its best result at w = 0.3. You type guidance_scale=0.3
    into a pipeline of diffusers. At which s do you really sample?"""
    ### BEGIN SOLUTION
    return 1.0
    ### END SOLUTION


@checks(my_guidance_scale)
def _convention(value: object) -> None:
    expect_number(value, 1.0, tol=1e-6, wrong={
        "That is the boxed line taken literally; a pipeline makes the second pass only above 1.": 0.3,
        "That is what you should have typed: s = 1 + w. What comes of 0.3?": 1.3,
        "Without the second pass it is the conditional prediction that is left, not the other one.": 0.0,
        "The other direction: that would be w = s - 1.": -0.7,
    }, otherwise="Below 1 a pipeline makes one pass only, with the prompt. Which s gives that prediction?")
