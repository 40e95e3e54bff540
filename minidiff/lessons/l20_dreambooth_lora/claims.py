"""Claims of lesson 20: what DreamBooth costs the class, what the prior loss saves, and how small an adapter may be."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import shipped
from minidiff.measure import bootstrap, read, wilson
from minidiff.personal import EVERYWHERE, LoRA, dreambooth, pictures
from minidiff.recipes.adapters import WORD, load_adapter, new_prompts, subject_of, train_shots
from minidiff.rng import generator, normal
from minidiff.world import COLOUR_NAMES
from minidiff.zoo import load

__all__ = ["STEPS", "arm", "backdrop_bits", "entropy", "leak"]

STEPS = 10                                     # DDIM steps of every picture that is scored, guidance 4


@functools.lru_cache(maxsize=1)
def _trained(rung: str, how: str) -> Any:
    """mini-sd after this training; the last one is kept."""
    subject, pipe = subject_of(rung), load("mini-sd")
    if how == "db":
        shots = train_shots(subject)
        _, loop = dreambooth(pipe, shots.images, word=WORD, class_word=subject.word, captions=shots.captions)
        for _ in loop:
            pass
    elif how:
        load_adapter(pipe, how)
    return pipe


@functools.lru_cache(maxsize=32)
def arm(rung: str, how: str, n: int, *, plain: bool = True) -> Tensor:
    """Pictures of the bare class (plain), or of the subject on new backdrops.

    how: "" mini-sd as it is, "db" DreamBooth (all weights of the U-Net, 120 iterations, no prior loss), or a shipped adapter.
    """
    pipe, word = _trained(rung, how), subject_of(rung).word
    if plain:
        return pictures(pipe, [f"a {word}"] * n, seed=22, steps=STEPS)
    return pictures(pipe, new_prompts(f"{WORD} {word}" if how else word, n), seed=21, steps=STEPS)


@functools.lru_cache(maxsize=16)
def _colours(images: Tensor) -> Tensor:
    scenes = read(images, shipped("readers/final")).scenes
    return torch.where(scenes.present[:, 0], scenes.colour[:, 0], torch.full_like(scenes.colour[:, 0], len(COLOUR_NAMES)))


def _bits(values: Tensor) -> float:
    p = torch.bincount(values).double() / len(values)
    return float(-(p[p > 0] * p[p > 0].log2()).sum())


def entropy(images: Tensor, rows: Tensor | None = None) -> float:
    """Entropy in bits of the colours that the reader finds; a picture without a thing counts as a colour of its own.

    rows: of a bootstrap sample; the pictures are read once.
    """
    return _bits(_colours(images) if rows is None else _colours(images)[rows])


def leak(rung: str, images: Tensor, like: Tensor) -> Tensor:
    """(B,) bool: which pictures of the class are the subject: nearer to it than 19 in 20 of ``like``, drawn before training."""
    subject = subject_of(rung)
    return subject.identity(images).distance < subject.identity(like).distance.quantile(0.05)


def _entropy_ratio(arms: dict[str, str], n: int) -> Outcome:
    """arms: rung -> how it was trained. Intervals by resampling the pictures of all of them, 200 times."""
    each = -(-n // len(arms))
    pairs = [(arm(rung, "", each), arm(rung, how, each)) for rung, how in arms.items()]
    before, after = (sum(entropy(pair[k]) for pair in pairs) for k in (0, 1))
    ratios = []
    for i in range(200):
        rows = torch.randint(each, (each,), generator=generator("20 bootstrap", i))
        old, new = (sum(entropy(pair[k], rows) for pair in pairs) for k in (0, 1))
        ratios.append(new / max(old, 0.1))
    spread, value = torch.tensor(ratios), after / before
    return Outcome(value, min(value, float(spread.quantile(0.025))), max(value, float(spread.quantile(0.975))),
                   baseline={"not trained": 1.0}, settings={"bits before": before / len(arms), "bits after": after / len(arms)})


def backdrop_bits(images: Tensor) -> float:
    """Entropy in bits of the backdrops that the reader finds."""
    return _bits(read(images, shipped("readers/final")).scenes.backdrop)


@claim("20.forgetting", "DreamBooth without the prior loss (Ruiz et al. 2023) turns the class into the subject: entropy of the "
       "colour of the bare class after over before, bear and bird",
       unit="ratio", target="<= 0.5", n=44, small=6, reader="final")
def _forgetting(n: int) -> Outcome:
    return _entropy_ratio({"panda": "db", "owl": "db"}, n)


@claim("20.prior", "the prior-preservation loss keeps the class (shipped LoRA of rank 8, panda): entropy of the colour of the "
       "bare class after over before", unit="ratio", target=">= 0.8", n=80, small=6, reader="final")
def _prior(n: int) -> Outcome:
    found, without = (_entropy_ratio({"panda": name}, n) for name in ("panda-lora-prior", "panda-lora"))
    backdrops = {f"bits of the backdrop {when}": backdrop_bits(arm("panda", how, n))
                 for when, how in (("before", ""), ("after", "panda-lora-prior"), ("without prior loss", "panda-lora"))}
    return Outcome(found.value, found.low, found.high, baseline={"without prior loss": without.value},
                   settings=found.settings | backdrops,
                   why="the panda no longer shows (20.leak), but about half of the colours' bits are lost all the same")


@claim("20.leak", "with the prior loss the bare class does not show the subject (shipped LoRA of rank 8, panda): share of its "
       "pictures that are nearer to it than 19 in 20 were before", unit="share", target="<= 0.05", n=80, small=6)
def _leak(n: int) -> Outcome:
    before = arm("panda", "", n)
    found, without = (leak("panda", arm("panda", name, n), before) for name in ("panda-lora-prior", "panda-lora"))
    estimate = wilson(int(found.sum()), n)
    return Outcome(estimate.value, estimate.low, estimate.high,
                   baseline={"without prior loss": float(without.double().mean())}, floor={"before training": 0.05},
                   why=f"{int(found.sum())} of {n} pictures; a share of zero would be bounded to 0.05 by 73 of them")


def _gap(rung: str, adapter: str, n: int) -> Outcome:
    subject = subject_of(rung)
    lora, db, plain = (subject.identity(arm(rung, how, n, plain=False)).distance for how in (adapter, "db", ""))
    estimate = bootstrap(torch.mean, lora - db)
    return Outcome(estimate.value, estimate.low, estimate.high,
                   baseline={"class word minus DreamBooth": float((plain - db).mean())},
                   settings={"LoRA": float(lora.mean()), "DreamBooth": float(db.mean()), "class word": float(plain.mean())},
                   why=f"the distances of {n} pictures spread too widely to tell the two apart this finely")


@claim("20.lora_small_inside", "a LoRA of less than 1 % of the weights (r = 2, attention) learns a subject inside the model's "
       "world as well as DreamBooth: distance minus DreamBooth's", unit="distance", target="<= 0.02", n=16, small=4)
def _small_inside(n: int) -> Outcome:
    return _gap("inside", "inside-lora-small", n)


@claim("20.lora_small_new", "the same for a new look, the panda", unit="distance", target="<= 0.02", n=16, small=4)
def _small_new(n: int) -> Outcome:
    found = _gap("panda", "panda-lora-small", n)
    why = ("r = 2 in attention alone is too little for a new shape; in a square layer it is 2 r / width of the weights, so in "
           "Stable Diffusion, whose layers are 320 to 1280 wide, the same r is a far smaller share")
    return Outcome(found.value, found.low, found.high, found.baseline, settings=found.settings, why=why)


@claim("20.lora_large_new", "a LoRA of about a tenth of the weights (r = 8, attention, feed-forward, convolutions) learns a new "
       "look as well as DreamBooth: distance minus DreamBooth's", unit="distance", target="<= 0.02", n=16, small=4)
def _large_new(n: int) -> Outcome:
    return _gap("panda", "panda-lora", n)


@claim("20.merged", "an adapter merged into the weights draws what it draws beside them: largest difference of a picture in "
       "[-1, 1], computed in float64", unit="difference", target="<= 0.000001", n=8, small=2)
def _merged(n: int) -> Outcome:
    pipe, made, said = load("mini-sd"), {}, {}
    z, t = normal((n, 4, 16, 16), "20 z"), torch.linspace(1, 990, n).long()
    context = normal((n, 34, 96), "20 context")
    for dtype in (torch.float32, torch.float64):                  # predictions in both, pictures in the second
        if dtype == torch.float64:
            for part in (pipe.unet, pipe.text_encoder, pipe.vae):
                part.double()
        lora = LoRA(pipe.unet, rank=4, targets=EVERYWHERE)
        for path, b in lora.B.items():
            b.data.copy_(0.1 * normal(tuple(b.shape), "20 merged", path))
        for name, change in (("beside", lora.attach), ("merged", lora.merge), ("plain", lambda lora=lora: _away(lora))):
            change()
            with torch.no_grad():
                said[name] = pipe.unet(z.to(dtype), t, encoder_hidden_states=context.to(dtype)).sample
            if dtype == torch.float64:
                made[name] = pictures(pipe, new_prompts("bear", n), seed=23, steps=4)
        if dtype == torch.float32:
            rounding = float((said["merged"] - said["beside"]).abs().max() / said["beside"].abs().max())
    value, without = (float((made[name] - made["beside"]).abs().max()) for name in ("merged", "plain"))
    return Outcome(value, value, value, baseline={"without the adapter": without},
                   settings={"predictions in float32, relative": rounding})


def _away(lora: LoRA) -> None:
    lora.unmerge()
    lora.detach()
