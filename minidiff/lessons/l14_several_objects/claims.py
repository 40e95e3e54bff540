"""Claims of lesson 14: presence of three things by the presence loss, by the published one, the steps between the two, SynGen and
structured values; two held-out pairs; the sum of three predictions; three things at given places.

Step, sharpness and the weight of the places were chosen on split "valid" with the develop reader; the rows use split "test".
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import shipped
from minidiff.editing.attend import excite, linear_decay, middle_level, place
from minidiff.editing.composable import StructuredValues, composable, structured_text
from minidiff.editing.result import decode_images
from minidiff.editing.word_losses import PUBLISHED_WIDTH, Things, compete, smooth, things_of
from minidiff.latent.sample import denoise, initial_noise
from minidiff.lessons.l14_several_objects.data import Requested, Shown, held_out_twos, shown, threes
from minidiff.measure.interval import bootstrap, wilson
from minidiff.steer.energy import Energy, EnergyState, LatentGuidance
from minidiff.steer.record import Maps

__all__ = ["BETWEEN", "Form", "at_place", "between", "drawn"]

MODEL, STEPS, GUIDANCE, SEED, CHUNK = "mini-sd", 20, 4.0, 14, 16
NEAR = 8 / 64                # of the side: at its place
ASKED = {"three": threes, "held out": held_out_twos}
LOSSES = {"excited": "presence", "published": "published", "syngen": "syngen"}


# From the published loss to the presence loss, one change at a time ---------------------------------------------------------


class Form(NamedTuple):
    """A loss between the two: whose peaks (noun tokens, or the sum over each phrase), which of the peaks (the worst, or the mean
    over the things), the sharpness of the competition, and which sites (all of the size, or the decoder's with the kernel as
    asked for)."""

    phrases: bool
    mean: bool
    sharpness: float
    decoder: bool


BETWEEN = {"published": Form(False, False, 100.0, False), "+ sum over the phrase": Form(True, False, 100.0, False),
           "+ mean over the things": Form(True, True, 100.0, False), "+ sharpness 20": Form(True, True, 20.0, False),
           "+ decoder's sites": Form(True, True, 20.0, True)}


def between(pipe: Any, things: Things, form: Form) -> LatentGuidance:
    """The hook that moves a latent down the loss of ``form``: the first of BETWEEN is the published loss, the last the presence
    loss. Step, decay and the steps that move are those of ``excite``."""
    level, width = middle_level(pipe), 0.5 if form.decoder else PUBLISHED_WIDTH
    weights, there = things.weights(things.phrases if form.phrases else
                                    [[[token] for noun in row for token in noun] for row in things.nouns])

    def loss(maps: Maps, state: EnergyState) -> Tensor:
        a = torch.stack([maps.probs[name].mean(1) for name in maps.sites]).mean(0)
        p = torch.einsum("bnl,bkl->bkn", compete(a, things.words, sharpness=form.sharpness), weights.to(a))
        side = round(p.shape[-1] ** 0.5)
        lack = (1 - smooth(p.unflatten(-1, (side, side)), width=width).amax((-2, -1))) * there.to(a)
        return lack.sum(-1) / there.to(a).sum(-1) if form.mean else lack.amax(-1)

    return LatentGuidance(Energy(loss, sites=lambda site: site.kind == "cross" and site.level == level and (
        site.place == "up" or not form.decoder)), relative=0.06, until=0.5, decay=linear_decay)


# Drawing and reading -------------------------------------------------------------------------------------------------------


def drawn(rows: Requested, how: str, z: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) of the prompts from the noise z. how: "plain", a loss as in LOSSES or a form as in BETWEEN, "placed"
    (the composed energy), "structured" (values of each phrase), "composable" (a prediction for each thing, summed)."""
    pipe = shipped(MODEL)
    out = []
    for i in range(0, len(z), CHUNK):
        part = slice(i, i + CHUNK)
        if how == "composable":
            out.append(composable(pipe, rows.parts[part], GUIDANCE / 2, latents=z[part], steps=STEPS).edit)
            continue
        hooks, things = [], things_of(pipe.tokenizer, rows.prompts[part], rows.things[part])
        if how in LOSSES:
            hooks = [excite(pipe, things, loss=LOSSES[how])]
        elif how in BETWEEN:
            hooks = [between(pipe, things, BETWEEN[how])]
        elif how == "placed":
            hooks = [place(pipe, things, rows.positions[part])]
        elif how == "structured":
            hooks = [StructuredValues(pipe, structured_text(pipe, rows.prompts[part], rows.things[part]))]
        states = list(denoise(pipe, rows.prompts[part], latents=z[part], steps=STEPS, guidance=GUIDANCE, hooks=hooks))
        out.append(decode_images(pipe, states[-1].x))
    return torch.cat(out)


