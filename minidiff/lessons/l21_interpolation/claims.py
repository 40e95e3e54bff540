"""Claims of lesson 21: what lies between two pictures by six methods. Settings were chosen on split "valid", rows use "test"."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.diffusion import Schedule, ddim, last
from minidiff.diffusion.oracle import Gaussian
from minidiff.latent import encode, initial_noise
from minidiff.latent.sample import text_to_image
from minidiff.lessons.l21_interpolation.data import CHANGES, Pair, drawn, pairs
from minidiff.measure import bootstrap, read
from minidiff.measure.interval import Estimate
from minidiff.measure.path import equal_spacing, gold_frames, hops, perceptual, smoothness, thing_counts, to_gold
from minidiff.measure.prompts import make_prompts, prompt_accuracy
from minidiff.morphing import (
    Inner,
    aid,
    cross_fade,
    ends_of,
    explore,
    frames_of,
    latent_lerp,
    lerp,
    slerp,
    slerp_morph,
    smoothest,
    walk,
    wang_golland,
)
from minidiff.rng import normal
from minidiff.zoo import load

__all__ = ["FRAMES", "STEPS", "paths"]

FRAMES, STEPS, GUIDANCE, CHUNK = 9, 12, 4.0, 8


@functools.lru_cache(maxsize=1)
def _pipe() -> Any:
    return load("mini-sd")


@functools.lru_cache(maxsize=1)
def _reader() -> Any:
    return load("readers/final")


@functools.lru_cache(maxsize=2)
def _pairs(n: int) -> list[Pair]:
    return pairs(n)


def _path(method: str, a: Tensor, b: Tensor, captions: tuple[list[str], list[str]]) -> Tensor:
    if method == "fade":
        return cross_fade(a, b, FRAMES)
    if method == "latent":
        return latent_lerp(_pipe(), a, b, FRAMES)
    if method in ("slerp", "lerp"):
        return slerp_morph(_pipe(), a, b, captions, weights=FRAMES, steps=STEPS, mix=method).images
    if method == "wang":
        return wang_golland(_pipe(), a, b, captions).images
    if method == "text":
        return slerp_morph(_pipe(), *captions, weights=FRAMES, steps=STEPS, guidance=GUIDANCE).images
    return aid(_pipe(), *captions, weights=FRAMES, steps=STEPS, guidance=GUIDANCE, attend=method).images


@functools.lru_cache(maxsize=16)
def paths(method: str, n: int) -> Tensor:
    """(n, 9, 3, 64, 64): the paths of the first n pairs. method: "fade", "latent", "slerp", "lerp", "wang" between pictures;
    "text", "inner", "outer" between their prompts, from one noise."""
    out = []
    for i in range(0, n, CHUNK):
        a, b, first, other = drawn(_pairs(n)[i:i + CHUNK])
        out.append(_path(method, a, b, (first, other)))
    return torch.cat(out)


def _smooth(frames: Tensor) -> Tensor:
    return smoothness(hops(frames, perceptual(_reader())))


def _one(method: str, n: int) -> Tensor:
    """Share of the frames between the ends that show exactly one thing, for each pair."""
    return thing_counts(paths(method, n)[:, 1:-1], _reader()).eq(1).double().mean(1)


def _gold_counts(n: int) -> dict[str, float]:
    """What the reader counts on the world's own morph of the same pairs, every frame of which has one thing."""
    gold = torch.cat([gold_frames(p.first, p.other, 64, count=FRAMES)[1:-1] for p in _pairs(n)])
    return {"the world's own morph": float(thing_counts(gold, _reader()).eq(1).double().mean())}


def _outcome(found: Estimate, **more: Any) -> Outcome:
    return Outcome(found.value, found.low, found.high, **more)


@claim("21.one_thing", "Between two pictures of one thing each, mixed noise decodes to pictures of one thing: "
       "share of the frames between the ends", unit="share of frames", target=">= 0.97", n=24, small=4, reader="final")
