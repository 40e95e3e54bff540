"""Claims of lesson 05, each measured by a function of the sample size."""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.diffusion.guide import cfg, cfg_w, composable, dual, instruct_pix2pix, interaction, rescale
from minidiff.lessons.l04_classifier_guidance.data import (
    Guided,
    combinations,
    entropy,
    free_colour,
    ranks_of,
    sample,
    see,
    spearman,
)
from minidiff.lessons.l05_classifier_free_guidance.panels import STEPS, guidance_view, two_scales
from minidiff.lessons.l05_classifier_free_guidance.toys import GuidedMixture, tilted, walk
from minidiff.measure import read
from minidiff.measure.interval import bootstrap, wilson
from minidiff.recipes.few import FEW_COLOURS, FEW_KINDS, condition
from minidiff.rng import normal
from minidiff.zoo import load

__all__ = ["SCALES", "accuracy_rises", "as_asked", "entropy_falls", "gain", "identities", "not_tilted", "red_star", "rescaled",
           "scale_curve", "size", "widget"]

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


@claim("05.identities", "s = 0, s = 1, both conventions, rescale at phi = 0, InstructPix2Pix at (1, 1), PARASOL's "
       "interaction term, "
       "Composable with two equal halves: largest difference from what each must equal, float64",
       unit="largest difference", target="<= 1e-6", n=4096, small=64)
def identities(n: int) -> Outcome:
    """n: rows of random predictions."""
    u, a, b, both = (normal((n, 3, 4, 5), "05 identity", i, dtype=torch.float64) for i in range(4))
    s = torch.linspace(-2, 12, n, dtype=torch.float64)
    pairs = [(cfg(u, a, 0.0), u), (cfg(u, a, 1.0), a), (cfg_w(u, a, s - 1), cfg(u, a, s)), (cfg_w(u, a, 0.0), a),
             (rescale(cfg(u, a, s), a, 0.0), cfg(u, a, s)), (instruct_pix2pix(u, a, both, 1.0, 1.0), both),
             (dual(u, a, b, 1.0, 1.0) + interaction(u, a, b, both), both), (composable(u, [a, a], [s / 2, s / 2]), cfg(u, a, s))]
    worst = max(float((x - y).abs().max()) for x, y in pairs)
    mixed = float((cfg(u, a, 7.5) - cfg_w(u, a, 7.5)).abs().mean())
    return Outcome(worst, worst, worst, baseline={"the two conventions mixed up at 7.5 (mean)": mixed})


@claim("05.not_tilted", "Three exact classes: guided samples do not have the density p(x) p(c|x)^s that guidance is said to draw "
       "from: how far beyond its mean their mean lies at s = 4, in widths of a class",
       unit="widths", target=">= 1", n=4000, small=400)
def not_tilted(n: int) -> Outcome:
    """n: samples."""
    x, (want, _) = walk(GuidedMixture(4.0), n), tilted(4.0)
    found = bootstrap(lambda v: float((v[:, 1].mean() - want[1]) / 0.45), x, n=200)
    at_one = float((walk(GuidedMixture(1.0), n)[:, 1].mean() - tilted(1.0)[0][1]) / 0.45)
    return Outcome(found.value, found.low, found.high, baseline={"s = 1, where both agree": at_one})


def _chunks(cond: Tensor, s: float, n: int, *, seed: int = 1, rule: object = None) -> Tensor:
    model = load("pixel-guided")
    return torch.cat([sample(Guided(model, part, s if rule is None else rule), len(part), seed=seed + 100 * i)
                      for i, part in enumerate(cond.split(60))])


