"""Claims of lesson 02: the bound, the variances, the objectives, and how good the samples of pixel-ddpm are."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import reader_features, real, sampled
from minidiff.diffusion import Schedule, bits_per_dim, linear
from minidiff.measure import (
    attribute_tv,
    bootstrap,
    explain,
    frechet,
    frechet_interval,
    frechet_ratio,
    memorisation,
    read,
    wilson,
)
from minidiff.world import WorldData
from minidiff.zoo import load

__all__ = ["gaussian_bound", "good"]

FULL = 64   # samples from which on a row is also measured on other models, and resampled more often: no notebook has time for it
STEPS = 20  # of the small models, and of the row on the variances


def good(n: int, name: str = "pixel-ddpm") -> Tensor:
    """n samples by DDIM with 50 steps (lesson 03): a twentieth of DDPM's cost, so a thousand of them can be judged."""
    return sampled(n, "ddim", name=name, steps=50, clip="both")


def _few(n: int, name: str) -> Tensor:
    return sampled(n, "ddim", name=name, steps=STEPS, clip="both")


def _fd(n: int, images: Tensor) -> float:
    return float(frechet(reader_features(images), reader_features(real(n))))


def _ratio(n: int, worse: Tensor, better: Tensor, why: str, others: dict[str, Tensor] | None = None) -> Outcome:
    """FDmini of ``worse`` over FDmini of ``better``, both against the same real pictures and from the same starting noises.

    Beside it the same ratio with other real pictures in the place of ``better``, and with each of ``others``.
    """
    truth, a, b = reader_features(real(n)), reader_features(worse), reader_features(better)
    found = frechet_ratio(a, b, truth, n=300 if n >= FULL else 50, paired=True)
    far = float(frechet(a, truth))

    def over(images: Tensor) -> float:
        return far / float(frechet(reader_features(images), truth))

    return Outcome(
        found.value,
        found.low,
        found.high,
        {"no difference": 1.0},
        {},
        why,
        {f"over {name}": over(images) for name, images in {"real pictures": real(n, start=n), **(others or {})}.items()},
    )


@claim(
    "02.validity",
    "samples of pixel-ddpm (DDIM, 50 steps) are valid pictures of the world",
    unit="share valid",
    target=">= 0.9",
    n=1024,
    small=8,
    reader="final",
)
def validity(n: int) -> Outcome:
    reader, few = load("readers/final"), min(n, 128)

    def share(images: Tensor) -> float:
        return float(explain(images, reader).valid.double().mean())

    found = wilson(int(explain(good(n), reader).valid.sum()), n)
    more = {} if n < FULL else {"pixel-eps, the same network": share(good(few, "pixel-eps"))}
    return Outcome(
        found.value,
        found.low,
        found.high,
        {"pixel-small-eps": share(_few(few, "pixel-small-eps"))},
        {"real pictures": share(real(few))},
        "one thing is there and can be named, but outlines and faces are off by more than the threshold allows",
        more,
    )


@claim(
    "02.readable",
    "the kind of the thing on a sample of pixel-ddpm (DDIM, 50 steps) is read with confidence 0.9 or more",
    unit="share of samples",
    target=">= 0.95",
    n=1024,
    small=8,
    reader="final",
)
def readable(n: int) -> Outcome:
    reader = load("readers/final")

    def confident(images: Tensor) -> Tensor:
        seen = read(images, reader)
        return seen.scenes.present[:, 0] & (seen.probs["kind"][:, 0].amax(-1) >= 0.9)

    found = wilson(int(confident(good(n)).sum()), n)
    few = min(n, 128)
    return Outcome(
        found.value,
        found.low,
        found.high,
        {"pixel-small-eps": float(confident(_few(few, "pixel-small-eps")).double().mean())},
        {"real pictures": float(confident(real(n)).double().mean())},
        "some shapes lie between two kinds",
        {} if n < FULL else {"pixel-eps, the same network": float(confident(good(few, "pixel-eps")).double().mean())},
    )


