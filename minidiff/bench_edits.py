"""The edits of ``minidiff bench peers``, by this package and by diffusers' own pipelines, on mini-sd; see ``bench_works``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff.bench_works import GUIDANCE, STEPS, Work, mini_sd

__all__ = ["excite_diffusers", "excite_minidiff", "kind_edits", "three_things", "zero_diffusers", "zero_minidiff"]


def kind_edits(n: int) -> tuple[list[str], list[str], list[tuple[list[str], list[str]]]]:
    """n prompts, what is asked for in their place, and for each the two banks of sentences of lesson 12's template."""
    from minidiff.lessons.l12_pix2pix_zero.data import template_bank, word_pair
    from minidiff.measure import edit_pairs
    pairs = edit_pairs("kind", n)
    banks = [template_bank(*word_pair(*both)[:2]) for both in zip(pairs.prompts, pairs.targets, strict=True)]
    return pairs.prompts, pairs.targets, banks


def zero_minidiff(n: int) -> Work:
    """pix2pix_zero as it stands, from the mean directions of the banks; all edits in one batch."""
    from minidiff.editing import edit_direction, pix2pix_zero
    pipe, z = mini_sd(n)
    prompts, _, banks = kind_edits(n)

    def work() -> Tensor:
        direction = torch.cat([edit_direction(pipe, *bank) for bank in banks])
        return pix2pix_zero(pipe, prompts, direction, latents=z, steps=STEPS, guidance=GUIDANCE).edit

    return work


def zero_diffusers(n: int) -> Work:
    """One edit after another: the pipeline takes one prompt at a time."""
    from diffusers.pipelines.deprecated.stable_diffusion_variants.pipeline_stable_diffusion_pix2pix_zero import (
        StableDiffusionPix2PixZeroPipeline,
    )
    pipe, z = mini_sd(n)
    prompts, _, banks = kind_edits(n)
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    theirs = StableDiffusionPix2PixZeroPipeline(**parts, inverse_scheduler=None, caption_generator=None, caption_processor=None,
                                                requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)

    def work() -> Tensor:
        made = []
        for prompt, bank, noise in zip(prompts, banks, z.split(1), strict=True):
            source, target = (theirs.get_embeds(sentences) for sentences in bank)
            made.append(theirs(prompt, source_embeds=source, target_embeds=target, latents=noise, num_inference_steps=STEPS,
                               guidance_scale=GUIDANCE, output_type="pt").images)
        return 2 * torch.cat(made).detach() - 1

    return work


def three_things(n: int) -> Any:
    """n prompts of three things, as lesson 14 asks for them."""
    from minidiff.lessons.l14_several_objects.data import threes
    return threes(n)


def excite_minidiff(n: int, loss: str = "published") -> Work:
    """loss: "published", with the published steps and thresholds, or "presence", the course's own form as it stands."""
    from minidiff.diffusion import last
    from minidiff.editing.attend import excite, published_decay
    from minidiff.editing.word_losses import things_of
    from minidiff.latent import decode, denoise
    pipe, z = mini_sd(n)
    rows = three_things(n)
    published = {"relative": None, "scale": 20.0, "until": 1.0, "decay": published_decay, "refine": {0: 0.95, 10: 0.5}}

    def work() -> Tensor:
        things = things_of(pipe.tokenizer, rows.prompts, rows.things if loss == "presence" else None)
        push = excite(pipe, things, loss=loss, **published if loss == "published" else {})
        state = last(denoise(pipe, rows.prompts, latents=z, steps=STEPS, guidance=GUIDANCE, hooks=[push]))
        with torch.no_grad():
            return decode(pipe.vae, state.x).clamp(-1, 1)

    return work


def excite_diffusers(n: int) -> Work:
    """The published loss, steps and thresholds on the nouns of each prompt; one prompt after another."""
    from diffusers import StableDiffusionAttendAndExcitePipeline

    from minidiff.latent import token_indices
    pipe, z = mini_sd(n)
    rows = three_things(n)
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    theirs = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    words = [[token_indices(pipe.tokenizer, prompt, kind)[0][-1] for kind in kinds]
             for prompt, kinds in zip(rows.prompts, rows.kinds, strict=True)]
    side = pipe.unet.config.sample_size // 2         # 8 x 8, the middle level of a latent of 16 x 16, as in ``excite``

    def work() -> Tensor:
        made = [theirs(prompt, [int(i) for i in mine], latents=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                       attn_res=(side, side), output_type="pt").images
                for prompt, mine, noise in zip(rows.prompts, words, z.split(1), strict=True)]
        return 2 * torch.cat(made).detach() - 1

    return work
