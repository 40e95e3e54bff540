"""The cards of the shipped models: what each scores, measured again by `minidiff score` when it measures everything."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from minidiff.course.claims import compute
from minidiff.course.latents import autoencoder_scores, clip_scores, pipeline_scores
from minidiff.course.samples import reader_features, real, sampled
from minidiff.files import data_folder, replace
from minidiff.measure import explain, frechet, frechet_interval, score_reader, wilson
from minidiff.world import WorldData, render
from minidiff.zoo import card, load, shipped

__all__ = ["reader_scores", "pixel_scores", "update_cards"]


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


_TASKS = {"mini-inpaint": ("08.inpaint", "08.seam"), "mini-upscale-x2": ("08.upscale_x2",),
          "mini-upscale-x4": ("08.upscale_x4",), "mini-layout": ("08.layout",)}


def task_scores(name: str) -> dict[str, Any]:
    """The rows of the scoreboard that speak of a model that sees a hint: value and 95 % interval of each."""
    rows = [compute(id) for id in _TASKS[name]]
    return {"n": rows[0].n, "reader": "final"} | {row.id: [round(v, 3) for v in (row.value, row.low, row.high)] for row in rows}


_BY_NAME = {name: task_scores for name in _TASKS} | {
    "readers/": reader_scores, "pixel-": pixel_scores, "mini-vae": autoencoder_scores, "vae-": autoencoder_scores,
    "vq-": autoencoder_scores, "mini-clip": clip_scores}


def update_cards(names: Iterable[str] | None = None) -> None:
    """Measure shipped models (all of them when no names are given) and write the scores onto their cards."""
    for name in shipped() if names is None else names:
        measure = next((f for start, f in _BY_NAME.items() if name.startswith(start)), pipeline_scores)
        scores = measure(name)
        replace(data_folder() / name / "card.json", json.dumps(card(name) | {"scores": scores}, indent=1) + "\n")
