"""What the latent models score: measured for their cards, and shared by the claims of lessons 07 to 09."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.clip import clip_score, retrieval
from minidiff.latent.sample import text_to_image
from minidiff.measure import bootstrap, read, wilson
from minidiff.measure.pictures import psnr
from minidiff.measure.prompts import make_prompts, prompt_accuracy
from minidiff.world import Scenes, WorldData, captions
from minidiff.zoo import load

__all__ = ["autoencoder_scores", "clip_scores", "drawn", "held_out_pictures", "pipeline_scores", "round_trip"]


@functools.lru_cache(maxsize=4)
def held_out_pictures(n: int, level: str = "full", split: str = "test") -> tuple[Tensor, Scenes]:
    """n pictures of 64 x 64 that no model was trained on, and their scenes."""
    return WorldData(64, split, level).batch(0, n)


@functools.lru_cache(maxsize=8)
def round_trip(name: str, n: int, level: str = "full") -> tuple[Tensor, Tensor, Scenes]:
    """(pictures, the same through the shipped autoencoder and clipped, their scenes)."""
    x, scenes = held_out_pictures(n, level)
    vae = load(name)
    with torch.no_grad():
        return x, decode(vae, encode(vae, x)).clamp(-1, 1), scenes


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


@functools.lru_cache(maxsize=32)
def drawn(name: str, kind: str, n: int, *, guidance: float = 4.0, steps: int = 25, seed: int = 0) -> Tensor:
    """Pictures (n, 3, 64, 64) of ``make_prompts(n, kind)`` by a shipped pipeline; row i starts from noise (seed, i)."""
    return text_to_image(load(name), make_prompts(n, kind), guidance=guidance, steps=steps, seed=seed)


def pipeline_scores(name: str, n: int = 128, guidance: float = 4.0) -> dict[str, Any]:
    """Shares of pictures that show all that their prompt says, by the final reader: one thing, two things, held-out pairs."""
    out: dict[str, Any] = {"sampler": f"DDIM, 25 steps, guidance {guidance:g}", "n": n, "reader": "final"}
    for kind in ("one", "two", "held_out"):
        seen = read(drawn(name, kind, n, guidance=guidance), load("readers/final")).scenes
        right = prompt_accuracy(make_prompts(n, kind), seen)["all"]
        found = wilson(int(right.sum()), n)
        out[kind] = [round(v, 3) for v in (found.value, found.low, found.high)]
    return out
