"""Claims of lesson 16: what passes through the bottleneck, how strong a shift is, and what trained and mean directions do.

The strengths were chosen on split "valid" with the develop reader; the rows use split "test".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.editing import DeltaBlock, MeanDirection, fit_delta, mean_direction
from minidiff.editing.h_clip import DirectionalLoss
from minidiff.latent import denoiser, encode, encode_prompt, schedule_from, scheduler_options
from minidiff.lessons.l16_h_space.data import (
    STEPS,
    Inverted,
    changes,
    end_ratio,
    inverted_pairs,
    moved,
    pictures_of,
    pixel_edit,
    response,
    shares,
)
from minidiff.measure import EditScores, Estimate, bootstrap, edit_score, wilson
from minidiff.recipes.directions import direction_pairs, load_direction
from minidiff.world import render
from minidiff.zoo import load

__all__ = ["SYMMETRIC", "edited", "found", "means", "spacing_of"]

STRENGTH = 0.2                                # c of the trained directions
NIGHT = 0.2
MEAN = 1.0                                    # of the mean directions: as they are
LONGER = (1.0, 3.0, 9.0)                      # of those that fail: 3 is the push of the trained dog, 9 the one of the mean night
WAYS = (-0.1, -0.05, 0.05, 0.1, 0.15, 0.2)    # where the answer to c may be a line
SYMMETRIC = 1.0                               # the symmetric step at five times c
SMALL = 0.02                                  # where an answer is in proportion to c
LEVELS = (801, 481, 161)


@functools.lru_cache(maxsize=1)
def _pipe() -> Any:
    return load("mini-sd")


@functools.lru_cache(maxsize=2)
def _reader(name: str) -> torch.nn.Module:
    return load(f"readers/{name}")


@functools.lru_cache(maxsize=8)
def found(name: str, n: int, split: str = "test") -> Inverted:
    """n sources of an edit, inverted."""
    return inverted_pairs(_pipe(), name, n, split=split)


@functools.lru_cache(maxsize=4)
def means(name: str, n: int = 32) -> MeanDirection:
    """The mean direction of an edit over n pairs of the training split, at five levels."""
    pipe, pairs = _pipe(), direction_pairs(name, n)
    z = [encode(pipe.vae, render(scenes).images) for scenes in (pairs.source, pairs.target)]
    cond = encode_prompt(pipe, pairs.prompts)
    return mean_direction(denoiser(pipe), *z, cond, range(101, 1000, 200))


@functools.lru_cache(maxsize=16)
def edited(name: str, how: str, n: int, strength: float = STRENGTH, split: str = "test", reader: str = "final") -> EditScores:
    """Scores of n edits. how: "asymmetric", "symmetric", "mean" (the mean direction, asymmetric), "none" (nothing is edited)."""
    pipe, mine = _pipe(), found(name, n, split)
    truth = mine.pairs.truth(_reader(reader))
    if how == "none":
        return edit_score(mine.images, truth)
    delta = means(name) if how == "mean" else load_direction(pipe, name)
    z = moved(pipe, mine.noise, mine.pairs.prompts, [delta], strength, symmetric=how == "symmetric")
    return edit_score(pictures_of(pipe, z), truth)


def spacing_of(pipe: Any) -> dict[str, Any]:
    """The scheduler's conventions as ``visits`` takes them."""
    return {k: v for k, v in scheduler_options(pipe).items() if k != "clip"}


def _share(scores: EditScores) -> Estimate:
    """The share of pictures that are flipped, with Wilson's interval: at 0 or all of N a bootstrap would have none."""
    flipped = scores.of("target")
    return wilson(int(flipped.sum()), len(flipped))


def _beside(**scores: EditScores) -> dict[str, float]:
    """Flipped and kept of several edits, by name."""
    return {f"{word}, {name.replace('_', ' ')}": float(s.of(key).mean()) for name, s in scores.items()
            for word, key in (("flipped", "target"), ("kept", "preserved"))}


