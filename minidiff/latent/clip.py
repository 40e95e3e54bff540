"""mini-clip: pictures and captions in one space, by contrastive training (Radford et al. 2021), in transformers' format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import check_pictures, require
from minidiff.latent.text import make_tokenizer, text_config, token_ids

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

__all__ = ["Contrastive", "clip_score", "embed_images", "embed_texts", "info_nce", "make_clip", "retrieval"]


def make_clip(tokenizer: CLIPTokenizer | None = None, *, size: int = 64, patch: int = 8, width: int = 128, layers: int = 3,
              heads: int = 4, text_layers: int = 2) -> CLIPModel:
    """A new ``transformers.CLIPModel``: a ViT on ``size`` pixels in patches of ``patch``, and a text tower for the tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    require(size % patch == 0, "patch", patch, f"a divisor of the picture's side, {size}", "patch=8")
    text = text_config(tokenizer or make_tokenizer(), width=width, layers=text_layers, heads=heads)
    vision = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "num_attention_heads": heads,
              "image_size": size, "patch_size": patch, "projection_dim": width}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width, logit_scale_init_value=2.0))


def info_nce(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """The symmetric contrastive loss, one number a pair: (B, D), (B, D) unit vectors -> (B,).

    Half the cross-entropy of finding the caption of picture i among all captions of the batch, half the other way round
    (Radford et al. 2021, figure 3). ``scale`` is exp of the learned temperature.
    """
    logits = scale * images @ texts.T
    here = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, here, reduction="none") + F.cross_entropy(logits.T, here, reduction="none")) / 2


class Contrastive(nn.Module):
    """A CLIP in training: ``model(x, ids) -> losses (B,)``; the temperature's scale is kept below 100, as in the paper."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        out = self.clip(input_ids=ids, pixel_values=x)
        return info_nce(out.image_embeds, out.text_embeds, self.clip.logit_scale.exp().clamp(max=100.0))


def _resized(clip: nn.Module, images: Tensor) -> Tensor:
    check_pictures("images", images)
    side = clip.config.vision_config.image_size
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=images.shape[-1] > side)


@torch.no_grad()
def embed_images(clip: nn.Module, images: Tensor, *, chunk: int = 128) -> Tensor:
    """Unit vectors (B, D) of pictures (B, 3, H, W) in [-1, 1], resized to the model's own size."""
    parts = [clip.visual_projection(clip.vision_model(pixel_values=x).pooler_output) for x in _resized(clip, images).split(chunk)]
    return F.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def embed_texts(clip: nn.Module, texts: Sequence[str], tokenizer: CLIPTokenizer | None = None) -> Tensor:
    """Unit vectors (B, D) of captions; the tokenizer of the toy world unless another is given."""
    ids = token_ids(tokenizer or make_tokenizer(), texts).to(clip.logit_scale.device)
    return F.normalize(clip.text_projection(clip.text_model(input_ids=ids).pooler_output), dim=-1)


def clip_score(clip: nn.Module, images: Tensor, texts: Sequence[str], tokenizer: CLIPTokenizer | None = None) -> Tensor:
    """Cosine similarity (B,) in [-1, 1] of each picture with its caption, differentiable in the pictures.

    The idea of CLIPScore (Hessel et al. 2021) with our own small model: not comparable with published CLIPScores.
    """
    require(len(images) == len(texts), "texts", f"{len(texts)} captions", f"one for each of the {len(images)} pictures")
    seen = clip.visual_projection(clip.vision_model(pixel_values=_resized(clip, images)).pooler_output)
    return (F.normalize(seen, dim=-1) * embed_texts(clip, texts, tokenizer)).sum(-1)


def retrieval(clip: nn.Module, images: Tensor, texts: Sequence[str], *, among: int = 32,
              tokenizer: CLIPTokenizer | None = None) -> tuple[Tensor, Tensor]:
    """Hits (B,) bool both ways: is a picture's own caption the nearest of the ``among`` of its group, and vice versa?

    Groups are consecutive; a remainder is left out. Chance is 1 / among. Captions that are equal count as one.
    """
    n = len(images) // among * among
    require(n > 0, "among", among, f"at most {len(images)}, the number of pictures", "among=32")
    a, b = embed_images(clip, images[:n]), embed_texts(clip, texts[:n], tokenizer)
    sims = a.reshape(-1, among, a.shape[-1]) @ b.reshape(-1, among, b.shape[-1]).transpose(1, 2)
    names = [texts[i : i + among] for i in range(0, n, among)]
    same = torch.tensor([[[p == q for q in group] for p in group] for group in names], device=sims.device)
    to_text = same.gather(2, sims.argmax(2, keepdim=True))[..., 0]
    to_image = same.gather(1, sims.argmax(1, keepdim=True))[:, 0]
    return to_text.flatten(), to_image.flatten()
