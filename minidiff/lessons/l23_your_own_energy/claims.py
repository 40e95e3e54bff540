"""Claims of lesson 23: hops made even by two energies, with what that does to the way, and a colour edit held by one.

Lengths of pushes were chosen on split "valid" with the develop reader; the rows use split "test" and the final one.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import shipped
from minidiff.latent.sample import initial_noise
from minidiff.lessons.l21_interpolation.data import Pair, drawn, pairs
from minidiff.lessons.l23_your_own_energy.data import FRAMES, HOPS, Painted, between, painted, pushed, turning
from minidiff.measure import bootstrap, edit_pairs
from minidiff.measure.path import directness, ghost, gold_frames, hops, perceptual, speed_cv, thing_counts
from minidiff.morphing import cross_fade

__all__ = ["films", "scored"]

STEPS, CHUNK = 12, 2


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return perceptual(shipped("readers/final"))(x, y)


@functools.lru_cache(maxsize=4)
def _chosen(n: int) -> list[Pair]:
    return pairs(n, split="test")


@functools.lru_cache(maxsize=8)
def films(how: str, n: int) -> tuple[Tensor, Tensor]:
    """Frames (n, FRAMES, 3, 64, 64) between the first n pairs, and their latents. how: "slerp", or an energy of HOPS."""
    made = []
    for i in range(0, n, CHUNK):
        a, b, *said = drawn(_chosen(n)[i:i + CHUNK])
        z, text = between(shipped("mini-sd"), a, b, tuple(said), steps=STEPS)
        made.append(pushed(shipped("mini-sd"), z, text, None if how == "slerp" else HOPS[how], steps=STEPS))
    images, latents = (torch.cat(parts) for parts in zip(*made, strict=True))
    return images, latents


def _cv(frames: Tensor) -> Tensor:
    return speed_cv(hops(frames, _distance))


def _way(frames: Tensor) -> Tensor:
    return directness(frames, _distance)


def _fade(n: int) -> Tensor:
    a, b, *_ = drawn(_chosen(n))
    return cross_fade(a, b, FRAMES)


def _gold(n: int) -> Tensor:
    return torch.stack([gold_frames(p.first, p.other, 64, count=FRAMES) for p in _chosen(n)])


def _things(frames: Tensor) -> float:
    return float(thing_counts(frames[:, 1:-1], shipped("readers/final")).eq(1).double().mean())


def _blend(frames: Tensor) -> float:
    """How much of the inner frames a blend of the ends explains."""
    return float(ghost(frames, frames[:, 0], frames[:, -1])[:, 1:-1].mean())


def _hops(how: str, n: int, score: str, why: str) -> Outcome:
    """A measure of one energy's paths minus that of slerp's, pair by pair; the same of a cross-fade and of the world's own."""
    measure = {"cv": _cv, "way": _way}[score]
    (ours, z), (plain, y) = films(how, n), films("slerp", n)
    m = bootstrap(torch.mean, measure(ours) - measure(plain))
    beside = {"with the energy": float(measure(ours).mean()), "one thing in a frame, slerp": _things(plain),
              "one thing in a frame, with it": _things(ours), "blend of the ends, slerp": _blend(plain),
              "blend of the ends, with it": _blend(ours), "turning, slerp": float(turning(y).mean()),
              "turning, with it": float(turning(z).mean())}
    fade = _fade(n)
    trivial = {"slerp": float(measure(plain).mean()), "cross-fade": float(measure(fade).mean())}
    return Outcome(m.value, m.low, m.high, baseline=trivial,
                   floor={"the world's own": float(measure(_gold(n)).mean())}, settings=beside, why=why)


@claim("23.even", "The sum of squared hops as an energy makes the hops of a morph more even: standard deviation over mean, nine "
       "frames (paired)", unit="coefficient of variation, minus slerp's", target="<= -0.2", n=12, small=2, reader="final")
def even(n: int) -> Outcome:
    return _hops("squares", n, "cv", "hops of latents and hops that a reader sees are not the same")


@claim("23.shorter", "and it does not pay for that with a longer way (length over the distance of the ends, paired)",
       unit="ratio of lengths, minus slerp's", target="<= 0.0", n=12, small=2, reader="final")
def shorter(n: int) -> Outcome:
    return _hops("squares", n, "way", "frames are pushed off the way that the network would take")


@claim("23.variance_even", "The variance of the hops as an energy does what it says: standard deviation over mean (paired)",
       unit="coefficient of variation, minus slerp's", target="<= -0.2", n=12, small=2, reader="final")
def variance_even(n: int) -> Outcome:
    return _hops("variance", n, "cv", "hops of latents and hops that a reader sees are not the same")


@claim("23.zigzag", "and leaves the way between the pictures as long as it was, within half of the straight one (paired)",
       unit="ratio of lengths, minus slerp's", target="<= 0.5", n=12, small=2, reader="final")
def zigzag(n: int) -> Outcome:
    return _hops("variance", n, "way", "small hops are made longer, to and fro, until they are as long as the large ones")


# A colour edit, the rest of it held by an energy -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def scored(n: int) -> Painted:
    """The first n colour edits by an energy and by everything that it is held against."""
    pipe = shipped("mini-sd")
    return painted(pipe, edit_pairs("colour", n, split="test"), initial_noise(pipe, n, seed=23), shipped("readers/final"))


def _against_plain(n: int, score: str, why: str) -> Outcome:
    found = scored(n).scores
    ours = found["energy"]
    m = ours.minus(found["plain"], score)
    level = {name: float(s.of(score).mean()) for name, s in found.items()}
    beside = {name: level[name] for name in ("energy", "Prompt-to-Prompt")}
    return Outcome(m.value, m.low, m.high, baseline={name: level[name] for name in ("plain", "no edit")},
                   floor={"counterfactual": level["counterfactual"]},
                   settings=beside | {"new colour there, energy": float(ours.of("target").mean()),
                                      "new colour there, plain": float(found["plain"].of("target").mean())}, why=why)


@claim("23.kept_iou", "The new words, and an energy that holds all that is outside of the thing as it was: the thing keeps its "
       "place and shape better than by the new words alone (paired)", unit="IoU gained", target=">= 0.1", n=32,
       small=4, reader="final")
def kept_iou(n: int) -> Outcome:
    return _against_plain(n, "iou", "the push ends before the outline is drawn")


@claim("23.kept_joint", "and more often all is right: the new colour is there and everything else as it was (paired)",
       unit="share of edits gained", target=">= 0.0", n=32, small=4, reader="final")
def kept_joint(n: int) -> Outcome:
    return _against_plain(n, "joint", "a pushed face or pattern is read as another one, and joint forgives nothing")
