"""DiffuseIT's losses (Kwon and Ye 2023): structure from the keys of a vision transformer, look from its pooled vector.

Keys k (B, N, D) are what the attention of one layer compares places by, one a patch; the pooled vector (B, D) is the whole
picture's. Every loss gives one number a row, (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import check_images, require
from minidiff.steer.energy import Energy, EnergyState
from minidiff.steer.record import Maps

__all__ = ["Contrast", "Direction", "Divergence", "Features", "PictureView", "Range", "Structure", "Style", "clip_features",
           "direction_target", "key_contrast", "range_loss", "self_similarity", "structure_loss"]

TEMPERATURE = 0.07


class Features(NamedTuple):
    """What a network sees in pictures: keys (B, N, D), one a patch, row by row of the picture; pooled (B, E)."""

    keys: Tensor
    pooled: Tensor


def clip_features(clip: nn.Module, *, layer: int = -1) -> Callable[[Tensor], Features]:
    """A function pictures (B, 3, H, W) in [-1, 1] -> :class:`Features`, with gradients, from a ``transformers.CLIPModel``.

    Keys: those of the attention of one layer of the picture tower, heads side by side, without the class token's. Pooled: the
    class token in the space shared with captions, not normalised. Pictures are resized to the tower's own side.
    """
    tower = getattr(clip, "vision_model", None)
    require(tower is not None, "clip", type(clip).__name__, "a transformers.CLIPModel", 'load("mini-clip")')
    layers, side = tower.encoder.layers, clip.config.vision_config.image_size
    require(-len(layers) <= layer < len(layers), "layer", layer, f"one of the tower's {len(layers)} layers", "layer=-1")

    def features(images: Tensor) -> Features:
        check_images("images", images, channels=3)
        if tuple(images.shape[-2:]) != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=images.shape[-1] > side)
        kept: list[Tensor] = []
        handle = layers[layer].self_attn.k_proj.register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            seen = tower(pixel_values=images.to(tower.embeddings.patch_embedding.weight)).pooler_output
        finally:
            handle.remove()
        return Features(kept[0][:, 1:], clip.visual_projection(seen))

    return features


# The losses ------------------------------------------------------------------------------------------------------------------


def self_similarity(keys: Tensor) -> Tensor:
    """S (B, N, N): cosine of every two keys of a picture (section 3.1; from Tumanyan et al. 2022). S stays as it is when all keys
    are rotated or mirrored together: it holds which places are alike, not what they look like."""
    unit = F.normalize(keys, dim=-1)
    return unit @ unit.mT


def structure_loss(keys: Tensor, source: Tensor) -> Tensor:
    """Mean squared difference of two pictures' self-similarities: (B, N, D) twice -> (B,). 0 on the same picture."""
    return (self_similarity(keys) - self_similarity(source)).square().mean((1, 2))


def key_contrast(keys: Tensor, source: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """InfoNCE over places: each key should find the source's key of the same place among all of the source's (B,).

    Mean over places of -log softmax(cosine / temperature) at the own place. The source's keys carry no gradient. Not 0 on the
    same picture: places that look alike compete.
    """
    logits = F.normalize(keys, dim=-1) @ F.normalize(source, dim=-1).detach().mT / temperature
    return (torch.logsumexp(logits, -1) - logits.diagonal(dim1=1, dim2=2)).mean(1)


def direction_target(target: Tensor, source: Tensor, picture: Tensor, *, away: float = 0.4, stay: float = 0.2) -> Tensor:
    """normalise(E_target - away E_source + stay E_picture) of unit vectors (B, E): where the pooled vector should go.

    Two captions and the source picture; 0.4 and 0.2 are the published code's.
    """
    return F.normalize(target - away * source + stay * picture, dim=-1)


def range_loss(images: Tensor) -> Tensor:
    """Mean square of how far values leave [-1, 1]: (B, 3, H, W) -> (B,). 0 inside."""
    return (images - images.clamp(-1, 1)).square().flatten(1).mean(1)


# The same as energies on the predicted picture -------------------------------------------------------------------------------


class PictureView:
    """How energies look at a step: P_t decoded, and its features, each made once a step however many energies ask.

    decode: latents -> pictures, with gradients; of a pixel model the identity. through_network: False drops the gradient through
    the denoiser (x0 then moves as z does, over sqrt(abar)), which is cheaper and worse.
    """

    def __init__(self, features: Callable[[Tensor], Features], decode: Callable[[Tensor], Tensor] = lambda z: z, *,
                 through_network: bool = True) -> None:
        self.look, self.decode, self.through_network = features, decode, through_network
        self._state: EnergyState | None = None

    def _at(self, state: EnergyState) -> None:
        if self._state is not state:
            self._state, self._features = state, None
            x0 = state.x0
            if not self.through_network:
                x0 = (state.z - (1 - state.ctx.abar) ** 0.5 * state.eps.detach()) / state.ctx.abar**0.5
            self._images = self.decode(x0)

    def images(self, state: EnergyState) -> Tensor:
        """P_t as pictures (B, 3, H, W), not clipped."""
        self._at(state)
        return self._images

    def features(self, state: EnergyState) -> Features:
        """The :class:`Features` of P_t."""
        self._at(state)
        if self._features is None:
            self._features = self.look(self._images)
        return self._features


class _Viewed(Energy):
    def __init__(self, view: PictureView) -> None:
        super().__init__()
        self.view = view


class Structure(_Viewed):
    """:func:`structure_loss` of P_t and the keys (B, N, D) of the source."""

    def __init__(self, view: PictureView, source: Tensor) -> None:
        super().__init__(view)
        self.source = source

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        return structure_loss(self.view.features(state).keys, self.source)


class Contrast(_Viewed):
    """:func:`key_contrast` of P_t and the keys of the source."""

    def __init__(self, view: PictureView, source: Tensor, *, temperature: float = TEMPERATURE) -> None:
        super().__init__(view)
        self.source, self.temperature = source, temperature

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        return key_contrast(self.view.features(state).keys, self.source, temperature=self.temperature)


class Style(_Viewed):
    """Mean squared difference of P_t's pooled vector from that of a picture to look like (B, E)."""

    def __init__(self, view: PictureView, target: Tensor) -> None:
        super().__init__(view)
        self.target = target

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        return (self.view.features(state).pooled - self.target).square().mean(1)


class Direction(_Viewed):
    """Minus the cosine of P_t's pooled vector with a target of :func:`direction_target` (B, E)."""

    def __init__(self, view: PictureView, target: Tensor) -> None:
        super().__init__(view)
        self.target = target

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        return -F.cosine_similarity(self.view.features(state).pooled, self.target, dim=-1)


class Divergence(_Viewed):
    """Minus the mean squared change of the pooled vector since the step before, while progress < ``until`` (section 3.3).

    It hurries the first steps away from the source, whose pooled vector (B, E) is the "step before" of the first.
    """

    def __init__(self, view: PictureView, source: Tensor, *, until: float = 0.15) -> None:
        super().__init__(view)
        self.source, self.until = source, until
        self._before = source

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        pooled = self.view.features(state).pooled
        before = self.source if state.ctx.index == 0 else self._before
        self._before = pooled.detach()
        gap = (pooled - before).square().mean(1)
        return -gap if state.ctx.progress < self.until else 0.0 * gap


class Range(_Viewed):
    """:func:`range_loss` of P_t."""

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        return range_loss(self.view.images(state))