def _untouched(none: EditScores) -> dict[str, float]:
    """The trivial answer of a row that counts flips: the pictures as they are."""
    return {"no edit": float(none.of("target").mean())}


# Where an edit passes --------------------------------------------------------------------------------------------------------


@claim("16.share_place", "The bottleneck of mini-sd holds the place more than the thing: causal share of night less that of the "
       "dog at t = 481", unit="share", target=">= 0.1", n=64, small=4)
def share_place(n: int) -> Outcome:
    table = {name: shares(denoiser(_pipe()), name, LEVELS, n, pipe=_pipe(), split="test") for name in ("night", "dog")}
    m = bootstrap(torch.mean, (table["night"] - table["dog"])[:, 1].double())
    beside = {f"{name}, t = {t}": float(v) for name, s in table.items() for t, v in zip(LEVELS, s.mean(0), strict=True)}
    return Outcome(m.value, m.low, m.high, baseline={"no difference": 0.0}, settings=beside,
                   why="most of either edit goes past the middle block, through the skips")


@claim("16.share_pixel", "The bottleneck of pixel-ddpm holds the kind as well: causal share of the dog at t = 481, less that of "
       "mini-sd", unit="share", target=">= 0.3", n=64, small=4)
def share_pixel(n: int) -> Outcome:
    ours = shares(denoiser(_pipe()), "dog", LEVELS, n, pipe=_pipe(), split="test")
    pixel = shares(load("pixel-ddpm"), "dog", LEVELS, n, split="test")
    m = bootstrap(torch.mean, (pixel - ours)[:, 1].double())
    beside = {f"{name}, t = {t}": float(v) for name, s in (("mini-sd", ours), ("pixel-ddpm", pixel))
              for t, v in zip(LEVELS, s.mean(0), strict=True)}
    return Outcome(m.value, m.low, m.high, baseline={"no difference": 0.0}, settings=beside,
                   why="its skips carry the kind, too")


# Strength --------------------------------------------------------------------------------------------------------------------


@claim("16.dog", "A trained direction makes cats dogs by the asymmetric step where the symmetric step at the same c does not "
       "(Kwon et al. 2023; flips gained, c = 0.2)", unit="share of pictures", target=">= 0.5", n=48, small=4, reader="final")
def dog(n: int) -> Outcome:
    asym, sym, none = (edited("dog", how, n) for how in ("asymmetric", "symmetric", "none"))
    m = asym.minus(sym, "target")
    return Outcome(m.value, m.low, m.high, baseline=_untouched(none), settings=_beside(asymmetric=asym, symmetric=sym),
                   why="at this c the symmetric step makes some dogs, too")


@claim("16.strong_symmetric", "The asymmetric step also makes better edits, not only stronger ones: dogs right in all respects, "
       "asymmetric at c = 0.2 less symmetric at c = 1 (paired)", unit="share of pictures", target=">= 0", n=48, small=4,
       reader="final")
def strong_symmetric(n: int) -> Outcome:
    asym, sym = edited("dog", "asymmetric", n), edited("dog", "symmetric", n, SYMMETRIC)
    m = asym.minus(sym, "joint")
    return Outcome(m.value, m.low, m.high, baseline={"no difference": 0.0}, settings=_beside(asymmetric=asym, symmetric=sym),
                   why="with five times the strength the symmetric step makes as many dogs and keeps more")


@claim("16.ratio", "The asymmetric run ends as much further away as the closed form for Gaussian data says: measured over "
       "predicted ratio of small shifts (median)", unit="times", target="1 +- 0.3", n=16, small=4)
def ratio(n: int) -> Outcome:
    pipe = _pipe()
    got = response(pipe, found("dog", n), load_direction(pipe, "dog"), SMALL)
    said = end_ratio(schedule_from(pipe.scheduler), STEPS, push=got.push, spread=got.spread, **spacing_of(pipe))
    m = bootstrap(torch.median, got.asymmetric / got.symmetric)
    return Outcome(m.value / said, m.low / said, m.high / said, baseline={"equal strength": 1 / said},
                   settings={"measured": m.value, "predicted": said}, why="the network is not linear")


