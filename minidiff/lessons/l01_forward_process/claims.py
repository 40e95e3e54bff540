"""Claims of lesson 01, each measured by a function of the sample size. None needs a trained network."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.diffusion import Schedule, cosine, ddpm, jsd, last, linear, q_sample, scaled_linear, sigmoid, zero_terminal
from minidiff.lessons.l01_forward_process.toys import crossing, exact_reverse, grid_score, ideal_reading, twenty_five
from minidiff.measure.interval import bootstrap, wilson
from minidiff.rng import generator, normal
from minidiff.world import BACKDROPS, WorldData, render

__all__ = ["closed_form", "cosine_keeps_signal", "resolution_shift", "zero_terminal_snr", "ideal_reverse"]


def _gap(schedule: Schedule, *, late: int = 0) -> float:
    """Largest difference between composing the steps one by one and the closed form, over all t, in the share of picture kept
    and in the variance; ``late`` = 1 reads the closed form one index late, the usual slip."""
    keep, var, worst = 1.0, 0.0, 0.0
    for t, alpha in enumerate(schedule.alpha.tolist()):
        keep, var = alpha**0.5 * keep, alpha * var + (1 - alpha)
        abar = float(schedule.at(t - late))
        worst = max(worst, abs(keep - abar**0.5), abs(var - (1 - abar)))
    return worst


@claim(
    "01.closed_form",
    "T noising steps one by one give the closed form N(sqrt(abar) x0, 1 - abar) (Ho et al. 2020, eq. 4): "
    "largest difference over all t and five schedules, float64",
    unit="largest difference",
    target="<= 1e-12",
    n=1000,
    small=1000,
)
def closed_form(n: int) -> Outcome:
    """n: the number of steps T."""
    plans = [maker(n) for maker in (cosine, sigmoid, jsd)] + [maker(n) for maker in (linear, scaled_linear) if n >= 20]
    worst = max(map(_gap, plans))
    return Outcome(worst, worst, worst, baseline={"one index late": max(_gap(p, late=1) for p in plans)})


def _readable(n: int, gallery: int, size: int, abar: Tensor) -> Tensor:
    """(L, n) bool: is the kind of the thing still read right by the ideal reader of ``gallery`` pictures, at each abar?"""
    images, scenes = WorldData(size).batch(0, max(gallery, n))
    return ideal_reading(images, {"kind": scenes.kind[:, 0]}, abar, normal((n, 3, size, size), "01 readable"))["kind"]


@claim(
    "01.cosine_keeps_signal",
    "At 32x32 the cosine schedule keeps the kind of thing readable (9 of 10 right, by the ideal "
    "reader of the gallery) for a larger share of the steps than the linear one (Nichol and Dhariwal 2021, section 3.2)",
    unit="share of the steps",
    target=">= 0.6",
    n=1024,
    small=128,
)
def cosine_keeps_signal(n: int) -> Outcome:
    """n: pictures noised; the gallery has 1,024."""
    plans = (cosine(), linear())
    t = torch.arange(0, 1000, 10)
    right = [_readable(n, 1024, 32, plan.abar[t]).double().T for plan in plans]  # (n, steps)

    def share(rows: Tensor) -> float:
        return crossing(t.double(), rows.mean(0), 0.9) / 1000

    found, flat = bootstrap(share, right[0], n=300), share(right[1])
    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline={"linear": flat},
        why="the share depends on the gallery: more pictures that look alike make reading harder",
    )


@claim(
    "01.resolution_shift",
    "The same scenes at 128x128 stay readable down to a signal-to-noise ratio 16 times lower than at "
    "32x32: averaging 4x4 pixels divides the noise variance by 16",
    unit="factor by which the SNR may fall further",
    target="16 +- 4",
    n=768,
    small=48,
)
def resolution_shift(n: int) -> Outcome:
    """n: pictures noised, of a gallery of as many (at least 128). The shift of the curve "share of kinds read right" along
    half the log SNR is the difference of the areas under it."""
    gallery = max(128, n)
    lam = torch.linspace(-6, 1, 141, dtype=torch.float64)
    right = [_readable(n, gallery, size, torch.sigmoid(2 * lam)).double().T for size in (32, 128)]

    def factor(small: Tensor, large: Tensor) -> float:
        return float((2 * torch.trapezoid(large.mean(0) - small.mean(0), lam)).exp())

    found = bootstrap(factor, *right, n=300, paired=True)
    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline={"if only the SNR of a pixel mattered": 1.0},
        floor={"(128/32)^2": 16.0},
        why="the factor depends on the gallery, which has as many pictures as are noised",
    )


def _dark_from_bright(schedule: Schedule, n: int) -> Tensor:
    """(n,) bool: is a night scene darker on average than a snow scene after the last step? 64x64, independent noise."""
    scenes, means = WorldData(64, "test").scenes(0, n), {}
    for backdrop in ("night", "snow"):
        same = scenes.replace(backdrop=torch.full_like(scenes.backdrop, BACKDROPS.index(backdrop)))
        means[backdrop] = []
        for i in range(0, n, 128):
            images = render(same[i : i + 128], 64).images
            noise = normal(tuple(images.shape), "01 last", backdrop, i)
            means[backdrop].append(q_sample(images, schedule.T - 1, noise, schedule).mean((1, 2, 3)))
    return torch.cat(means["night"]) < torch.cat(means["snow"])


@claim(
    "01.zero_terminal",
    "Zero-terminal SNR (Lin et al. 2023) removes what Stable Diffusion's schedule leaves at the last "
    "step: how often the mean pixel of x_T still tells a night scene from a snow scene (0.5 is chance)",
    unit="share told apart",
    target="0.5 +- 0.05",
    n=2048,
    small=128,
)
def zero_terminal_snr(n: int) -> Outcome:
    """n: pairs of scenes."""
    plan = scaled_linear()
    before, after = (int(_dark_from_bright(p, n).sum()) for p in (plan, zero_terminal(plan)))
    found = wilson(after, n)
    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline={"scaled_linear as shipped with SD": before / n},
        floor={"chance": 0.5},
        why="a coin is 0.5 +- 0.05 only from about 400 pairs on",
    )


@claim(
    "01.ideal_reverse",
    "25 Gaussians, four steps, nothing trained: drawing x0 from q(x0 | x_t) makes the reverse chain "
    "exact (a perfect sampler has 98.9 % within 3 standard deviations); the mean E[x0 | x_t] in its place does not",
    unit="share within 3 std of a centre",
    target=">= 0.98",
    n=10_000,
    small=2000,
)
def ideal_reverse(n: int) -> Outcome:
    """n: points."""
    plan, start = cosine(4), normal((n, 2), "01 reverse")
    good, modes = grid_score(last(exact_reverse(twenty_five(plan), start, generator=generator("01 draw"))).x)
    found = wilson(int(good.sum()), n)
    ends = {}
    for T in (4, 40):
        mean, covered = grid_score(last(ddpm(twenty_five(cosine(T)), start)).x)
        ends[f"mean, T = {T} ({covered} of 25 modes)"] = float(mean.double().mean())
    true = twenty_five(plan)
    real = true.points[torch.randint(25, (n,), generator=generator("01 real"))] + true.std * normal((n, 2), "01 real")
    floor = {"real data": float(grid_score(real)[0].double().mean())}
    return Outcome(
        found.value,
        found.low,
        found.high,
        baseline=ends,
        floor=floor,
        why=f"only {modes} of 25 modes were reached",
    )
