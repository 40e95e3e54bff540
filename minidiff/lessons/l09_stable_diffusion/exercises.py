"""Exercises of lesson 09: the latent's shape, the way in and out, the steps, the pipeline's parts."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.diffusion import make_schedule, timesteps
from minidiff.rng import normal

__all__ = ["VAE", "FIXED", "FREE"]


class VAE:
    """Stands for an autoencoder in the checks: halves the sides, linear in nothing, with a posterior of known mean and width."""

    def __init__(self, scale: float, *, channels: int = 2) -> None:
        self.config = SimpleNamespace(scaling_factor=scale, latent_channels=channels)
        self.into = normal((channels, 3), "lesson 09 into", 0, dtype=torch.float64)
        self.out = normal((3, channels), "lesson 09 out", 0, dtype=torch.float64) * 0.4 + torch.eye(3, channels)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (B, C, H/2, W/2) each."""
        mixed = torch.einsum("ck,bkhw->bchw", self.into.to(x), torch.nn.functional.avg_pool2d(x, 2))
        mean = mixed + 0.3 * mixed.square() + 0.3
        return mean, 0.5 + 0.1 * mean.square()

    def encode(self, x: Tensor) -> Any:
        mean, std = self.moments(x)
        noise = normal(tuple(mean.shape), "lesson 09 posterior", 0, dtype=torch.float64).to(mean)
        dist = SimpleNamespace(mean=mean, std=std, mode=lambda: mean, sample=lambda generator=None: mean + std * noise)
        return SimpleNamespace(latent_dist=dist)

    def decode(self, z: Tensor) -> Any:
        big = torch.nn.functional.interpolate(z, scale_factor=2, mode="nearest")
        mixed = torch.einsum("kc,bchw->bkhw", self.out.to(z), big)
        return SimpleNamespace(sample=mixed + 0.25 * torch.sin(2 * mixed))


@exercise("09.latent_shape", "What shape is the latent?", hints=(
    "The encoder halves the sides between one level and the next, not after the last one.",
    "Three levels halve twice: f = 4. Four levels, as in Stable Diffusion, halve three times: f = 8.",
))
def latent_shape(height, width, widths, channels):
    """(C, h, w) of the latent of a picture height x width. widths: the autoencoder's block_out_channels, one
    a level."""
    ### BEGIN SOLUTION
    f = 2 ** (len(widths) - 1)
    return channels, height // f, width // f
    ### END SOLUTION


@checks(latent_shape)
def _latent_shape(fn: Callable) -> None:
    cases = ((320, 480, (16, 32, 64, 64, 96), 4), (512, 768, (128, 256, 512, 512), 4), (96, 64, (32, 64), 16))
    for high, wide, widths, c in cases:
        got = call(fn, high, wide, widths, c, dtype=torch.int64).reshape(-1)
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
               otherwise=f"{say}expected {tuple(int(v) for v in want)}, not {tuple(int(v) for v in got)}.")


@exercise("09.encode", "Into the latent space", hints=(
    "Three things: the autoencoder wants [-1, 1]; its answer is a distribution; the U-Net wants unit variance.",
    "The mean of a distribution has no randomness in it. Which way does the config's scaling_factor go, on the way in?",
))
def to_latent(vae, pictures):
    """pictures: (B, 3, H, W) in [0, 1]. Returns the scaled latent that the U-Net works on, without any
    randomness."""
    ### BEGIN SOLUTION
    posterior = vae.encode(2 * pictures - 1).latent_dist
    return posterior.mean * vae.config.scaling_factor
    ### END SOLUTION