# Directions ------------------------------------------------------------------------------------------------------------------


@claim("16.homogeneous", "The learnt direction is one for all pictures (Kwon et al. 2023): cosine of f_t's vector, the mean over "
       "places, for a picture with that of the others (t = 481)", unit="cosine", target=">= 0.95", n=32, small=4)
def homogeneous(n: int) -> Outcome:
    block, cosines, maps = load_direction(_pipe(), "dog"), {}, {}
    for t in LEVELS:
        d = changes(_pipe(), block, "dog", t, n, split="test").change
        for table, flat in ((cosines, d.mean((2, 3))), (maps, d.flatten(1))):
            table[t] = F.cosine_similarity(flat, flat.sum(0) - flat).double()
    m = bootstrap(torch.mean, cosines[481])
    beside = {f"{kind}, t = {t}": float(c.mean()) for kind, table in (("vector", cosines), ("map of 8 x 8", maps))
              for t, c in table.items()}
    return Outcome(m.value, m.low, m.high, baseline={"independent directions": 0.0}, settings=beside,
                   why="f_t sees the picture, and answers it")


def _two(name: str, strength: float, n: int) -> Outcome:
    pipe, mine = _pipe(), found(name, n)
    deltas, truth = [load_direction(pipe, part) for part in name.split(" + ")], mine.pairs.truth(_reader("final"))
    both = edit_score(pictures_of(pipe, moved(pipe, mine.noise, mine.pairs.prompts, deltas, strength)), truth)
    m = _share(both)
    return Outcome(m.value, m.low, m.high, baseline=_untouched(edit_score(mine.images, truth)),
                   settings={"kept": float(both.of("preserved").mean())}, why="each direction takes some of the other")


@claim("16.compose", "Two directions compose: cats become dogs and day becomes night at once (asymmetric, each at c = 0.2)",
       unit="share of pictures", target=">= 0.6", n=64, small=4, reader="final")
def compose(n: int) -> Outcome:
    return _two("dog + night", STRENGTH * 2**0.5, n)


@claim("16.compose_blue", "Two directions compose: cats become dogs and blue at once (asymmetric, each at c = 0.2)",
       unit="share of pictures", target=">= 0.6", n=24, small=4, reader="final")
def compose_blue(n: int) -> Outcome:
    return _two("dog + blue", STRENGTH * 2**0.5, n)


@claim("16.night_kept", "Night falls and the thing stays: other attributes kept by the trained direction of the backdrop (c = "
       "0.2)",
       unit="share of attributes", target=">= 0.8", n=80, small=4, reader="final")
def night_kept(n: int) -> Outcome:
    mine, none = edited("night", "asymmetric", n, NIGHT), edited("night", "none", n)
    m = mine.mean("preserved")
    return Outcome(m.value, m.low, m.high, floor={"no edit": float(none.of("preserved").mean())},
                   settings=_beside(asymmetric=mine), why="what reads as night has lost its thing")


@claim("16.night_flips", "The trained direction of the backdrop makes it night: backdrop read as night (asymmetric, c = 0.2)",
       unit="share of pictures", target=">= 0.95", n=80, small=4, reader="final")
def night_flips(n: int) -> Outcome:
    mine, none = edited("night", "asymmetric", n, NIGHT), edited("night", "none", n)
    m = _share(mine)
    return Outcome(m.value, m.low, m.high, baseline=_untouched(none), settings=_beside(asymmetric=mine),
                   why="so high a bar needs nearly every picture")


@claim("16.mean_night", "The mean over pairs is a direction, untrained: night (asymmetric, c = 1)", unit="share of pictures",
       target=">= 0.5", n=16, small=4, reader="final")