def one_thing(n: int) -> Outcome:
    each = _one("slerp", n)
    kinds = {f"pairs that differ in {c}": float(each[k::4].mean()) for k, c in enumerate(CHANGES) if n > k}
    counts = thing_counts(paths("slerp", n)[:, 1:-1], _reader())
    many, none = (float(x.double().mean()) for x in (counts > 1, counts == 0))
    others = {name: float(_one(name, n).mean()) for name in ("fade", "latent")}
    return _outcome(bootstrap(torch.mean, each), baseline=others, settings=kinds, floor=_gold_counts(n),
                    why=f"{many:.0%} of the frames show more than one thing, {none:.0%} none that the reader finds")


@claim("21.fade", "A cross-fade does not: share of its frames between the ends that show one thing", unit="share of frames",
       target="<= 0.9", n=96, small=4, reader="final")
def fade(n: int) -> Outcome:
    each = _one("fade", n)
    kinds = {f"pairs that differ in {c}": float(each[k::4].mean()) for k, c in enumerate(CHANGES) if n > k}
    return _outcome(bootstrap(torch.mean, each), settings=kinds, floor=_gold_counts(n),
                    why="a fade of two colours of one shape is one thing")


@claim("21.variance", "What an exact network makes of lerp of two noises has half the variance of what it makes of slerp: data "
       "N(0, 0.25), 400 steps", unit="variance, lerp over slerp", target="0.5 +- 0.02", n=40000, small=4000)