@checks(to_latent)
def _encode(fn: Callable) -> None:
    for scale, channels, (B, H, W) in ((0.18215, 2, (2, 8, 6)), (1.4, 4, (3, 4, 10))):
        vae = VAE(scale, channels=channels)
        x = torch.rand((B, 3, H, W), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
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


@exercise("09.decode", "Out of it again", points=2, hints=(
    "The decoder answers in about [-1, 1], and goes a little beyond. What does 256 become as a byte?",
    "And what does -1, the decoder's black, become? Follow both ends through your chain, in its order.",
))
def to_picture(vae, z):
    """z: (B, C, h, w) scaled latents. Returns pictures (B, H, W, 3), torch.uint8, black 0 and white 255."""
    ### BEGIN SOLUTION
    x = vae.decode(z / vae.config.scaling_factor).sample
    x = ((x + 1) / 2).clamp(0, 1)
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    ### END SOLUTION


@checks(to_picture)
def _decode(fn: Callable) -> None:
    for scale, channels, (B, h, w) in ((0.18215, 2, (2, 4, 3)), (1.4, 4, (3, 2, 5))):
        vae = VAE(scale, channels=channels)
        z = 0.75 * scale * normal((B, channels, h, w), "lesson 09 decode", 0, dtype=torch.float64)
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
        exact = (((free + 1) / 2).clamp(0, 1) * 255).permute(0, 2, 3, 1)
        down = byte(((free + 1) / 2).clamp(0, 1) * 255)
        wrong = {
            "Nothing is clipped: a value just above white wraps round to black.": byte(((free + 1) / 2 * 255).round()),
            "Nothing is clipped, and nothing is rounded.": byte((free + 1) / 2 * 255),
            "The latent is still scaled: divide by scaling_factor before decoding.": usual(vae.decode(z).sample),
            "You multiplied by scaling_factor; on the way out it divides.": usual(vae.decode(z * scale).sample),
            "The decoder's picture was divided by scaling_factor; divide the latent, before decoding.":
                usual(vae.decode(z).sample / scale),
            "0.18215 is Stable Diffusion's number; take vae.config.scaling_factor.": usual(vae.decode(z / 0.18215).sample),
            "The decoder's [-1, 1] was read as [0, 1]: everything dark is black.": byte((free.clamp(0, 1) * 255).round()),
            "It was clipped to [0, 1] before the shift: the darker half is gone.":
                byte(((free.clamp(0, 1) + 1) * 127.5).round()),
            "Values are cut down to whole numbers; round them, or every picture gets a little darker.": down,
            "Times 256 instead of 255.": byte((((free + 1) / 2).clamp(0, 1) * 256).round()),
        }
        if bool(((got.double() - exact).abs() <= 0.5 + 1e-3).all()):                # a half may be rounded either way
            continue
        expect(got.double(), want.double(), wrong={k: v.double() for k, v in wrong.items() if not torch.equal(v, want)}, tol=1e-9,
               otherwise="Not the bytes of the picture. Follow one white pixel through: 1.0 must become 255, -1.0 must become 0.")


@exercise("09.timesteps", "Which steps?", hints=(
    "For T = 1000, 4 steps, offset 1: 751, 501, 251, 1.",
    "The stride is T // steps; the offset is added to every step.",
))
def visited_steps(T, steps, offset):
    """Falling list of the steps that Stable Diffusion's DDIM visits: spacing "leading" and steps_offset =
    offset."""
    ### BEGIN SOLUTION
    stride = T // steps
    return [i * stride + offset for i in reversed(range(steps))]
    ### END SOLUTION


@checks(visited_steps)
def _timesteps(fn: Callable) -> None:
    for T, S, offset in ((1000, 20, 1), (1000, 50, 0), (1000, 30, 1), (500, 7, 2)):
        got = call(fn, T, S, offset, dtype=torch.int64).reshape(-1).double()
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


@exercise("09.model_input", "Repair: the loop that Euler breaks", points=2, hints=(
    "Euler holds z0 + sigma eps. The U-Net was trained on sqrt(abar) z0 + sqrt(1 - abar) eps.",
    "Both have the same ratio of noise to picture: sigma = sqrt((1 - abar) / abar). Solve that for abar.",
    "sigma has one number a row: view(-1, 1, 1, 1).",
))
def model_input(z, sigma):
    """What the U-Net must be shown where the scheduler holds z = z0 + sigma * eps (Euler does). z: (B, C, h,
    w); sigma: (B,).

    Returns (B, C, h, w): the same latent as the forward process of notebook 01 would have noised it.
    """
    ### BEGIN SOLUTION
    return z / (sigma ** 2 + 1).sqrt().view(-1, 1, 1, 1)
    ### END SOLUTION


@checks(model_input)
def _model_input(fn: Callable) -> None:
    for shape, levels in (((2, 4, 6, 5), [0.3, 7.0]), ((3, 1, 2, 4), [0.0, 1.7, 11.1])):
        z, sigma = normal(shape, "lesson 09 euler", 0, dtype=torch.float64), torch.tensor(levels, dtype=torch.float64)
        s = sigma.view(-1, 1, 1, 1)
        expect(call(fn, z, sigma, shape=z.shape), z / (s**2 + 1).sqrt(), wrong={
            "That is z as the scheduler holds it; its noise is sigma and not sqrt(1 - abar).": z,
            "sigma + 1 is not the deviation of the sum: variances add, 1 + sigma^2, then the root.": z / (s + 1),
            "You divide by the variance, 1 + sigma^2; the factor is its root.": z / (s**2 + 1),
            "You multiply; the latent that Euler holds is too large, not too small.": z * (s**2 + 1).sqrt(),
            "That brings the noise to deviation 1 only where sigma is large.": z / s.clamp(min=1),
            "One factor for the whole batch; each row has its own sigma.": z / (s[:1] ** 2 + 1).sqrt(),
        }, otherwise="Which abar has sigma = sqrt((1 - abar) / abar)? The picture's factor is its root.")


@exercise("09.step", "The step in diffusers' convention", points=2, hints=(
    "It is the step of notebook 03 with two levels from the table; only which two is new.",
    "The last step comes from t = 1 and goes below 0. Python's abar[-49] exists, and is nearly pure noise.",
))
def sd_step(z, eps, t, steps, abar):
    """One DDIM step (eta 0, no clipping) from step t to t - T // steps. abar: (T,), the table. Below step 0
    use abar[0]."""
    ### BEGIN SOLUTION
    before = t - len(abar) // steps
    a, a_prev = abar[t], abar[before] if before >= 0 else abar[0]
    z0 = (z - (1 - a) ** 0.5 * eps) / a ** 0.5
    return a_prev ** 0.5 * z0 + (1 - a_prev) ** 0.5 * eps
    ### END SOLUTION


@checks(sd_step)
def _step(fn: Callable) -> None:
    cases = ((1000, (2, 2, 5, 4), ((20, 951), (20, 501), (50, 21), (20, 1), (50, 1), (20, 49), (20, 50))),
             (400, (3, 1, 4, 6), ((16, 376), (25, 1))))
    for T, shape, steps in cases:
        z, eps = normal((2, *shape), "lesson 09 step", 0, dtype=torch.float64)
        abar = make_schedule("scaled_linear", T).abar
        for S, t in steps:
            got = call(fn, z, eps, t, S, abar, shape=z.shape)
            before = t - T // S
            a, first, one = abar[t], abar[0], torch.tensor(1.0, dtype=torch.float64)

            def to(b: Tensor, *, limit: float | None = None, level: Tensor = a, z: Tensor = z, eps: Tensor = eps) -> Tensor:
                z0 = (z - (1 - level).sqrt() * eps) / level.sqrt()
                return b.sqrt() * (z0 if limit is None else z0.clamp(-limit, limit)) + (1 - b).sqrt() * eps

            end = before < 0
            p = first if end else abar[before]
            say = f"From t = {t} with {S} steps: "
            wrong = {
                say + "it goes to t - 1, the training's step; a sampler with few steps jumps T // steps.":
                    to(abar[max(t - 1, 0)]),
                say + "z0 is clipped to [-1, 1]; latents are not bounded (clip_sample is False).": to(p, limit=1.0),
                say + "abar[t - T // steps] counts from the end of the table when the index is negative.": to(abar[before]),
                say + "the last step goes to abar = 1; with set_alpha_to_one=False it goes to abar[0].":
                    to(one) if end else to(p),
                say + "this is z0, the picture; a step goes to a level in between.":
                    (z - (1 - a).sqrt() * eps) / a.sqrt() if not end else to(p),
                say + "the levels are swapped: this step adds noise.":
                    a.sqrt() * (z - (1 - p).sqrt() * eps) / p.sqrt() + (1 - a).sqrt() * eps,
                say + "it jumps by `steps`; the stride is T // steps.": to(abar[t - S] if t >= S else first),
                say + "z0 stays without its factor sqrt(abar_prev).":
                    (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - p).sqrt() * eps,
                say + "z stands where z0 belongs.": p.sqrt() * z + (1 - p).sqrt() * eps,
            }
            expect(got, to(p), wrong={k: v for k, v in wrong.items() if not torch.allclose(v, to(p), rtol=1e-3)},
                   otherwise=say + "not the step. Which two entries of the table did you use?")


@exercise("09.start", "Where img2img begins", hints=(
    "The picture is noised part way, so it is the first, noisiest steps that are left out.",
    "Count the steps done, int(len * strength), not those left out. And what is visited[-0:]?",
))
def steps_left(visited, strength):
    """visited: the falling list of all steps; strength in [0, 1]. The list of the int(len * strength) steps
    that img2img does; at strength 0 an empty one."""
    ### BEGIN SOLUTION
    done = int(len(visited) * strength)
    return visited[len(visited) - done:]
    ### END SOLUTION


@checks(steps_left)
def _start(fn: Callable) -> None:
    for S, share in ((20, 0.5), (50, 0.8), (30, 0.9), (30, 0.96), (20, 1.0), (20, 0.0), (25, 0.7)):
        visited = [i * (1000 // S) + 1 for i in reversed(range(S))]
        given = list(visited)
        out = fn(given, share)
        if given != visited:
            raise Mistake("It changes the list it was given; make a new one.")
        if out is None:
            raise Mistake("It returns nothing; is a return missing?")
        found = out.tolist() if isinstance(out, Tensor) else list(out)
        if not all(isinstance(v, numbers.Integral) for v in found):
            raise Mistake("The list holds something other than whole numbers; it is a part of the list that came in.")
        got, done = [int(v) for v in found], int(S * share)
        say = f"{S} steps, strength {share:g}: "
        want, left_out = visited[S - done:], int(S * (1 - share))
        wrong = {
            "these are the first, noisiest steps; the picture is noised part way, so these are left out.": visited[:done],
            "visited[-0:] is the whole list; at strength 0 nothing is to be done.": visited[-done:] if done == 0 else want,
            "strength is the share of the steps that is done, not the share left out.": visited[done:],
            "strength was compared with t / 1000; img2img counts steps of the list.": [t for t in visited if t <= 1000 * share],
            "the number of steps is cut down by int, not rounded.": visited[S - round(S * share):],
            "1 - strength is not exact in floating point; count the steps done, int(len * strength), not the steps left out.":
                visited[left_out:],
            "one step too many.": visited[max(S - done - 1, 0):],
            "one step too few.": visited[S - done + 1:],
            "the list rises; a sampler goes from noise to picture.": want[::-1],
        }
        if got != want:
            known = [k for k, v in wrong.items() if v == got]
            raise Mistake(say + (known[0] if known else f"expected {len(want)} steps from {want[:1]} on, not {len(got)}."))


@exercise("09.forgotten_scale", "Break it: the forgotten factor", points=2, hints=(
    "How strong is the picture against the noise in each of the two latents? Write both signal-to-noise ratios with abar.",
    "The one ratio is a / (1 - a), the other has 1 / scale^2 in it as well. Set them equal and solve for a.",
))
def level_without_scale(abar, scale):
    """The level a at which a rightly scaled latent, sqrt(a) z0 + sqrt(1 - a) eps, has the signal-to-noise
    ratio of sqrt(abar) z0 / scale + sqrt(1 - abar) eps. abar: levels in (0, 1), any shape; scale: a number
    above 0."""
    ### BEGIN SOLUTION
    signal, noise = abar / scale ** 2, 1 - abar
    return signal / (signal + noise)
    ### END SOLUTION


@checks(level_without_scale)
def _forgotten_scale(fn: Callable) -> None:
    for shape, scale in (((7,), 0.4), ((3, 2, 2), 0.18215), ((2, 5, 4), 1.7), ((4, 4), 1.0)):
        abar = torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64) * 0.96 + 0.02
        ratio = abar / (1 - abar)

        def level(snr: Tensor) -> Tensor:
            return snr / (1 + snr)

        want = level(ratio / scale**2)
        got = call(fn, abar, scale, shape=shape)
        expect(got, want, wrong=fits({
            "scale is not squared: the ratio is one of variances.": level(ratio / scale),
            "Upside down: a latent that is 1 / scale times as large stands out more where scale is below 1.":
                level(ratio * scale**2),
            "That is the signal-to-noise ratio; the level that has it is asked for.": ratio / scale**2,
            "abar / scale^2 is the signal's variance; divide by that of signal and noise together.": abar / scale**2,
            "abar / scale, cut off at 1, is no level of the forward process: its two variances add up to 1.":
                (abar / scale).clamp(max=1),
            "That is abar itself: the factor has no effect.": abar,
            "That is one minus the level, the share of the noise.": 1 - want,
            "That is the root of the level; abar goes with the variance.": want.sqrt(),
            "mini-sd's own factor is written into it; take the argument.": level(ratio / 0.39**2),
            "0.18215 is Stable Diffusion's number; take the argument.": level(ratio / 0.18215**2),
        }, want), otherwise="Not the level. At scale = 1 it must be abar itself, and it must stay between 0 and 1.")


@exercise("09.same_negative", "Predict: the negative prompt repeats the prompt", hints=(
    "Write c for both answers in u + w (c - u).",
    "What is left when u = c, whatever w is?",
))
def same_negative():
    """The weight with the usual empty prompt that gives the same pictures."""
    ### BEGIN SOLUTION
    return 1
    ### END SOLUTION


@checks(same_negative)
def _same_negative(value: object) -> None:
    expect_number(value, 1, tol=1e-9, wrong={
        "The difference c - u is 0, so 7 times it is 0 as well; what is left?": 7,
        "Something is left when the difference vanishes: weight 0 would be the empty prompt alone.": 0,
        "It does not push away from the prompt: u + w (c - u) with u = c has no direction at all.": -7,
        "There is no doubling of the prompt: u + w (c - u), not u + w c.": 8,
        "That is w - 1, the weight in Ho and Salimans' count.": 6,
    }, otherwise="Put u = c into u + w (c - u), and ask which weight gives the same with the usual empty prompt.")


FIXED = {"prediction_type": "it says what the U-Net's output means", "beta_start": "the U-Net learnt this noise table",
         "beta_end": "the U-Net learnt this noise table", "beta_schedule": "the U-Net learnt this noise table",
         "num_train_timesteps": "the U-Net knows a step by its number in this table"}
FREE = ("solver", "num_inference_steps", "timestep_spacing", "eta", "guidance_scale")


@exercise("09.may_swap", "What may be swapped?", hints=(
    "Ask of each: was the U-Net trained with it, or does it only say how the answers are used?",
    "Five of the ten are properties of the trained network.",
))
def may_swap():
    """The set of names that may be changed without training the U-Net again."""
    ### BEGIN SOLUTION
    return {"solver", "num_inference_steps", "timestep_spacing", "eta", "guidance_scale"}
    ### END SOLUTION


@checks(may_swap)
def _may_swap(value: object) -> None:
    if isinstance(value, str):
        value = {part for part in re.split(r"[\s,;]+", value.strip("{}[]() ")) if part}
    try:
        got = {str(v).strip("'\" ") for v in value}  # type: ignore[union-attr]
    except TypeError:
        raise Mistake("The answer is a set of names, such as {'eta', 'beta_end'}.") from None
    if unknown := sorted(got - set(FIXED) - set(FREE)):
        raise Mistake(f"{unknown[0]!r} is not one of the ten names.")
    if bad := sorted(got & set(FIXED)):
        raise Mistake(f"{bad[0]} must stay: {FIXED[bad[0]]}.")
    if missing := sorted(set(FREE) - got):
        raise Mistake(f"{missing[0]} may be swapped too: the U-Net was not trained with it ({len(missing)} missing).")
