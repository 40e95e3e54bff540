"""What an autoencoder keeps: round trips of held-out pictures, and what a reader still reads after them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.latent.autoencoder import decode, encode
from minidiff.measure import Reader, read
from minidiff.world import ANIMALS, ATTRIBUTES, Scenes, WorldData, render
from minidiff.zoo import load

__all__ = ["Patches", "Right", "decoded", "held_out", "right_words", "survival", "through"]


class Patches:
    """The best linear autoencoder on f x f patches: their first ``channels`` principal components, from ``images``."""

    def __init__(self, images: Tensor, *, f: int = 4, channels: int = 4) -> None:
        self.f = f
        cut = F.pixel_unshuffle(images, f).permute(0, 2, 3, 1).flatten(0, 2).double()
        self.mean = cut.mean(0)
        values, vectors = torch.linalg.eigh((cut - self.mean).T @ (cut - self.mean))
        self.basis = vectors[:, -channels:]                        # eigh sorts from small to large

    def __call__(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to ``channels`` numbers a patch, and back."""
        cut = F.pixel_unshuffle(images, self.f).movedim(1, -1).double() - self.mean
        return F.pixel_shuffle((cut @ self.basis @ self.basis.T + self.mean).movedim(-1, 1), self.f).to(images)


@functools.lru_cache(maxsize=2)
def held_out(n: int) -> tuple[Tensor, Scenes, Tensor]:
    """n held-out scenes of one to three things in all styles at 64 x 64: pictures, scenes, visible masks."""
    scenes = WorldData(64, "test", "full").scenes(0, n)
    parts = [render(scenes[i : i + 256], 64) for i in range(0, n, 256)]
    return torch.cat([p.images for p in parts]), scenes, torch.cat([p.masks for p in parts])


def through(vae: nn.Module, images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) into the latent (the posterior's mean) and back, clipped to [-1, 1]."""
    with torch.no_grad():
        return decode(vae, encode(vae, images)).clamp(-1, 1)


@functools.lru_cache(maxsize=4)
def _patches(f: int) -> Patches:
    return Patches(WorldData(64, "train", "full").images(256), f=f)


@functools.lru_cache(maxsize=16)
def decoded(name: str, n: int) -> Tensor:
    """The n held-out pictures after a round trip through a shipped autoencoder, or through "patches-4" and the like."""
    images = held_out(n)[0]
    if name.startswith("patches-"):
        return _patches(int(name.removeprefix("patches-")))(images).clamp(-1, 1)
    return through(load(name), images)


class Right(NamedTuple):
    """For each true thing (B, 3): does it count, and was it found with the right word? attribute -> bool."""

    scored: dict[str, Tensor]
    right: dict[str, Tensor]


def right_words(images: Tensor, truth: Scenes, masks: Tensor, reader: Reader, *, least: float = 0.25) -> Right:
    """Read ``images`` and compare word by word with the truth; a thing that is not found has no word right.

    Things of which less than ``least`` is visible do not count, nor does the mood of what has no face.
    """
    got = read(images, reader).scenes
    far = (truth.x[:, :, None] - got.x[:, None]) ** 2 + (truth.y[:, :, None] - got.y[:, None]) ** 2
    distance, partner = (far + 9.0 * ~got.present[:, None]).min(-1)
    seen = truth.present & (masks.sum((2, 3)) > least * 1.6 * (truth.size * images.shape[-1]) ** 2)
    face = seen & (truth.kind < len(ANIMALS))
    scored = {name: face if name == "mood" else seen for name in ATTRIBUTES}
    same = {name: getattr(got, name).gather(1, partner) == getattr(truth, name) for name in ATTRIBUTES}
    return Right(scored, {name: scored[name] & (distance < 0.01) & same[name] for name in ATTRIBUTES})


@functools.lru_cache(maxsize=16)
def survival(name: str, n: int) -> dict[str, Tensor]:
    """attribute -> (n, 3) counts a picture: scored, right before and after the round trip through ``name``."""
    images, scenes, masks = held_out(n)
    reader = load("readers/final")
    before, after = (right_words(x, scenes, masks, reader) for x in (images, decoded(name, n)))
    return {a: torch.stack([before.scored[a].sum(1), before.right[a].sum(1), after.right[a].sum(1)], 1).double()
            for a in ATTRIBUTES}
