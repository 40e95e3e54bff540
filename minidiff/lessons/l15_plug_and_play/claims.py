"""Claims of lesson 15: what Plug-and-Play keeps beside SDEdit at all strengths, what it cannot change, drag and ControlNet.

Shares of the steps were chosen on split "valid" with the develop reader; the rows use split "test" and the final reader.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.controls import control_scenes, controlled
from minidiff.course.drags import dragged
from minidiff.course.samples import shipped
from minidiff.diffusion import last
from minidiff.editing import control, direct_inversion, new_controlnet, plug_and_play, sdedit
from minidiff.editing.result import decode_images
from minidiff.latent import denoise, encode, initial_noise
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.measure import EditScores, EditTruth, bootstrap, edit_pairs, edit_score, wilson

__all__ = ["STRENGTHS", "Edited", "as_often", "both", "edited", "gold_error"]

MODEL, STEPS, GUIDANCE, CHUNK = "mini-sd", 20, 4.0, 16
STRENGTHS = {"colour": (0.4, 0.6, 0.8), "backdrop": (0.9,)}       # of SDEdit
PLACE = 0.6                                                       # the IoU from which on a thing counts as kept in its place


class Edited(NamedTuple):
    """The same n edits of rendered pictures by several methods, scored; "sdedit 0.6" and so on by strength."""

    scores: dict[str, EditScores]
    images: dict[str, Tensor]
    truth: EditTruth
    prompts: list[str]
    targets: list[str]


def both(scores: EditScores) -> Tensor:
    """(n,) bool: the edit reads as asked, and the thing's IoU with its place in the counterfactual is at least PLACE."""
    return (scores.target > 0) & (scores.iou >= PLACE)


def gold_error(scores: EditScores) -> Tensor:
    """(n,): mean squared error to the counterfactual, of pictures in [-1, 1]."""
    return 4 * 10 ** (-scores.gold / 10)


def as_often(found: Edited) -> str:
    """The SDEdit compared at equal edit rate: the least strength that edits as often as Plug-and-Play, or the strongest."""
    by = sorted(name for name in found.scores if name.startswith("sdedit"))
    goal = float(found.scores["plug-and-play"].of("target").mean())
    return next((name for name in by if float(found.scores[name].of("target").mean()) >= goal), by[-1])


@functools.lru_cache(maxsize=4)
def edited(edit: str, n: int, split: str = "test", reader: str = "final") -> Edited:
    """n edits of a "colour" or a "backdrop" of rendered pictures by Plug-and-Play and by SDEdit at its STRENGTHS.

    "counterfactual": the right answer through the autoencoder.
    """
    pipe, pairs = shipped(MODEL), as_in_training(edit_pairs(edit, n, split=split))
    truth = pairs.truth(shipped(f"readers/{reader}"))
    images: dict[str, list[Tensor]] = {}
    for start in range(0, n, CHUNK):
        part = slice(start, min(start + CHUNK, n))
        x, prompts, targets = truth.images[part], pairs.prompts[part], pairs.targets[part]
        common = {"steps": STEPS, "guidance": GUIDANCE}
        way = direct_inversion(pipe, x, prompts, steps=STEPS)
        made = {"plug-and-play": plug_and_play(pipe, prompts, targets, inversion=way, **common).edit}
        for strength in STRENGTHS[edit]:
            made[f"sdedit {strength}"] = sdedit(pipe, targets, image=x, strength=strength, seed=start, **common).edit
        with torch.no_grad():
            made["counterfactual"] = decode_images(pipe, encode(pipe.vae, truth.gold[part]))
        for name, y in made.items():
            images.setdefault(name, []).append(y)
    whole = {name: torch.cat(parts) for name, parts in images.items()}
    return Edited({name: edit_score(x, truth) for name, x in whole.items()}, whole, truth, pairs.prompts, pairs.targets)


def _settings(found: Edited, *what: str) -> dict[str, float]:
    """Means by name, such as "right, sdedit 0.4". what: "right", "IoU"."""
    values = {"right": lambda s: s.target, "IoU": lambda s: s.iou}
    return {f"{word}, {name}": float(values[word](s).nanmean()) for word in what for name, s in found.scores.items()
            if name != "counterfactual"}


def _rivals(found: Edited) -> list[str]:
    return [name for name in found.scores if name.startswith("sdedit")]


@claim("15.joint", "Plug-and-Play changes the colour and keeps the thing in its place, both at once (Tumanyan et al. 2023)",
       unit="share of edits", target=">= 0.9", n=96, small=4, reader="final")
def joint(n: int) -> Outcome:
    found = edited("colour", n)
    m = wilson(int(both(found.scores["plug-and-play"]).sum()), n)
    floor = {"counterfactual through the autoencoder": float(both(found.scores["counterfactual"]).double().mean())}
    return Outcome(m.value, m.low, m.high, floor=floor, why="an edit must be right and in its place; either may fail",
                   baseline={name: float(both(found.scores[name]).double().mean()) for name in _rivals(found)},
                   settings=_settings(found, "right"))


@claim("15.iou", "at equal edit rate it keeps the thing's place better than SDEdit, taken at the least strength that edits as "
       "often (paired)", unit="IoU gained", target=">= 0.25", n=96, small=4, reader="final")
def iou(n: int) -> Outcome:
    found = edited("colour", n)
    other = as_often(found)
    m = found.scores["plug-and-play"].minus(found.scores[other], "iou")
    gains = {name: float((found.scores[name].iou - found.scores[other].iou).nanmean())
             for name in (*_rivals(found), "counterfactual") if name != other}
    return Outcome(m.value, m.low, m.high, why="a weak SDEdit keeps much of the place, too",
                   floor={"counterfactual": gains.pop("counterfactual")}, settings=_settings(found, "IoU", "right"),
                   baseline={f"{name} over {other}": gain for name, gain in gains.items()})


