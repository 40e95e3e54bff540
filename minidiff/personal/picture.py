"""An adapter for one picture: it learns the look of its thing, so that an edit of the picture can keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from minidiff.errors import check_pictures, require
from minidiff.personal.fit import examples, fit
from minidiff.personal.lora import LoRA

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["picture_lora"]


def picture_lora(pipe: StableDiffusionPipeline, image: Tensor, prompt: str, *, rank: int = 4, iterations: int = 20,
                 batch: int = 4, lr: float = 1e-3, seed: int = 0) -> LoRA:
    """A LoRA of the U-Net that has learned one picture (1, 3, H, W) in [-1, 1] with its prompt (Shi et al. 2023, section 3.1).

    It comes detached, so that nothing is left on the network by accident; a block attaches it:

        with picture_lora(pipe, image, prompt):
            result = drag(pipe, prompt, image, handles, targets)

    rank, iterations, batch, lr: of the adapter and its AdamW; the paper's are 16, 80, 4 and 5e-4, for Stable Diffusion. On
    mini-sd twice the iterations at three times the rate hold the thing so fast that handles lag behind their targets.
    """
    check_pictures("image", image)
    require(len(image) == 1, "image", f"{len(image)} pictures", "one: an adapter belongs to a picture", "image[:1]")
    source = examples(pipe, image, word=prompt, captions=["{}"])
    lora = LoRA(pipe.unet, rank=rank, seed=seed)
    try:
        free = [{"params": lora.parameters(), "lr": lr}]
        for _ in fit(pipe, [source], free, iterations=iterations, batch=batch, seed=seed):
            pass
    finally:
        lora.detach()
    return lora.requires_grad_(False)
