"""Recipes of the autoencoders: the one inside mini-sd, and the small ones of the study of f."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.latent.autoencoder import AutoencoderLoss, as_vq_model, latent_scale, make_autoencoder
from minidiff.recipes.blocks import Blocks, Draw, fingerprint, mixed_batch, mixed_identity
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.train.speed import pick_device
from minidiff.world import ImageFolder
from minidiff.zoo import load

__all__ = ["AUTOENCODERS", "to_diffusers", "vae_recipe"]

_PORTIONS = (("simple", 64, 0.2), ("pairs", 64, 0.3), ("full", 64, 0.5))
_WEIGHTS = {"kl": 1e-3, "edge": 1.0, "perceptual": 0.2}


def vae_recipe(name: str, *, seed: int, f: int = 4, images: tuple[int, int] = (45_000, 1_000_000), codebook_size: int = 0,
               minutes: tuple[float, float] = (45, 4), lr: float = 1.2e-3, adversarial: float = 0.0,
               widths: tuple[int, ...] | None = None, data: ImageFolder | None = None, expect: str = "") -> Recipe:
    """A recipe for an autoencoder of 64 x 64 pictures of all levels. codebook_size > 0: a codebook instead of a KL term.

    images, minutes: (laptop, gpu). widths: channels of each level (see :func:`~minidiff.latent.autoencoder.make_autoencoder`).
    adversarial: weight of the patch discriminator, which counts from the first seven tenths of the laptop's images on. data: your
    own pictures, 64 x 64, in place of the world's.
    """
    eyes = functools.lru_cache(maxsize=1)(lambda: load("readers/guide"))

    def build() -> nn.Module:
        return AutoencoderLoss(make_autoencoder(f, widths=widths), eyes(), codebook_size=codebook_size,
                               adversarial=adversarial, start=int(0.7 * images[0]), **_WEIGHTS)

    def pictures_of(index: Tensor, number: int) -> Tensor:
        if data is not None:
            return data.batch(number, len(index), index.device)[0]
        return mixed_batch(index, 64, seed, _PORTIONS)[1]

    def make(index: Tensor, number: int) -> Draw:
        mix = torch.randperm(len(index), generator=generator(seed, "mix", number))
        return {"x": pictures_of(index, number)[mix.to(index.device)]}

    blocks = Blocks(make)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        return blocks.rows(i, n, device) | {"seen": torch.full((n,), i * n, device=device)}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        return model(batch["x"], batch["seen"])

    return Recipe(name=name, seed=seed, build=build, draw=draw, loss=loss, batch=16, lr=lr, warmup=1_600, ema=0.998,
                  budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=32, lr=1.4 * lr)},
                  expect=expect, identity={"f": f, "codebook_size": codebook_size, "adversarial": adversarial,
                                           "discriminator_from": int(0.7 * images[0]), "weights": _WEIGHTS,
                                           "eyes": lambda: fingerprint(eyes()),
                                           "data": mixed_identity(_PORTIONS) if data is None else data.identity},
                  export=functools.partial(_export, data))


def _export(data: ImageFolder | None, net: AutoencoderLoss, folder: Path) -> dict[str, Any]:
    """As diffusers saves it, half precision on disk; diffusers loads it as float32."""
    made = to_diffusers(net, data).half()
    made.save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in made.parameters())}


def to_diffusers(net: AutoencoderLoss, data: ImageFolder | None = None) -> nn.Module:
    """The trained autoencoder as diffusers knows it, its scaling_factor measured on 2,048 training pictures, or on all of
    ``data``, if need be several times over."""
    if net.codebook is not None:
        return as_vq_model(net)
    device = pick_device()                      # two thousand pictures are a second there and half a minute on a CPU
    pictures = (mixed_batch(torch.arange(2048, device=device), 64, 40, _PORTIONS)[1] if data is None
                else data.images(2048).to(device))
    scale = latent_scale(net.vae.to(device), pictures)
    net.vae.cpu().register_to_config(scaling_factor=round(scale, 5))
    return net.vae


_STUDY: dict = {"seed": 42, "images": (4_000, 200_000), "minutes": (4, 1)}

# name -> what vae_recipe is called with
AUTOENCODERS: dict[str, dict] = {
    "mini-vae": {"seed": 43, "widths": (32, 64, 64), "images": (85_000, 1_000_000), "minutes": (205, 4), "lr": 8e-4,
                 "expect": "PSNR >= 32 dB on held-out scenes; what the reader reads survives"},
    "vae-f2": _STUDY | {"f": 2},
    "vae-f4": _STUDY,
    "vae-f8": _STUDY | {"f": 8},
    "vq-f4": _STUDY | {"codebook_size": 256},
}
