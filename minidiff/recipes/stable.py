"""Recipe of mini-sd: the U-Net and the text encoder together, on latents of the shipped autoencoder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import require
from minidiff.latent.autoencoder import encode
from minidiff.latent.concat import HINTS, add_input_channels, inpaint_hint, layout_hint, lowres_hint, random_masks
from minidiff.latent.grounding import phrase_masks
from minidiff.latent.stable import LatentDiffusion, assemble, make_unet
from minidiff.latent.text import caption_tokenizer, make_text_encoder, make_tokenizer, token_ids
from minidiff.recipes.blocks import Blocks, Draw, fingerprint, mixed_batch, mixed_identity, noise
from minidiff.rng import generator, key, uniform
from minidiff.train import Budget, Recipe
from minidiff.world import ImageFolder, captions
from minidiff.zoo import load

__all__ = ["STABLE", "stable_recipe"]

_PORTIONS = (("simple", 64, 0.15), ("pairs", 64, 0.5), ("full", 64, 0.35))
_KEPT = 400_000     # pictures that a GPU draws, encodes and reads captions for once


def draw_t(n: int, T: int, generator: torch.Generator) -> Tensor:
    """(n,) whole numbers in [0, T): a quarter drawn evenly, a quarter evenly from 0.7 T on, half T sigmoid(N(0.4, 1)).

    The logit-normal density is that of Esser et al. 2024 (Stable Diffusion 3, equation 19): in the middle a network learns
    which shape a word has. From 0.7 T on it is settled where things stand. The steps near the clean picture are learned soon.
    """
    middle = torch.sigmoid(0.4 + noise((n,), generator))
    evenly, die = (torch.rand(n, generator=generator, device=generator.device) for _ in range(2))
    chosen = torch.where(die < 0.25, evenly, torch.where(die < 0.5, 0.7 + 0.3 * evenly, middle))
    return (chosen * T).long().clamp(max=T - 1)


def stable_recipe(name: str, *, seed: int, images: tuple[int, int], minutes: tuple[float, float], lr: float = 5e-4,
                  ground: float = 0.15, drop: float = 0.15, alone: float = 0.35, vae: str = "mini-vae", start: str = "",
                  task: str = "", data: ImageFolder | None = None, expect: str = "") -> Recipe:
    """A recipe for text to image in the latent space of ``vae``. images, minutes: (laptop, gpu).

    ground: weight of the grounding loss; drop: share of captions that are left empty, for guidance; alone: share of captions
    whose words do not see each other in the text encoder, so that the U-Net learns to read each word at its own token; start: a
    shipped pipeline to begin with; task: one of HINTS, whose hint the U-Net then sees beside the latent. data: your own pictures,
    64 x 64 with captions, in place of the world's: the tokenizer is made from their words, and nothing is known of where things
    are, so there is no grounding. vae: a shipped autoencoder, or the folder of one that was trained on such pictures.
    """
    if data is not None:
        require(not start and not task, "data", "a folder of pictures", f"the world itself: {name!r} begins with {start!r}",
                "minidiff train mini-sd --data FOLDER")
        require(bool(data.captions) and any(data.captions), "data", repr(data), "pictures with captions: metadata.jsonl, "
                "metadata.csv or a text file beside each", "minidiff train pixel-ddpm --data FOLDER, which needs none")
        ground = place = 0.0
    else:
        place = 3.0
    tokenizer = make_tokenizer() if data is None else caption_tokenizer(data.captions)
    frozen = functools.lru_cache(maxsize=1)(lambda device: load(vae, device=device))

    def build() -> nn.Module:
        if start:
            pipe = load(start)
            unet = add_input_channels(pipe.unet, HINTS[task]) if task else pipe.unet
            return LatentDiffusion(unet.requires_grad_(True), pipe.text_encoder.requires_grad_(True), ground=ground, place=place)
        return LatentDiffusion(make_unet(), make_text_encoder(tokenizer), ground=ground, place=place)

    def left_empty(index: Tensor, texts: list[str]) -> list[str]:
        gone = uniform(key(seed, "drop"), index.cpu(), 1)[:, 0] < drop
        return ["" if empty else text for text, empty in zip(texts, gone.tolist(), strict=True)]

    def make_own(index: Tensor, number: int) -> Draw:
        pictures, texts = data.batch(number, len(index), index.device)
        z = encode(frozen(index.device), pictures, chunk=1024 if index.device.type == "cuda" else 64)
        return {"z": z, "ids": token_ids(tokenizer, left_empty(index, texts)).to(index.device)}

    def make(index: Tensor, number: int) -> Draw:
        device = index.device
        scenes, images, masks = mixed_batch(index, 64, seed, _PORTIONS)
        texts = left_empty(index, captions(scenes, index, seed=seed))
        whole = {"z": encode(frozen(device), images, chunk=1024 if device.type == "cuda" else 64),
                 "ids": token_ids(tokenizer, texts),
                 "words": phrase_masks(texts, scenes.kind.cpu(), tokenizer.model_max_length),
                 "masks": F.adaptive_avg_pool2d(masks, (16, 16))}
        if task:
            whole["hint"] = _hint(task, frozen(device), images, masks, scenes.kind, random_masks(index, 64, seed=seed))
        mix = torch.randperm(len(index), generator=generator(seed, "mix", number)).to(device)
        return {name: value.to(device)[mix] for name, value in whole.items()}

    blocks = Blocks(make if data is None else make_own, keep=_KEPT if data is None else 0)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        batch = blocks.rows(i, n, device)
        rng = generator(seed, "t", i, device=device)
        t, die = draw_t(n, 1000, rng), torch.rand(n, generator=rng, device=device)
        return batch | {"t": t, "noise": noise(batch["z"].shape, rng), "alone": die < alone}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        return model(**batch)

    return Recipe(name=name, seed=seed, build=build, draw=draw, loss=loss, batch=16, lr=lr, warmup=4_000, ema=0.999,
                  budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=32, lr=1.4 * lr)},
                  expect=expect, identity={"vae": vae, "ground": ground, "drop": drop, "alone": alone, "start": start,
                                           "task": task, "place": place, "schedule": "scaled_linear", "weighting": "snr_weight",
                                           "autoencoder": lambda: fingerprint(frozen(torch.device("cpu"))),
                                           "begins_with": lambda: fingerprint(load(start).unet) if start else "",
                                           "data": mixed_identity(_PORTIONS) if data is None else data.identity},
                  export=functools.partial(_export, vae, tokenizer, None if data is None else data.captions))


def _export(vae: str, tokenizer: Any, captions: Sequence[str] | None, net: LatentDiffusion, folder: Path) -> dict[str, Any]:
    """The pipeline as diffusers saves it: U-Net and autoencoder in half precision, which it loads as float32.

    transformers would keep half precision in use, so the text encoder stays float32.
    """
    made = assemble(load(vae), net.text_encoder, net.unet, tokenizer)
    for part in (made.unet, made.vae):
        part.half()
    made.save_pretrained(folder)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in made.components.items()
             if isinstance(part, nn.Module)}
    own = {} if captions is None else {"captions": list(dict.fromkeys(filter(None, captions)))[:64]}
    return {"parameters": sum(sizes.values()), "parts": sizes, **own}


def _hint(task: str, vae: nn.Module, images: Tensor, masks: Tensor, kind: Tensor, holes: Tensor) -> Tensor:
    """What the U-Net of ``task`` sees of these pictures. holes: the masks of inpainting."""
    grid = (images.shape[-2] // 4, images.shape[-1] // 4)
    if task == "inpaint":
        return inpaint_hint(vae, images, holes)
    if task == "layout":
        return layout_hint(kind, masks, grid)
    return lowres_hint(F.avg_pool2d(images, int(task[-1])), grid)


_TASK: dict = {"start": "mini-sd", "minutes": (11, 2), "lr": 3e-4}

# name -> what stable_recipe is called with
STABLE: dict[str, dict] = {
    "mini-sd": {"seed": 51, "images": (474_000, 4_000_000), "minutes": (518, 8),
                "expect": "one thing >= 97 %, two things >= 90 %, held-out pairs >= 90 %"},
    "mini-inpaint": _TASK | {"seed": 52, "images": (16_000, 400_000), "minutes": (39, 2), "task": "inpaint",
                             "expect": "what is painted is as asked >= 90 %, no seam"},
    "mini-upscale-x2": _TASK | {"seed": 53, "images": (9_000, 400_000), "minutes": (13, 2), "task": "upscale-x2",
                                "expect": "closer than bicubic"},
    "mini-upscale-x4": _TASK | {"seed": 54, "images": (9_000, 400_000), "task": "upscale-x4",
                                "expect": "PSNR at least 3 dB over bicubic"},
    "mini-layout": _TASK | {"seed": 55, "images": (16_000, 400_000), "minutes": (19, 2), "task": "layout",
                             "expect": "IoU with the layout >= 0.6"},
}
