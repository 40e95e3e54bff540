"""Tasks by concatenation (Rombach et al. 2022, section 4.4): the U-Net sees a hint beside the noisy latent.

Inpainting sees the mask and the latent of the masked picture, super-resolution the small picture, layout a map of kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import check_pictures, require
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.pipeline import check_prompts
from minidiff.latent.sample import text_to_image
from minidiff.rng import key, uniform
from minidiff.world import KINDS

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

__all__ = ["HINTS", "decoder_blend", "inpaint_hint", "layout_hint", "paste", "poisson_blend", "random_masks", "lowres_hint",
           "back_project", "add_input_channels", "sample_concat"]

HINTS = {"inpaint": 5, "upscale-x4": 3, "upscale-x2": 12, "layout": len(KINDS)}  # channels of each task's hint, latents of 4


def add_input_channels(unet: UNet2DConditionModel, extra: int) -> UNet2DConditionModel:
    """A copy whose first convolution takes ``extra`` more channels, with weights of zero: it still says what it said."""
    from diffusers import UNet2DConditionModel

    require(extra > 0, "extra", extra, "a positive number of channels", "extra=5")
    had = unet.config.in_channels
    made = UNet2DConditionModel.from_config({**unet.config, "in_channels": had + extra})
    state = unet.state_dict()
    weight = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat((weight, weight.new_zeros(len(weight), extra, *weight.shape[2:])), dim=1)
    made.load_state_dict(state)
    return made.to(weight.device)


def random_masks(index: Tensor, size: int, *, seed: int = 0) -> Tensor:
    """Masks (B, 1, size, size) in {0, 1}, 1 where to paint: a box or an ellipse, or one half of the picture.

    Row i is a pure function of (seed, index[i]). Sides are between a quarter and seven tenths of the picture.
    """
    u = uniform(key(seed, "mask"), index.cpu(), 6).float()[:, :, None, None]
    line = (torch.arange(size) + 0.5) / size
    x, y = line[None, None, :], line[None, :, None]
    w, h = (0.25 + 0.45 * u[:, i] for i in (0, 1))
    cx, cy = w / 2 + (1 - w) * u[:, 2], h / 2 + (1 - h) * u[:, 3]
    dx, dy = ((x - cx) / (w / 2)).abs(), ((y - cy) / (h / 2)).abs()
    shape = torch.where(u[:, 4] < 0.45, torch.maximum(dx, dy) <= 1, dx**2 + dy**2 <= 1)
    across, down = (torch.where(u[:, i] < 0.5, line < 0.5, line >= 0.5) for i, line in ((2, x), (3, y)))
    half = torch.where(u[:, 5] < 0.5, across, down)
    return torch.where(u[:, 4] > 0.9, half, shape)[:, None].float().to(index.device)


def _check_mask(mask: Tensor, images: Tensor) -> None:
    require(mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[-2:] == images.shape[-2:] and len(mask) == len(images), "mask",
            f"shape {tuple(mask.shape)}", f"shape ({len(images)}, 1, {images.shape[-2]}, {images.shape[-1]}), 1 where to paint")
    require(bool(((mask == 0) | (mask == 1)).all()), "mask", "values other than 0 and 1", "1 where to paint, 0 where to keep",
            "(mask > 0.5).float()")


def inpaint_hint(vae: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """(B, 1 + C, h, w): the mask at latent size (nearest), then the latent of the picture with the masked part grey.

    The order of channels is that of ``StableDiffusionInpaintPipeline``. images (B, 3, H, W) in [-1, 1]; mask as
    :func:`random_masks`.
    """
    check_pictures("images", images)
    _check_mask(mask, images)
    z = encode(vae, images * (mask < 0.5))
    return torch.cat((F.interpolate(mask, size=z.shape[-2:]), z), dim=1)


def paste(known: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    """The made picture where the mask is 1, the known pixels, bit for bit, where it is 0."""
    _check_mask(mask, known)
    return torch.where(mask > 0.5, made, known)


def poisson_blend(known: Tensor, made: Tensor, mask: Tensor, *, sweeps: int = 300) -> Tensor:
    """As :func:`paste`, and what was made is lightened or tinted so that it meets the known pixels at the border.

    The correction is the membrane of Perez, Gangnet and Blake 2003 (Poisson image editing, equation 4): known - made on the
    border of the mask, and inside it as smooth as can be, each pixel the mean of its neighbours. It keeps every edge that
    was made; a model that paints a backdrop a shade off leaves no seam. ``sweeps`` of Jacobi's method, which carry the
    correction some 20 pixels inwards.
    """
    _check_mask(mask, known)
    require(sweeps >= 0, "sweeps", sweeps, "a whole number >= 0")
    inside = mask > 0.5
    cross = made.new_tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])[None, None]
    flat = torch.where(inside, 0.0, known - made).flatten(0, 1)[:, None]            # (B * 3, 1, H, W)
    holes = inside.expand_as(made).flatten(0, 1)[:, None]
    neighbours = F.conv2d(torch.ones_like(flat), cross, padding=1)
    membrane = flat
    for _ in range(sweeps):
        membrane = torch.where(holes, F.conv2d(membrane, cross, padding=1) / neighbours, flat)
    return torch.where(inside, (made + membrane.view_as(made)).clamp(-1, 1), known)


@torch.no_grad()
def decoder_blend(vae: nn.Module, known: Tensor, made: Tensor, mask: Tensor, *, reach: int = 4) -> Tensor:
    """As :func:`poisson_blend`; besides, the decoder redraws what was made beside the border.

    The pasted picture goes once through the autoencoder, which draws no seam where it sees none in the latent. Deep inside the
    mask what was made stays, for each trip costs detail: over the first 2 ``reach`` pixels the one fades into the other.
    """
    require(reach >= 0, "reach", reach, "a number of pixels >= 0")
    again = decode(vae, encode(vae, poisson_blend(known, made, mask))).clamp(-1, 1)
    window = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
    deep = F.avg_pool2d(1 - F.max_pool2d(1 - mask, **window), **window, count_include_pad=False)
    return poisson_blend(known, torch.lerp(again, made, deep), mask)


def back_project(small: Tensor, made: Tensor, *, rounds: int = 3) -> Tensor:
    """The enlarged picture ``made`` (B, 3, H, W), corrected so that it shrinks to ``small`` (B, 3, h, w) by averaging blocks.

    Back-projection (Irani and Peleg 1991): what is missing after shrinking is enlarged and added; each of the ``rounds``
    leaves less. Values stay in [-1, 1].
    """
    check_pictures("small", small)
    high, wide = small.shape[-2:]
    require(made.ndim == 4 and made.shape[-2] % high == 0 and made.shape[-1] % wide == 0, "made", f"shape {tuple(made.shape)}",
            f"four axes, the last two whole multiples of {high} and {wide}")
    for _ in range(rounds):
        missing = small - F.adaptive_avg_pool2d(made, (high, wide))
        made = made + F.interpolate(missing, size=made.shape[-2:], mode="bicubic")
    return made.clamp(-1, 1)


def lowres_hint(small: Tensor, grid: tuple[int, int]) -> Tensor:
    """The small picture (B, 3, h, w) at latent size: as it is, or its pixels in blocks as channels (space to depth)."""
    check_pictures("small", small)
    high, wide = small.shape[-2:]
    block = high // grid[0]
    require(block > 0 and (high, wide) == (grid[0] * block, grid[1] * block), "small", f"a picture of {high} x {wide}",
            f"a whole multiple of the latent, {grid[0]} x {grid[1]}")
    return F.pixel_unshuffle(small, block)


def layout_hint(kind: Tensor, masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 12, h, w): for each kind the share of a cell that shows it. kind (B, 3); masks (B, 3, H, W), zero where no thing."""
    require(masks.ndim == 4 and masks.shape[:2] == kind.shape, "masks", f"shape {tuple(masks.shape)}",
            f"shape {(*kind.shape, 'H', 'W')}: one for each thing")
    area = F.adaptive_avg_pool2d(masks, grid)
    return area.new_zeros(len(kind), len(KINDS), *grid).scatter_add_(1, kind[:, :, None, None].expand(-1, -1, *grid), area)


def sample_concat(pipe: StableDiffusionPipeline, hint: Tensor, prompts: str | Sequence[str], **options: Any) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] by a pipeline whose U-Net takes latent and hint together (B, c, h, w).

    A string serves all rows. options: as in :func:`minidiff.latent.sample.text_to_image`.
    """
    had = pipe.vae.config.latent_channels
    need = pipe.unet.config.in_channels - had
    require(isinstance(hint, Tensor) and hint.ndim == 4 and hint.shape[1] == need, "hint",
            f"shape {tuple(getattr(hint, 'shape', ()))}",
            f"(B, {need}, h, w): this U-Net takes {pipe.unet.config.in_channels} channels, {had} of them the latent")
    prompts = [prompts] * len(hint) if isinstance(prompts, str) else check_prompts(prompts)
    require(len(prompts) == len(hint), "prompts", f"{len(prompts)} prompts", f"one for each of the {len(hint)} rows of the hint")
    if options.get("latents") is None:
        options["size"] = tuple(side * pipe.vae_scale_factor for side in hint.shape[-2:])
    return text_to_image(pipe, prompts, hint=hint, **options)
