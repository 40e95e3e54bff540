"""Exercises of lesson 03, second part: Heun's step, inversion, slerp, and two questions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.tasks import Mistake, call, exercise, expect, expect_number, number
from minidiff.diffusion import slerp
from minidiff.rng import normal

__all__ = []


@exercise("03.which_variance", "Predict: which DDPM is eta = 1?", name="which_variance",
          stub='''
which_variance = ...        # "small" or "large"
''',
          solution='''
which_variance = "small"    # sigma(eta = 1)^2 is the posterior's variance; the check cell above compares all three numbers
''',
          hints=("Put abar_prev = abar_{t-1} and eta = 1 into sigma squared and use abar_t / abar_{t-1} = 1 - beta_t.",
                 "(1 - abar_{t-1}) / (1 - abar_t) times beta_t: which of the two variances of notebook 02 is that?"))
def _which_variance(answer: object) -> None:
    if not isinstance(answer, str):
        raise Mistake('The answer is a word: "small" or "large".')
    word = answer.strip().strip("'\"").lower().replace("-", "_").replace(" ", "_")
    if word in ("small", "fixed_small", "posterior", "beta_tilde"):
        return
    if word in ("large", "fixed_large", "beta", "sigma_hat"):
        raise Mistake("The large variance is beta itself; sigma squared has the factor (1 - abar_prev) / (1 - abar) as well.")
    if word in ("learned", "learned_range"):
        raise Mistake("Nothing is learned here: sigma is a formula of the schedule.")
    raise Mistake(f'{answer!r} is neither "small" nor "large".')


def _slope(x: Tensor, sigma: Tensor) -> Tensor:
    if float(sigma) == 0:
        raise Mistake("It asks for the slope at sigma_next = 0, where eps has no meaning; the last step is Euler's.")
    return torch.sin(1.3 * x) + 0.4 * x / (1 + sigma) + 0.2 * sigma


@exercise("03.heun_step", "Heun's step", name="heun_step", points=2,
          stub='''
def heun_step(slope, x_bar, sigma, sigma_next):
    """One step of Heun's method for d x_bar / d sigma = slope(x_bar, sigma), to sigma_next, which may be 0 (then Euler's)."""
    ...
''',
          solution='''
def heun_step(slope, x_bar, sigma, sigma_next):
    """One step of Heun's method for d x_bar / d sigma = slope(x_bar, sigma), to sigma_next, which may be 0 (then Euler's)."""
    here = slope(x_bar, sigma)
    end = x_bar + (sigma_next - sigma) * here
    if sigma_next == 0:
        return end
    there = slope(end, sigma_next)
    return x_bar + (sigma_next - sigma) * (here + there) / 2
''',
          hints=("Take Euler's step first. At the place where it lands ask for the slope again.",
                 "Then go back to where you started, and take the whole step with the mean of the two slopes."))
def _heun_step(fn: Callable) -> None:
    x = normal((2, 1, 4, 4), "lesson 03 heun", 0, dtype=torch.float64)
    for s, n in ((3.0, 1.5), (1.0, 0.4), (0.5, 0.0)):
        calls: list[float] = []

        def slope(x: Tensor, sigma: Tensor, calls: list[float] = calls) -> Tensor:
            calls.append(float(sigma))
            return _slope(x, sigma)

        got = call(fn, slope, x, number(s), number(n), shape=x.shape)
        here, h = _slope(x, number(s)), n - s
        end = x + h * here
        if n == 0:
            expect(got, end, otherwise="For sigma_next = 0 the step is Euler's: x_bar + (sigma_next - sigma) * slope.")
            continue
        there, mean = _slope(end, number(n)), (here + _slope(end, number(n))) / 2
        middle = _slope(x + h / 2 * here, number((s + n) / 2))
        expect(got, x + h * mean, wrong={
            "This is Euler's step: ask for the slope at its end as well, and use the mean.": end,
            "The slopes are added, not averaged.": x + h * 2 * mean,
            "It goes on from the end of Euler's step; go back to x_bar and take the whole step once.": end + h * mean,
            "Only the second slope is used.": x + h * there,
            "The second slope is asked at x_bar; ask where Euler's step lands.": x + h * (here + _slope(x, number(n))) / 2,
            "The second slope is asked at sigma; its noise level is sigma_next.": x + h * (here + _slope(end, number(s))) / 2,
            "The step goes the wrong way: sigma_next - sigma is negative, and so it should be.": x - h * mean,
            "This is the midpoint method: second order too, but not Heun's.": x + h * middle,
        }, otherwise="Not Heun's step. Try slope(x, s) = s, where the exact answer is x_bar + (sigma_next^2 - sigma^2) / 2.")
        if len(calls) > 2:
            raise Mistake(f"Right, but it asks {len(calls)} times; two are enough, and each is a network call.")


@exercise("03.heun_calls", "Predict: what does Heun cost?", name="heun_calls",
          stub='''
heun_calls = ...            # network calls for one picture in 10 steps
''',
          solution='''
heun_calls = 19             # two a step, but the last one, to sigma = 0, is Euler's: 2 * 10 - 1
''',
          hints=("Two calls for an ordinary step. Which step is not ordinary?", "2 * 10 - 1."))
def _heun_calls(answer: object) -> None:
    expect_number(answer, 19, tol=1e-6, wrong={
        "The last step, to sigma = 0, cannot ask at its end: it is Euler's.": 20,
        "That is Euler's cost: Heun asks twice a step.": 10,
        "Each step starts at a place where nobody has asked before: no answer of the step before can be kept.": 11,
        "Only the last step saves a call; the first one needs both.": 18,
        "Counted one too many: there are 10 steps, not 11 levels with a step each.": 21,
    })


def _up(eps: Tensor, x: Tensor, a_prev: float, a: float) -> Tensor:
    return a**0.5 * (x - (1 - a_prev) ** 0.5 * eps) / a_prev**0.5 + (1 - a) ** 0.5 * eps


@exercise("03.invert_step", "Close the loop", name="invert_step", points=3,
          stub='''
def invert_step(predict, x_prev, abar_prev, abar, repeats):
    """x at level abar such that DDIM would lead from it to x_prev at level abar_prev; predict(x) is eps at the level abar."""
    ...
''',
          solution='''
def invert_step(predict, x_prev, abar_prev, abar, repeats):
    """x at level abar such that DDIM would lead from it to x_prev at level abar_prev; predict(x) is eps at the level abar."""
    guess = x_prev
    for _ in range(1 + repeats):
        eps = predict(guess)
        x0 = (x_prev - (1 - abar_prev) ** 0.5 * eps) / abar_prev ** 0.5
        guess = abar ** 0.5 * x0 + (1 - abar) ** 0.5 * eps
    return guess
''',
          hints=("First write it for repeats = 0: one call predict(x_prev), then the DDIM step with the two levels swapped.",
                 "In every repeat only the place where predict is asked changes; x_prev stays what it was."))
def _invert_step(fn: Callable) -> None:
    x = normal((2, 1, 4, 4), "lesson 03 invert", 0, dtype=torch.float64)
    for repeats in (0, 1, 3):
        for a_prev, a in ((0.9, 0.6), (1.0, 0.7)):
            def predict(y: Tensor) -> Tensor:
                return 0.8 * torch.sin(y) + 0.2 * y.roll(1, -1)

            def repeat(times: int, *, walk: bool = False, lazy: bool = False) -> Tensor:
                guess, base = x, x
                for i in range(times):
                    if i == 0 or not lazy:
                        eps = predict(guess)
                    guess = _up(eps, base, a_prev, a)  # noqa: B023  used at once
                    base = guess if walk else base
                return guess

            got = call(fn, predict, x, number(a_prev), number(a), repeats, shape=x.shape)
            want, eps = repeat(1 + repeats), predict(x)
            wrong = {
                "The levels are the wrong way round: this step goes towards the picture.":
                    a_prev**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - a_prev) ** 0.5 * eps,
                "x0 was taken out with abar, but x_prev is at the level abar_prev.":
                    a**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - a) ** 0.5 * eps,
                "This is plain noising of x_prev, as if it were clean; x_prev still holds noise, which must first come out.":
                    a**0.5 * x + (1 - a) ** 0.5 * eps,
                "The result is x0, not x at the level abar.": (x - (1 - a_prev) ** 0.5 * eps) / a_prev**0.5,
                "One repeat too many: repeats = 0 asks the network once.": repeat(2 + repeats),
            }
            if repeats:
                wrong |= {
                    "repeats has no effect.": repeat(1),
                    "One repeat too few: the first update comes before the repeats.": repeat(repeats),
                    "Each repeat starts from the newest guess, so it walks further and further; x_prev must stay what it was.":
                        repeat(1 + repeats, walk=True),
                }
            expect(got, want, tol=1e-4, wrong={k: v for k, v in wrong.items() if not torch.allclose(v, want, atol=1e-3)},
                   otherwise="DDIM does not lead from here back to x_prev. Check it for repeats = 0 first.")


@exercise("03.slerp", "slerp", name="my_slerp", points=2,
          stub='''
def my_slerp(a, b, weight):
    """a, b: (B, C, H, W). The great circle from a (weight 0) to b (weight 1), one angle for each row of the batch."""
    ...
''',
          solution='''
import torch


def my_slerp(a, b, weight):
    """a, b: (B, C, H, W). The great circle from a (weight 0) to b (weight 1), one angle for each row of the batch."""
    u, v = a.flatten(1), b.flatten(1)
    cos = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    angle = torch.arccos(cos).view(-1, 1, 1, 1)
    return torch.sin((1 - weight) * angle) / torch.sin(angle) * a + torch.sin(weight * angle) / torch.sin(angle) * b
''',
          hints=("The angle: cos = <a, b> / (|a| |b|), over all values of one row of the batch.",
                 "The angle has shape (B,); view(-1, 1, 1, 1) lets it multiply pictures."))
def _slerp(fn: Callable) -> None:
    a, b = normal((2, 3, 2, 3, 3), "lesson 03 slerp", 0, dtype=torch.float64)
    a = a * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).view(3, 1, 1, 1)          # rows of different length
    b = 0.6 * b + 0.8 * a

    def circle(cos: Tensor, w: float) -> Tensor:
        angle = torch.arccos(cos.clamp(-1, 1))
        return torch.sin((1 - w) * angle) / torch.sin(angle) * a + torch.sin(w * angle) / torch.sin(angle) * b

    def cosine(*dims: int, keep: bool = True) -> Tensor:
        def norm(x: Tensor) -> Tensor:
            return x.square().sum(dims, keepdim=keep).sqrt()
        return (a * b).sum(dims, keepdim=keep) / (norm(a) * norm(b))

    for w in (0.25, 0.5, 0.9):
        got = call(fn, a, b, w, shape=a.shape)
        straight = (1 - w) * a + w * b
        norms = [x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (straight, a, b)]
        angle = torch.arccos(cosine(1, 2, 3))
        parts = (torch.sin((1 - w) * angle), torch.sin(w * angle), torch.sin(angle))
        wrong = {
            "This is lerp, the straight line.": straight,
            "This is the straight line stretched to the right length: the same circle, but not at even speed.":
                straight / norms[0] * ((1 - w) * norms[1] + w * norms[2]),
            "This is the straight line stretched to the length of a.": straight / norms[0] * norms[1],
            "One angle was taken for the whole batch; each row has its own.": circle(cosine(0, 1, 2, 3), w),
            "The angle was taken along the channels only; flatten each picture first.": circle(cosine(1), w),
            "The angle was taken for each channel; flatten each picture first.": circle(cosine(2, 3), w),
            "The angle was taken along the last dimension only; flatten each picture first.": circle(cosine(3), w),
            "The division by sin(angle) is missing.": parts[0] * a + parts[1] * b,
            "The two weights sit the wrong way round: weight 0 must give a.": (parts[1] * a + parts[0] * b) / parts[2],
            "cos(angle) is the scalar product divided by both norms; a division is missing.":
                circle((a * b).sum((1, 2, 3), keepdim=True), w),
            "cos(angle) was used as the angle; take its arccos.":
                (torch.sin((1 - w) * angle.cos()) * a + torch.sin(w * angle.cos()) * b) / torch.sin(angle.cos()),
        }
        expect(got, slerp(a, b, w), wrong={k: v for k, v in wrong.items() if bool(torch.isfinite(v).all())},
               otherwise="Not on the great circle. Check the ends first: weight 0 gives a, weight 1 gives b.")
