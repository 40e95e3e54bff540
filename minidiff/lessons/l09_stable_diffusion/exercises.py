"""Exercises of lesson 09, first part: the latent's shape, the way in and out, the steps. The rest is in lesson09_more."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from minidiff.course.tasks import Mistake, call, exercise, expect
from minidiff.diffusion import timesteps
from minidiff.rng import normal

__all__ = ["VAE"]


class VAE:
    """Stands for an autoencoder in the checks: halves the sides, 2 latent channels, with a posterior of known mean and width."""

    def __init__(self, scale: float, *, shift: float = 0.3) -> None:
        self.config, self.shift = SimpleNamespace(scaling_factor=scale, latent_channels=2), shift

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (B, 2, H/2, W/2) each."""
        small = torch.nn.functional.avg_pool2d(x, 2)
        mean = torch.stack((small[:, 0] - 2 * small[:, 1], small[:, 2] + self.shift), 1)
        return mean, 0.5 + 0.1 * mean.square()

    def encode(self, x: Tensor) -> Any:
        mean, std = self.moments(x)
        noise = normal(tuple(mean.shape), "lesson 09 posterior", 0, dtype=torch.float64).to(mean)
        dist = SimpleNamespace(mean=mean, std=std, mode=lambda: mean, sample=lambda generator=None: mean + std * noise)
        return SimpleNamespace(latent_dist=dist)

    def decode(self, z: Tensor) -> Any:
        big = torch.nn.functional.interpolate(z, scale_factor=2, mode="nearest")
        return SimpleNamespace(sample=torch.stack((big[:, 0] + 0.2 * big[:, 1], 0.9 * big[:, 1], 1.3 * big[:, 0] - big[:, 1]), 1))


@exercise("09.latent_shape", "What shape is the latent?", name="latent_shape",
          stub='''
def latent_shape(height, width, widths, channels):
    """(C, h, w) of the latent of a picture height x width. widths: the autoencoder's block_out_channels, one a level."""
    ...
''',
          solution='''
def latent_shape(height, width, widths, channels):
    """(C, h, w) of the latent of a picture height x width. widths: the autoencoder's block_out_channels, one a level."""
    f = 2 ** (len(widths) - 1)
    return channels, height // f, width // f
''',
          hints=("The encoder halves the sides between one level and the next, not after the last one.",
                 "Three levels halve twice: f = 4. Four levels, as in Stable Diffusion, halve three times: f = 8."))
