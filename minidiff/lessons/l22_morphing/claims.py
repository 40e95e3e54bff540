"""Claims of lesson 22: what DiffMorpher makes of a path. Settings were chosen on split "valid", rows use "test"."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.lessons.l21_interpolation.data import Pair, drawn, pairs
from minidiff.measure import bootstrap
from minidiff.measure.interval import Estimate
from minidiff.measure.path import directness, gold_frames, hops, perceptual, speed_cv, thing_counts
from minidiff.morphing import diffmorpher, slerp_morph
from minidiff.zoo import load

__all__ = ["FRAMES", "morphs"]

FRAMES, STEPS, CHUNK = 9, 12, 4
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
       "noise: standard deviation over mean, nine frames, without its respacing (paired)", unit="coefficient of variation",
       target="<= -0.2", n=6, small=2, reader="final")
def hop_cv(n: int) -> Outcome:
    arms = {name: _cv(morphs(stages, n)) for name, stages in (("all", MIXED), ("slerp", ()), ("lora", TAUGHT))}
    return _outcome(bootstrap(torch.mean, arms["all"] - arms["slerp"]), baseline={"slerp": float(arms["slerp"].mean())},
                    settings={"LoRA, attention, AdaIN": float(arms["all"].mean()), "LoRA alone": float(arms["lora"].mean())},
                    floor={"gold": float(_cv(_gold(n)).mean())},
                    why="the leap stays where it was: an adapter for each end does not teach what lies between them")


@claim("22.shorter", "What the adapters do is another thing: the path between the two pictures gets shorter (its length over "
       "the distance of its ends, LoRA, attention and AdaIN against slerp, paired)", unit="ratio of lengths",
       target="<= -0.2", n=6, small=2, reader="final")
def shorter(n: int) -> Outcome:
    arms = {name: directness(morphs(stages, n), _distance) for name, stages in (("all", MIXED), ("slerp", ()), ("lora", TAUGHT))}
    return _outcome(bootstrap(torch.mean, arms["all"] - arms["slerp"]), baseline={"slerp": float(arms["slerp"].mean())},
                    settings={"LoRA, attention, AdaIN": float(arms["all"].mean()), "LoRA alone": float(arms["lora"].mean())},
                    floor={"gold": float(directness(_gold(n), _distance).mean())})


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
