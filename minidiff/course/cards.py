"""The cards of the shipped models: what each scores, measured again by `minidiff score` when it measures everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from minidiff.course.claims import compute
from minidiff.course.controls import GUIDANCE, STEPS, controlled
from minidiff.course.samples import drawn, held_out_pictures, reader_features, real, round_trip, sampled
from minidiff.diffusion import ddim, last
from minidiff.diffusion.ddgan import ddgan
from minidiff.files import data_folder
from minidiff.latent.clip import clip_score, retrieval
from minidiff.manifest import update_card
from minidiff.measure import bootstrap, explain, frechet, frechet_interval, read, score_reader, wilson
from minidiff.measure.pictures import psnr
from minidiff.measure.prompts import make_prompts, prompt_accuracy
from minidiff.nets.adversarial import LatentUNet, SmallVAE
from minidiff.recipes.few import labels
from minidiff.rng import normal
from minidiff.world import WorldData, captions, render
from minidiff.zoo import load, shipped

__all__ = ["autoencoder_scores", "clip_scores", "control_scores", "pipeline_scores", "pixel_scores", "reader_scores",
           "small_world_scores", "task_scores", "update_cards"]


def reader_scores(name: str, n: int = 1000) -> dict[str, Any]:
    """What a reader reads right on n held-out pictures of each level, as shares; "iou" is the overlap of masks."""
    out: dict[str, Any] = {"pictures": n}
    for level, size in (("simple", 32), ("pairs", 64), ("full", 64)):
        images, scenes = WorldData(size, "test", level).batch(0, n)
        found = score_reader(load(name), images, scenes, render(scenes, size).masks)
        out[f"{level}, {size} x {size}"] = {k: round(v, 4) for k, v in found._asdict().items()}
    return out


def pixel_scores(name: str, n: int = 128, steps: int = 25) -> dict[str, Any]:
    """Validity and FDmini of n samples by DDIM with a few steps, judged by the final reader, with 95 % intervals and floors."""
    made = sampled(n, "ddim", name=name, steps=steps, clip="both")
    valid = wilson(int(explain(made, load("readers/final")).valid.sum()), n)
    truth = reader_features(real(n))
    found = frechet_interval(reader_features(made), truth, n=200)
    floor = frechet(reader_features(real(n, start=n)), truth)
    return {
        "sampler": f"DDIM, {steps} steps",
        "n": n,
        "reader": "final",
        "validity": [round(v, 3) for v in (valid.value, valid.low, valid.high)],
        "FDmini": [round(v, 2) for v in (found.value, found.low, found.high)],
        "FDmini floor, real against real": round(float(floor), 2),
    }


def autoencoder_scores(name: str, n: int = 256) -> dict[str, Any]:
    """PSNR of an autoencoder on n held-out pictures of each level, with 95 % intervals over pictures."""
    out: dict[str, Any] = {"pictures": n}
    for level in ("simple", "full"):
        x, y, _ = round_trip(name, n, level)
        found = bootstrap(torch.mean, psnr(x, y))
        out[f"PSNR in dB, {level}"] = [round(v, 2) for v in (found.value, found.low, found.high)]
    return out


def clip_scores(name: str, n: int = 1024, among: int = 32) -> dict[str, Any]:
    """How often a CLIP finds the caption of a picture, and the picture of a caption, among 32 held-out pairs (chance 1/32)."""
    x, scenes = held_out_pictures(n)
    texts = captions(scenes, seed=1)
    clip = load(name)
    hits = retrieval(clip, x, texts, among=among)
    out: dict[str, Any] = {"pictures": n, "among": among}
    for label, hit in zip(("picture to caption", "caption to picture"), hits, strict=True):
        found = wilson(int(hit.sum()), len(hit))
        out[label] = [round(v, 3) for v in (found.value, found.low, found.high)]
    right, wrong = clip_score(clip, x, texts), clip_score(clip, x, texts[1:] + texts[:1])
    return out | {"score of own caption": round(float(right.mean()), 3), "score of a neighbour's": round(float(wrong.mean()), 3)}


def pipeline_scores(name: str, n: int = 128, guidance: float = 4.0) -> dict[str, Any]:
    """Shares of pictures that show all that their prompt says, by the final reader: one thing, two things, held-out pairs."""
    out: dict[str, Any] = {"sampler": f"DDIM, 25 steps, guidance {guidance:g}", "n": n, "reader": "final"}
    for kind in ("one", "two", "held_out"):
        seen = read(drawn(name, kind, n, guidance=guidance), load("readers/final")).scenes
        right = prompt_accuracy(make_prompts(n, kind), seen)["all"]
        found = wilson(int(right.sum()), n)
        out[kind] = [round(v, 3) for v in (found.value, found.low, found.high)]
    return out


def control_scores(name: str, n: int = 64) -> dict[str, Any]:
    """Overlap of n silhouettes of one thing with what is drawn after them, by the final reader; how often it is as asked."""
    found = controlled(n, model=name)
    numbers = {"IoU with the silhouette": bootstrap(torch.mean, found.iou.double()),
               "kind and colour right": wilson(int(found.right.sum()), n)}
    return {"sampler": f"DDIM, {STEPS} steps, guidance {GUIDANCE:g}", "n": n, "reader": "final",
            **{what: [round(v, 3) for v in (one.value, one.low, one.high)] for what, one in numbers.items()}}


def small_world_scores(name: str, n: int = 256, steps: int = 25) -> dict[str, Any]:
    """Of n samples of a model of the small world, without a condition: how many show one thing of one of its kinds, colours and
    backdrops, by the final reader, and how many of the 45 cells they reach.
    """
    model, x = load(name), normal((n, 3, 32, 32), "card", name)
    if isinstance(model, SmallVAE):
        how, made = "one pass", model.decode(normal((n, model.z_dim), "card", name))
    elif isinstance(model, LatentUNet):
        how = f"{model.schedule.T} steps"
        made = last(ddgan(model, x, model.schedule, z_dim=model.z_dim)).x
    else:
        how, made = f"DDIM, {steps} steps", last(ddim(model, x, steps=steps, clip="x0")).x
    seen = read(made.clamp(-1, 1), load("readers/final")).scenes
    kind, colour, backdrop = labels(seen)
    right = (seen.present.sum(1) == 1) & (kind >= 0) & (colour >= 0) & (backdrop >= 0)
    found = wilson(int(right.sum()), n)
    cells = {*zip(kind[right].tolist(), colour[right].tolist(), backdrop[right].tolist(), strict=True)}
    share = [round(v, 3) for v in (found.value, found.low, found.high)]
    return {"sampler": how, "n": n, "reader": "final", "one thing of the small world": share, "cells of 45": len(cells)}


_TASKS = {"mini-inpaint": ("08.inpaint", "08.seam"), "mini-upscale-x2": ("08.upscale_x2",),
          "mini-upscale-x4": ("08.upscale_x4",), "mini-layout": ("08.layout",),
          "noisy-classifier": ("04.noisy_classifier",), "mini-parasol": ("18.style", "18.content"),
          "parasol-tokens": ("18.retrieval",)}


def task_scores(name: str) -> dict[str, Any]:
    """The rows of the scoreboard that speak of a model with a task of its own: value and 95 % interval of each."""
    rows = [compute(id) for id in _TASKS[name]]
    return {"n": rows[0].n, "reader": "final"} | {row.id: [round(v, 3) for v in (row.value, row.low, row.high)] for row in rows}


_SMALL_WORLD = ("pixel-guided", "ddgan", "gan-32", "vae-32")
_BY_NAME = dict.fromkeys(_TASKS, task_scores) | dict.fromkeys(_SMALL_WORLD, small_world_scores) | {
    "mini-control": control_scores,
    "readers/": reader_scores, "pixel-": pixel_scores, "mini-vae": autoencoder_scores, "vae-": autoencoder_scores,
    "vq-": autoencoder_scores, "mini-clip": clip_scores}


def update_cards(names: Iterable[str] | None = None) -> None:
    """Measure shipped models (all but the adapters when no names are given) and write the scores onto their cards."""
    for name in [n for n in shipped() if not n.startswith("adapters/")] if names is None else names:
        measure = next((f for start, f in _BY_NAME.items() if name.startswith(start)), pipeline_scores)
        scores = measure(name)
        update_card(data_folder() / name, scores=scores)