def mean_night(n: int) -> Outcome:
    mine, none = edited("night", "mean", n, MEAN), edited("night", "none", n)
    m = _share(mine)
    return Outcome(m.value, m.low, m.high, baseline=_untouched(none), settings=_beside(mean_direction=mine),
                   why="the mean is shorter than one difference")


def _failed_mean(name: str, n: int) -> Outcome:
    """Of three lengths of the mean direction the one that flips most: the case that is best for it."""
    tried = {c: edited(name, "mean", n, c) for c in LONGER}
    c = max(tried, key=lambda c: float(tried[c].of("target").mean()))
    m = _share(tried[c])
    return Outcome(m.value, m.low, m.high, baseline=_untouched(edited(name, "none", n)),
                   settings=_beside(**{f"c = {c:g}": s for c, s in tried.items()}),
                   why="also where it is pushed as far as the trained direction and three times further")


@claim("16.mean_dog", "The mean over pairs is a direction, untrained: dog (asymmetric, the best of c = 1, 3, 9)",
       unit="share of pictures", target=">= 0.5", n=16, small=4, reader="final")
def mean_dog(n: int) -> Outcome:
    return _failed_mean("dog", n)


@claim("16.mean_blue", "The mean over pairs is a direction, untrained: blue (asymmetric, the best of c = 1, 3, 9)",
       unit="share of pictures", target=">= 0.5", n=16, small=4, reader="final")
def mean_blue(n: int) -> Outcome:
    return _failed_mean("blue", n)


@claim("16.mean_hat", "The mean over pairs is a direction, untrained: a hat (asymmetric, the best of c = 1, 3, 9)",
       unit="share of pictures", target=">= 0.5", n=16, small=4, reader="final")
def mean_hat(n: int) -> Outcome:
    return _failed_mean("hat", n)


@claim("16.pixel_dog", "Where the bottleneck holds the kind its mean direction is an edit: pixel-ddpm, dog, untrained "
       "(asymmetric, c = 2)", unit="share of pictures", target=">= 0.5", n=32, small=3, reader="final")
def pixel_dog(n: int) -> Outcome:
    truth = direction_pairs("dog", n, split="test").truth(_reader("final"))
    images = pixel_edit(load("pixel-ddpm"), "dog", n, (0.0, 1.0, 2.0, 4.0), split="test")
    made = {c: edit_score(x, truth) for c, x in images.items()}
    m = _share(made[2.0])
    return Outcome(m.value, m.low, m.high, baseline={"inverted and drawn again": float(made[0.0].of("target").mean())},
                   settings=_beside(**{f"c = {c:g}": s for c, s in made.items()}),
                   why="the mean lies at one place, and the things do not")


# One vector for all, a line, and the loss of the paper --------------------------------------------------------------------------


