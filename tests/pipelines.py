"""Pipelines of random weights for tests, all tiny: Stable Diffusion's shape (four levels, 77 tokens), the toy's, mini-sd's."""

from __future__ import annotations

import functools

import torch
from diffusers import UNet2DConditionModel

from minidiff.latent import assemble, make_autoencoder, make_text_encoder, make_tokenizer, make_unet

CASES = ("four levels, 77 tokens", "two levels, 20 tokens")


def make(case: str):
    """A fresh pipeline. Nothing is equal between the two: tokens, widths, channels, factor, scale, size."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if case == CASES[0]:
            tokenizer = make_tokenizer(length=77)
            text = make_text_encoder(tokenizer, width=48, layers=2, heads=4)
            unet = UNet2DConditionModel(
                sample_size=8, in_channels=8, out_channels=8, block_out_channels=(16, 16, 32, 32), layers_per_block=1,
                cross_attention_dim=48, attention_head_dim=2, norm_num_groups=8,
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
            vae = make_autoencoder(8, channels=8, widths=(8, 8, 16, 16))
            vae.register_to_config(scaling_factor=0.18215)
        else:
            tokenizer = make_tokenizer(length=20)
            text = make_text_encoder(tokenizer, width=32, layers=1, heads=2)
            unet = make_unet(size=8, widths=(32, 32), context=32, heads=2)
            vae = make_autoencoder(4, widths=(8, 8, 16))
            vae.register_to_config(scaling_factor=1.7)
    for module in (text, unet, vae):
        module.eval().requires_grad_(False)
    return assemble(vae, text, unet, tokenizer)


@functools.cache
def shared(case: str):
    """The same pipeline for all tests of a process; a test that changes it must make its own."""
    return make(case)


@functools.cache
def small_mini_sd():
    """A Stable Diffusion of mini-sd's sizes (pictures of 64 x 64, latents of 16 x 16), narrow and untrained, for lessons' panels.

    The same for all tests of a process; a test that changes it must make its own.
    """
    with torch.random.fork_rng():
        torch.manual_seed(14)
        tokenizer = make_tokenizer()
        parts = (make_autoencoder(4, widths=(8, 8, 16)), make_text_encoder(tokenizer, width=32, layers=1, heads=2),
                 make_unet(widths=(32, 64), context=32, heads=2))
    for part in parts:
        part.eval().requires_grad_(False)
    return assemble(*parts, tokenizer)