@functools.lru_cache(maxsize=16)
def requested(which: str, n: int, split: str = "test") -> Requested:
    return ASKED[which](n, split=split)


@functools.lru_cache(maxsize=256)
def _chunk(which: str, how: str, start: int, stop: int, split: str, reader: str) -> Shown:
    """What rows start to stop show: rows with larger N begin with those of a smaller one, so each is drawn once."""
    rows = Requested(*(column[start:] for column in requested(which, stop, split)))
    return shown(drawn(rows, how, initial_noise(shipped(MODEL), stop, seed=SEED)[start:]), rows, shipped(f"readers/{reader}"))


def _shown(which: str, how: str, n: int, split: str = "test", reader: str = "final") -> Shown:
    parts = [_chunk(which, how, i, min(i + CHUNK, n), split, reader) for i in range(0, n, CHUNK)]
    return Shown(*(torch.cat(column) for column in zip(*parts, strict=True)))


def at_place(found: Shown, rows: Requested) -> Tensor:
    """(n, K) bool: there in its colour, and within NEAR of where it should be."""
    return found.right & ((found.positions - rows.positions).norm(dim=-1) <= NEAR)


def _score(which: str, how: str, n: int, part: str) -> Tensor:
    """(n,): the share of a picture's things that are there ("present"), or 1 where all are there in their colours."""
    found = _shown(which, how, n)
    return found.present.double().mean(1) if part == "present" else found.right.all(1).double()


def _gain(which: str, how: str, n: int, part: str, why: str, settings: dict[str, float] | None = None, *,
          over: str = "plain") -> Outcome:
    """The mean gain of a method over plain sampling, or over another method, same prompts and noise; see _score."""
    ours, theirs = _score(which, how, n, part), _score(which, over, n, part)
    m = bootstrap(lambda a, b: (a - b).mean(), ours, theirs, paired=True)
    return Outcome(m.value, m.low, m.high, baseline={over: float(theirs.mean())},
                   settings={"with the method": float(ours.mean()), **(settings or {})}, why=why)


@claim("14.presence", "Three things: a latent moved down the presence loss shows more of the nouns than plain sampling (after "
       "Chefer et al. 2023; paired)", unit="share of nouns gained", target=">= 0.10", n=320, small=3, reader="final")
def presence(n: int) -> Outcome:
    every = {f"all three there, {name}": float(_shown("three", how, n).present.all(1).double().mean())
             for name, how in (("plain", "plain"), ("with it", "excited"))}
    return _gain("three", "excited", n, "present", "a thing that the model cannot draw does not come because its map has a peak",
                 every)


@claim("14.published", "The same by the loss as published: noun tokens, sharpness 100, the worst one, all sites of 8 x 8 "
       "(Chefer et al. 2023, eq. 1; paired)", unit="share of nouns gained", target=">= 0.10", n=320, small=3, reader="final")
def published(n: int) -> Outcome:
    return _gain("three", "published", n, "present",
                 "its gain is small at best; what each difference from the presence loss is worth is in 14.ablation")


@claim("14.over_published", "Three things: the presence loss shows at least 0.01 more of the nouns than the published loss, same "
       "prompts and noise (paired)", unit="share of nouns gained", target=">= 0.01", n=320, small=3, reader="final")
