"""Claims of lesson 22: what DiffMorpher and IMPUS make of a path. Settings were chosen on split "valid", rows use "test"."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.latent import encode
from minidiff.lessons.l21_interpolation.data import Pair, drawn, pairs
from minidiff.measure import bootstrap, read
from minidiff.measure.interval import Estimate
from minidiff.measure.path import directness, gold_frames, hops, perceptual, speed_cv, thing_counts
from minidiff.morphing import Impus, cross_fade, diffmorpher, fit_impus, slerp_morph, uniform_paths
from minidiff.zoo import load

__all__ = ["FRAMES", "fitted", "morphs", "place_ratio"]

FRAMES, STEPS, CHUNK = 9, 12, 4
EVEN = [k / (FRAMES - 1) for k in range(FRAMES)]
SPLIT = "test"
TAUGHT, MIXED, ALL, SPACED = ("lora",), ("lora", "attention", "adain"), ("lora", "attention", "adain", "spacing"), ("spacing",)


@functools.lru_cache(maxsize=1)
def _pipe() -> Any:
    return load("mini-sd")


@functools.lru_cache(maxsize=1)
def _reader() -> Any:
    return load("readers/final")


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return perceptual(_reader())(x, y)


@functools.lru_cache(maxsize=4)
def _chosen(n: int) -> list[Pair]:
    return pairs(n, split=SPLIT)


@functools.lru_cache(maxsize=32)
def _adapters(start: int) -> list:
    a, b, *said = drawn(_chosen(start + CHUNK)[start:])
    return diffmorpher(_pipe(), a, b, tuple(said), weights=2, stages=TAUGHT, steps=STEPS).details["loras"]


@functools.lru_cache(maxsize=128)
def _chunk(stages: tuple[str, ...], start: int) -> Tensor:
    a, b, *said = drawn(_chosen(start + CHUNK)[start:])
    if not stages:
        return slerp_morph(_pipe(), a, b, tuple(said), weights=FRAMES, steps=STEPS).images
    loras = _adapters(start) if "lora" in stages else None
    return diffmorpher(_pipe(), a, b, tuple(said), weights=FRAMES, stages=stages, loras=loras, distance=_distance,
                       steps=STEPS).images


def morphs(stages: tuple[str, ...], n: int) -> Tensor:
    """(n, 9, 3, 64, 64): DiffMorpher with these stages between the first n pairs; without any it is slerp, and with "spacing"
    alone it is slerp respaced."""
    return torch.cat([_chunk(stages, i) for i in range(0, n, CHUNK)])[:n]


def _cv(frames: Tensor) -> Tensor:
    return speed_cv(hops(frames, _distance))


def _largest(frames: Tensor) -> Tensor:
    """The largest hop as a share of the path's length."""
    h = hops(frames, _distance)
    return h.max(1).values / h.sum(1)


def _gold(n: int) -> Tensor:
    return torch.stack([gold_frames(p.first, p.other, 64, count=FRAMES) for p in _chosen(n)])


def _outcome(found: Estimate, **more: Any) -> Outcome:
    return Outcome(found.value, found.low, found.high, **more)


def _mean(x: Tensor) -> float:
    return float(x.double().mean())


@claim("22.hop_cv", "DiffMorpher (Zhang et al. 2024) makes the hops of evenly spaced frames more even than slerp of inverted "
       "noise: standard deviation over mean, nine frames, without its respacing (paired)",
       unit="coefficient of variation, minus slerp's",
       target="<= -0.2", n=12, small=2, reader="final")
def hop_cv(n: int) -> Outcome:
    arms = {name: _cv(morphs(stages, n)) for name, stages in (("all", MIXED), ("slerp", ()), ("lora", TAUGHT))}
    return _outcome(bootstrap(torch.mean, arms["all"] - arms["slerp"]),
                    baseline={"slerp": _mean(arms["slerp"]), "slerp, its largest of the pairs": float(arms["slerp"].max())},
                    settings={"LoRA, attention, AdaIN": _mean(arms["all"]), "LoRA alone": _mean(arms["lora"])},
                    floor={"gold": _mean(_cv(_gold(n)))},
                    why="the leap stays where it was: an adapter for each end does not teach what lies between them")


@claim("22.length", "DiffMorpher's adapters, mixed attention and AdaIN bring the length of the path, over the distance of its "
       "ends, nearer to that of the world's own morph: | ratio - its ratio |, minus the same of slerp (paired)",
       unit="difference of ratios, minus slerp's", target="<= 0.0", n=12, small=2, reader="final")
