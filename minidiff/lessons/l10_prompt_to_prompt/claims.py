"""Claims of lesson 10: what Prompt-to-Prompt keeps, and what the fader of a word does."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import shipped
from minidiff.diffusion import last
from minidiff.editing import (
    EmphasiseValue,
    IgnoreKey,
    Reweight,
    anchors,
    prompt_to_prompt,
    word_values,
)
from minidiff.latent import decode, denoise
from minidiff.measure import EditScores, EditTruth, bootstrap, edit_pairs, edit_score, read, wilson
from minidiff.steer import Hook
from minidiff.world import KINDS

__all__ = ["FADERS", "SETTINGS", "area_of", "edited", "faded", "rank_correlation"]

MODEL, STEPS, FADER_STEPS, GUIDANCE, CHUNK = "mini-sd", 20, 12, 4.0, 16
FADERS = (0.0, 0.5, 1.0, 2.0, 4.0)
SETTINGS = {          # chosen on split "valid" with the develop reader
    "colour": {"cross": 0.8, "self_attention": 0.4},
    "add_colour": {"cross": 0.8, "self_attention": 0.4},
    "backdrop": {"cross": 0.8, "self_attention": 0.2},
    "kind": {"cross": 0.8, "self_attention": 0.4},
    "two_kind": {"cross": 0.8, "self_attention": 0.4, "blend": True},
    "two_colour": {"cross": 0.8, "self_attention": 0.4, "blend": True},
}


class Edited(NamedTuple):
    """Scores of the same n edits by four answers; ``images`` of each, and the truth they were scored against."""

    scores: dict[str, EditScores]
    images: dict[str, Tensor]
    truth: EditTruth
    prompts: list[str]
    targets: list[str]


def _nouns(source: str, target: str) -> str:
    """The nouns of the things that the edit is about: what LocalBlend looks at."""
    words = (source.split(), target.split())
    changed = [k for k, (x, y) in enumerate(zip(*words, strict=True)) if x != y]
    found = [next(w for w in some[k:] if w in KINDS) for some in words for k in changed]
    return " ".join(dict.fromkeys(found))


@functools.lru_cache(maxsize=8)
def edited(edit: str, n: int, split: str = "test", reader: str = "final", options: tuple | None = None) -> Edited:
    """n edits of one kind from seeds: by Prompt-to-Prompt and by the three anchors, scored.

    Source pictures of chunk i begin with the noise of seed i. options: other settings than SETTINGS, as pairs. blend=True: each
    edit is blended by the nouns that it is about.
    """
    pipe, pairs = shipped(MODEL), edit_pairs(edit, n, split=split)
    setting = dict(SETTINGS[edit] if options is None else options)
    blend = setting.pop("blend", False)
    images: dict[str, list[Tensor]] = {"source": [], "prompt to prompt": []}
    for start in range(0, n, CHUNK):
        part = pairs[start:start + CHUNK]
        nouns = [_nouns(*both) for both in zip(part.prompts, part.targets, strict=True)] if blend else None
        made = prompt_to_prompt(pipe, part.prompts, part.targets, seed=start // CHUNK, steps=STEPS, guidance=GUIDANCE, maps=False,
                                blend=nouns, **setting)
        images["source"].append(made.images["source"])
        images["prompt to prompt"].append(made.edit)
    joined = {name: torch.cat(parts) for name, parts in images.items()}
    truth = pairs.truth(shipped(f"readers/{reader}"), joined["source"])
    plain, gold = [], None
    for start in range(0, n, CHUNK):
        some = anchors(pipe, truth, pairs.targets[start:start + CHUNK], seed=start // CHUNK, steps=STEPS, guidance=GUIDANCE)
        plain.append(some["plain"])
        gold = some["counterfactual"]
    answers = {"prompt to prompt": joined["prompt to prompt"], "plain": torch.cat(plain), "no edit": joined["source"],
               "counterfactual": gold}
    return Edited({name: edit_score(x, truth) for name, x in answers.items()}, answers, truth, pairs.prompts, pairs.targets)


def _success(found: Edited, name: str) -> float:
    return float(found.scores[name].of("target").mean())


def _paired(edit: str, n: int, score: str, target: str) -> Outcome:
    """Prompt-to-Prompt minus the plain change (same seed, target prompt), pair by pair."""
    found = edited(edit, n)
    ours, plain = found.scores["prompt to prompt"], found.scores["plain"]
    m = ours.minus(plain, score)
    baseline = {"plain change": float(plain.of(score).mean()), "Prompt-to-Prompt": float(ours.of(score).mean()),
                "success, plain": _success(found, "plain"), "success, Prompt-to-Prompt": _success(found, "prompt to prompt")}
    floor = {"counterfactual through the autoencoder": float(found.scores["counterfactual"].of(score).mean())}
    why = f"{m.n} source pictures show their prompt; the plain change keeps much by itself"
    return Outcome(m.value, m.low, m.high, baseline=baseline, floor=floor, why=why)


@claim("10.colour_iou", "Prompt-to-Prompt keeps the place and shape of a thing whose colour word changes, better than the same "
       "seed alone (Hertz et al. 2022; paired)", unit="IoU gained", target=">= 0.25", n=64, small=4, reader="final")
def colour_iou(n: int) -> Outcome:
    return _paired("colour", n, "iou", ">= 0.25")


@claim("10.colour_success", "and the new colour is there as often as with the plain change (paired)", unit="success gained",
       target=">= -0.05", n=64, small=4, reader="final")
def colour_success(n: int) -> Outcome:
    return _paired("colour", n, "target", ">= -0.05")


@claim("10.colour_gold", "and the picture is nearer to the rendered counterfactual (paired)", unit="dB gained", target=">= 3",
       n=64, small=4, reader="final")
def colour_gold(n: int) -> Outcome:
    return _paired("colour", n, "gold", ">= 3")


@claim("10.two_background", "One of two things becomes another kind, with local blending: the background outside all things "
       "stays (paired with the plain change)", unit="dB gained", target=">= 4", n=48, small=6, reader="final")
def two_background(n: int) -> Outcome:
    return _paired("two_kind", n, "outside", ">= 4")


@claim("10.two_other", "and so does the other thing (paired)", unit="IoU gained", target=">= 0.08",
       n=48, small=6, reader="final")
def two_other(n: int) -> Outcome:
    return _paired("two_kind", n, "others", ">= 0.08")


# The fader of a word -------------------------------------------------------------------------------------------------------


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rho of each row of y (n, K) with x (K,), ties sharing their mean rank: (n,) float64; constant rows give 0."""
    def ranks(v: Tensor) -> Tensor:
        v = v.double()
        below = (v[..., :, None] > v[..., None, :]).double().sum(-1)
        same = (v[..., :, None] == v[..., None, :]).double().sum(-1)
        r = below + (same - 1) / 2
        return r - r.mean(-1, keepdim=True)

    a, b = ranks(x), ranks(y)
    return (a * b).sum(-1) / (a.norm() * b.norm(dim=-1)).clamp(min=1e-12)


