"""Cut and paste, then SDEdit: the simple way to move a whole thing, beside which every drag must be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.editing.result import EditResult
from minidiff.editing.sdedit import sdedit
from minidiff.errors import check_pictures, require
from minidiff.latent.concat import poisson_blend

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["cut_and_paste", "paste_moved"]


@torch.no_grad()
def cut_and_paste(images: Tensor, mask: Tensor, shift: Tensor, *, rim: int = 2) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] whose masked part stands elsewhere; the hole is filled smoothly from its rim.

    mask (B, 1, H, W) in [0, 1]: the thing; shift (B, 2): (x, y) in shares of the picture's sides, as a drag's targets minus its
    handles. rim: the hole is so many pixels wider than the mask, as shadows and soft edges stand around a thing. The fill is the
    membrane of ``poisson_blend``, which knows nothing of what was behind.
    """
    check_pictures("images", images)
    wanted = (len(images), 1, *images.shape[-2:])
    fits = isinstance(mask, Tensor) and mask.shape == wanted
    require(fits, "mask", f"shape {tuple(getattr(mask, 'shape', ()))}", f"shape {wanted}: the thing in each picture")
    require(bool(((mask >= 0) & (mask <= 1)).all()), "mask", "values outside [0, 1]", "1 where the thing is")
    require(isinstance(shift, Tensor) and shift.shape == (len(images), 2), "shift", f"shape {tuple(getattr(shift, 'shape', ()))}",
            f"({len(images)}, 2): (x, y) for each picture", "torch.tensor([[0.2, 0.0]])")
    hole = F.max_pool2d((mask > 0).float(), 2 * rim + 1, 1, rim)
    empty = poisson_blend(images, torch.zeros_like(images), hole)
    place = torch.eye(2, 3).repeat(len(images), 1, 1)
    place[:, :, 2] = -2 * shift                                       # affine_grid counts places from -1 to 1
    grid = F.affine_grid(place, list(images.shape), align_corners=False).to(images)
    thing, where = (F.grid_sample(x, grid, padding_mode=how, align_corners=False)
                    for x, how in ((images, "border"), (mask.to(images), "zeros")))
    return torch.lerp(empty, thing, where)


def paste_moved(pipe: StableDiffusionPipeline, prompt: str | Sequence[str], image: Tensor, mask: Tensor, shift: Tensor, *,
                strength: float = 0.4, **options: Any) -> EditResult:
    """Move a thing by :func:`cut_and_paste`, then hide the seams by ``sdedit`` at a low strength, with the prompt of the source.

    It needs the thing's mask, and it can only move what is there: no turn, no stretch. options: as in ``sdedit``.
    """
    pasted = cut_and_paste(image, mask, shift)
    made = sdedit(pipe, prompt, image=pasted, strength=strength, **options)
    shown = {"source": image.detach().float().cpu(), "pasted": pasted.float().cpu(), "edit": made.edit}
    return EditResult("Cut, paste and SDEdit", shown, {branch: made.prompts["edit"] for branch in shown}, made.trajectory)
