"""Floor 3: diffusion in the latent space of an autoencoder, and Stable Diffusion pipelines of every size."""

from __future__ import annotations

from minidiff.latent.autoencoder import decode, encode, latent_scale, make_autoencoder
from minidiff.latent.sample import (
    Guided,
    denoise,
    denoiser,
    encode_prompt,
    initial_noise,
    invert_image,
    schedule_from,
    text_to_image,
)
from minidiff.latent.stable import assemble, make_scheduler, make_unet, snr_weight
from minidiff.latent.text import make_text_encoder, make_tokenizer, token_ids, token_indices
from minidiff.steer.attention import ExplicitAttnProcessor, Site, Watched, attention, sites

__all__ = ["ExplicitAttnProcessor", "Guided", "Site", "Watched", "assemble", "attention", "decode", "denoiser", "encode",
           "encode_prompt", "invert_image", "latent_scale", "snr_weight", "make_autoencoder", "make_scheduler",
           "make_text_encoder",
           "make_tokenizer", "make_unet", "schedule_from", "sites", "token_indices", "initial_noise", "denoise", "text_to_image",
           "token_ids"]