def area_of(images: Tensor, kinds: list[str], reader: torch.nn.Module) -> Tensor:
    """(n,): the share of each picture that the thing of the kind covers, as read; 0 where there is none."""
    got = read(images, reader)
    mine = got.scenes.present & (got.scenes.kind == torch.tensor([KINDS.index(k) for k in kinds])[:, None])
    return (got.masks.float().mean((2, 3)) * mine).sum(1)


@functools.lru_cache(maxsize=8)
def faded(n: int, how: str, values: tuple[float, ...] = FADERS, split: str = "test") -> tuple[Tensor, list[str], list[str]]:
    """Pictures (K, n, 3, S, S) of prompts with two things while the first noun's fader stands at each value; nouns, prompts.

    how: "weight" (Reweight), "value" (EmphasiseValue) or "key" (IgnoreKey where the value is 0, nothing elsewhere).
    """
    pipe, pairs = shipped(MODEL), edit_pairs("two_kind", n, split=split)
    nouns = [scene.things[0].kind for scene in pairs.source]
    rows = []
    for value in values:
        parts = []
        for start in range(0, n, CHUNK):
            prompts = pairs.prompts[start:start + CHUNK]
            table = [word_values(pipe.tokenizer, p, {noun: value}) for p, noun in
                     zip(prompts, nouns[start:start + CHUNK], strict=True)]
            c = torch.stack(table)
            hooks: dict[str, Hook] = {"weight": Reweight(c, edit="source"), "value": EmphasiseValue(c),
                                      "key": IgnoreKey((c == 0).float())}
            z = last(denoise(pipe, prompts, seed=start // CHUNK, steps=FADER_STEPS, guidance=GUIDANCE, hooks=[hooks[how]])).x
            with torch.no_grad():
                parts.append(decode(pipe.vae, z).clamp(-1, 1))
        rows.append(torch.cat(parts))
    return torch.stack(rows), nouns, pairs.prompts


@claim("10.noun_area", "The attention of a noun is its fader: the more weight (0, 0.5, 1, 2, 4), the more of the picture its "
       "thing covers (Spearman's rho of each prompt, mean)", unit="rank correlation", target=">= 0.9", n=48, small=2,
       reader="final")
def noun_area(n: int) -> Outcome:
    images, nouns, _ = faded(n, "weight")
    areas = torch.stack([area_of(x, nouns, shipped("readers/final")) for x in images], 1)
    m = bootstrap(torch.mean, rank_correlation(torch.tensor(FADERS), areas))
    shown, lost = (areas > 0).double().mean(0), int(((areas[:, 3:] == 0).any(1) & (areas[:, 2] > 0)).sum())
    levels = {f"area at {c:g}": float(a) for c, a in zip(FADERS, areas.mean(0), strict=True)}
    levels |= {f"there at {c:g}": float(a) for c, a in zip(FADERS, shown, strict=True)}
    return Outcome(m.value, m.low, m.high, baseline={"a fader without effect": 0.0}, settings=levels,
                   why=f"{lost} of {n} things that are there at 1 are not found at 2 or at 4, and count as no area")


@claim("10.value_emphasis", "Making a noun's value twice as large makes its thing larger (paired with the untouched prompt)",
       unit="area at 2 over area at 1, of the means", target=">= 1.2", n=48, small=2, reader="final")
def value_emphasis(n: int) -> Outcome:
    images, nouns, _ = faded(n, "value", (2.0,))
    two, one = (area_of(x, nouns, shipped("readers/final")) for x in (images[0], faded(n, "weight")[0][FADERS.index(1.0)]))
    m = bootstrap(lambda a, b: b.mean() / a.mean(), one, two, paired=True)
    return Outcome(m.value, m.low, m.high, baseline={"untouched": 1.0},
                   why="the thing is as large as its place allows")


@claim("10.key_ignored", "A noun whose key is masked is not drawn, though the prompt names it", unit="share without the thing",
       target=">= 0.9", n=48, small=2, reader="final")
def key_ignored(n: int) -> Outcome:
    (masked,), nouns, _ = faded(n, "key", (0.0,))
    faders = faded(n, "weight")[0]
    gone, untouched, zeroed = (area_of(x, nouns, shipped("readers/final")) == 0
                               for x in (masked, faders[FADERS.index(1.0)], faders[FADERS.index(0.0)]))
    m = wilson(int(gone.sum()), n)
    return Outcome(m.value, m.low, m.high, baseline={"prompt untouched": float(untouched.double().mean()),
                                                     "weight 0 after the softmax": float(zeroed.double().mean())},
                   why="the other tokens carry the noun too")


# Which token carries a word --------------------------------------------------------------------------------------------------
