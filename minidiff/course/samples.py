"""Pictures that several claims share: real ones and samples, made once and kept under runs/cache."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minidiff.diffusion import ddim, ddpm, dpm2m, last, row_noise
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.sample import text_to_image
from minidiff.measure.features import features
from minidiff.measure.prompts import make_prompts
from minidiff.rng import key
from minidiff.world import Scenes, WorldData
from minidiff.zoo import card, load

__all__ = ["drawn", "held_out_pictures", "reader_features", "real", "round_trip", "sampled", "shipped"]

_LOOPS = {"ddpm": ddpm, "ddim": ddim, "dpm2m": dpm2m}
BLOCK = 64


@functools.lru_cache(maxsize=6)
def shipped(name: str) -> Any:
    """``load(name)``, once for all claims that only run it; whoever trains or patches a model loads one of his own."""
    return load(name)


@functools.lru_cache(maxsize=8)
def real(n: int, *, start: int = 0, split: str = "test", level: str = "simple", size: int = 32) -> Tensor:
    """n held-out pictures of the world, from number ``start`` on."""
    return WorldData(size, split, level).images(n, start)


def _cache() -> Path:
    return Path(__file__).resolve().parents[2] / "runs" / "cache"


@functools.cache
def _code() -> int:
    """A key of the code that makes samples: the samplers, the networks, the noise, and this file."""
    package = Path(__file__).resolve().parents[1]
    files = [*sorted((package / "diffusion").glob("*.py")), *sorted((package / "nets").glob("*.py")), package / "rng.py"]
    return key(*(file.read_text() for file in (*files, Path(__file__))))


@functools.lru_cache(maxsize=64)
def _block(name: str, loop: str, seed: int, start: int, stop: int, options: tuple[tuple[str, object], ...]) -> Tensor:
    """Samples start .. stop - 1 as bytes."""
    model, rows = load(name), range(start, stop)
    x = row_noise((len(rows), 3, 32, 32), seed=seed, t=model.schedule.T, rows=rows, stream="start")
    noise = {} if loop == "dpm2m" else {"seed": seed, "rows": rows}
    return ((last(_LOOPS[loop](model, x, **noise, **dict(options))).x.clamp(-1, 1) + 1) * 127.5).round().byte()


def sampled(n: int, loop: str, *, name: str = "pixel-ddpm", seed: int = 0, **options: object) -> Tensor:
    """n samples (n, 3, 32, 32) of a shipped pixel model by ``loop`` ("ddpm", "ddim" or "dpm2m") with its options.

    Sample i depends on (seed, i) alone, and starts from the same noise whatever the loop, so samplers can be compared picture by
    picture. Whole blocks of 64 are kept on disk by the hash of the weights and of the code, so a run that was stopped goes on
    where it was.
    """
    words = tuple(sorted(options.items()))
    cache_key = key(card(name)["sha256"]["model.safetensors"], loop, repr(words), seed, _code())
    folder = _cache() / f"{name.replace('/', '-')}-{loop}-{cache_key & 0xFFFFFFFFFFFF:012x}"
    out = []
    for start in range(0, n, BLOCK):
        file = folder / f"{start:06d}.safetensors"
        if file.is_file():
            out.append(load_file(file)["images"][: n - start])
            continue
        out.append(_block(name, loop, seed, start, min(start + BLOCK, n), words))
        if len(out[-1]) == BLOCK:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"images": out[-1]}, file.with_suffix(".tmp"))
            file.with_suffix(".tmp").rename(file)
    return torch.cat(out).float() / 127.5 - 1


def reader_features(images: Tensor, reader: str = "final") -> Tensor:
    """Features (N, 64) of pictures by a shipped reader."""
    return features(images, load(f"readers/{reader}"))


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


@functools.lru_cache(maxsize=32)
def drawn(name: str, kind: str, n: int, *, guidance: float = 4.0, steps: int = 25, seed: int = 0) -> Tensor:
    """Pictures (n, 3, 64, 64) of ``make_prompts(n, kind)`` by a shipped pipeline; row i starts from noise (seed, i)."""
    return text_to_image(load(name), make_prompts(n, kind), guidance=guidance, steps=steps, seed=seed)
