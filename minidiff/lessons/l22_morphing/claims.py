"""Claims of lesson 22: what DiffMorpher and IMPUS make of a path. Settings were chosen on split "valid", rows use "test"."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.latent import encode
from minidiff.lessons.l21_interpolation.data import Pair, drawn, pairs
from minidiff.measure import bootstrap, read
from minidiff.measure.interval import Estimate
from minidiff.measure.path import directness, gold_frames, hops, perceptual, speed_cv, thing_counts
from minidiff.morphing import Impus, diffmorpher, fit_impus, slerp_morph
from minidiff.zoo import load

__all__ = ["FRAMES", "fitted", "morphs", "place_ratio"]

FRAMES, STEPS, CHUNK = 9, 12, 4
EVEN = [k / (FRAMES - 1) for k in range(FRAMES)]
SPLIT = "test"


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
def _adapters(start: int, stop: int) -> list:
    a, b, *said = drawn(_chosen(stop)[start:])
    return diffmorpher(_pipe(), a, b, tuple(said), weights=2, stages=("lora",), steps=STEPS).details["loras"]


@functools.lru_cache(maxsize=16)
def morphs(stages: tuple[str, ...], n: int) -> Tensor:
    """(n, 9, 3, 64, 64): DiffMorpher with these stages between the first n pairs; without any it is slerp."""
    out = []
    for i in range(0, n, CHUNK):
        stop = min(i + CHUNK, n)
        a, b, *said = drawn(_chosen(n)[i:stop])
        if not stages:
            out.append(slerp_morph(_pipe(), a, b, tuple(said), weights=FRAMES, steps=STEPS).images)
            continue
        loras = _adapters(i, stop) if "lora" in stages else None
        out.append(diffmorpher(_pipe(), a, b, tuple(said), weights=FRAMES, stages=stages, loras=loras, distance=_distance,
                               steps=STEPS).images)
    return torch.cat(out)


TAUGHT, MIXED, ALL = ("lora",), ("lora", "attention", "adain"), ("lora", "attention", "adain", "spacing")


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


@claim("22.hop_cv", "DiffMorpher (Zhang et al. 2024) makes the hops of evenly spaced frames more even than slerp of inverted "
       "noise: standard deviation over mean, nine frames, without its respacing (paired)",
       unit="coefficient of variation, minus slerp's",
       target="<= -0.2", n=6, small=2, reader="final")
def hop_cv(n: int) -> Outcome:
    arms = {name: _cv(morphs(stages, n)) for name, stages in (("all", MIXED), ("slerp", ()), ("lora", TAUGHT))}
    return _outcome(bootstrap(torch.mean, arms["all"] - arms["slerp"]), baseline={"slerp": float(arms["slerp"].mean())},
                    settings={"LoRA, attention, AdaIN": float(arms["all"].mean()), "LoRA alone": float(arms["lora"].mean())},
                    floor={"gold": float(_cv(_gold(n)).mean())},
                    why="the leap stays where it was: an adapter for each end does not teach what lies between them")


@claim("22.shorter", "What the adapters do is another thing: the path between the two pictures gets shorter (its length over "
       "the distance of its ends, LoRA, attention and AdaIN against slerp, paired)", unit="ratio of lengths, minus slerp's",
       target="<= -0.2", n=6, small=2, reader="final")
def shorter(n: int) -> Outcome:
    arms = {name: directness(morphs(stages, n), _distance) for name, stages in (("all", MIXED), ("slerp", ()), ("lora", TAUGHT))}
    return _outcome(bootstrap(torch.mean, arms["all"] - arms["slerp"]), baseline={"slerp": float(arms["slerp"].mean())},
                    settings={"LoRA, attention, AdaIN": float(arms["all"].mean()), "LoRA alone": float(arms["lora"].mean())},
                    floor={"gold": float(directness(_gold(n), _distance).mean())},
                    why="pairs differ much in how far slerp strays, and few of them were fitted")


@claim("22.respaced", "Respaced once, DiffMorpher's nine frames have even hops: standard deviation over mean", target="<= 0.6",
       unit="coefficient of variation", n=6, small=2, reader="final")
def respaced_cv(n: int) -> Outcome:
    each = _cv(morphs(ALL, n))
    one = {name: float(thing_counts(morphs(stages, n)[:, 1:-1], _reader()).eq(1).double().mean())
           for name, stages in (("even", MIXED), ("respaced", ALL))}
    return _outcome(bootstrap(torch.mean, each), baseline={"slerp, evenly spaced": float(_cv(morphs((), n)).mean())},
                    settings={"evenly spaced": float(_cv(morphs(MIXED, n)).mean()),
                              **{f"one thing in a frame, {k}": v for k, v in one.items()}},
                    floor={"gold": float(_cv(_gold(n)).mean())}, why="a leap within one gap is not found by one round")


@claim("22.largest_hop", "Its largest hop is a small part of the way: share of the path's length", target="<= 0.3",
       unit="share of the way", n=6, small=2, reader="final")
def largest_hop(n: int) -> Outcome:
    arms = {name: morphs(stages, n) for name, stages in (("respaced", ALL), ("even", MIXED), ("slerp", ()))}
    straight = {f"{k}, over the distance of the ends": float((hops(x, _distance).max(1).values
                                                            / _distance(x[:, 0], x[:, -1])).mean()) for k, x in arms.items()}
    return _outcome(bootstrap(torch.mean, _largest(arms["respaced"])),
                    baseline={"slerp": float(_largest(arms["slerp"]).mean()), "eight equal hops": 1 / (FRAMES - 1)},
                    settings={"evenly spaced": float(_largest(arms["even"]).mean()), **straight},
                    floor={"gold": float(_largest(_gold(n)).mean())}, why="a leap within one gap is not found by one round")


# IMPUS ---------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def fitted(rows: tuple[int, ...]) -> Impus:
    """IMPUS fitted to the pairs of these numbers."""
    a, b, *said = drawn([_chosen(max(rows) + 1)[i] for i in rows])
    return fit_impus(_pipe(), a, b, tuple(said), steps=STEPS)


def _frames(fit: Impus, count: int) -> Tensor:
    rows = [k for k in range(count) for _ in EVEN]
    return fit.frames(rows, EVEN * count, steps=STEPS).unflatten(0, (count, FRAMES))


def place_ratio(frames: Tensor) -> Tensor:
    """Length of the way of the thing's place over the straight one, (B,): frames in which the reader finds nothing are left
    out; NaN where an end is one of them."""
    out = []
    for x in frames:
        found = read(x, _reader()).scenes
        there = found.present[:, 0]
        place = torch.stack([found.x[:, 0], found.y[:, 0]], 1)
        seen = place[there]
        steps = seen.diff(dim=0).norm(dim=1).sum()
        out.append(steps / (seen[-1] - seen[0]).norm() if bool(there[0] & there[-1]) else torch.tensor(float("nan")))
    return torch.stack(out).double()


@claim("22.unconditional", "At w = 1.5 the two pictures come back better if guidance subtracts a network that knows them too: "
       "latent RMS error at the ends without the unconditional LoRA minus that with it (IMPUS, paired)", unit="RMS error saved",
       target=">= 0.0", n=6, small=4)
def unconditional(n: int) -> Outcome:
    found: dict[str, list[Tensor]] = {"with": [], "without": [], "w = 1": []}
    for i in range(0, n // 2, CHUNK):
        rows = tuple(range(i, min(i + CHUNK, n // 2)))
        fit = fitted(rows)
        bare = Impus(fit.noise, fit.text, fit.prompt, fit.empty, (fit.loras[0], ()))
        a, b, *_ = drawn([_chosen(max(rows) + 1)[k] for k in rows])
        where = [k for k in range(len(rows)) for _ in range(2)]
        with torch.no_grad():
            want = encode(_pipe().vae, torch.stack([a, b], 1).flatten(0, 1))
        for name, side, w in (("with", fit, 1.5), ("without", bare, 1.5), ("w = 1", bare, 1.0)):
            z = side.latents(where, [0.0, 1.0] * len(rows), guidance=(w, w), steps=STEPS)
            found[name].append((z - want).square().flatten(1).mean(1).sqrt().double())
    each = {name: torch.cat(x) for name, x in found.items()}
    mean = {name: float(x.mean()) for name, x in each.items()}
    return _outcome(bootstrap(torch.mean, each["without"] - each["with"]), baseline={"error without it": mean["without"]},
                    settings={"error with it": mean["with"]}, floor={"error at w = 1": mean["w = 1"]},
                    why="w = 1.5 asks for more than was inverted, whatever is subtracted")