@claim(
    "02.fd_mini",
    "the samples of pixel-ddpm (DDIM, 50 steps) are as near to the world as the world's own pictures are",
    unit="times the floor",
    target="<= 2.0",
    n=1024,
    small=8,
    reader="final",
)
def fd_mini(n: int) -> Outcome:
    truth = reader_features(real(n))
    floor = float(frechet(reader_features(real(n, start=n)), truth))
    found = frechet_interval(reader_features(good(n)), truth, n=200 if n >= FULL else 50)
    few = min(n, 256)
    weak = _fd(few, _few(few, "pixel-small-eps"))
    return Outcome(
        found.value / floor,
        found.low / floor,
        found.high / floor,
        {"pixel-small-eps": weak / floor},
        {"real against real": 1.0},
        "the samples are good pictures, and still not distributed as the world's are",
    )


@claim(
    "02.eps_or_x0",
    "of two networks of one shape, the one that predicts x0 samples better than the one that predicts eps",
    unit="FDmini ratio, eps over x0",
    target=">= 1.0",
    n=256,
    small=8,
    reader="final",
)
def eps_or_x0(n: int) -> Outcome:
    return _ratio(n, good(n, "pixel-eps"), good(n), "eps came out ahead")


def gaussian_bound(schedule: Schedule, variance: float, kind: str) -> float:
    """The whole bound in nats for data N(0, variance) with the exact denoiser, in closed form.

    kind: the reverse variance: "small", "large", or "optimal" (small + c1^2 Var(x0 | x_t)). At t = 0 the first two take
    the small variance of t = 1, as Ho's code does.
    """
    t = torch.arange(schedule.T)
    abar = schedule.at(t)
    spread = variance * (1 - abar) / (abar * variance + 1 - abar)  # Var(x0 | x_t)
    c1, _, small = schedule.posterior(t)
    best = small + c1**2 * spread
    sigma = {"optimal": best, "large": schedule.variance("large", t), "small": small}[kind]
    sigma = sigma if kind == "optimal" else torch.where(t == 0, small[min(1, len(t) - 1)], sigma)
    terms = 0.5 * (torch.log(sigma[1:] / small[1:]) - 1 + best[1:] / sigma[1:])
    decoder = 0.5 * (math.log(2 * math.pi) + torch.log(sigma[0]) + best[0] / sigma[0])
    last = abar[-1]
    prior = 0.5 * (-torch.log(1 - last) - 1 + 1 - last + last * variance)
    return float(terms.sum() + decoder + prior)


@claim(
    "02.vlb_gaussian",
    "with the optimal variance the bound equals the entropy of Gaussian data, for any number of steps",
    unit="nats apart",
    target="<= 1e-05",
    n=1000,
    small=100,
)
def vlb_gaussian(n: int) -> Outcome:
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    gaps = [abs(gaussian_bound(linear(T), 0.25, "optimal") - entropy) for T in {20, 100, n}]
    others = {kind: gaussian_bound(linear(n), 0.25, kind) - entropy for kind in ("small", "large")}
    return Outcome(max(gaps), max(gaps), max(gaps), others, {"exact": 0.0})


@claim(
    "02.variance_few_steps",
    f"at {STEPS} steps the large variance spoils what the small one keeps (Song et al. 2021, table 1)",
    unit="FDmini ratio, large over small",
    target=">= 1.0",
    n=256,
    small=8,
    reader="final",
)
def variance_few_steps(n: int) -> Outcome:
    def made(name: str, kind: str, count: int) -> Tensor:
        return sampled(count, "ddpm", name=name, steps=STEPS, variance=kind, clip="x0")

    found = _ratio(n, made("pixel-ddpm", "large", n), made("pixel-ddpm", "small", n),
                   "the last step answers with the guess of x0, and a network that predicts x0 lets no grain through")
    if n < FULL:
        return found
    few = min(n, 128)
    other = _ratio(few, made("pixel-eps", "large", few), made("pixel-eps", "small", few), "").value
    return replace(found, settings=found.settings | {"pixel-eps, the same network predicting eps": other})


