"""Pictures of the small world: sampled with guidance, and read again. For lessons 04 to 06."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.course.claims import Outcome
from minidiff.diffusion import Prediction, ddim, eps_from_x0, last, timesteps, x0_from_eps
from minidiff.diffusion.guide import cfg, eps_shift, guided_mean, log_prob_gradient
from minidiff.errors import check_choice
from minidiff.measure.interval import bootstrap
from minidiff.measure.reading import read
from minidiff.recipes.few import FEW_COLOURS, FEW_KINDS, labels
from minidiff.rng import normal
from minidiff.zoo import load

__all__ = ["Guided", "MeanStep", "Seen", "ShiftedByClassifier", "combinations", "ddpm_by_classifier", "entropy", "free_colour",
           "log_prob", "ranks_of", "sample", "see", "spearman", "start"]

Rule = Callable[[Tensor, Tensor], Tensor]


def start(n: int, *, seed: int = 0) -> Tensor:
    """n noises (n, 3, 32, 32); row i is the same whatever n is."""
    return torch.stack([normal((3, 32, 32), "small world", seed, i) for i in range(n)])


def combinations(n: int) -> tuple[Tensor, Tensor]:
    """n requests (kind, colour) as numbers, every trained pair in turn: 15 of the 16, the red star is never asked for."""
    cell = torch.arange(n) % 15 + 1
    return cell // 4, cell % 4


class Guided:
    """A conditional model under a rule of guidance, in the form that every sampler takes.

    rule: (prediction without, prediction with the condition) -> guided prediction, of x0; both come from one call of the net.
    cond: (B, 8). without: the condition of the other half, zeros (none) unless it is a negative prompt.
    """

    def __init__(self, model: Callable, cond: Tensor, rule: Rule | float = 1.0, *, without: Tensor | None = None) -> None:
        self.model, self.schedule, self.cond = model, model.schedule, cond
        self.rule = rule if callable(rule) else lambda u, c: cfg(u, c, rule)
        self.without = torch.zeros_like(cond) if without is None else without

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        both = self.model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([self.without, self.cond]).to(x))
        x0 = self.rule(*both.x0.chunk(2))
        return Prediction(x0, eps_from_x0(x, x0, t, self.schedule))


def log_prob(classifier: Callable, t: Tensor, **wanted: Tensor) -> Callable[[Tensor], Tensor]:
    """x -> log p(wanted | x_t), (B,), summed over the attributes named; t: (B,); each of ``wanted`` (B,) numbers of classes."""
    def value(x: Tensor) -> Tensor:
        logits = classifier(x, t)
        return sum(logits[name].log_softmax(1).gather(1, number[:, None])[:, 0] for name, number in wanted.items())

    return value


class ShiftedByClassifier:
    """An unconditional model whose eps is shifted by a noisy classifier (Dhariwal and Nichol 2021, algorithm 2)."""

    def __init__(self, model: Callable, classifier: Callable, scale: float, **wanted: Tensor) -> None:
        self.model, self.classifier, self.scale, self.wanted, self.schedule = model, classifier, scale, wanted, model.schedule

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        with torch.no_grad():
            eps = self.model(x, t).eps
        gradient = log_prob_gradient(log_prob(self.classifier, t, **self.wanted), x)
        eps = eps_shift(eps, self.schedule.at(t), gradient, self.scale)
        return Prediction(x0_from_eps(x, eps, t, self.schedule), eps)


class MeanStep(NamedTuple):
    """One step of DDPM under a classifier: where it came to, x (B, 3, 32, 32), and both gradients of the step, shaped like x."""

    t: int
    x: Tensor
    at_x: Tensor
    at_mu: Tensor


def ddpm_by_classifier(model: Callable, classifier: Callable, scale: float, n: int, *, gradient_at: str = "x", seed: int = 0,
                       steps: int = 25, **wanted: Tensor) -> Iterator[MeanStep]:
    """DDPM from n noises, its mean moved by a noisy classifier (Dhariwal and Nichol 2021, algorithm 1).

    gradient_at: "x", at x_t, told t, as in the released code; "mu", at the mean, told the time that the mean belongs to, as
    the paper derives it (guided-diffusion issue 51). t is the time that the step left; the last step's x are the pictures.
    """
    check_choice("gradient_at", gradient_at, ("x", "mu"))
    x, way = start(n, seed=seed), [int(t) for t in timesteps(1000, steps, spacing="trailing")]
    for t, t_next in zip(way, [*way[1:], -1], strict=True):
        c1, c2, variance = (float(v) for v in model.schedule.posterior(t, t_next))
        now, later = torch.full((n,), t), torch.full((n,), max(t_next, 0))
        with torch.no_grad():
            mean = c1 * model(x, now).x0 + c2 * x
        at_x = log_prob_gradient(log_prob(classifier, now, **wanted), x)
        at_mu = log_prob_gradient(log_prob(classifier, later, **wanted), mean)
        noise = torch.stack([normal((3, 32, 32), "small world step", seed, t, i) for i in range(n)])
        x = guided_mean(mean, variance, at_x if gradient_at == "x" else at_mu, scale) + variance**0.5 * noise
        yield MeanStep(t, x, at_x, at_mu)


def sample(model: Callable, n: int, *, seed: int = 0, steps: int = 15, clip: str | None = None, chunk: int = 64) -> Tensor:
    """n pictures (n, 3, 32, 32) by DDIM, not clipped at the end; the model's condition must have n rows (chunk >= n then)."""
    noise = start(n, seed=seed)
    with torch.no_grad():
        return torch.cat([last(ddim(model, part, steps=steps, clip=clip, spacing="trailing")).x for part in noise.split(chunk)])