@functools.lru_cache(maxsize=4)
def scale_curve(n: int, *, colour_too: bool = True) -> dict[float, Tensor]:
    """scale -> (n, 4): is it as asked, the kind asked for, the colour and the backdrop seen; seed 1, all requests in turn.

    colour_too: ask for kind and colour; else for the kind alone, and the colour is free.
    """
    kind, colour = combinations(n)
    wanted = {"kind": kind, "colour": colour} if colour_too else {"kind": kind}
    out = {}
    for s in SCALES:
        seen = see(_chunks(condition(**wanted), s, n))
        out[s] = torch.stack([seen.right(**wanted).long(), kind, seen.colour, seen.backdrop], 1)
    return out


@claim("05.accuracy_rises", "The share of pictures with the kind and colour asked for rises with the guidance scale: "
       "rank correlation over seven scales from 0 to 5", unit="Spearman", target=">= 0.9", n=150, small=15, reader="final")
def accuracy_rises(n: int) -> Outcome:
    """n: pictures a scale."""
    return ranks_of(scale_curve(n), lambda v: float(v[:, 0].double().mean()),
                    why="from scale 1.5 on nearly all pictures are right; the ranks of the scales above it are chance")


@claim("05.entropy_falls", "The entropy of what was not asked for falls with the guidance scale: colour, where only the kind is "
       "asked for, rank correlation over seven scales from 0 to 5",
       unit="Spearman", target="<= -0.9", n=45, small=15, reader="final")
def entropy_falls(n: int) -> Outcome:
    """n: pictures a scale."""
    curve = scale_curve(n, colour_too=False)
    walls = spearman(torch.tensor(SCALES), torch.tensor([entropy(v[:, 3], 3) for v in curve.values()]))
    return ranks_of(curve, lambda v: free_colour(v[:, 1:3]), also={"the backdrop's, never asked for": walls},
                    why="the kind says nothing about the colour in this world, so there is little for guidance to narrow")


@claim("05.gain", "What guidance is good for: kind and colour are as asked more often at s = 3 than at s = 1, the same requests "
       "and noises", unit="share of pictures gained", target=">= 0.01", n=120, small=15, reader="final")
def gain(n: int) -> Outcome:
    """n: pictures at each scale. The scale was chosen on seed 1; this is seed 3."""
    kind, colour = combinations(n)
    one, three = (see(_chunks(condition(kind, colour), s, n, seed=3)).right(kind, colour).double() for s in (1.0, 3.0))
    found = bootstrap(torch.mean, three - one)
    return Outcome(found.value, found.low, found.high, baseline={"no gain": 0.0},
                   settings={"share right at s = 1": float(one.mean()), "at s = 3": float(three.mean())},
                   why="a world this small leaves few pictures wrong at scale 1")


@claim("05.size", "What guidance costs: things grow; size at s = 7.5 minus size at s = 1, as the final reader finds it, the same "
       "requests and noises", unit="of the picture's width gained", target=">= 0.02", n=60, small=15, reader="final")
def size(n: int) -> Outcome:
    """n: pictures at each scale."""
    kind, colour = combinations(n)
    sizes, across = {}, {}
    for s in (1.0, 3.0, 7.5):
        seen = read(_chunks(condition(kind, colour), s, n, seed=4).clamp(-1, 1), load("readers/final")).scenes
        sizes[s], across[s] = seen.size[:, 0].double(), seen.x[:, 0].double()
    found = bootstrap(torch.mean, sizes[7.5] - sizes[1.0])
    levels = {f"{word} at s = {s:g}": float(of(rows[s])) for word, rows, of in (
        ("size", sizes, torch.mean), ("share above 0.30, the world's largest,", sizes, lambda v: (v > 0.3).double().mean()),
        ("spread of the place", across, torch.std)) for s in sizes}
    return Outcome(found.value, found.low, found.high, baseline={"no gain": 0.0},
                   settings=levels, why="the place leaves no room to grow")


@claim("05.as_asked", "Classifier-free guidance at s = 3: kind and colour asked for are what the final reader sees, all 15 "
       "trained pairs", unit="share right", target=">= 0.97", n=120, small=15, reader="final")