def _latent_shape(fn: Callable) -> None:
    cases = ((320, 480, (16, 32, 64, 64, 96), 4), (512, 768, (128, 256, 512, 512), 4), (96, 64, (32, 64), 16))
    for high, wide, widths, c in cases:
        got = call(fn, high, wide, widths, c).reshape(-1).double()
        say, levels = f"{high} x {wide}, {len(widths)} levels: ", len(widths)

        def shape(f: float, channels: int = c, a: int = high, b: int = wide) -> Tensor:
            return torch.tensor([channels, a // f, b // f], dtype=torch.float64)

        want = shape(2 ** (levels - 1))
        if len(got) != 3:
            raise Mistake(f"{say}{len(got)} numbers instead of three: channels, height, width.")
        wrong = {
            f"{say}one halving too many: there is none after the last level.": shape(2**levels),
            f"{say}8 is Stable Diffusion's factor; here it follows from the number of levels.": shape(8),
            f"{say}4 is mini-sd's factor; here it follows from the number of levels.": shape(4),
            f"{say}height and width sit the wrong way round.": shape(2 ** (levels - 1), a=wide, b=high),
            f"{say}the encoder gives twice as many channels (mean and log variance); the latent is one sample.":
                shape(2 ** (levels - 1), 2 * c),
            f"{say}the number of levels is not the factor: each halving doubles it.": shape(levels),
            f"{say}the widths are channels inside the network; they say nothing about the sides.":
                shape(widths[-1] // widths[0]),
        }
        expect(got, want, wrong={k: v for k, v in wrong.items() if not torch.equal(v, want)}, tol=1e-9,
               otherwise=f"{say}expected {tuple(int(v) for v in want)}, not {tuple(float(v) for v in got)}.")


@exercise("09.encode", "Into the latent space", name="to_latent",
          stub='''
def to_latent(vae, pictures):
    """pictures: (B, 3, H, W) in [0, 1]. Returns the scaled latent that the U-Net works on, without any randomness."""
    ...
''',
          solution='''
def to_latent(vae, pictures):
    """pictures: (B, 3, H, W) in [0, 1]. Returns the scaled latent that the U-Net works on, without any randomness."""
    posterior = vae.encode(2 * pictures - 1).latent_dist
    return posterior.mean * vae.config.scaling_factor
''',
          hints=("Three things: the autoencoder wants [-1, 1]; its answer is a distribution; the U-Net wants unit variance.",
                 "The distribution's mean has no randomness in it. Then multiply by vae.config.scaling_factor."))
def _encode(fn: Callable) -> None:
    for scale in (0.18215, 1.4):
        vae = VAE(scale)
        x = torch.rand((2, 3, 8, 6), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        got = call(fn, vae, x)
        mean, std = vae.moments(2 * x - 1)
        raw = vae.moments(x)[0]
        expect(got, mean * scale, wrong={
            "The pictures went in as [0, 1]; the autoencoder was trained on [-1, 1].": raw * scale,
            "The latent is not scaled: the U-Net was trained on latents of about unit variance.": mean,
            "You divided by scaling_factor; that is the way out. On the way in it multiplies.": mean / scale,
            "That is a random sample of the posterior; for a given picture take its mean.":
                vae.encode(2 * x - 1).latent_dist.sample() * scale,
            "0.18215 is Stable Diffusion's number; this autoencoder says its own in its config.": mean * 0.18215,
            "The pictures went in as [0, 1], and the latent is not scaled.": raw,
            "The pictures were scaled, not the latent.": vae.moments((2 * x - 1) * scale)[0],
            "That is the posterior's width, not its mean.": std * scale,
            "2 x and -1 are right, but in the other order: 2 (x - 1) is not 2 x - 1.": vae.moments(2 * (x - 1))[0] * scale,
        }, otherwise="Not the scaled mean. Range of the picture, mean of the posterior, scale: which of the three is off?")


@exercise("09.decode", "Out of it again", name="to_picture", points=2,
          stub='''
def to_picture(vae, z):
    """z: (B, C, h, w) scaled latents. Returns pictures (B, H, W, 3), torch.uint8: undo the scale, decode, clip, round."""
    ...
''',
          solution='''
import torch


def to_picture(vae, z):
    """z: (B, C, h, w) scaled latents. Returns pictures (B, H, W, 3), torch.uint8: undo the scale, decode, clip, round."""
    x = vae.decode(z / vae.config.scaling_factor).sample
    x = ((x + 1) / 2).clamp(0, 1)
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
''',
          hints=("The decoder answers in about [-1, 1], and goes a little beyond. What does 256 become as a byte?",
                 "The order: divide by the scale, decode, to [0, 1], clip, times 255, round, to uint8, channels last."))
def _decode(fn: Callable) -> None:
    for scale in (0.18215, 1.4):
        vae = VAE(scale)
        z = 0.75 * scale * normal((2, 2, 4, 3), "lesson 09 decode", 0, dtype=torch.float64)
        got = call(fn, vae, z)
        free = vae.decode(z / scale).sample

        def byte(x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1).to(torch.int64) % 256

        def usual(x: Tensor) -> Tensor:
            return byte((((x + 1) / 2).clamp(0, 1) * 255).round())

        want = usual(free)
        if got.dtype != torch.uint8:
            raise Mistake(f"The type is {str(got.dtype).removeprefix('torch.')}; pictures in files are uint8.")
        if tuple(got.shape) != tuple(want.shape):
            more = " The channels come last." if tuple(got.shape) == tuple(free.shape) else ""
            raise Mistake(f"The shape is {tuple(got.shape)}, but {tuple(want.shape)} is expected.{more}")
        near = (got.double() - want.double()).abs()
        down = byte(((free + 1) / 2).clamp(0, 1) * 255)
        wrong = {
            "Nothing is clipped: a value just above white wraps round to black.": byte(((free + 1) / 2 * 255).round()),
            "Nothing is clipped, and nothing is rounded.": byte((free + 1) / 2 * 255),
            "The latent is still scaled: divide by scaling_factor before decoding.": usual(vae.decode(z).sample),
            "You multiplied by scaling_factor; on the way out it divides.": usual(vae.decode(z * scale).sample),
            "0.18215 is Stable Diffusion's number; take vae.config.scaling_factor.": usual(vae.decode(z / 0.18215).sample),
            "The decoder's [-1, 1] was read as [0, 1]: everything dark is black.": byte((free.clamp(0, 1) * 255).round()),
            "It was clipped to [0, 1] before the shift: the darker half is gone.":
                byte(((free.clamp(0, 1) + 1) * 127.5).round()),
            "Values are cut down to whole numbers; round them, or every picture gets a little darker.": down,
            "Times 256 instead of 255.": byte((((free + 1) / 2).clamp(0, 1) * 256).round()),
            "Clipping comes after the change to uint8, where it is too late.": byte((free * 127.5 + 127.5).round()),
        }
        if int(near.max()) <= 1 and float((near > 0).double().mean()) < 0.02:      # a half rounded the other way
            continue
        expect(got.double(), want.double(), wrong={k: v.double() for k, v in wrong.items() if not torch.equal(v, want)}, tol=1e-9,
               otherwise="Not the bytes of the picture. Follow one white pixel through: 1.0 must become 255, -1.0 must become 0.")


@exercise("09.timesteps", "Which steps?", name="visited_steps",
          stub='''
def visited_steps(T, steps, offset):
    """Falling list of the steps that Stable Diffusion's DDIM visits: spacing "leading" and steps_offset = offset."""
    ...
''',
          solution='''
def visited_steps(T, steps, offset):
    """Falling list of the steps that Stable Diffusion's DDIM visits: spacing "leading" and steps_offset = offset."""
    stride = T // steps
    return [i * stride + offset for i in reversed(range(steps))]
''',
          hints=("For T = 1000, 4 steps, offset 1: 751, 501, 251, 1.",
                 "The stride is T // steps; the offset is added to every step."))
def _timesteps(fn: Callable) -> None:
    for T, S, offset in ((1000, 20, 1), (1000, 50, 0), (1000, 30, 1), (500, 7, 2)):
        got = call(fn, T, S, offset).reshape(-1).double()
        say = f"T = {T}, {S} steps, offset {offset}: "
        plain = torch.tensor(timesteps(T, S), dtype=torch.float64)
        want = plain + offset
        if len(got) != S:
            raise Mistake(f"{say}{len(got)} steps instead of {S}.")
        wrong = {
            f"{say}the list rises; a sampler goes from noise to picture.": want.flip(0),
            f"{say}the offset is missing.": plain,
            f"{say}the offset is taken off; it is added.": plain - offset,
            f"{say}the offset is always 1 here; take the argument.": plain + 1,
            f"{say}this is the trailing list.": torch.tensor(timesteps(T, S, spacing="trailing"), dtype=torch.float64),
            f"{say}this is the trailing list with an offset.":
                torch.tensor(timesteps(T, S, spacing="trailing"), dtype=torch.float64) + offset,
            f"{say}this is linspace, both ends included.": torch.linspace(T - 1, 0, S, dtype=torch.float64).round(),
            f"{say}the stride is a fraction; it is the whole number T // steps.":
                torch.tensor([int(i * T / S) + offset for i in reversed(range(S))], dtype=torch.float64),
            f"{say}the stride is a fraction, rounded; it is the whole number T // steps.":
                torch.tensor([round(i * T / S) + offset for i in reversed(range(S))], dtype=torch.float64),
        }
        expect(got, want, wrong={k: v for k, v in wrong.items() if not torch.equal(v, want)}, tol=1e-9,
               otherwise=f"{say}expected {[int(v) for v in want[:3]]} ..., not {[int(v) for v in got[:3]]} ...")
