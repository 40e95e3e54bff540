"""Claims of lesson 09, each measured by a function of the sample size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.course.claims import Outcome, claim
from minidiff.course.editions import as_in_training
from minidiff.diffusion import last
from minidiff.latent import decode, denoise, encode, initial_noise, invert_image, make_unet, text_to_image
from minidiff.measure.interval import bootstrap
from minidiff.measure.pictures import psnr
from minidiff.measure.prompts import make_prompts
from minidiff.nets import multiply_adds
from minidiff.world import captions, render, sample_scenes
from minidiff.zoo import load

__all__ = ["pixel_unet", "pixels_of_pipeline", "there_and_back", "unet_cost"]


# The same pixels -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def pixels_of_pipeline(pipe: Any, prompts: Sequence[str], latents: Tensor, **options: Any) -> Tensor:
    """What ``StableDiffusionPipeline`` itself draws from these latents: (B, 3, H, W) in [0, 1]."""
    return pipe(list(prompts), latents=latents, output_type="pt", **options).images.float().cpu()


@claim(
    "09.same_pixels",
    "minidiff's own sampler draws what StableDiffusionPipeline draws from the same latents (20 steps, guidance 4)",
    unit="largest difference of a pixel value in [0, 1] (range over pictures)",
    target="<= 1e-4",
    n=16, small=2,
)
def same_pixels(n: int) -> Outcome:
    pipe, prompts = load("mini-sd"), make_prompts(n, "one")
    z = initial_noise(pipe, n, seed=9)
    theirs = pixels_of_pipeline(pipe, prompts, z, num_inference_steps=20, guidance_scale=4.0)

    def away(images: Tensor) -> Tensor:
        return (images - theirs[:len(images)]).abs().flatten(1).amax(1)

    gaps = away(text_to_image(pipe, prompts, steps=20, guidance=4.0, latents=z).cpu() / 2 + 0.5)
    alone = away(pixels_of_pipeline(pipe, prompts[:1], z[:1], num_inference_steps=20, guidance_scale=4.0))
    other = away(text_to_image(pipe, prompts[:1], steps=21, guidance=4.0, latents=z[:1]).cpu() / 2 + 0.5)
    value = float(gaps.max())
    return Outcome(
        value, float(gaps.min()), value,
        baseline={"one step more": float(other.max())},
        floor={"the pipeline against itself, one picture at a time": float(alone.max())},
        why="rounding in float32 grows over the steps",
    )


# Inversion -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def there_and_back(pipe: Any, images: Tensor, prompts: Sequence[str], *, steps: int = 50, weights: Sequence[float] = (1.0,),
                   few: int | None = None, fixed_point: int = 0) -> dict[float, Tensor]:
    """Pictures (B, 3, H, W) to noise at w = 1 and back at each of ``weights``: what came back, in [-1, 1], by weight.

    few: all weights but the first come back for the first ``few`` pictures only.
    """
    out: dict[float, list[Tensor]] = {w: [] for w in weights}
    for i in range(0, len(images), 16):
        part, said = images[i:i + 16], list(prompts[i:i + 16])
        code = last(invert_image(pipe, part, said, steps=steps, fixed_point=fixed_point)).x
        for w in weights:
            n = len(part) if w == weights[0] or few is None else max(min(few - i, len(part)), 0)
            if n:
                z = last(denoise(pipe, said[:n], steps=steps, guidance=w, latents=code[:n])).x
                out[w].append(decode(pipe.vae, z).clamp(-1, 1))
    return {w: torch.cat(found) for w, found in out.items()}


@claim(
    "09.inversion",
    "DDIM inversion at w = 1, 50 steps each way, adds at most a quarter of the autoencoder's own squared error: PSNR of what "
    "came back against the autoencoder's round trip, less the PSNR of the round trip against the picture",
    unit="dB PSNR",
    target=">= 6",
    n=32, small=2,
)
def inversion(n: int) -> Outcome:
    pipe, scenes = load("mini-sd"), as_in_training(sample_scenes(range(n), split="test", level="full"), "mini-sd")
    images, prompts = render(scenes).images, captions(scenes)
    trip = decode(pipe.vae, encode(pipe.vae, images)).clamp(-1, 1)
    own = psnr(trip, images)
    few = min(n, 16) if n >= 8 else 1

    def above(back: Tensor) -> Tensor:
        return psnr(back, trip[:len(back)]) - own[:len(back)]

    found = there_and_back(pipe, images, prompts, weights=(1.0, 7.0), few=few)
    m = bootstrap(torch.mean, above(found[1.0]))
    others = {"back at w = 7": float(above(found[7.0]).mean()),
              "against the picture itself": float((psnr(found[1.0], images) - own).mean())}
    if n >= 8:
        others["10 steps each way"] = float(above(there_and_back(pipe, images[:few], prompts[:few], steps=10)[1.0]).mean())
    return Outcome(
        m.value, m.low, m.high,
        baseline={"one colour, the picture's mean": float(above(images.mean((2, 3), keepdim=True).expand_as(images)).mean())},
        settings=others,
        why="the U-Net's answer changes too much between two of 50 steps",
    )


# What a sample costs -------------------------------------------------------------------------------------------------


class _Call(nn.Module):
    """A U-Net or a decoder as a module of plain tensors, on the meta device: shapes without numbers."""

    def __init__(self, net: nn.Module, run: Any) -> None:
        super().__init__()
        self.net, self.run = net.to("meta"), run

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self.net, *inputs).sample


def unet_cost(net: nn.Module, size: int, tokens: int) -> int:
    """Multiply-adds of one row of a conditional U-Net on (channels, size, size) with ``tokens`` words. Moves it to "meta"."""
    c = net.config
    inputs = (torch.zeros(1, c.in_channels, size, size), torch.zeros(1), torch.zeros(1, tokens, c.cross_attention_dim))
    return multiply_adds(_Call(net, lambda u, z, t, words: u(z, t, encoder_hidden_states=words)), *(x.to("meta") for x in inputs))


def pixel_unet(latent: nn.Module, top: int, *, levels: int = 2) -> nn.Module:
    """The U-Net of a latent model with ``levels`` more levels above, ``top`` channels wide, for pixels: no attention there."""
    from diffusers import UNet2DConditionModel

    c = latent.config
    size = c.sample_size * 2**levels
    return UNet2DConditionModel(
        sample_size=size, in_channels=3, out_channels=3, block_out_channels=(*[top] * levels, *c.block_out_channels),
        down_block_types=(*["DownBlock2D"] * levels, *c.down_block_types), layers_per_block=c.layers_per_block,
        up_block_types=(*c.up_block_types, *["UpBlock2D"] * levels), cross_attention_dim=c.cross_attention_dim,
        attention_head_dim=c.attention_head_dim, norm_num_groups=c.norm_num_groups)


@functools.cache
def _costs() -> dict[str, int]:
    pipe = load("mini-sd")
    c, tokens = pipe.unet.config, pipe.tokenizer.model_max_length
    size, wide = c.sample_size * pipe.vae_scale_factor, c.block_out_channels
    z = torch.zeros(1, c.in_channels, c.sample_size, c.sample_size, device="meta")
    moved = make_unet(size=size, channels=3, widths=tuple(wide), context=c.cross_attention_dim, heads=c.attention_head_dim)
    return {"pixels": unet_cost(pixel_unet(pipe.unet, wide[0]), size, tokens),
            "narrow": unet_cost(pixel_unet(pipe.unet, wide[0] // 2), size, tokens),
            "moved": unet_cost(moved, size, tokens), "latent": unet_cost(pipe.unet, c.sample_size, tokens),
            "decode": multiply_adds(_Call(pipe.vae, lambda vae, z: vae.decode(z)), z)}


@claim(
    "09.cost",
    "A sample in the latent space costs a fraction of one in pixels: mini-sd's U-Net with two more levels above it, on 64x64 "
    "pixels, against its calls on the latent and one decode; the verdict hangs on that choice of pixel network, see the other "
    "settings (Rombach et al. 2022; whether both would draw equally well is open)",
    unit="times the multiply-adds (n steps with guidance)",
    target=">= 4",
    n=20, small=2,
)
def cost(n: int) -> Outcome:
    c = _costs()
    ours = 2 * n * c["latent"] + c["decode"]
    value, narrow, moved = (2 * n * c[name] / ours for name in ("pixels", "narrow", "moved"))
    return Outcome(value, value, value, baseline={"no gain": 1.0}, floor={"the U-Net's calls alone": c["pixels"] / c["latent"]},
                   settings={"half as wide above": narrow, "the same U-Net on pixels": moved},
                   why="the decoder and the narrow upper levels of the pixel model weigh too much")