@claim("15.gold", "and its picture is nearer to the right answer: mean squared error over that of the best SDEdit (paired)",
       unit="ratio of errors", target="<= 0.5", n=96, small=4, reader="final")
def gold(n: int) -> Outcome:
    found = edited("colour", n)
    errors = {name: gold_error(s) for name, s in found.scores.items()}
    best = min((name for name in errors if name.startswith("sdedit")), key=lambda name: float(errors[name].mean()))
    m = bootstrap(lambda a, b: a.mean() / b.mean(), errors["plug-and-play"], errors[best], paired=True)
    beside = {name: float(errors[name].mean() / errors[best].mean()) for name in (*_rivals(found), "counterfactual")}
    return Outcome(m.value, m.low, m.high, why="a backdrop that is redrawn costs both of them as much",
                   floor={"counterfactual": beside.pop("counterfactual")}, baseline=beside,
                   settings={f"error, {name}": float(e.mean()) for name, e in errors.items() if name != "counterfactual"})


@claim("15.backdrop", "A backdrop is layout: Plug-and-Play, which keeps layout, changes it less often than a strong SDEdit "
       "(paired)", unit="right, Plug-and-Play minus SDEdit 0.9", target="<= -0.2", n=32, small=4, reader="final")
def backdrop(n: int) -> Outcome:
    found = edited("backdrop", n)
    m = found.scores["plug-and-play"].minus(found.scores["sdedit 0.9"], "target")
    return Outcome(m.value, m.low, m.high, why="what counts as layout is the model's",
                   baseline={"no edit": -float(found.scores["sdedit 0.9"].target.mean())},
                   settings=_settings(found, "right", "IoU"))


# Dragging --------------------------------------------------------------------------------------------------------------------

NEAR_HANDLE, NEAR_THING = 2.0, 4.0                                # pixels of 64


def _share(found: Tensor, **beside: object) -> Outcome:
    m = wilson(int(found.sum()), len(found))
    return Outcome(m.value, m.low, m.high, **beside)


@claim("15.drag_handles", "Five handles on a thing are dragged by 9 pixels or more: as tracked, they end within 2 pixels of "
       "their targets, in the mean (Shi et al. 2023)", unit="share of drags", target=">= 0.85", n=24, small=2, reader="final")
def drag_handles(n: int) -> Outcome:
    off = dragged(n).handles
    return _share(off <= NEAR_HANDLE, baseline={"not dragged": 0.0}, settings={"mean distance left, pixels": float(off.mean())},
                  why="a track can be lost, and a handle can stop at the rim of what is free")


@claim("15.drag_thing", "and the thing that a reader finds is within 4 pixels of where it should be", unit="share of drags",
       target=">= 0.85", n=24, small=2, reader="final")
def drag_thing(n: int) -> Outcome:
    beside = {how: float((dragged(n, how).thing <= NEAR_THING).double().mean()) for how in ("nothing", "paste and SDEdit")}
    return _share(dragged(n).thing <= NEAR_THING, baseline={"not moved": beside["nothing"]},
                  settings={"cut, paste and SDEdit": beside["paste and SDEdit"]},
                  why="features at the handles arrive, and what is drawn from them need not be the whole thing")


@claim("15.paste_thing", "The simple way wins for a whole thing: cut, paste and SDEdit 0.4 brings it within 4 pixels more often "
       "than the drag (paired)", unit="share, paste minus drag", target=">= 0", n=24, small=2, reader="final")
def paste_thing(n: int) -> Outcome:
    near = {how: (dragged(n, how).thing <= NEAR_THING).double() for how in ("drag", "paste and SDEdit")}
    m = bootstrap(torch.mean, near["paste and SDEdit"] - near["drag"])
    return Outcome(m.value, m.low, m.high, baseline={"not moved, minus drag": -float(near["drag"].mean())},
                   settings={how: float(x.mean()) for how, x in near.items()}, why="both of them bring most things there")


# ControlNet ------------------------------------------------------------------------------------------------------------------


@claim("15.control_iou", "A picture drawn after a silhouette has its things there: overlap of the hint with what a reader finds "
       "(Zhang et al. 2023)", unit="IoU", target=">= 0.7", n=64, small=2, reader="final")
def control_iou(n: int) -> Outcome:
    m = bootstrap(torch.mean, controlled(n).iou.double())
    beside = {how: controlled(n, how) for how in ("no hint", "another's hint", "the world's own")}
    return Outcome(m.value, m.low, m.high, floor={"rendered scenes": float(beside["the world's own"].iou.mean())},
                   baseline={how: float(beside[how].iou.mean()) for how in ("no hint", "another's hint")},
                   settings={"kind and colour as said": float(controlled(n).right.double().mean()),
                             "the same without a hint": float(beside["no hint"].right.double().mean())},
                   why="a small model follows the blob more than its rim")


@claim("15.control_fresh", "A fresh ControlNet changes nothing, bit by bit", unit="largest difference of the latents",
       target="<= 0", n=4, small=2)
def control_fresh(n: int) -> Outcome:
    pipe, (_, prompts, hint) = shipped(MODEL), control_scenes(n)
    fresh = new_controlnet(pipe.unet, shrink=pipe.vae_scale_factor)
    same = {"latents": initial_noise(pipe, n, seed=15), "steps": 3, "guidance": GUIDANCE}
    hinted, plain = control(pipe, prompts, hint, controlnet=fresh, **same), denoise(pipe, prompts, **same)
    gap = float((last(hinted).x - last(plain).x).abs().max())
    return Outcome(gap, gap, gap, floor={"no ControlNet": 0.0}, why="some path of it does not end in zeros")