def length(n: int) -> Outcome:
    gold = directness(_gold(n), _distance)
    ratios = {name: directness(morphs(stages, n), _distance)
              for name, stages in (("all", MIXED), ("slerp", ()), ("lora", TAUGHT))}
    off = {name: (x - gold).abs() for name, x in ratios.items()}
    return _outcome(bootstrap(torch.mean, off["all"] - off["slerp"]), baseline={"slerp, off by": _mean(off["slerp"])},
                    settings={"LoRA, attention, AdaIN, off by": _mean(off["all"]), "LoRA alone, off by": _mean(off["lora"]),
                              "ratio of slerp": _mean(ratios["slerp"]), "ratio of LoRA, attention, AdaIN": _mean(ratios["all"]),
                              "ratio of LoRA alone": _mean(ratios["lora"])},
                    floor={"ratio of the world's own morph": _mean(gold)},
                    why="slerp's path is no longer than the world's own morph; the adapters only make it shorter")


@claim("22.respaced", "Respaced once, DiffMorpher's nine frames have even hops: standard deviation over mean", target="<= 0.6",
       unit="coefficient of variation", n=12, small=2, reader="final")
def respaced_cv(n: int) -> Outcome:
    one = {name: _mean(thing_counts(morphs(stages, n)[:, 1:-1], _reader()).eq(1))
           for name, stages in (("even", MIXED), ("respaced", ALL), ("slerp, respaced", SPACED))}
    return _outcome(bootstrap(torch.mean, _cv(morphs(ALL, n))),
                    baseline={"slerp, evenly spaced": _mean(_cv(morphs((), n))),
                              "slerp, respaced": _mean(_cv(morphs(SPACED, n)))},
                    settings={"evenly spaced": _mean(_cv(morphs(MIXED, n))),
                              **{f"one thing in a frame, {k}": v for k, v in one.items()}},
                    floor={"gold": _mean(_cv(_gold(n)))}, why="a leap within one gap is not found by one round")


@claim("22.respaced_gain", "Respaced once each, DiffMorpher's nine frames have more even hops than slerp's: standard deviation "
       "over mean (paired)", target="<= -0.1", unit="coefficient of variation, minus slerp's", n=12, small=2, reader="final")
def respaced_gain(n: int) -> Outcome:
    arms = {name: _cv(morphs(stages, n)) for name, stages in (("all", ALL), ("slerp", SPACED))}
    return _outcome(bootstrap(torch.mean, arms["all"] - arms["slerp"]), baseline={"slerp, respaced": _mean(arms["slerp"])},
                    settings={"DiffMorpher, respaced": _mean(arms["all"])}, floor={"gold": _mean(_cv(_gold(n)))},
                    why="what respacing needs is that frames between exist; slerp's path has them too")


@claim("22.largest_hop", "The largest hop of DiffMorpher's nine respaced frames is a small share of the path's length",
       target="<= 0.3", unit="share of the way", n=12, small=2, reader="final")
def largest_hop(n: int) -> Outcome:
    arms = {name: morphs(stages, n) for name, stages in (("respaced", ALL), ("even", MIXED), ("slerp", ()),
                                                         ("slerp, respaced", SPACED))}
    straight = {f"{k}, over the distance of the ends": _mean(hops(x, _distance).max(1).values / _distance(x[:, 0], x[:, -1]))
                for k, x in arms.items()}
    return _outcome(bootstrap(torch.mean, _largest(arms["respaced"])),
                    baseline={"slerp, evenly spaced": _mean(_largest(arms["slerp"])),
                              "slerp, respaced": _mean(_largest(arms["slerp, respaced"])), "eight equal hops": 1 / (FRAMES - 1)},
                    settings={"evenly spaced": _mean(_largest(arms["even"])), **straight},
                    floor={"gold": _mean(_largest(_gold(n)))}, why="a leap within one gap is not found by one round")


# IMPUS ---------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def fitted(i: int) -> Impus:
    """IMPUS fitted to pair i."""
    a, b, *said = drawn([_chosen(i + 1)[i]])
    return fit_impus(_pipe(), a, b, tuple(said), steps=STEPS)


def _draw(fit: Impus, weights: Sequence[float]) -> Tensor:
    return fit.frames([0] * len(weights), list(weights), steps=STEPS)


@functools.lru_cache(maxsize=64)
def _even(i: int) -> Tensor:
    """(9, 3, 64, 64): IMPUS between the ends of pair i at even weights."""
    return _draw(fitted(i), EVEN)


@functools.lru_cache(maxsize=64)
def _bisected(i: int) -> Tensor:
    """(m, 3, 64, 64): the frames that bisection takes; delta is the length of the even path over its hops."""
    known = dict(zip(EVEN, _even(i), strict=True))
    delta = float(hops(_even(i), _distance).sum()) / (FRAMES - 1)
    path = uniform_paths(lambda _, weights: _draw(fitted(i), weights), [known], _distance, [delta])[0]
    return torch.stack([known[w] for w in path])