@claim(
    "02.objectives",
    "at an equal small budget v-prediction learns faster than eps-prediction",
    unit="FDmini ratio, eps over v",
    target=">= 1.0",
    n=512,
    small=8,
    reader="final",
)
def objectives(n: int) -> Outcome:
    return _ratio(n, _few(n, "pixel-small-eps"), _few(n, "pixel-small-v"), "eps came out ahead at this budget",
                  {"x0-prediction": _few(n, "pixel-small-x0")})


@claim(
    "02.cosine",
    "at an equal small budget the cosine schedule suits small pictures better than the linear one (Nichol and Dhariwal 2021)",
    unit="FDmini ratio, linear over cosine",
    target=">= 1.0",
    n=512,
    small=8,
    reader="final",
)
def cosine_schedule(n: int) -> Outcome:
    return _ratio(n, _few(n, "pixel-small-eps"), _few(n, "pixel-small-cosine"), "the two are too alike at this budget")


@claim(
    "02.learned_variance",
    "a learned variance between the small and the large one shortens the code (Nichol and Dhariwal 2021, section 3.1)",
    unit="bits/dim saved against the better fixed one",
    target=">= 0",
    n=3,
    small=2,
)
def learned_variance(n: int) -> Outcome:
    model, x0 = load("pixel-small-learned"), real(n)
    kinds = ("learned", "small", "large")
    total = {kind: bits_per_dim(model, x0, variance=kind, clip="x0").total for kind in kinds}
    fixed = min(("small", "large"), key=lambda kind: float(total[kind].mean()))
    saved = (total[fixed] - total["learned"]).double()
    found = bootstrap(torch.mean, saved) if n > 1 else None
    low, high = (found.low, found.high) if found else (float(saved), float(saved))
    value = float(saved.mean())
    why = "243,000 pictures are too few for the variance head"
    return Outcome(value, low, high, {kind: float(total[kind].mean()) for kind in ("small", "large")},
                   {"learned": float(total["learned"].mean())}, why)


@claim(
    "02.attributes",
    "samples show every backdrop as often as the world does",
    unit="total variation",
    target="<= 0.15",
    n=1024,
    small=8,
    reader="final",
)
def attributes(n: int) -> Outcome:
    reader = load("readers/final")
    made, truth = read(good(n), reader).scenes, read(real(n), reader).scenes
    other = read(real(n, start=n), reader).scenes
    tv, floor = attribute_tv(made, truth, pairs=False), attribute_tv(other, truth, pairs=False)
    one = torch.nn.functional.one_hot(made.backdrop, 6).double()
    share = torch.nn.functional.one_hot(truth.backdrop, 6).double().mean(0)
    found = bootstrap(lambda x: 0.5 * (x.mean(0) - share).abs().sum(), one, n=300)
    return Outcome(
        tv["backdrop"],
        found.low,
        found.high,
        {"one backdrop only": 5 / 6},
        {"real against real": floor["backdrop"]},
        "a network of this size and training prefers some backdrops",
        {"kinds of the samples": tv["kind"], "their colours": tv["colour"]},
    )


@claim(
    "02.memorisation",
    "samples are hardly nearer to the training pictures (root mean square of pixels) than held-out pictures are",
    unit="chance of being nearer",
    target="<= 0.6",
    n=1024,
    small=8,
    reader="final",
)
def memorised(n: int) -> Outcome:
    train = WorldData(32, "train", "simple", seed=0).images(2000 if n >= FULL else 200)
    found = memorisation(good(n), train, real(n))
    spread = 2 * (0.25 / n) ** 0.5
    return Outcome(
        found.closer,
        found.closer - spread,
        found.closer + spread,
        {"copies": 1.0},
        {"as new as held-out": 0.5},
        "flawed pictures are smoother than real ones, and smooth pictures are near to everything",
    )
