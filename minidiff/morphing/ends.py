"""Where a morph begins and ends, the loop that all of its frames share, and what every morphing method returns."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion import lerp, slerp
from minidiff.errors import check_choice, check_pictures, require
from minidiff.files import replace
from minidiff.latent.autoencoder import decode
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt, scheduler_options
from minidiff.latent.sample import initial_noise, invert_image
from minidiff.steer import CFG, Hook, State, Trajectory, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["FIRST", "MIXES", "OTHER", "Ends", "MorphResult", "check_weights", "ends_of", "frames_of", "in_order", "named",
           "picture_pair", "walk"]

FIRST, OTHER = "first", "other"                  # the branches of the two ends
MIXES = {"slerp": slerp, "lerp": lerp}
Side = Tensor | str | Sequence[str]
Mix = Callable[[Tensor, Tensor, float], Tensor]   # (a, b, w) -> noise between them


@dataclass(frozen=True, eq=False)
class Ends:
    """The two ends of B morphs: noise (B, C, h, w), prompts and their embeddings (B, L, D) of each, and what was inverted, if
    anything was: pictures (B, 3, H, W)."""

    noise: tuple[Tensor, Tensor]
    prompts: tuple[list[str], list[str]]
    text: tuple[Tensor, Tensor]
    images: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class MorphResult:
    """B morphs of n frames; in a notebook each is a strip.

    images: (B, n, 3, H, W) in [-1, 1], float32 on the CPU; weights: where the frames lie, 0 the first end, 1 the other;
    prompts: of both ends; details: what else a method has to tell, by name.
    """

    method: str
    images: Tensor
    weights: tuple[float, ...]
    prompts: tuple[list[str], list[str]]
    details: dict[str, Any] = field(default_factory=dict)

    def picture(self, *, caption: str = "") -> Any:
        """One strip a morph, the weights above."""
        from minidiff import show

        alt = f"{self.method}: {len(self.images)} morphs of {len(self.weights)} frames."
        return show.grid(list(self.images), columns=len(self.weights), column_labels=[f"{w:.2g}" for w in self.weights],
                         caption=caption, alt=alt)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        return self.picture()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return f"<MorphResult {self.method}: {len(self.images)} x {len(self.weights)} frames>"

    def save(self, path: str | Path, *, row: int = 0, milliseconds: int = 120, scale: int = 4) -> Path:
        """Write one morph as a GIF that plays there and back, or all of its frames side by side as a PNG.

        milliseconds: a frame; both ends stand four times as long. scale: file pixels a picture pixel, never blurred.
        """
        from PIL import Image

        from minidiff.show import pixels, save_grid

        path = Path(path)
        require(path.suffix.lower() in (".gif", ".png"), "path", repr(str(path)), "a file that ends in .gif or .png",
                "'morph.gif'")
        require(milliseconds >= 20, "milliseconds", milliseconds, "20 or more: viewers slow down what is faster")
        require(isinstance(scale, int) and 1 <= scale <= 64, "scale", repr(scale), "a whole number from 1 to 64", "scale=4")
        require(-len(self.images) <= row < len(self.images), "row", row, f"one of the {len(self.images)} morphs")
        if path.suffix.lower() == ".png":
            return save_grid(path, self.images[row], columns=len(self.weights), scale=scale)
        stills = [Image.fromarray(a.repeat(scale, 0).repeat(scale, 1)) for a in pixels(self.images[row])]
        there = [milliseconds * (4 if k in (0, len(stills) - 1) else 1) for k in range(len(stills))]
        stills, times = stills + stills[-2:0:-1], there + there[-2:0:-1]
        buffer = io.BytesIO()
        stills[0].save(buffer, "GIF", save_all=True, append_images=stills[1:], duration=times, loop=0, disposal=1)
        replace(path, buffer.getvalue())
        return path


def check_weights(weights: int | Sequence[float], *, inside: bool = False) -> tuple[float, ...]:
    """Rising numbers in [0, 1]: as they are given, or so many of them evenly from 0 to 1."""
    if isinstance(weights, int) and not isinstance(weights, bool):
        require(weights >= 2, "weights", weights, "at least 2 frames: both ends", "weights=9")
        return tuple(k / (weights - 1) for k in range(weights))
    good = isinstance(weights, (list, tuple, Tensor)) and len(weights) > 0
    got = tuple(float(w) for w in weights) if good else ()
    good = good and all(0 <= w <= 1 for w in got) and all(a < b for a, b in pairwise(got))
    require(good, "weights", repr(weights), "a number of frames, or rising numbers in [0, 1]", "weights=9")
    return got


def _pictures(name: str, images: Any) -> Tensor:
    images = images[None] if isinstance(images, Tensor) and images.ndim == 3 else images
    check_pictures(name, images)
    return images


def picture_pair(first: Tensor, other: Tensor, prompts: tuple[Any, Any] | None) -> tuple[tuple[Tensor, Tensor], tuple]:
    """Both pictures as (B, 3, H, W) of one shape, and a prompt for each; None: the empty prompt."""
    images = (_pictures("first", first), _pictures("other", other))
    require(images[0].shape == images[1].shape, "other", f"shape {tuple(images[1].shape)}",
            f"the shape of first, {tuple(images[0].shape)}")
    good = prompts is None or (isinstance(prompts, (tuple, list)) and len(prompts) == 2)
    require(good, "prompts", repr(prompts), "a pair: of the first, of the other", "prompts=('a red heart', 'a blue star')")
    return images, tuple(_each(p, len(images[0])) for p in prompts or ("", ""))


def ends_of(pipe: StableDiffusionPipeline, first: Side, other: Side, prompts: tuple[Any, Any] | None = None, *,
            seed: int | tuple[int, int] = 0, steps: int = 12, fixed_point: int = 1) -> Ends:
    """The ends that all methods begin with: pictures, which are inverted, or prompts, which are drawn from noise.

    first, other: both pictures, (B, 3, H, W) or (3, H, W) in [-1, 1], inverted at w = 1 in ``steps`` with their ``prompts``
    (one for all or one for each; None: the empty prompt). Or both prompts: then ``seed`` is that of the noise, one for both
    ends (the same noise, as in AID) or one for each.
    """
    require(steps >= 1, "steps", steps, "1 or more", "steps=12")
    require(fixed_point >= 0, "fixed_point", fixed_point, "0 or more repetitions of each step", "fixed_point=1")
    kinds = {isinstance(first, Tensor), isinstance(other, Tensor)}
    require(len(kinds) == 1, "first, other", "a picture and a prompt", "two pictures, or two prompts")
    if isinstance(first, Tensor):
        images, said = picture_pair(first, other, prompts)
        noise = tuple(Trajectory.of(invert_image(pipe, x, p, steps=steps, fixed_point=fixed_point)).noise
                      for x, p in zip(images, said, strict=True))
    else:
        require(prompts is None, "prompts", repr(prompts), "none: the ends are prompts themselves")
        a, b = check_prompts(first, argument="first"), check_prompts(other, argument="other")
        n, images = max(len(a), len(b)), None
        said = (_each(a, n), _each(b, n))
        seeds = seed if isinstance(seed, (tuple, list)) else (seed, seed)
        require(len(seeds) == 2, "seed", repr(seed), "one for both ends, or a pair", "seed=(0, 1)")
        noise = tuple(initial_noise(pipe, n, seed=s) for s in seeds)
    return Ends(noise, said, tuple(encode_prompt(pipe, p) for p in said), images)


def _each(prompts: str | Sequence[str], n: int) -> list[str]:
    prompts = check_prompts(prompts)
    require(len(prompts) in (1, n), "prompts", f"{len(prompts)} prompts", f"1 or {n}: one for each picture")
    return prompts * n if len(prompts) == 1 else prompts


def walk(pipe: StableDiffusionPipeline, ends: Ends, weights: Mapping[str, float], *, hooks: Sequence[Hook] = (), steps: int = 12,
         guidance: float = 1.0, mix: str | Mix = "slerp", guide: Tensor | None = None, with_ends: bool = True) -> Iterator[State]:
    """One run of all frames of B morphs, each frame a branch of the engine: FIRST, the names of ``weights``, OTHER.

    A frame at weight w begins with ``mix`` of the two noises (a name, or a function of both and w) and has the embedding
    lerp(text, text', w), or ``guide`` (B, L, D) in its place. with_ends=False leaves the ends out, for methods whose frames
    do not look at them.
    """
    if not callable(mix):
        check_choice("mix", mix, MIXES)
    between = mix if callable(mix) else MIXES[mix]
    good = isinstance(guidance, (int, float)) and not isinstance(guidance, bool) and math.isfinite(guidance)
    require(good, "guidance", repr(guidance), "a finite number", "guidance=1.0")
    taken = [name for name in weights if name in (FIRST, OTHER)]
    require(not taken, "weights", repr(taken), f"names other than {FIRST!r} and {OTHER!r}")
    way = {FIRST: 0.0, **weights, OTHER: 1.0} if with_ends else dict(weights)
    empty = {"empty": encode_prompt(pipe, "")} if guidance != 1.0 else {}
    z = {name: between(*ends.noise, w) if 0 < w < 1 else ends.noise[int(w)] for name, w in way.items()}
    texts = {name: {"prompt": guide if guide is not None and 0 < w < 1 else lerp(*ends.text, w), **empty}
             for name, w in way.items()}
    return run(denoiser(pipe), z, texts, steps=steps, guider=CFG(guidance), hooks=hooks, **scheduler_options(pipe))


def named(weights: Sequence[float]) -> dict[str, float]:
    """The weights between the ends, each with the name of its branch: what :func:`walk` takes."""
    return {f"frame {k}": w for k, w in enumerate(weights) if 0 < w < 1}


def in_order(weights: Sequence[float], z: Mapping[str, Tensor]) -> list[Tensor]:
    """The latents of the branches of :func:`walk` in the order of the weights."""
    return [z[FIRST if w == 0 else OTHER if w == 1 else f"frame {k}"] for k, w in enumerate(weights)]


@torch.no_grad()
def frames_of(pipe: StableDiffusionPipeline, latents: Sequence[Tensor]) -> Tensor:
    """Latents of n frames, each (B, C, h, w), as pictures (B, n, 3, H, W), float32 on the CPU."""
    return torch.stack([decode(pipe.vae, z).clamp(-1, 1).float().cpu() for z in latents], 1)
