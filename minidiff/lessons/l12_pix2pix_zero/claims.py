"""Claims of lesson 12: what the bank decides, what cross-attention guidance keeps, and what a noise made white costs.

The relative step and SDEdit's strength were chosen on split "valid" with the develop reader; the rows use split "test".
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.diffusion import last
from minidiff.editing import NoiseRegularizer, anchors, pix2pix_zero, sdedit
from minidiff.editing.result import decode_images
from minidiff.latent import denoiser, encode_prompt, initial_noise, invert_image, scheduler_options, text_to_image
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.lessons.l12_pix2pix_zero.data import bank_direction, directions, neighbours, word_pair
from minidiff.measure import EditScores, EditTruth, bootstrap, edit_pairs, edit_score, read, wilson
from minidiff.measure.pictures import psnr
from minidiff.steer import CFG, Trajectory, run
from minidiff.world import KINDS, render
from minidiff.zoo import load

__all__ = ["RECIPES", "Edited", "bank_success", "edited", "of_pictures", "shifted", "whitened"]

MODEL, STEPS, BANK_STEPS, GUIDANCE, CHUNK = "mini-sd", 20, 12, 5.0, 16
RELATIVE = 0.04                                       # of |z|, each step
STRENGTH = {"colour": 0.5, "kind": 0.7}               # of SDEdit; of 0.3, 0.5, 0.7 the one whose success is nearest to ours


@functools.lru_cache(maxsize=2)
def _pipe(name: str = MODEL) -> object:
    return load(name)


@functools.lru_cache(maxsize=3)
def _reader(name: str) -> torch.nn.Module:
    return load(f"readers/{name}")


def _chunks(n: int) -> list[slice]:
    return [slice(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]


def shifted(pipe: object, embedding: Tensor, z: Tensor, *, steps: int = STEPS, guidance: float = GUIDANCE) -> Tensor:
    """Pictures (n, 3, H, W) drawn from the noise z by an embedding (n, L, D), with nothing held: a direction and no guidance."""
    out = []
    for part in _chunks(len(z)):
        texts = {"prompt": embedding[part], "empty": encode_prompt(pipe, "")}
        end = last(run(denoiser(pipe), z[part], texts, steps=steps, guider=CFG(guidance), **scheduler_options(pipe)))
        out.append(decode_images(pipe, end.x))
    return torch.cat(out)


# The direction ---------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def bank_success(how: str, n: int, split: str = "test", reader: str = "final") -> Tensor:
    """(n,) bool: is the other kind read in pictures drawn by prompt + direction, nothing held?

    how: one of BANKS; "prompt": no direction; "target": the target prompt itself.
    """
    pairs = edit_pairs("kind", n, split=split)
    words = [word_pair(*both) for both in zip(pairs.prompts, pairs.targets, strict=True)]
    said = encode_prompt(_pipe(), pairs.targets if how == "target" else pairs.prompts)
    if how not in ("prompt", "target"):
        rows = zip(pairs.prompts, words, strict=True)
        said = said + torch.cat([bank_direction(_pipe(), how, p, a, b) for p, (a, b, _) in rows])
    images = shifted(_pipe(), said, initial_noise(_pipe(), n, seed=12), steps=BANK_STEPS)
    seen, kinds = read(images, _reader(reader)).scenes, torch.tensor([KINDS.index(b) for _, b, _ in words])
    return ((seen.kind == kinds[:, None]) & seen.present).any(1)


def _bank_row(how: str, n: int, why: str) -> Outcome:
    m = wilson(int(bank_success(how, n).sum()), n)
    small = min(n, 64)
    beside = {name: float(bank_success(name, small).double().mean()) for name in ("prompt", "target")}
    return Outcome(m.value, m.low, m.high, baseline={"no direction": beside["prompt"]}, why=why,
                   floor={"the target prompt itself": beside["target"]})


@claim("12.aligned", "A direction from captions of any form, averaged at the noun's own token and put at the prompt's, makes one "
       "kind of another (nothing held)", unit="share of pictures", target=">= 0.85", n=128, small=4, reader="final")
def aligned(n: int) -> Outcome:
    return _bank_row("aligned", n, "the target prompt itself does not always succeed")


@claim("12.smeared", "The same captions averaged position by position, as published, do not: the noun is smeared over positions",
       unit="share of pictures", target="<= 0.2", n=128, small=4, reader="final")
def smeared(n: int) -> Outcome:
    return _bank_row("grammar", n, "the captions have the noun at any position")


# What is kept ----------------------------------------------------------------------------------------------------------------


class Edited(NamedTuple):
    """The same n edits of pictures of seeds by several methods, scored."""

    scores: dict[str, EditScores]
    images: dict[str, Tensor]
    truth: EditTruth
    prompts: list[str]
    targets: list[str]


@functools.lru_cache(maxsize=8)
def edited(edit: str, n: int, split: str = "test", reader: str = "final") -> Edited:
    """n edits of a "colour" or a "kind" by Pix2Pix-Zero, by SDEdit at its STRENGTH, and by the three anchors.

    "swap": the target prompt from the source's own noise.
    """
    pipe, pairs = _pipe(), edit_pairs(edit, n, split=split)
    z, made = initial_noise(pipe, n, seed=12), {"no edit": [], "pix2pix-zero": []}
    where = directions(pipe, pairs.prompts, pairs.targets)
    for part in _chunks(n):
        found = pix2pix_zero(pipe, pairs.prompts[part], where[part], latents=z[part], steps=STEPS, guidance=GUIDANCE,
                             relative=RELATIVE)
        made["no edit"].append(found.images["source"])
        made["pix2pix-zero"].append(found.edit)
    images = {name: torch.cat(parts) for name, parts in made.items()}
    truth = pairs.truth(_reader(reader), images["no edit"])
    fresh = initial_noise(pipe, n, seed=120)
    images["sdedit"] = torch.cat([sdedit(pipe, pairs.targets[part], image=images["no edit"][part], strength=STRENGTH[edit],
                                         latents=fresh[part], steps=STEPS, guidance=GUIDANCE).edit for part in _chunks(n)])
    some = anchors(pipe, truth, pairs.targets, latents=z, steps=STEPS, guidance=GUIDANCE)
    images |= {"swap": some["plain"], "counterfactual": some["counterfactual"]}
    return Edited({name: edit_score(x, truth) for name, x in images.items()}, images, truth, pairs.prompts, pairs.targets)


def _kept(edit: str, other: str, n: int, why: str) -> Outcome:
    """IoU of the edited thing with its place in the counterfactual: Pix2Pix-Zero minus another method, pair by pair."""
    found = edited(edit, n)
    ours, theirs = found.scores["pix2pix-zero"], found.scores[other]
    m = ours.minus(theirs, "iou")
    both = (("Pix2Pix-Zero", ours), (other, theirs))
    shown = (("IoU", "iou"), ("success", "target"), ("gold dB", "gold"))
    beside = {f"{score}, {name}": float(s.of(key).mean()) for score, key in shown for name, s in both}
    floor = {"counterfactual through the autoencoder": float(found.scores["counterfactual"].of("iou").mean())}
    return Outcome(m.value, m.low, m.high, baseline=beside, floor=floor, why=why)


@claim("12.colour_sdedit", "Pix2Pix-Zero changes a colour and keeps the thing in its place better than SDEdit at equal success "
       "(Parmar et al. 2023; paired)", unit="IoU gained", target=">= 0.15", n=64, small=3, reader="final")
def colour_sdedit(n: int) -> Outcome:
    return _kept("colour", "sdedit", n, "half of SDEdit's steps already change nearly every colour, and leave most of the layout")


@claim("12.colour_swap", "and better than the target prompt from the same noise, with nothing held (paired)", unit="IoU gained",
       target=">= 0.05", n=64, small=3, reader="final")
def colour_swap(n: int) -> Outcome:
    return _kept("colour", "swap", n, "the same noise keeps much of the layout by itself")


@claim("12.kind_sdedit", "The same for kinds: place and shape of what should be there, against SDEdit at its strength for kinds "
       "(paired)", unit="IoU gained", target=">= 0", n=24, small=3, reader="final")
def kind_sdedit(n: int) -> Outcome:
    return _kept("kind", "sdedit", n, "the maps that are held are those of another outline")


# The noise -------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def whitened(n: int, regular: bool, split: str = "test") -> tuple[Tensor, Tensor]:
    """Rendered pictures inverted at w = 1, with the noise regularised or not: :func:`neighbours` of their codes (n, 2), and the
    PSNR (n,) of what comes back at w = 1."""
    pairs = as_in_training(edit_pairs("colour", n, split=split))
    images, codes, back = render(pairs.source).images, [], []
    for part in _chunks(n):
        hooks = [NoiseRegularizer()] if regular else []
        codes.append(Trajectory.of(invert_image(_pipe(), images[part], pairs.prompts[part], steps=STEPS, hooks=hooks)).noise)
        back.append(text_to_image(_pipe(), pairs.prompts[part], latents=codes[-1], steps=STEPS, guidance=1.0))
    return neighbours(torch.cat(codes)), psnr(torch.cat(back), images).double()


@claim("12.noise_correlation", "Regularised, the code of a picture looks like noise: correlation of neighbouring cells (Parmar "
       "et al. 2023, section 3.1)", unit="correlation", target="<= 0.07", n=32, small=4)
def noise_correlation(n: int) -> Outcome:
    ours, plain = whitened(n, True)[0], whitened(n, False)[0]
    m = bootstrap(torch.mean, ours[:, 1])
    return Outcome(m.value, m.low, m.high, baseline={"plain inversion": float(plain[:, 1].mean())},
                   settings={"standard deviation, regularised": float(ours[:, 0].mean()), "plain": float(plain[:, 0].mean())},
                   floor={"white noise": 0.0}, why="what a picture has in common with itself is in its code, too")


@claim("12.noise_cost", "and the picture still comes back: what the regulariser costs of the PSNR at w = 1 (paired)",
       unit="dB lost", target="<= 1.5", n=32, small=4)
def noise_cost(n: int) -> Outcome:
    ours, plain = whitened(n, True)[1], whitened(n, False)[1]
    m = bootstrap(torch.mean, plain - ours)
    return Outcome(m.value, m.low, m.high, baseline={"PSNR, plain": float(plain.mean()), "PSNR, regularised": float(ours.mean())},
                   why="a noise that was made white is not the one that the network predicted")


# Pictures --------------------------------------------------------------------------------------------------------------------

RECIPES = {           # code, and what stands in the place of the empty prompt
    "white code, caption": (True, True),                 # as published
    "white code, empty": (True, False),
    "plain code, caption": (False, True),
    "plain code, empty": (False, False),
}


@functools.lru_cache(maxsize=4)
def of_pictures(n: int, split: str = "test", reader: str = "final", steps: int = STEPS) -> Edited:
    """n colour edits of *rendered* pictures by each of RECIPES; "no edit" is the picture itself."""
    pipe, pairs = _pipe(), as_in_training(edit_pairs("colour", n, split=split))
    truth, made = pairs.truth(_reader(reader)), {name: [] for name in RECIPES}
    where = directions(pipe, pairs.prompts, pairs.targets)
    for part in _chunks(n):
        said = pairs.prompts[part]
        ways = {white: Trajectory.of(invert_image(pipe, truth.images[part], said, steps=steps,
                                                  hooks=[NoiseRegularizer()] if white else [])) for white in (True, False)}
        for name, (white, caption) in RECIPES.items():
            made[name].append(pix2pix_zero(pipe, said, where[part], trajectory=ways[white], negative=said if caption else "",
                                           steps=steps, guidance=GUIDANCE, relative=RELATIVE).edit)
    images = {name: torch.cat(x) for name, x in made.items()} | {"no edit": truth.images}
    return Edited({name: edit_score(x, truth) for name, x in images.items()}, images, truth, pairs.prompts, pairs.targets)