def variance(n: int) -> Outcome:
    model = Gaussian(Schedule(torch.linspace(0.999, 0.0002, 400, dtype=torch.float64)), std=0.5)
    z = [normal((40, 1, 1, n // 40), "21 variance", k, 0, dtype=torch.float64) for k in range(2)]     # 40 pairs of codes
    x = [last(ddim(model, mix(*z, 0.5), steps=400)).x.flatten(1).var(1) for mix in (lerp, slerp)]
    found = bootstrap(lambda a, b: a.mean() / b.mean(), *x, paired=True)
    over = {f"{name} over the data": float(v.mean() / 0.25) for name, v in zip(("lerp", "slerp"), x, strict=True)}
    return _outcome(found, baseline=over)


@claim("21.flatter", "On pictures too: variance over the pixels of what pixel-ddpm makes of lerp of two noises, over "
       "that of slerp", unit="ratio of variances", target="<= 0.9", n=32, small=8)
def flatter(n: int) -> Outcome:
    model = load("pixel-ddpm")
    found = []
    for i in range(0, n, 32):
        m = min(32, n - i)
        z = [torch.cat([normal((1, 3, 32, 32), "21 flatter", k, j) for j in range(i, i + m)]) for k in range(2)]
        both = torch.cat([mix(*z, 0.5) for mix in (lerp, slerp)])
        x = last(ddim(model, both, steps=20, clip="x0")).x.clamp(-1, 1)
        found.append(x.flatten(1).var(1).view(2, m))
    low, full = torch.cat(found, 1).double()
    why = "a network trained on pictures is no linear map: from shorter noise it still draws a picture"
    return _outcome(bootstrap(lambda a, b: a.mean() / b.mean(), low, full, paired=True), floor={"Gaussian data": 0.5}, why=why)


@claim("21.slerp_draws_better", "The picture from the middle of two noises shows its prompt more often by slerp than by "
       "lerp (paired)", unit="share of pictures gained", target=">= 0.05", n=24, small=8, reader="final")
def slerp_draws_better(n: int) -> Outcome:
    prompts = make_prompts(n)
    z = [initial_noise(_pipe(), n, seed=s) for s in (211, 212)]

    def right(noise: Tensor) -> Tensor:
        x = text_to_image(_pipe(), prompts, latents=noise, steps=STEPS, guidance=GUIDANCE, chunk=16)
        return prompt_accuracy(prompts, read(x, _reader()).scenes)["all"].double()

    arms = {"slerp": right(slerp(*z, 0.5)), "lerp": right(lerp(*z, 0.5))}
    settings = {"slerp": float(arms["slerp"].mean())}
    if n >= 32:
        settings["slerp, 1.4 times as long"] = float(right(1.4 * slerp(*z, 0.5)).mean())
    why = "quieter noise draws no worse here: little of the picture hangs on the noise, which decides place and size alone"
    return _outcome(bootstrap(torch.mean, arms["slerp"] - arms["lerp"]), settings=settings, why=why,
                    baseline={"lerp": float(arms["lerp"].mean())})


def _gain(method: str, over: str, n: int) -> Estimate:
    return bootstrap(torch.mean, _smooth(paths(method, n)) - _smooth(paths(over, n)))


def _worded(n: int) -> list[int]:
    """The pairs whose two prompts differ: a place has no words."""
    return [i for i, p in enumerate(_pairs(n)) if p.prompts[0] != p.prompts[1]]


@claim("21.aid_smoother", "Fused inner attention interpolation makes the path between two prompts smoother than lerp of their "
       "embeddings (He et al. 2024; 1 - Gini of the hops, paired)", unit="smoothness gained", target=">= 0.05", n=6, small=4)
def aid_smoother(n: int) -> Outcome:
    rows = _worded(n)
    arms = {name: _smooth(paths(name, n)[rows]) for name in ("text", "inner")}
    settings = {"fused outer": float(_smooth(paths("outer", n)[rows]).mean())} if n >= 16 else {}
    why = ("lerp of the text is already as smooth as the ends allow: after half of the steps, when the attention is the frame's "
           "own again, the same few frames decide for one end or the other")
    return _outcome(bootstrap(torch.mean, arms["inner"] - arms["text"]), why=why,
                    baseline={"lerp of the text": float(arms["text"].mean())},
                    settings={"fused inner": float(arms["inner"].mean()), **settings})


@claim("21.inner_is_lerp", "Inner interpolation in cross-attention alone, not fused, is lerp of the text embeddings: largest "
       "difference of the latents, in units of their largest, float64", unit="relative difference", target="<= 0.000001", n=2,
       small=2)
def inner_is_lerp(n: int) -> Outcome:
    pipe = load("mini-sd")
    pipe.unet.double()
    pipe.text_encoder.double()
    w, chosen = {"here": 0.4}, [p for p in pairs(4 * n) if p.change == "all"][:n]
    captions = [[p.prompts[k] for p in chosen] for k in range(2)]
    both = ends_of(pipe, *captions)
    inner = Inner(w, fused=False, until=1.0, sites=lambda site: site.kind == "cross")
    runs = {}
    for name, hooks, guide in (("text", [], None), ("inner", [inner], both.text[0]), ("neither", [], both.text[0])):
        runs[name] = last(walk(pipe, both, w, hooks=hooks, guide=guide, steps=4, guidance=GUIDANCE)).z["here"]
    scale = float(runs["text"].abs().max())
    value, off = (float((runs[name] - runs["text"]).abs().max()) / scale for name in ("inner", "neither"))
    return Outcome(value, value, value, baseline={"the first end's text in all frames": off})


@claim("21.wang_golland", "Midpoints of midpoints (Wang and Golland 2023) make a smoother path than slerp of inverted "
       "noise (paired)", unit="smoothness gained", target=">= 0.05", n=24, small=4)
def tree(n: int) -> Outcome:
    arms = {name: float(_smooth(paths(name, n)).mean()) for name in ("wang", "slerp", "fade")}
    return _outcome(_gain("wang", "slerp", n), baseline={"fade": arms["fade"]}, why="the leap stays, the tree only shares it out",
                    settings={"Wang and Golland": arms["wang"], "slerp": arms["slerp"]})


@functools.lru_cache(maxsize=4)
def _off_gold(method: str, n: int) -> Tensor:
    """Mean distance from the gold morph of five frames at equal perceptual spacing, the nearest of nine, for each pair.

    method "gold": the gold morph itself, once through the autoencoder.
    """
    where, out = [k / (FRAMES - 1) for k in range(FRAMES)], []
    for i, pair in enumerate(_pairs(n)):
        gold = gold_frames(pair.first, pair.other, 64)
        if method == "gold":
            with torch.no_grad():
                frames = frames_of(_pipe(), encode(_pipe().vae, gold[::4]).split(1))[0]
        else:
            frames = paths(method, n)[i]
        new = equal_spacing(where, hops(frames, perceptual(_reader()))[0], 7)[0, 1:-1]
        out.append(to_gold(frames[[round(float(w) * (FRAMES - 1)) for w in new]], gold).mean())
    return torch.stack(out).double()


@claim("21.tree_gold", "and its frames, at equal perceptual spacing, are no further from the world's own morph (paired)",
       unit="RMS distance gained", target="<= 0.0", n=24, small=4)
def tree_gold(n: int) -> Outcome:
    arms = {name: _off_gold(name, n) for name in ("wang", "slerp", "fade", "gold")}
    why = "midpoints are noised and denoised without another look at the pictures; details of the things are lost on the way"
    return _outcome(bootstrap(torch.mean, arms["wang"] - arms["slerp"]), why=why, baseline={"fade": float(arms["fade"].mean())},
                    floor={"gold through the autoencoder": float(arms["gold"].mean())},
                    settings={"Wang and Golland": float(arms["wang"].mean()), "slerp": float(arms["slerp"].mean())})


@claim("21.beta_prior", "Frames chosen with a Beta prior out of 16 explored ones (He et al. 2024) make a smoother "
       "path than evenly spaced ones, slerp of inverted noise, 7 frames (paired)", unit="smoothness gained",
       target=">= 0.05", n=4, small=2)
def beta_prior(n: int) -> Outcome:
    distance, gains, even_ones = perceptual(_reader()), [], []
    for pair in _pairs(n):
        a, b, first, other = drawn([pair])
        ends = ends_of(_pipe(), a, b, (first, other), steps=STEPS)

        def draw(weights: list[float], ends: Any = ends) -> Tensor:
            named = {f"w {w}": w for w in weights}
            return frames_of(_pipe(), list(last(walk(_pipe(), ends, named, steps=STEPS, with_ends=False)).z.values()))[0]

        found = explore(draw, distance, size=16)
        table = torch.stack([distance(found.images, x.expand_as(found.images)) for x in found.images])
        chosen = found.images[smoothest(table, 7)]
        even = draw([k / 6 for k in range(7)])
        even_ones.append(_smooth(even))
        gains.append(_smooth(chosen) - even_ones[-1])
    return _outcome(bootstrap(torch.mean, torch.cat(gains)), baseline={"evenly spaced": float(torch.cat(even_ones).mean())},
                    why="where the path leaps within a hundredth of the way no spacing finds frames between")


@claim("21.guide", "A guide prompt decides what the middle shows (PAID, He et al. 2024): share of the three middle frames that "
       "show the guide's kind and colour", unit="share of frames", target=">= 0.8", n=12, small=4, reader="final")
def guided(n: int) -> Outcome:
    guides = make_prompts(n, split="valid")
    captions = [list(x) for x in zip(*(p.prompts for p in _pairs(n)), strict=True)]
    shares = {}
    for name, guide in (("guide", guides), ("none", None)):
        rows = []
        for i in range(0, n, CHUNK):
            part = slice(i, i + CHUNK)
            made = aid(_pipe(), captions[0][part], captions[1][part], weights=[0.375, 0.5, 0.625], steps=STEPS, guidance=GUIDANCE,
                       guide=None if guide is None else guide[part])
            for x, prompt in zip(made.images, guides[part], strict=True):
                parts = prompt_accuracy([prompt] * 3, read(x, _reader()).scenes)
                rows.append((parts["kinds"] & parts["attributes"]).double().mean())
        shares[name] = torch.stack(rows)
    return _outcome(bootstrap(torch.mean, shares["guide"]), baseline={"no guide": float(shares["none"].mean())},
                    why="the keys and values of the ends pull the frame towards them in the first half of the steps")