class Seen(NamedTuple):
    """What the final reader sees in each of B pictures: numbers in the small world, -1 where it sees something else."""

    kind: Tensor
    colour: Tensor
    backdrop: Tensor

    def right(self, kind: Tensor | str | None = None, colour: Tensor | str | None = None) -> Tensor:
        """(B,) bool: is the picture what was asked for? An attribute that was not asked for is not looked at."""
        good = torch.ones_like(self.kind, dtype=torch.bool)
        for seen, wanted, words in ((self.kind, kind, FEW_KINDS), (self.colour, colour, FEW_COLOURS)):
            if wanted is not None:
                good &= seen == (words.index(wanted) if isinstance(wanted, str) else wanted)
        return good


def see(images: Tensor, *, reader: str = "final") -> Seen:
    """Read pictures (B, 3, 32, 32) with a shipped reader. A picture in which it finds nothing is wrong in every respect."""
    scenes = read(images.clamp(-1, 1), load(f"readers/{reader}")).scenes
    kind, colour, backdrop = labels(scenes)
    some = scenes.present.any(1)
    return Seen(torch.where(some, kind, -1), torch.where(some, colour, -1), backdrop)


def entropy(numbers: Tensor, values: int) -> float:
    """Entropy in bits of the numbers 0 .. values - 1 among ``numbers``; -1 counts as one value more."""
    share = torch.bincount(numbers + 1, minlength=values + 1).double()
    share = share[share > 0] / share.sum()
    return float(-(share * share.log2()).sum())


def spearman(x: Tensor, y: Tensor) -> float:
    """Rank correlation, ties sharing their mean rank; 0 if one of the two is constant."""
    def ranks(v: Tensor) -> Tensor:
        v = v.double()
        return (v[:, None] > v).double().sum(1) + ((v[:, None] == v).double().sum(1) - 1) / 2

    a, b = (ranks(v) - ranks(v).mean() for v in (x, y))
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else 0.0



def free_colour(rows: Tensor) -> float:
    """Entropy in bits of the colour where only the kind was asked for, the mean over the four kinds.

    rows: (n, 2) whole numbers, the kind asked for and the colour that is seen, -1 for none.
    """
    return sum(entropy(rows[rows[:, 0] == kind, 1].long(), 4) for kind in range(4)) / 4


def ranks_of(curve: dict[float, Tensor], of: Callable[[Tensor], float], *, why: str,
             also: dict[str, float] | None = None) -> Outcome:
    """Rank correlation of a figure with the guidance scale, with a bootstrap over pictures, the same ones at every scale.

    curve: scale -> (n, ...) what was found on each picture; of: those rows -> the figure. The curve itself, and what stands in
    ``also``, are in another unit than the correlation and go among the settings.
    """
    scales = torch.tensor(list(curve))
    found = bootstrap(lambda *rows: spearman(scales, torch.tensor([of(v) for v in rows])), *curve.values(), n=200, paired=True)
    levels = {f"at s = {s:g}": of(v) for s, v in curve.items()}
    return Outcome(found.value, found.low, found.high, baseline={"a scale without effect": 0.0}, settings=levels | (also or {}),
                   why=why)
