"""The loss of Kwon et al. 2023 for a direction in h-space whose right answers nobody knows: two captions say where to go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import check_images, require
from minidiff.latent.autoencoder import decode
from minidiff.latent.clip import embed_texts

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["DirectionalLoss", "directional"]


def directional(before: Tensor, after: Tensor, way: Tensor) -> Tensor:
    """1 - cos(after - before, way), (B,): does the picture's embedding move as the text's does (Gal et al. 2022, StyleGAN-NADA)?

    before, after (B, D): embeddings of the picture and of the edited picture; way (D,): of the target text less the source's.
    """
    return 1 - F.cosine_similarity(after - before, way[None].expand_as(after), dim=1)


class DirectionalLoss:
    """-log((2 - L) / 2) + keep cos |P~_t - P_t|_1, with L = :func:`directional` of the decoded P~_t and of the picture itself.

    cos: cosine of the two texts (means over ``source`` and over ``target`` captions): the nearer they are, the less may change.
    The form is that of the authors' code (Asyrp_official), which compares P~_t with the picture x0 and not with P_t.
    """

    def __init__(self, pipe: StableDiffusionPipeline, clip: nn.Module, source: Sequence[str], target: Sequence[str], *,
                 keep: float = 3.0) -> None:
        require(len(source) > 0 and len(target) > 0, "source, target", "no caption", "one or more captions each",
                'source=["a cat"], target=["a dog"]')
        require(math.isfinite(keep) and keep >= 0, "keep", keep, "a number, 0 or more", "keep=3.0")
        self.vae, self.clip, self.keep = pipe.vae, clip, keep
        a, b = (F.normalize(embed_texts(clip, list(texts)).mean(0), dim=0) for texts in (source, target))
        self.way, self.cos = b - a, float((a * b).sum())

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) of pictures (B, 3, H, W), with gradients."""
        check_images("images", images, channels=3)
        side = self.clip.config.vision_config.image_size
        sized = F.interpolate(images, size=(side, side), mode="bilinear", antialias=images.shape[-1] > side)
        return F.normalize(self.clip.visual_projection(self.clip.vision_model(pixel_values=sized).pooler_output), dim=-1)

    def __call__(self, shifted: Tensor, plain: Tensor, clean: Tensor) -> Tensor:
        """P_t with and without the block and the clean latents, (B, C, h, w) each -> a number."""
        before, after = self.embed(decode(self.vae, clean)), self.embed(decode(self.vae, shifted))
        loss = -((2 - directional(before, after, self.way)) / 2).clamp(min=1e-6).log().mean()
        return loss + self.keep * self.cos * (shifted - plain).abs().mean()
