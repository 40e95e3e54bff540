"""A random-weight pipeline of Stable Diffusion's shape, for tests that need shapes and exactness, not pictures."""

import torch

from minidiff.latent import make_text_encoder, make_tokenizer
from minidiff.latent.stable import assemble, make_unet


def pipeline(*, widths=(16, 16, 16, 16), length=77, size=16, dtype=torch.float32):
    """A random-weight pipeline of Stable Diffusion's shape: four levels, 77 tokens, tiny widths."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    tokenizer = make_tokenizer(length=length)
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, norm_num_groups=4)
    unet = make_unet(size=size, widths=widths, context=16, heads=2)
    pipe = assemble(vae, make_text_encoder(tokenizer, width=16, layers=1, heads=2), unet, tokenizer)
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.to(dtype).eval().requires_grad_(False)
    return pipe
