"""Floor 3: diffusion in the latent space of an autoencoder, and Stable Diffusion pipelines of every size."""

from __future__ import annotations

from minidiff.guard import guard
from minidiff.latent.autoencoder import decode, encode, latent_scale, make_autoencoder
from minidiff.latent.pipeline import denoiser, encode_prompt, schedule_from, scheduler_options
from minidiff.latent.sample import denoise, initial_noise, invert_image, text_to_image
from minidiff.latent.stable import assemble, make_scheduler, make_unet, random_pipeline, snr_weight
from minidiff.latent.text import make_text_encoder, make_tokenizer, token_ids, token_indices, word_tokens

__all__ = ["assemble", "decode", "denoise", "denoiser", "encode", "encode_prompt", "initial_noise", "invert_image",
           "latent_scale", "make_autoencoder", "make_scheduler", "make_text_encoder", "make_tokenizer", "make_unet",
           "random_pipeline", "schedule_from", "scheduler_options", "snr_weight", "text_to_image", "token_ids",
           "token_indices", "word_tokens"]

guard(globals(), __all__)
