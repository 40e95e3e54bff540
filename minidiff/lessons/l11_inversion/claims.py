"""Claims of lesson 11: what comes back under guidance, and what an edit of it is worth, by six inversions."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import steer
from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import shipped
from minidiff.diffusion import Gaussian, invert, last, visits
from minidiff.diffusion.sample import ddim_sigma
from minidiff.editing import (
    Inversion,
    direct_inversion,
    edict_inversion,
    edit_friendly_inversion,
    negative_prompt_inversion,
    null_text_inversion,
    prompt_to_prompt,
)
from minidiff.latent import decode, denoiser, encode, encode_prompt, schedule_from, scheduler_options
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.lessons.l11_inversion.panels import from_noise
from minidiff.measure import EditScores, EditTruth, bootstrap, edit_pairs, edit_score
from minidiff.measure.pictures import psnr
from minidiff.rng import normal
from minidiff.steer import CFG, run
from minidiff.world import render
from minidiff.zoo import load

__all__ = ["GUIDANCE", "STEPS", "Edited", "edited", "exact_trip", "invert_one_way", "noise_statistics", "round_trip"]

MODEL, STEPS, GUIDANCE, CHUNK = "mini-sd", 25, 7.5, 16
INNER, LR = 5, 0.1          # null-text; tuned on other pictures (edit_pairs, split "valid")
FITTED = ("ddim", "direct", "negative-prompt", "null-text", "edit-friendly")


def invert_one_way(pipe: object, images: Tensor, prompts: list[str], method: str) -> Inversion:
    """One of FITTED with the settings of this lesson."""
    common = {"steps": STEPS}
    if method == "null-text":
        return null_text_inversion(pipe, images, prompts, guidance=GUIDANCE, inner=INNER, lr=LR, **common)
    make = {"ddim": functools.partial(direct_inversion, hold=False), "direct": direct_inversion,
            "negative-prompt": negative_prompt_inversion, "edit-friendly": edit_friendly_inversion}[method]
    return make(pipe, images, prompts, **common)


def _chunks(n: int) -> list[slice]:
    return [slice(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]


@functools.lru_cache(maxsize=16)
def round_trip(method: str, n: int, guidance: float = GUIDANCE, split: str = "test") -> Tensor:
    """PSNR in dB (n,) of rendered pictures that went to noise and back with their own prompt, at a guidance.

    method: one of FITTED, or "autoencoder": encoded and decoded only, the bound.
    """
    pairs, out = as_in_training(edit_pairs("colour", n, split=split)), []
    images = render(pairs.source).images
    for part in _chunks(n):
        x, prompts = images[part], pairs.prompts[part]
        if method == "autoencoder":
            with torch.no_grad():
                back = decode(shipped(MODEL).vae, encode(shipped(MODEL).vae, x)).clamp(-1, 1)
        else:
            way = invert_one_way(shipped(MODEL), x, prompts, method)
            back = from_noise(shipped(MODEL), way, prompts, guidance)
        out.append(psnr(back.float().cpu(), x))
    return torch.cat(out).double()


class Edited(NamedTuple):
    """The same n colour edits of rendered pictures by Prompt-to-Prompt after one inversion, scored."""

    scores: EditScores
    images: Tensor
    truth: EditTruth
    prompts: list[str]
    targets: list[str]


@functools.lru_cache(maxsize=16)
def edited(method: str, n: int, split: str = "test", reader: str = "final") -> Edited:
    """n colour edits of rendered pictures: an inversion of FITTED, then Prompt-to-Prompt (0.8, 0.4) at GUIDANCE.

    method "no edit": the pictures as they are.
    """
    pairs = as_in_training(edit_pairs("colour", n, split=split))
    truth = pairs.truth(shipped(f"readers/{reader}"))
    made = []
    for part in _chunks(n) if method != "no edit" else ():
        prompts = pairs.prompts[part]
        way = invert_one_way(shipped(MODEL), truth.images[part], prompts, method)
        made.append(prompt_to_prompt(shipped(MODEL), prompts, pairs.targets[part], inversion=way, steps=STEPS, guidance=GUIDANCE,
                                     maps=False).edit)
    images = torch.cat(made) if made else truth.images
    return Edited(edit_score(images, truth), images, truth, pairs.prompts, pairs.targets)


def noise_statistics(way: Inversion, pipe: object) -> Tensor:
    """(B, 2): the standard deviation of an edit-friendly inversion's noises, each divided by its step's sigma, and the
    correlation between the noises of neighbouring steps. The last step, which adds no noise in DDPM, is left out."""
    schedule, t = schedule_from(pipe.scheduler), way.trajectory.timesteps
    options = {k: v for k, v in scheduler_options(pipe).items() if k != "clip"}
    sigma = torch.tensor([ddim_sigma(v.abar, v.abar_prev, 1.0) for v in visits(schedule, list(t), **options)][:-1])
    z = way.trajectory.noises[:-1] / sigma.view(-1, 1, 1, 1, 1).to(way.trajectory.noises)
    rows = [torch.stack([row.std(), torch.corrcoef(torch.stack([row[:-1].flatten(), row[1:].flatten()]))[0, 1]])
            for row in z.transpose(0, 1)]
    return torch.stack(rows).double()


def _mean(values: Tensor, **beside: object) -> Outcome:
    m = bootstrap(torch.mean, values)
    return Outcome(m.value, m.low, m.high, **beside)


def _below_the_bound(method: str, n: int, others: tuple[str, ...], why: str) -> Outcome:
    bound = round_trip("autoencoder", n)
    baseline = {f"{name}, w = {w:g}": float((round_trip(name, n, w) - bound).mean()) for name, w in others}
    return _mean(round_trip(method, n) - bound, baseline=baseline, why=why,
                 floor={"the autoencoder alone": 0.0}, settings={"PSNR of the autoencoder alone": float(bound.mean())})


@claim("11.ddim_guided", "DDIM inversion at w = 1 and guidance on the way back do not go together: PSNR of the round trip at "
       "w = 7.5 minus that of the autoencoder alone (Mokady et al. 2023)", unit="dB", target="<= -8", n=12, small=2)
def ddim_guided(n: int) -> Outcome:
    return _below_the_bound("ddim", n, (("ddim", 1.0),), "the pictures are simple, and guidance changes them less than it "
                            "changes photographs")


@claim("11.null_text", "null-text inversion brings the picture back at w = 7.5 nearly as well as the autoencoder alone does "
       "(Mokady et al. 2023)", unit="dB", target=">= -1", n=12, small=2)
def null_text(n: int) -> Outcome:
    return _below_the_bound("null-text", n, (("ddim", GUIDANCE), ("ddim", 1.0)),
                            "five steps of Adam at each of 25 steps do not reach the pivot")


def _gold_gained(other: str, n: int) -> Outcome:
    ours, theirs = edited("direct", n).scores, edited(other, n).scores
    m = ours.minus(theirs, "gold")
    success = {f"success, {name}": float(s.of("target").mean()) for name, s in (("direct", ours), (other, theirs))}
    gold = {f"PSNR, {name}": float(s.of("gold").mean()) for name, s in (("direct", ours), (other, theirs))}
    nothing = float(edited("no edit", n).scores.of("gold").mean())
    return Outcome(m.value, m.low, m.high, baseline={**gold, "PSNR, no edit": nothing, **success},
                   why="most of a picture is backdrop, and all of these edits keep that")


@claim("11.direct_npi", "a colour edit of a real picture by Prompt-to-Prompt is nearer to the rendered counterfactual after "
       "direct inversion than after negative-prompt inversion (paired, w = 7.5)", unit="dB gained", target=">= 2", n=64, small=2,
       reader="final")
def direct_npi(n: int) -> Outcome:
    return _gold_gained("negative-prompt", n)


@claim("11.direct_ddim", "and than after DDIM inversion alone (Ju et al. 2024; paired, w = 7.5)", unit="dB gained", target=">= 0",
       n=64, small=2, reader="final")
def direct_ddim(n: int) -> Outcome:
    return _gold_gained("ddim", n)


@functools.lru_cache(maxsize=2)
def _statistics(n: int, split: str = "test") -> Tensor:
    pairs = as_in_training(edit_pairs("colour", n, split=split))
    images = render(pairs.source).images
    ways = (edit_friendly_inversion(shipped(MODEL), images[p], pairs.prompts[p], steps=STEPS, skip=0.0, rows=range(n)[p])
            for p in _chunks(n))
    return torch.cat([noise_statistics(way, shipped(MODEL)) for way in ways])


@claim("11.noise_std", "the noises of edit-friendly inversion are stronger than those of sampling: standard deviation, 1 in DDPM "
       "(Huberman-Spiegelglas et al. 2024)", unit="standard deviation", target=">= 1.5", n=32, small=2)
def noise_std(n: int) -> Outcome:
    return _mean(_statistics(n)[:, 0], baseline={"noise of DDPM": 1.0}, why="in 25 steps the levels lie far apart")


@claim("11.noise_correlation", "and neighbouring steps pull against each other: correlation of their noises, 0 in DDPM",
       unit="correlation", target="<= -0.3", n=32, small=2)
def noise_correlation(n: int) -> Outcome:
    return _mean(_statistics(n)[:, 1], baseline={"noise of DDPM": 0.0}, why="in 25 steps the levels lie far apart")


# The exact round trips -------------------------------------------------------------------------------------------------------


def exact_trip(method: str, n: int, steps: int = 10, split: str = "test") -> tuple[Tensor, Tensor]:
    """Largest distance (n,) of the latents that come back at ``GUIDANCE`` from the picture's, in float64: by ``method``
    ("edict", or "edit-friendly" without its pin to the path, so that its noises alone bring the picture back), and by DDIM with
    the same guidance both ways."""
    pipe, pairs = load(MODEL, dtype=torch.float64), as_in_training(edit_pairs("colour", n, split=split))
    model, options = denoiser(pipe), scheduler_options(pipe)
    images = render(pairs.source).images.double()
    with torch.no_grad():
        z, texts = encode(pipe.vae, images), {"prompt": encode_prompt(pipe, pairs.prompts), "empty": encode_prompt(pipe, "")}
        way = {"edict": functools.partial(edict_inversion, guidance=GUIDANCE),
               "edit-friendly": functools.partial(edit_friendly_inversion, guidance=GUIDANCE, skip=0.0)}[method]
        found = way(pipe, images, pairs.prompts, steps=steps)
        hooks = found.hooks[:1] if method == "edit-friendly" else found.hooks
        common = {"steps": steps, "guider": CFG(GUIDANCE), **options}
        back = last(run(model, found.trajectory.noise, texts, hooks=hooks, **common)).x
        code = last(steer.invert(model, z, texts, **{k: v for k, v in common.items() if k != "clip"})).x
        plain = last(run(model, code, texts, **common)).x
    return tuple((x - z).abs().flatten(1).amax(1) for x in (back, plain))


def _comes_back(method: str, n: int) -> Outcome:
    ours, plain = exact_trip(method, n)
    return Outcome(float(ours.max()), float(ours.min()), float(ours.max()), why="rounding, which every step may multiply",
                   baseline={"DDIM, w = 7.5 both ways": float(plain.max())})


@claim("11.edict", "EDICT comes back to the picture's latents at w = 7.5, both ways (Wallace et al. 2023; float64, 10 steps; the "
       "largest of all, from the least)", unit="largest difference of latents", target="<= 1e-10", n=8, small=2)
def edict_comes_back(n: int) -> Outcome:
    return _comes_back("edict", n)


@claim("11.edit_friendly", "The noises of edit-friendly inversion, without anything that holds the path, bring the picture's "
       "latents back at w = 7.5 (Huberman-Spiegelglas et al. 2024; float64, 10 steps)", unit="largest difference of latents",
       target="<= 1e-10", n=8, small=2)
def edit_friendly_comes_back(n: int) -> Outcome:
    return _comes_back("edit-friendly", n)


@claim("11.flat_code", "data that is flatter than the steps are fine has codes quieter than noise: their standard deviation for "
       "Gaussian data of std 0.03, exact network, 50 steps, over the closed form", unit="ratio", target="1.0 +- 0.01", n=100000,
       small=1000)
def flat_code(n: int) -> Outcome:
    schedule, s = schedule_from(shipped(MODEL).scheduler), 0.03
    codes = last(invert(Gaussian(schedule, std=s), s * normal((n, 1), "flat data", 0, dtype=torch.float64), steps=50)).x[:, 0]
    gain = 1.0
    for v in visits(schedule, 50)[::-1]:
        eps = (1 - v.abar) ** 0.5 / (v.abar * s**2 + 1 - v.abar)
        gain *= (v.abar / v.abar_prev) ** 0.5 * (1 - (1 - v.abar_prev) ** 0.5 * eps) + (1 - v.abar) ** 0.5 * eps
    m = bootstrap(lambda x: x.std() / (gain * s), codes)
    return Outcome(m.value, m.low, m.high, baseline={"standard noise": 1 / (gain * s)}, settings={"the closed form": gain * s},
                   why="the network and the loop do not agree")