def place_ratio(frames: Tensor, first: Tensor, other: Tensor) -> Tensor:
    """Length of the way of the thing's place over the straight one, (B,), 1 or more.

    frames (B, n, 3, H, W); first, other (B, 2): where the thing is in the two scenes, x and y from 0 to 1. The way leads from
    the first through every frame in which the reader finds something to the other; frames in which it finds nothing add nothing.
    """
    out = []
    for x, a, b in zip(frames, first.double(), other.double(), strict=True):
        found = read(x, _reader()).scenes
        seen = torch.stack([found.x[:, 0], found.y[:, 0]], 1)[found.present[:, 0]].double()
        way = torch.cat([a[None], seen.to(a), b[None]]).diff(dim=0).norm(dim=1).sum()
        out.append(way / (b - a).norm())
    return torch.stack(out)


@claim("22.straight", "A thing that only moves goes straight in IMPUS (Yang et al. 2024): length of the way of its place "
       "through nine even frames over the straight one", unit="ratio of lengths", target="<= 1.10", n=6, small=2, reader="final")
def straight(n: int) -> Outcome:
    rows = list(range(0, 4 * n, 4))                                                  # every fourth pair moves
    moved = [_chosen(4 * n)[i] for i in rows]
    places = [torch.tensor([[getattr(p, end).things[0].x, getattr(p, end).things[0].y] for p in moved]) for end in
              ("first", "other")]
    a, b, *said = drawn(moved)
    arms = {"IMPUS": torch.stack([_even(i) for i in rows]),
            "slerp": torch.cat([slerp_morph(_pipe(), a[k:k + 1], b[k:k + 1], (said[0][k], said[1][k]), weights=FRAMES,
                                            steps=STEPS).images for k in range(n)]),
            "fade": cross_fade(a, b, FRAMES),
            "gold": torch.stack([gold_frames(p.first, p.other, 64, count=FRAMES) for p in moved])}
    ratio = {name: place_ratio(x, *places) for name, x in arms.items()}
    one = {f"one thing in a frame, {k}": _mean(thing_counts(x[:, 1:-1], _reader()).eq(1)) for k, x in arms.items()}
    return _outcome(bootstrap(torch.mean, ratio["IMPUS"]), baseline={k: _mean(ratio[k]) for k in ("slerp", "fade")}, settings=one,
                    floor={"gold": _mean(ratio["gold"])},
                    why="the thing fades out at one place and in at the other, and the reader finds now the one, now the other")


@claim("22.equal_hops", "Bisection makes IMPUS's hops equal: the largest hop over the mean one, the last and shorter one counted",
       unit="ratio", target="<= 1.3", n=4, small=2, reader="final")
def equal_hops(n: int) -> Outcome:
    def peak(frames: Tensor) -> Tensor:
        h = hops(frames, _distance)
        return (h.max(1).values / h.mean(1)).double()

    each = torch.cat([peak(_bisected(i)) for i in range(n)])
    even = torch.cat([peak(_even(i)) for i in range(n)])
    one = _mean(torch.cat([thing_counts(_bisected(i)[1:-1], _reader()).eq(1).flatten() for i in range(n)]))
    return _outcome(bootstrap(torch.mean, each),
                    baseline={"IMPUS, evenly spaced": _mean(even), "slerp, evenly spaced": _mean(peak(morphs((), n))),
                              "slerp, respaced once": _mean(peak(morphs(SPACED, n)))},
                    settings={"largest of the pairs": float(each.max()), "share of pairs at or below 1.3": _mean(each <= 1.3),
                              "one thing in a frame": one},
                    floor={"gold": _mean(peak(_gold(n)))},
                    why="where the path leaps between two neighbouring weights no spacing finds a frame between")


@claim("22.unconditional", "At w = 1.5 the two pictures come back better if guidance subtracts a network that knows them too: "
       "latent RMS error at the ends without the unconditional LoRA minus that with it (IMPUS, paired)", unit="RMS error saved",
       target=">= 0.0", n=8, small=4)
def unconditional(n: int) -> Outcome:
    found: dict[str, list[Tensor]] = {"with": [], "without": [], "w = 1": []}
    for i in range(n // 2):
        fit = fitted(i)
        bare = Impus(fit.noise, fit.text, fit.prompt, fit.empty, (fit.loras[0], ()))
        a, b, *_ = drawn([_chosen(i + 1)[i]])
        with torch.no_grad():
            want = encode(_pipe().vae, torch.cat([a, b]))
        for name, side, w in (("with", fit, 1.5), ("without", bare, 1.5), ("w = 1", bare, 1.0)):
            z = side.latents([0, 0], [0.0, 1.0], guidance=(w, w), steps=STEPS)
            found[name].append((z - want).square().flatten(1).mean(1).sqrt().double())
    each = {name: torch.cat(x) for name, x in found.items()}
    mean = {name: float(x.mean()) for name, x in each.items()}
    return _outcome(bootstrap(torch.mean, each["without"] - each["with"]), baseline={"error without it": mean["without"]},
                    settings={"error with it": mean["with"]}, floor={"error at w = 1": mean["w = 1"]},
                    why="w = 1.5 asks for more than was inverted, whatever is subtracted")
