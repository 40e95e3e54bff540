"""The edit that every paper on inversion begins with: from the picture's noise, the target prompt, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from minidiff.editing.inversion import Inversion
from minidiff.editing.result import EditResult, run_edit, source_of
from minidiff.steer import Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["swap_prompt"]


def swap_prompt(pipe: StableDiffusionPipeline, source: str | Sequence[str], target: str | Sequence[str], *,
                seed: int | None = None, image: Tensor | None = None, trajectory: Trajectory | None = None,
                latents: Tensor | None = None, steps: int = 25, guidance: float = 4.0,
                inversion: str | Inversion | None = None) -> EditResult:
    """Edit by drawing ``target`` from the noise of the source: ``swap_prompt(pipe, "a cat", "a dog", image=x)``.

    No attention is shared; what is kept is kept by the noise alone. With target = source the branch "edit" is the reconstruction,
    guidance included. The source as in :func:`~minidiff.editing.prompt_to_prompt`; inversion: one of INVERSIONS, None: "direct".
    """
    begin = source_of(pipe, source, target, seed=seed, image=image, trajectory=trajectory, latents=latents, steps=steps,
                      inversion=inversion, guidance=guidance)
    by = begin.inversion.method if begin.inversion else "a seed"
    return EditResult.of(pipe, f"Prompt swap from {by}", run_edit(pipe, begin, steps=steps, guidance=guidance),
                         {"source": begin.prompts, "edit": begin.targets}, images=begin.images)
