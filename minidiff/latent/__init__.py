"""Floor 3: diffusion in the latent space of an autoencoder, and Stable Diffusion pipelines of every size."""

from __future__ import annotations

from .attention import Explicit, Site, Watched, attention, sites
from .autoencoder import decode, encode, latent_scale, make_autoencoder
from .sample import (
    Guided,
    denoiser,
    encode_prompt,
    invert_image,
    schedule_of,
    start_noise,
    steps_of,
    text_to_image,
)
from .stable import assemble, layout_weight, make_scheduler, make_unet
from .text import make_text_encoder, make_tokenizer, spans, token_ids

__all__ = ["Explicit", "Guided", "Site", "Watched", "assemble", "attention", "decode", "denoiser", "encode", "encode_prompt",
           "invert_image", "latent_scale", "layout_weight", "make_autoencoder", "make_scheduler", "make_text_encoder",
           "make_tokenizer", "make_unet", "schedule_of", "sites", "spans", "start_noise", "steps_of", "text_to_image",
           "token_ids"]
