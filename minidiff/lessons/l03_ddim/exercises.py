"""Exercises of lesson 03: the DDIM step, which steps to visit, the clip rule, Heun, inversion, slerp."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, number
from minidiff.course.tasks import checks, exercise
from minidiff.diffusion import ddim_sigma, ddim_step, timesteps
from minidiff.rng import normal

__all__ = ["LEVELS"]

LEVELS = ((0.2, 0.5), (0.05, 0.9), (0.6, 0.8), (0.0004, 0.02), (0.3, 1.0))      # abar before and after the step


def _each(formula: Callable[[float, float, float], float]) -> Tensor:
    return torch.tensor([formula(a, b, eta) for a, b in LEVELS for eta in (1.0, 0.3)], dtype=torch.float64)


@exercise("03.sigma", "How much new noise?", hints=(
    "Two square roots, and eta in front of both.",
    "Under the first root stands the ratio of the noise variances, after the step over before it; under the second, 1 minus the "
    "ratio of the two abar, which is smaller than 1.",
))
def sigma_of_eta(abar, abar_prev, eta):
    """Standard deviation of the new noise for a step from level abar to level abar_prev. All three are
    numbers."""
    ### BEGIN SOLUTION
    return eta * ((1 - abar_prev) / (1 - abar)) ** 0.5 * (1 - abar / abar_prev) ** 0.5
    ### END SOLUTION


@checks(sigma_of_eta)
def _sigma(fn: Callable) -> None:
    got = torch.stack([call(fn, number(a), number(b), number(eta), shape=()) for a, b in LEVELS for eta in (1.0, 0.3)])
    s = ddim_sigma
    expect(got, _each(s), wrong={
        "That is the variance, sigma squared; the step needs the standard deviation.": _each(lambda a, b, eta: s(a, b, eta) ** 2),
        "eta stands under the square root; it belongs in front.": _each(lambda a, b, eta: s(a, b, 1.0) * eta**0.5),
        "eta is squared; it scales the standard deviation once.": _each(lambda a, b, eta: s(a, b, 1.0) * eta**2),
        "eta has no effect.": _each(lambda a, b, eta: s(a, b, 1.0)),
        "The factor (1 - abar_prev) / (1 - abar) is missing: this is the large variance of DDPM, sigma-hat in the paper.":
            _each(lambda a, b, eta: eta * (1 - a / b) ** 0.5),
        "The factor 1 - abar / abar_prev is missing.": _each(lambda a, b, eta: eta * ((1 - b) / (1 - a)) ** 0.5),
        "You used 1 - abar where 1 - abar / abar_prev belongs: alpha of the jump is a ratio.":
            _each(lambda a, b, eta: eta * ((1 - b) / (1 - a) * (1 - a)) ** 0.5),
        "The second factor is missing its square root.": _each(lambda a, b, eta: eta * ((1 - b) / (1 - a)) ** 0.5 * (1 - a / b)),
        "The first factor is missing its square root.": _each(lambda a, b, eta: eta * (1 - b) / (1 - a) * (1 - a / b) ** 0.5),
    }, otherwise="Not the sigma of the formula; try eta = 1, where its square must be the posterior's variance of notebook 02.")


@exercise("03.ddim_step", "The step", points=2, hints=(
    "First x0: solve x = sqrt(abar) x0 + sqrt(1 - abar) eps for x0.",
    "Three terms: the picture at its new strength, the old noise, the new noise. The variances of the two noises must add up "
    "to 1 - abar_prev.",
))
def ddim_update(x, eps, abar, abar_prev, sigma, noise):
    """x, eps, noise: (B, C, H, W); abar, abar_prev, sigma: numbers. Returns x at level abar_prev, nothing
    clipped."""
    ### BEGIN SOLUTION
    x0 = (x - (1 - abar) ** 0.5 * eps) / abar ** 0.5
    return abar_prev ** 0.5 * x0 + (1 - abar_prev - sigma ** 2) ** 0.5 * eps + sigma * noise
    ### END SOLUTION


SHAPES = ((2, 3, 4, 5), (3, 1, 6, 4))              # (B, C, H, W)


@checks(ddim_update)
def _ddim_step(fn: Callable) -> None:
    for (a, b), shape in zip(((0.2, 0.5), (0.6, 0.8)), SHAPES, strict=True):
        x, eps, z = normal((3, *shape), "lesson 03 step", 0, dtype=torch.float64)
        for sigma in (0.0, 0.3, 0.17):
            got = call(fn, x, eps, number(a), number(b), number(sigma), z, shape=x.shape)
            x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
            direction = (1 - b - sigma**2) ** 0.5
            new = sigma * z
            wrong = {
                "x stands where x0 belongs: first take the noise out of x.": b**0.5 * x + direction * eps + new,
                "The picture keeps its full size: x0 must be scaled by sqrt(abar_prev).": x0 + direction * eps + new,
                "The picture is scaled by sqrt(abar), its old strength; the new one is sqrt(abar_prev).":
                    a**0.5 * x0 + direction * eps + new,
                "The old noise keeps its old strength, sqrt(1 - abar...); after the step it is sqrt(1 - abar_prev - sigma^2).":
                    b**0.5 * x0 + max(1 - a - sigma**2, 0) ** 0.5 * eps + new,
                "Your x0 is not divided by sqrt(abar).": b**0.5 * (x - (1 - a) ** 0.5 * eps) + direction * eps + new,
                "Square roots are missing: variances were used as factors.": b * x0 + (1 - b - sigma**2) * eps + new,
            }
            if sigma:
                wrong |= {
                    "The old noise is too loud: sigma^2 must be taken off 1 - abar_prev, or the variances add up to too much.":
                        b**0.5 * x0 + (1 - b) ** 0.5 * eps + new,
                    "sigma was taken off where sigma squared belongs.": b**0.5 * x0 + max(1 - b - sigma, 0) ** 0.5 * eps + new,
                    "The new noise is scaled by sigma squared; noise is scaled by its standard deviation.":
                        b**0.5 * x0 + direction * eps + sigma**2 * z,
                    "The new noise is missing.": b**0.5 * x0 + direction * eps,
                }
            expect(got, b**0.5 * x0 + direction * eps + new, wrong=wrong,
                   otherwise="With sigma = 0 and abar_prev = abar the step must give x back; with abar_prev = 1 it must give x0.")


def _list(steps: Iterable[int]) -> Tensor:
    return torch.tensor(list(steps), dtype=torch.float64)


@exercise("03.timesteps", "Two lists", points=2, hints=(
    "For T = 1000, S = 4: leading is 750 500 250 0, trailing is 999 749 499 249.",
    "leading: the stride is T // S, a whole number. trailing: it is T / S; round only at the end, then subtract 1.",
))
def visited_steps(T, S, spacing):
    """A list of S falling integers in [0, T-1]; spacing is "leading" or "trailing"."""
    ### BEGIN SOLUTION
    if spacing == "leading":
        return [i * (T // S) for i in reversed(range(S))]
    return [round(T - i * T / S) - 1 for i in range(S)]
    ### END SOLUTION


@checks(visited_steps)
def _timesteps(fn: Callable) -> None:
    for T, S in ((1000, 10), (1000, 7), (1000, 16), (77, 21), (20, 20)):
        for spacing in ("leading", "trailing"):
            got = call(fn, T, S, spacing, dtype=torch.int64).reshape(-1).double()
            say = f"T = {T}, S = {S}, {spacing}: "
            want = _list(timesteps(T, S, spacing=spacing))
            if len(got) != S:
                more = " range(0, T, T // S) goes on when S does not divide T." if len(got) > S else ""
                raise Mistake(f"{say}{len(got)} steps instead of {S}.{more}")
            wrong = {
                f"{say}the list rises; a sampler goes from noise to picture.": want.flip(0),
                f"{say}each step is one too high: index 0 is one noising step, so subtract 1.": want + 1,
                f"{say}this is linspace from T - 1 to 0.": torch.linspace(T - 1, 0, S, dtype=torch.float64).round(),
            }
            if spacing == "trailing":
                floor = _list(int(T - i * T / S) - 1 for i in range(S))
                up = _list(int(T - i * T / S + 0.5) - 1 for i in range(S))
                whole = _list(T - i * (T // S) - 1 for i in range(S))
                wrong |= {f"{say}rounded down; take the nearest integer.": floor,
                          f"{say}halves are rounded up; round() takes the even neighbour.": up,
                          f"{say}the stride was made whole too early: T / S, not T // S.": whole}
            else:
                wrong |= {f"{say}the stride is a fraction; leading uses the whole number T // S.":
                              _list(int(i * T / S) for i in reversed(range(S))),
                          f"{say}the stride is a fraction, rounded; leading uses the whole number T // S.":
                              _list(round(i * T / S) for i in reversed(range(S))),
                          f"{say}this is the trailing list.": _list(timesteps(T, S, spacing="trailing"))}
            expect(got, want, wrong={k: v for k, v in wrong.items() if not torch.equal(v, want)}, tol=1e-9,
                   otherwise=f"{say}expected {[int(v) for v in want[:4]]} ..., not {[int(v) for v in got[:4]]} ...")


@exercise("03.clip_step", "Repair a step", points=2, hints=(
    "After clipping, x is no longer sqrt(abar) x0 + sqrt(1 - abar) eps. Which of the three may still change?",
    "x is given and x0 has just been decided, so eps must be worked out again, at the level abar.",
))
def clipped_step(x, eps, abar, abar_prev):
    """A DDIM step (eta = 0) with x0 clipped to [-1, 1] and everything after it consistent. abar, abar_prev:
    numbers."""
    ### BEGIN SOLUTION
    x0 = ((x - (1 - abar) ** 0.5 * eps) / abar ** 0.5).clamp(-1, 1)
    eps = (x - abar ** 0.5 * x0) / (1 - abar) ** 0.5
    return abar_prev ** 0.5 * x0 + (1 - abar_prev) ** 0.5 * eps
    ### END SOLUTION


@checks(clipped_step)
def _clip_step(fn: Callable) -> None:
    for (a, b), shape in zip(((0.2, 0.5), (0.05, 0.3)), SHAPES, strict=True):
        x, eps = normal((2, *shape), "lesson 03 clip", 0, dtype=torch.float64)
        got = call(fn, x, eps, number(a), number(b), shape=x.shape)
        free = (x - (1 - a) ** 0.5 * eps) / a**0.5

        def follow(x0: Tensor, level: float = a, x: Tensor = x) -> Tensor:
            return (x - level**0.5 * x0) / (1 - level) ** 0.5

        x0 = free.clamp(-1, 1)
        expect(got, ddim_step(x0, follow(x0), b), wrong={
            "eps is still the network's own: after clipping x0 it must be worked out again (yours is diffusers' default).":
                ddim_step(x0, eps, b),
            "Nothing is clipped.": ddim_step(free, eps, b),
            "The result is clipped, not x0.": ddim_step(free, eps, b).clamp(-1, 1),
            "x0 is clipped to [0, 1]; pictures here live in [-1, 1].": ddim_step(free.clamp(0, 1), follow(free.clamp(0, 1)), b),
            "eps was worked out at the level abar_prev, but x is at the level abar.": ddim_step(x0, follow(x0, b), b),
            "eps is clipped as well; only x0 is known to lie in [-1, 1].": ddim_step(x0, follow(x0).clamp(-1, 1), b),
            "eps is clipped in place of x0.": ddim_step(free, eps.clamp(-1, 1), b),
        }, otherwise="Not the step of OpenAI's code. In which line do x, x0 and eps stop fitting together?")


@exercise("03.which_variance", "Predict: which DDPM is eta = 1?", hints=(
    "Put abar_prev = abar_{t-1} and eta = 1 into sigma squared and use abar_t / abar_{t-1} = 1 - beta_t.",
    "(1 - abar_{t-1}) / (1 - abar_t) times beta_t: which of the two variances of notebook 02 is that?",
))
def which_variance():
    """One word: "small" or "large"."""
    ### BEGIN SOLUTION
    return "small"    # sigma(eta = 1)^2 is the posterior's variance; the check cell above compares all three numbers
    ### END SOLUTION


@checks(which_variance)
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


@exercise("03.heun_step", "Heun's step", points=2, hints=(
    "Take Euler's step first. At the place where it lands ask for the slope again.",
    "Then go back to where you started, and take the whole step with the mean of the two slopes.",
))
def heun_step(slope, x_bar, sigma, sigma_next):
    """One step of Heun's method for d x_bar / d sigma = slope(x_bar, sigma), to sigma_next, which may be 0
    (then Euler's)."""
    ### BEGIN SOLUTION
    here = slope(x_bar, sigma)
    end = x_bar + (sigma_next - sigma) * here
    if sigma_next == 0:
        return end
    there = slope(end, sigma_next)
    return x_bar + (sigma_next - sigma) * (here + there) / 2
    ### END SOLUTION


@checks(heun_step)
def _heun_step(fn: Callable) -> None:
    for (s, n), shape in zip(((3.0, 1.5), (1.0, 0.4), (0.5, 0.0)), (*SHAPES, (4, 2, 3, 5)), strict=True):
        x = normal(shape, "lesson 03 heun", 0, dtype=torch.float64)
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


@exercise("03.orders", "Measure: the order of a solver", hints=(
    "Order k: twice the steps divide the error by 2 to the power k.",
    "So k is the logarithm to base 2 of the error over the next one.",
))
def orders(errors):
    """errors: (K,) of one solver at N, 2 N, 4 N, ... steps. Returns the order that each pair of neighbours
    shows, (K - 1,)."""
    ### BEGIN SOLUTION
    return torch.log2(errors[:-1] / errors[1:])
    ### END SOLUTION


@checks(orders)
def _orders(fn: Callable) -> None:
    for values in ([0.4, 0.11, 0.027, 0.0066, 0.0015], [0.9, 0.5, 0.26]):
        errors = torch.tensor(values, dtype=torch.float64)
        ratio = errors[:-1] / errors[1:]
        expect(call(fn, errors, shape=ratio.shape), ratio.log2(), wrong={
            "The sign is turned round: an error that falls shows a positive order.": -ratio.log2(),
            "Those are the ratios; the order is their logarithm to base 2.": ratio,
            "It takes the natural logarithm; steps are doubled, so it is base 2.": ratio.log(),
            "It takes the logarithm to base 10; steps are doubled, so it is base 2.": ratio.log10(),
            "Those are halves of the ratios; a solver of second order divides the error by 4.": ratio / 2,
            "All are compared with the first; compare each with its neighbour.": (errors[0] / errors[1:]).log2(),
        }, otherwise="Errors 1, 1/2, 1/4 must give 1 and 1; errors 1, 1/4, 1/16 must give 2 and 2.")


@exercise("03.lazy", "Break it: a sampler that listens only now and then", points=2, hints=(
    "The loop of my_ddim, with the levels in place of steps; what changes is when predict is called.",
    "In the steps between, x and the level are new, eps is old: x0 is worked out from all three.",
))
def lazy_ddim(predict, x, levels):
    """DDIM (eta = 0, nothing clipped) along ``levels``, alpha-bar rising; predict(x, abar) is eps there.

    The network is asked in the first step, the third, the fifth, and so on. Each step between works with the
    eps of the step before it. x: (B, C, H, W) at levels[0]; returns x at levels[-1].
    """
    ### BEGIN SOLUTION
    for k, (abar, abar_next) in enumerate(zip(levels[:-1], levels[1:])):
        if k % 2 == 0:
            eps = predict(x, abar)
        x0 = (x - (1 - abar) ** 0.5 * eps) / abar ** 0.5
        x = abar_next ** 0.5 * x0 + (1 - abar_next) ** 0.5 * eps
    return x
    ### END SOLUTION


@checks(lazy_ddim)
def _lazy(fn: Callable) -> None:
    for levels, shape in (([0.05, 0.2, 0.31, 0.6, 0.85, 1.0], SHAPES[0]), ([0.1, 0.45, 0.7, 0.8, 0.97], SHAPES[1])):
        x, asked = normal(shape, "lesson 03 lazy", 0, dtype=torch.float64), []

        def predict(y: Tensor, abar: float, asked: list[float] = asked) -> Tensor:
            asked.append(float(abar))
            return 0.7 * torch.sin(y) + 0.3 * (1 - float(abar)) * y.roll(1, -1)

        def walk(asks: Callable[[int], bool], x: Tensor = x, levels: list[float] = levels) -> Tensor:
            for k, (a, b) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
                if asks(k):
                    eps = predict(x, a)
                x = ddim_step((x - (1 - a) ** 0.5 * eps) / a**0.5, eps, b)
            return x

        want = walk(lambda k: k % 2 == 0)
        known = {
            "It asks in every step: that is DDIM.": walk(lambda k: True),
            "It asks once and never again.": walk(lambda k: k == 0),
            "It asks in the first step and then in the second, the fourth, the sixth.": walk(lambda k: k == 0 or k % 2 == 1),
            "It asks in every third step.": walk(lambda k: k % 3 == 0),
            "The last step is left out: x is wanted at levels[-1].": walk(lambda k: k % 2 == 0, levels=levels[:-1]),
        }
        asked.clear()
        got = call(fn, predict, x, levels, shape=shape)
        steps = len(asked)
        expect(got, want, wrong=known, otherwise="Not that walk. With one step only it must be one step of DDIM.")
        if steps != (len(levels) // 2):
            raise Mistake(f"The picture is right, but the network is asked {steps} times; {len(levels) // 2} are enough.")


@exercise("03.heun_calls", "Predict: what does Heun cost?", hints=(
    "Two calls for an ordinary step. Which step is not ordinary?",
    "2 * 10 - 1.",
))
def heun_calls():
    """Network calls for one picture in 10 steps."""
    ### BEGIN SOLUTION
    return 19             # two a step, but the last one, to sigma = 0, is Euler's: 2 * 10 - 1
    ### END SOLUTION


@checks(heun_calls)
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


@exercise("03.invert_step", "Close the loop", points=3, hints=(
    "First write it for repeats = 0: one call predict(x_prev), then the DDIM step with the two levels swapped.",
    "In every repeat only the place where predict is asked changes; x_prev stays what it was.",
))
def invert_step(predict, x_prev, abar_prev, abar, repeats):
    """x at level abar such that DDIM would lead from it to x_prev at level abar_prev; predict(x) is eps at
    the level abar."""
    ### BEGIN SOLUTION
    guess = x_prev
    for _ in range(1 + repeats):
        eps = predict(guess)
        x0 = (x_prev - (1 - abar_prev) ** 0.5 * eps) / abar_prev ** 0.5
        guess = abar ** 0.5 * x0 + (1 - abar) ** 0.5 * eps
    return guess
    ### END SOLUTION


@checks(invert_step)
def _invert_step(fn: Callable) -> None:
    def predict(y: Tensor) -> Tensor:
        return 0.8 * torch.sin(y) + 0.2 * y.roll(1, -1)

    for repeats in (2, 0, 1, 3):
        for (a_prev, a), shape in zip(((0.9, 0.6), (1.0, 0.7), (0.45, 0.2)), (*SHAPES, (4, 2, 3, 5)), strict=True):
            x = normal(shape, "lesson 03 invert", 0, dtype=torch.float64)

            def repeat(times: int, up: Callable[[Tensor, Tensor, float, float], Tensor] = _up, *, walk: bool = False,
                       x: Tensor = x, a_prev: float = a_prev, a: float = a) -> Tensor:
                guess, base = x, x
                for _ in range(times):
                    guess = up(predict(guess), base, a_prev, a)
                    base = guess if walk else base
                return guess

            got = call(fn, predict, x, number(a_prev), number(a), repeats, shape=x.shape)
            want, n = repeat(1 + repeats), 1 + repeats
            wrong = {
                "The levels are the wrong way round: this step goes towards the picture.":
                    repeat(n, lambda eps, x, a_prev, a: _up(eps, x, a, a_prev)),
                "This is plain noising of x_prev, as if it were clean; x_prev still holds noise, which must first come out.":
                    repeat(n, lambda eps, x, a_prev, a: a**0.5 * x + (1 - a) ** 0.5 * eps),
                "The result is x0, not x at the level abar.":
                    repeat(n, lambda eps, x, a_prev, a: (x - (1 - a_prev) ** 0.5 * eps) / a_prev**0.5),
                "One repeat too many: repeats = 0 asks the network once.": repeat(2 + repeats),
            }
            if repeats:
                wrong |= {
                    "The result is x_prev itself: x0 was taken out with abar, but x_prev is at the level abar_prev.": x,
                    "repeats has no effect.": repeat(1),
                    "One repeat too few: the first update comes before the repeats.": repeat(repeats),
                    "Each repeat starts from the newest guess, so it walks further and further; x_prev must stay what it was.":
                        repeat(1 + repeats, walk=True),
                }
            expect(got, want, wrong={k: v for k, v in wrong.items() if not torch.allclose(v, want, atol=1e-3)},
                   otherwise="DDIM does not lead from here back to x_prev. Check it for repeats = 0 first, which asks once.")


@exercise("03.slerp", "slerp", points=2, hints=(
    "The angle: cos = <a, b> / (|a| |b|), over all values of one row of the batch.",
    "The angle has shape (B,); view(-1, 1, 1, 1) lets it multiply pictures.",
))
def my_slerp(a, b, weight):
    """a, b: (B, C, H, W). The great circle from a (weight 0) to b (weight 1), one angle for each row of the
    batch."""
    ### BEGIN SOLUTION
    u, v = a.flatten(1), b.flatten(1)
    cos = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    angle = torch.arccos(cos).view(-1, 1, 1, 1)
    return torch.sin((1 - weight) * angle) / torch.sin(angle) * a + torch.sin(weight * angle) / torch.sin(angle) * b
    ### END SOLUTION


@checks(my_slerp)
def _slerp(fn: Callable) -> None:
    for shape, towards, weights in (((3, 2, 4, 5), 0.8, (0.25, 0.5, 0.9)), ((4, 3, 6, 2), -0.5, (0.7, 0.0, 1.0))):
        a, b = normal((2, *shape), "lesson 03 slerp", 0, dtype=torch.float64)
        a = a * torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64)[:len(a)].view(-1, 1, 1, 1)     # rows of different length
        b = 0.6 * b + towards * a                                        # first acute angles, then obtuse ones

        def circle(cos: Tensor, w: float, a: Tensor = a, b: Tensor = b) -> Tensor:
            angle = torch.arccos(cos.clamp(-1, 1))
            return torch.sin((1 - w) * angle) / torch.sin(angle) * a + torch.sin(w * angle) / torch.sin(angle) * b

        def cosine(*dims: int, a: Tensor = a, b: Tensor = b) -> Tensor:
            size = a.square().sum(dims, keepdim=True) * b.square().sum(dims, keepdim=True)
            return (a * b).sum(dims, keepdim=True) / size.sqrt()

        for w in weights:
            try:
                got = call(fn, a, b, w, shape=shape)
            except Mistake as mistake:
                nan = Mistake("Some values are no numbers: the arccos of a scalar product that is not divided by both norms.")
                raise nan if "NaN" in str(mistake) else mistake from None
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
                "cos(angle) was used as the angle; take its arccos.":
                    (torch.sin((1 - w) * angle.cos()) * a + torch.sin(w * angle.cos()) * b) / torch.sin(angle.cos()),
                "The scalar product lost its sign; the angle is obtuse where it is negative.": circle(cosine(1, 2, 3).abs(), w),
            }
            expect(got, circle(cosine(1, 2, 3), w), wrong=wrong,
                   otherwise="Not on the great circle. Check the ends first: weight 0 gives a, weight 1 gives b.")