def over_published(n: int) -> Outcome:
    return _gain("three", "excited", n, "present", "the two forms differ by less than this many pictures can tell",
                 over="published")


@claim("14.ablation", "A noun that competes with its adjective is why: with the sum over the phrase alone the published loss "
       "shows at least 0.01 more of the nouns (paired)", unit="share of nouns gained", target=">= 0.01", n=64, small=3,
       reader="final")
def ablation(n: int) -> Outcome:
    plain = float(_score("three", "plain", n, "present").mean())
    ways = {name: "excited" if name == "+ decoder's sites" else name for name in BETWEEN}     # the last is the presence loss
    each = {f"gain over plain, {name}": float(_score("three", how, n, "present").mean()) - plain for name, how in ways.items()}
    return _gain("three", "+ sum over the phrase", n, "present", "no single change stands out at this many pictures", each,
                 over="published")


@claim("14.syngen", "Three things: SynGen's distances show more of the nouns than plain sampling (Rassin et al. 2023, eqs. 2 "
       "to 4; paired)", unit="share of nouns gained", target=">= 0.10", n=64, small=3, reader="final")
def syngen(n: int) -> Outcome:
    return _gain("three", "syngen", n, "present",
                 "an adjective's map is nearly its noun's already, and one of the two terms has little to do")


@claim("14.structured", "Three things: values of each phrase encoded by itself put more pictures all right than plain sampling "
       "(Feng et al. 2023; paired)", unit="share of pictures gained", target=">= 0.10", n=64, small=3, reader="final")
def structured(n: int) -> Outcome:
    colours = {f"right where it is there, {name}": _given_there("three", how, n)
               for name, how in (("plain", "plain"), ("with it", "structured"))}
    return _gain("three", "structured", n, "all right", "colours are right already where a thing is there", colours)


@claim("14.held_out", "Two things in colours that their kinds never had in training: both there and right, by the loss of "
       "phrases (paired)", unit="share of pictures gained", target=">= 0.15", n=128, small=3, reader="final")
def held_out_right(n: int) -> Outcome:
    colours = {f"right where it is there, {name}": _given_there("held out", how, n)
               for name, how in (("plain", "plain"), ("with it", "excited"))}
    return _gain("held out", "excited", n, "all right",
                 "plain sampling is right more often than this set was made for, and little is left to gain", colours)


def _given_there(which: str, how: str, n: int) -> float:
    found = _shown(which, how, n)
    return float(found.right.sum() / found.present.sum().clamp(min=1))


@claim("14.composable", "Composable Diffusion, one prediction a thing, summed, does not draw three things here: all there and "
       "right in at most one picture of twenty (Liu et al. 2022, eq. 11)", unit="share of pictures", target="<= 0.05", n=80,
       small=3, reader="final")
def composed_right(n: int) -> Outcome:
    found, plain = _shown("three", "composable", n), _shown("three", "plain", min(n, 32))
    m = wilson(int(found.right.all(1).sum()), n)
    beside = {f"plain, one prompt, N = {min(n, 32)}": float(plain.right.all(1).double().mean())}
    return Outcome(m.value, m.low, m.high, baseline=beside, settings={"nouns there": float(found.present.double().mean())},
                   why="pictures of all three things came")


@claim("14.placed", "Three things, each there in its colour and within 8 pixels of a given place, by a composed energy (presence "
       "and place)", unit="share of things", target=">= 0.5", n=256, small=3, reader="final")
def placed(n: int) -> Outcome:
    rows = requested("three", n)
    ours = at_place(_shown("three", "placed", n), rows).double().mean(1)
    m = bootstrap(torch.mean, ours)
    beside = {"plain: by chance": float(at_place(_shown("three", "plain", n), rows).double().mean())}
    found = _shown("three", "placed", n)
    all_three = float(at_place(found, rows).all(1).double().mean())
    return Outcome(m.value, m.low, m.high, baseline=beside,
                   settings={"nouns there": float(found.present.double().mean()), "all three at their places": all_three},
                   why="the place is settled in the first steps, and so is what can be drawn there")