def _others(delta: Any) -> Any:
    """The direction that gives every picture of a batch the mean vector of the others' changes, the same at all places, and as
    long as the picture's own change."""
    def vector(h: Tensor, inputs: Any, ctx: Any) -> Tensor:
        mine = delta(h, inputs, ctx)
        mean = mine.mean((2, 3), keepdim=True)
        whole = (mean.sum(0) - mean).expand_as(h)
        return whole * (mine.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return vector


def _map_of_others(delta: Any) -> Any:
    """The direction that gives every picture of a batch the mean of the others' changes, place by place (Kwon et al. 2023)."""
    def mean(h: Tensor, inputs: Any, ctx: Any) -> Tensor:
        mine = delta(h, inputs, ctx)
        return (mine.sum(0) - mine) / (len(mine) - 1)
    return mean


@claim("16.one_map", "One change for all pictures is an edit (Kwon et al. 2023): cats become dogs by the mean of the other "
       "pictures' changes of h, the own one left out (asymmetric, c = 0.2)",
       unit="share of pictures", target=">= 0.5", n=32, small=4, reader="final")
def one_map(n: int) -> Outcome:
    return _by_others(n, _map_of_others, "mean_map", "things stand at other cells than in the other pictures")


def _by_others(n: int, rule: Callable[[Any], Any], name: str, why: str) -> Outcome:
    """n cats edited by what ``rule`` makes of f_t: the others' share in it."""
    pipe, mine = _pipe(), found("dog", n)
    truth = mine.pairs.truth(_reader("final"))
    z = moved(pipe, mine.noise, mine.pairs.prompts, [rule(load_direction(pipe, "dog"))], STRENGTH)
    scores = edit_score(pictures_of(pipe, z), truth)
    m = _share(scores)
    return Outcome(m.value, m.low, m.high, baseline=_untouched(edit_score(mine.images, truth)),
                   settings=_beside(**{name: scores}), why=why)


@claim("16.one_vector", "One change for all pictures is an edit (Kwon et al. 2023): cats become dogs by the mean vector of the "
       "other pictures' changes, the same at every place and as long as the own change (asymmetric, c = 0.2)",
       unit="share of pictures", target=">= 0.5", n=32, small=4, reader="final")
def one_vector(n: int) -> Outcome:
    return _by_others(n, _others, "one_vector", "the change belongs where the thing is, and the vector is everywhere")


@claim("16.linear", "The answer is in proportion to c (Kwon et al. 2023, linearity): R2 of a line through 0, over how far the "
       "latents move towards where c = 0.2 takes them, c from -0.1 to 0.2 (asymmetric, dog)", unit="R2", target=">= 0.9", n=8,
       small=2)
def linear(n: int) -> Outcome:
    pipe, mine, c = _pipe(), found("dog", n), torch.tensor(WAYS, dtype=torch.float64)
    ends = torch.stack([moved(pipe, mine.noise, mine.pairs.prompts, [load_direction(pipe, "dog")], v) for v in (0.0, *WAYS)])
    way = (ends[-1] - ends[0]).flatten(1).double()
    gone = ((ends[1:] - ends[0]).flatten(2).double() * way).sum(2) / way.square().sum(1)          # (strengths, n)
    line = (gone * c[:, None]).sum(0) / c.square().sum() * c[:, None]
    r2 = 1 - (gone - line).square().sum(0) / (gone - gone.mean(0)).square().sum(0)
    m = bootstrap(torch.mean, r2)
    return Outcome(m.value, m.low, m.high, baseline={"no answer at all": 0.0},
                   settings={f"way at c = {v:g}": float(g) for v, g in zip(WAYS, gone.mean(1), strict=True)},
                   why="a threshold lies between cat and dog, and what is past it does not go on")


@claim("16.directional", "A direction learnt with the paper's directional CLIP loss, no right answer shown, makes cats dogs "
       "(mini-clip, 100 steps; asymmetric, the best of c = 0.5, 1, 2)", unit="share of pictures", target=">= 0.5", n=16, small=2,
       reader="final")
def directional(n: int) -> Outcome:
    pipe, mine, pairs = _pipe(), found("dog", n), direction_pairs("dog", 256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = DeltaBlock.of(pipe)
    loss = DirectionalLoss(pipe, load("mini-clip").requires_grad_(False), ["a cat"], ["a dog"])
    way = list(fit_delta(pipe, block, render(pairs.source).images, loss, pairs.prompts, steps=100, batch=6))
    truth, block = mine.pairs.truth(_reader("final")), block.eval().requires_grad_(False)
    tried = {c: edit_score(pictures_of(pipe, moved(pipe, mine.noise, mine.pairs.prompts, [block], c)), truth)
             for c in (0.5, 1.0, 2.0)}
    best = max(tried.values(), key=lambda s: float(s.of("target").mean()))
    m = _share(best)
    ends = {f"loss, {name}": sum(step.loss for step in part) / len(part)
            for name, part in (("first 20 steps", way[:20]), ("last 20", way[-20:]))}
    return Outcome(m.value, m.low, m.high, baseline=_untouched(edit_score(mine.images, truth)),
                   settings=_beside(**{f"c = {c:g}": s for c, s in tried.items()}) | ends,
                   why="a small CLIP's direction can be followed without the picture becoming a dog")