def as_asked(n: int) -> Outcome:
    """n: pictures. The scale was chosen on seed 1; this is seed 2."""
    right = {}
    for s, count in ((0.0, min(n, 120)), (1.0, min(n, 120)), (3.0, n)):
        kind, colour = combinations(count)
        right[s] = see(_chunks(condition(kind, colour), s, count, seed=2)).right(kind, colour)
    found = wilson(int(right[3.0].sum()), n)
    return Outcome(found.value, found.low, found.high, baseline={"no condition": float(right[0.0].double().mean()),
                                                                 "condition, no guidance": float(right[1.0].double().mean())},
                   why="single pictures that the reader calls something else")


@claim("05.rescale", "Rescale (Lin et al. 2024) keeps strong guidance from burning the picture out: share of values "
       "beyond white or "
       "black at s = 7.5 with phi = 0.7, as a part of the share without", unit="ratio", target="<= 0.5", n=30, small=15)
def rescaled(n: int) -> Outcome:
    """n: pictures."""
    kind, colour = combinations(n)
    cond = condition(kind, colour)
    rows = {phi: (_chunks(cond, 7.5, n, rule=lambda u, c, phi=phi: rescale(cfg(u, c, 7.5), c, phi)).abs() > 1).double()
            .flatten(1).mean(1) for phi in (0.0, 0.7)}
    found = bootstrap(lambda a, b: float(b.mean() / a.mean()), rows[0.0], rows[0.7], n=300, paired=True)
    plain = (_chunks(cond, 1.0, n).abs() > 1).double().mean()
    return Outcome(found.value, found.low, found.high, baseline={"no guidance (s = 1)": float(plain / rows[0.0].mean())},
                   why=("a network that predicts x0 burns few values by itself; rescale brings them below "
                        "those without guidance"))


@claim("05.red_star", "A red star is in no training picture. With a scale for each condition (star 3, red 3) how "
       "often does the final "
       "reader see one", unit="share", target=">= 0.5", n=32, small=16, reader="final")
def red_star(n: int) -> Outcome:
    """n: pictures."""
    both = torch.cat([two_scales(3.0, 3.0, kind="star", colour="red", n=len(part), seed=50 + i)
                      for i, part in enumerate(torch.arange(n).split(60))])
    found = wilson(int(see(both).right("star", "red").sum()), n)
    seen, asked = see(both), condition("star", "red", n=n)
    joint = torch.cat([sample(Guided(load("pixel-guided"), part, 3.0), len(part), seed=50 + i, steps=STEPS)
                       for i, part in enumerate(asked.split(60))])
    star, red = seen.kind == FEW_KINDS.index("star"), seen.colour == FEW_COLOURS.index("red")
    return Outcome(found.value, found.low, found.high,
                   baseline={"one joint condition at s = 3": float(see(joint).right("star", "red").double().mean())},
                   settings={"star of another colour": float((star & ~red).double().mean()),
                             "red thing of another kind": float((red & ~star).double().mean()),
                             "neither": float((~star & ~red).double().mean())},
                   why="the network has only seen stars of three colours")


@claim("05.widget", "The guidance panel: from a move of the slider to sixteen new samples, read and drawn, in CPU seconds of all "
       "threads", unit="CPU seconds", target="<= 1.5", n=8, small=2)
def widget(n: int) -> Outcome:
    """n: moves of the slider. Each asks for a seed that no other call has asked for, so that nothing is remembered."""
    guidance_view(3.0, "fish", "any", seed=999)
    spent = []
    for i in range(n):
        start = time.process_time()
        guidance_view(3.0 + 0.5 * (i % 4), "heart", "blue", seed=1000 + i)
        spent.append(time.process_time() - start)
    found = bootstrap(torch.mean, torch.tensor(spent), n=200)
    return Outcome(found.value, found.low, found.high, baseline={"DDIM steps": 10.0}, why="ten calls of the network with 32 rows")
